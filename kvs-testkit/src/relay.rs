//! A network between the two servers that loses, repeats, delays and reorders datagrams: exactly the ones
//! that a test names, or as many as a [`Storm`] hits.
//!
//! The relay stands before an authentication server and looks like it: what is sent to its port number
//! `n` goes to the real port number `n`, and the port in an answer to `Connect` is changed to the
//! relay's. Each socket of a local server has one of the relay's on the other side (like a router that
//! translates addresses), so that the authentication server can tell them apart as usual, and sees the
//! same address when it is spoken to from the same one. The authentication server may die and come back:
//! the relay stays.
//!
//! One thread does everything. It sleeps until a datagram comes or a delayed one is due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::{AuthServer, DEADLINE, Dice, Ports};

/// What happens to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It does not arrive.
    Lost,
    /// It arrives twice.
    Twice,
    /// It arrives when two others of the same direction have arrived after it.
    Late,
    /// What arrives of it, and of the copy that the network made: `None`, if it does not.
    Mixed {
        /// When the datagram arrives.
        original: Option<When>,
        /// When its copy does.
        copy: Option<When>,
    },
}

/// When a datagram arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// So long after it was sent.
    pub after: Duration,
    /// Earlier, if two others of the same direction have arrived meanwhile; without others after
    /// `after` all the same.
    pub or_overtaken: bool,
}

impl When {
    const AT_ONCE: Self = Self { after: Duration::ZERO, or_overtaken: false };
}

/// A bad network: which datagrams it hits, and how, follows from its seed and their number.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    seed: u64,
    together: bool,
}

impl Storm {
    /// The share of the datagrams that something happens to, in percent.
    pub const SHARE: f64 = 30.0;

    /// The longest delay of a datagram, of its copy, and of one that is to be overtaken.
    pub const LONGEST: Duration = Duration::from_millis(200);

    /// Every hit datagram has one fate. A quarter of them each is lost; arrives at once and again within
    /// [`LONGEST`](Self::LONGEST); arrives within that time; is overtaken by two others.
    pub fn one_by_one(seed: u64) -> Self {
        Self { seed, together: false }
    }

    /// Each of the four fates hits each datagram independently of the others, with the same
    /// probability (8.5 %), so that altogether the same share is hit: a datagram may be doubled, one
    /// of the two lost, and the other one late.
    pub fn all_together(seed: u64) -> Self {
        Self { seed, together: true }
    }

    /// What happens to datagram number `number`.
    pub fn fate(self, number: usize) -> Fate {
        let mut dice = Dice::new(self.seed ^ (number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let share = Self::SHARE / 100.0;
        let [lost, twice, delayed, overtaken] = if self.together {
            let each = 1.0 - (1.0 - share).powf(0.25);
            [(); 4].map(|()| dice.chance(each))
        } else {
            let hit = dice.chance(share).then(|| dice.below(4));
            [0, 1, 2, 3].map(|fate| hit == Some(fate))
        };
        if ![lost, twice, delayed, overtaken].contains(&true) {
            return Fate::Arrives;
        }
        let mut late = || dice.time(Self::LONGEST);
        let when = When {
            after: match (overtaken, delayed) {
                (true, _) => Self::LONGEST,
                (false, true) => late(),
                (false, false) => Duration::ZERO,
            },
            or_overtaken: overtaken,
        };
        Fate::Mixed {
            original: (!lost).then_some(when),
            copy: twice.then(|| When { after: late(), or_overtaken: false }),
        }
    }
}

/// A relay before an authentication server. It ends when dropped.
#[derive(Debug)]
pub struct Relay {
    ports: Ports,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Nothing is under way any more.
    settled: Condvar,
    waker: Waker,
}

#[derive(Debug, Default)]
struct State {
    /// How many datagrams have come, in both directions.
    count: usize,
    /// To how many of them something happened.
    hit: usize,
    /// How many are still to arrive.
    under_way: usize,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that was under way is not any more.
    fn note_arrival(&self) {
        let mut state = self.lock();
        state.under_way -= 1;
        if state.under_way == 0 {
            self.settled.notify_all();
        }
    }
}

impl Relay {
    /// Starts a relay before `auth`, whose ports must be a reserved block. `fate` is asked for each
    /// datagram, which are numbered from 0 in the order in which they come, in both directions together.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(auth: &AuthServer, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Self {
        let ports = Ports::reserve();
        let poll = Poll::new().expect("epoll");
        let waker = Waker::new(poll.registry(), WAKER).expect("an event");
        let shared = Arc::new(Shared { state: Mutex::default(), settled: Condvar::new(), waker });
        let fronts = (0..Ports::COUNT)
            .map(|n| {
                let address = SocketAddr::V4(ports.addr(n));
                let mut socket = UdpSocket::bind(address).expect("the block is reserved");
                watch(&poll, &mut socket, front_token(n));
                socket
            })
            .collect();
        let network = Network {
            shared: Arc::clone(&shared),
            fate: Box::new(fate),
            poll,
            server: auth.addr(),
            first_port: ports.port(0),
            fronts,
            backs: HashMap::new(),
            back_of: HashMap::new(),
            next_back: FIRST_BACK,
            held: Vec::new(),
            due: BinaryHeap::new(),
        };
        let thread = thread::spawn(move || network.run());
        Self { ports, shared, thread: Some(thread) }
    }

    /// Where it looks like an authentication server.
    pub fn addr(&self) -> SocketAddrV4 {
        self.ports.addr(0)
    }

    /// How many datagrams have come.
    pub fn count(&self) -> usize {
        self.shared.lock().count
    }

    /// To how many datagrams something happened.
    pub fn hit(&self) -> usize {
        self.shared.lock().hit
    }

    /// Waits until everything that is delayed has arrived.
    ///
    /// # Panics
    /// When that does not come to an end.
    pub fn settle(&self) {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .settled
            .wait_timeout_while(state, DEADLINE, |state| state.under_way > 0)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(state.under_way == 0, "datagrams are under way for ever");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        if self.shared.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It has said already what went wrong.
            let _ = thread.join();
        }
    }
}

const WAKER: Token = Token(usize::MAX);
const FIRST_BACK: usize = Ports::COUNT as usize;

fn front_token(n: u16) -> Token {
    Token(n.into())
}

fn watch(poll: &Poll, socket: &mut UdpSocket, token: Token) {
    poll.registry().register(socket, token, Interest::READABLE).expect("epoll takes a socket");
}

/// How long the socket behind a local server's is kept without a datagram. One that greeted from a close
/// port is kept for ever.
const KEPT: Duration = Duration::from_secs(10);

/// The thread's side.
struct Network {
    shared: Arc<Shared>,
    fate: Box<dyn Fn(usize) -> Fate + Send + Sync>,
    poll: Poll,
    server: SocketAddrV4,
    first_port: u16,
    /// The sockets that look like the authentication server's, by number.
    fronts: Vec<UdpSocket>,
    /// The sockets that look like the local servers', by token.
    backs: HashMap<usize, Back>,
    /// Their tokens, by the sockets that they stand for.
    back_of: HashMap<SocketAddr, usize>,
    next_back: usize,
    /// Those that wait to be overtaken, and by how many they were.
    held: Vec<(Datagram, usize)>,
    /// Those that wait for their time, and whether they are held, too.
    due: BinaryHeap<Reverse<(Instant, bool, Datagram)>>,
}

struct Back {
    socket: UdpSocket,
    client: SocketAddr,
    used: Instant,
    kept: bool,
}

/// A datagram on its way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    /// Copies share it.
    number: usize,
    to_server: bool,
    /// The token of the local server's side.
    back: usize,
    /// The number of the authentication server's port.
    port: u16,
    bytes: Vec<u8>,
}

impl Network {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let now = Instant::now();
            while let Some(Reverse((at, ..))) = self.due.peek()
                && *at <= now
                && let Some(Reverse((_, held, datagram))) = self.due.pop()
            {
                self.deliver(&datagram, held);
            }
            let timeout = self.due.peek().map(|Reverse((at, ..))| at.duration_since(now));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    panic!("the relay cannot wait: {error}")
                }
                _ => {}
            }
            if self.shared.lock().ended {
                return;
            }
            for event in &events {
                if event.token() != WAKER {
                    self.receive_all(event.token());
                }
            }
            self.forget_unused();
        }
    }

    fn receive_all(&mut self, Token(token): Token) {
        let mut buffer = [0; 2048];
        loop {
            let socket = match self.backs.get(&token) {
                Some(back) => &back.socket,
                None => match self.fronts.get(token) {
                    Some(front) => front,
                    None => return,
                },
            };
            let (count, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A port that is closed at the moment.
                Err(_) => continue,
            };
            let mut bytes = buffer[..count].to_vec();
            let datagram = if token < FIRST_BACK {
                let port = token as u16;
                let back = self.back(from, port);
                Datagram { number: 0, to_server: true, back, port, bytes }
            } else {
                let Some(port) = from.port().checked_sub(self.server.port()) else { continue };
                if let (0, Ok(given)) = (port, <[u8; 4]>::try_from(bytes.as_slice())) {
                    let offset = i32::from(self.first_port) - i32::from(self.server.port());
                    bytes = (i32::from_ne_bytes(given) + offset).to_ne_bytes().to_vec();
                }
                Datagram { number: 0, to_server: false, back: token, port, bytes }
            };
            self.forward(datagram);
        }
    }

    /// The token of the socket that stands for `client`, which speaks to port number `port`.
    fn back(&mut self, client: SocketAddr, port: u16) -> usize {
        let is_close_port = port > 0 && port.is_multiple_of(2);
        let token = *self.back_of.entry(client).or_insert_with(|| {
            let token = self.next_back;
            self.next_back += 1;
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut socket = UdpSocket::bind(any).expect("the kernel has a port");
            watch(&self.poll, &mut socket, Token(token));
            self.backs.insert(token, Back { socket, client, used: Instant::now(), kept: false });
            token
        });
        if let Some(back) = self.backs.get_mut(&token) {
            back.used = Instant::now();
            back.kept |= is_close_port;
        }
        token
    }

    fn forget_unused(&mut self) {
        let now = Instant::now();
        let kept = |back: &Back| back.kept || now.duration_since(back.used) < KEPT;
        self.backs.retain(|_, back| kept(back));
        self.back_of.retain(|_, token| self.backs.contains_key(token));
    }

    /// Treats the next datagram as its number demands.
    fn forward(&mut self, mut datagram: Datagram) {
        let number = {
            let mut state = self.shared.lock();
            state.count += 1;
            state.count - 1
        };
        datagram.number = number;
        let fate = (self.fate)(number);
        if fate != Fate::Arrives {
            self.shared.lock().hit += 1;
        }
        let at_once = Some(When::AT_ONCE);
        let (original, copy) = match fate {
            Fate::Arrives => (at_once, None),
            Fate::Lost => (None, None),
            Fate::Twice => (at_once, at_once),
            Fate::Late => {
                self.hold(datagram);
                return;
            }
            Fate::Mixed { original, copy } => (original, copy),
        };
        for when in [original, copy].into_iter().flatten() {
            if when.after.is_zero() {
                self.arrive(&datagram);
                continue;
            }
            if when.or_overtaken {
                self.hold(datagram.clone());
            }
            self.shared.lock().under_way += 1;
            let at = Instant::now() + when.after;
            self.due.push(Reverse((at, when.or_overtaken, datagram.clone())));
        }
    }

    fn hold(&mut self, datagram: Datagram) {
        self.held.push((datagram, 0));
    }

    /// Delivers what is due, unless it was held, and overtaken, and so has arrived before.
    fn deliver(&mut self, datagram: &Datagram, held: bool) {
        if held {
            let before = self.held.len();
            self.held.retain(|(other, _)| other.number != datagram.number);
            if self.held.len() == before {
                self.shared.note_arrival();
                return;
            }
        }
        self.arrive(datagram);
        self.shared.note_arrival();
    }

    /// Sends a datagram on, and those that it was the second to overtake.
    fn arrive(&mut self, datagram: &Datagram) {
        self.send(datagram);
        let mut overtaken = Vec::new();
        self.held.retain_mut(|(held, others)| {
            if held.to_server == datagram.to_server && held.number != datagram.number {
                *others += 1;
            }
            if *others == 2 {
                overtaken.push(held.clone());
            }
            *others < 2
        });
        for datagram in overtaken {
            self.send(&datagram);
        }
    }

    fn send(&self, datagram: &Datagram) {
        let Some(back) = self.backs.get(&datagram.back) else { return };
        // A closed port loses datagrams, too.
        let _ = if datagram.to_server {
            let port = self.server.port() + datagram.port;
            back.socket.send_to(&datagram.bytes, SocketAddr::from((*self.server.ip(), port)))
        } else {
            let Some(front) = self.fronts.get(usize::from(datagram.port)) else { return };
            front.send_to(&datagram.bytes, back.client)
        };
    }
}
