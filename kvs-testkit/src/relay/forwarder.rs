//! The thread of a relay: forwards datagrams between both sides as their [`Delivery`] demands.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};

use super::delivery::{Delay, Delivery};
use crate::ports::Ports;

/// Chooses the delivery of the datagram with this number.
pub(super) type ChooseDelivery = Box<dyn Fn(usize) -> Delivery + Send + Sync>;

/// The state that the thread shares with its relay.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Notified when no datagram is in flight.
    pub(super) settled: Condvar,
    pub(super) waker: Waker,
}

/// Counters of the relay.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Received datagrams of both directions.
    pub(super) count: usize,
    /// Datagrams that were not delivered normally.
    pub(super) hit: usize,
    /// Datagrams in flight.
    pub(super) under_way: usize,
    pub(super) ended: bool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a datagram that is no longer in flight.
    fn record_arrival(&self) {
        let mut state = self.lock();
        state.under_way -= 1;
        if state.under_way == 0 {
            self.settled.notify_all();
        }
    }
}

const WAKER: Token = Token(usize::MAX);
const FIRST_BACK: usize = Ports::COUNT as usize;

fn front_token(n: u16) -> Token {
    Token(n.into())
}

fn register(poll: &Poll, socket: &mut UdpSocket, token: Token) {
    poll.registry().register(socket, token, Interest::READABLE).expect("epoll takes a socket");
}

/// How long a back socket stays open without a datagram. That of a close port stays open for ever.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The thread's state.
pub(super) struct Forwarder {
    shared: Arc<Shared>,
    delivery: ChooseDelivery,
    poll: Poll,
    server: SocketAddrV4,
    first_port: u16,
    /// The sockets that stand for the authentication server's, by number.
    fronts: Vec<UdpSocket>,
    /// The sockets that stand for the local servers', by token.
    backs: HashMap<usize, BackSocket>,
    /// Their tokens, by the address that they stand for.
    back_of: HashMap<SocketAddr, usize>,
    next_back: usize,
    /// Reordered datagrams, and how many later ones have arrived.
    held: Vec<(Datagram, usize)>,
    /// Delayed datagrams, and whether they are also in `held`.
    due: BinaryHeap<Reverse<(Instant, bool, Datagram)>>,
}

struct BackSocket {
    socket: UdpSocket,
    client: SocketAddr,
    used: Instant,
    kept: bool,
}

/// A datagram in flight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    /// Copies have the same number.
    number: usize,
    to_server: bool,
    /// The token of the back socket.
    back: usize,
    /// The offset of the authentication server's port.
    port: u16,
    bytes: Vec<u8>,
}

impl Forwarder {
    /// Binds the ports in front of the authentication server at `server`.
    pub(super) fn new(ports: &Ports, server: SocketAddrV4, delivery: ChooseDelivery) -> Self {
        let poll = Poll::new().expect("epoll");
        let waker = Waker::new(poll.registry(), WAKER).expect("an event");
        let shared = Arc::new(Shared { state: Mutex::default(), settled: Condvar::new(), waker });
        let fronts = (0..Ports::COUNT)
            .map(|n| {
                let address = SocketAddr::V4(ports.addr(n));
                let mut socket = UdpSocket::bind(address).expect("the block is reserved");
                register(&poll, &mut socket, front_token(n));
                socket
            })
            .collect();
        Self {
            shared,
            delivery,
            poll,
            server,
            first_port: ports.port(0),
            fronts,
            backs: HashMap::new(),
            back_of: HashMap::new(),
            next_back: FIRST_BACK,
            held: Vec::new(),
            due: BinaryHeap::new(),
        }
    }

    /// The state that the thread shares with its relay.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn run(mut self) {
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
            self.close_idle();
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
                // The error of an earlier send: its port is closed at the moment.
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

    /// The token of the socket that stands for `client`, which sends to port number `port`.
    fn back(&mut self, client: SocketAddr, port: u16) -> usize {
        let is_close_port = port > 0 && port.is_multiple_of(2);
        let token = *self.back_of.entry(client).or_insert_with(|| {
            let token = self.next_back;
            self.next_back += 1;
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut socket = UdpSocket::bind(any).expect("the kernel has a port");
            register(&self.poll, &mut socket, Token(token));
            self.backs
                .insert(token, BackSocket { socket, client, used: Instant::now(), kept: false });
            token
        });
        if let Some(back) = self.backs.get_mut(&token) {
            back.used = Instant::now();
            back.kept |= is_close_port;
        }
        token
    }

    fn close_idle(&mut self) {
        let now = Instant::now();
        let kept = |back: &BackSocket| back.kept || now.duration_since(back.used) < IDLE_TIMEOUT;
        self.backs.retain(|_, back| kept(back));
        self.back_of.retain(|_, token| self.backs.contains_key(token));
    }

    /// Delivers, delays or drops the next datagram.
    fn forward(&mut self, mut datagram: Datagram) {
        let number = {
            let mut state = self.shared.lock();
            state.count += 1;
            state.count - 1
        };
        datagram.number = number;
        let delivery = (self.delivery)(number);
        if delivery != Delivery::OnTime {
            self.shared.lock().hit += 1;
        }
        let no_delay = Some(Delay::NONE);
        let (original, copy) = match delivery {
            Delivery::OnTime => (no_delay, None),
            Delivery::Dropped => (None, None),
            Delivery::Duplicated => (no_delay, no_delay),
            Delivery::Reordered => {
                self.hold(datagram);
                return;
            }
            Delivery::Custom { original, copy } => (original, copy),
        };
        for delay in [original, copy].into_iter().flatten() {
            if delay.after.is_zero() {
                self.arrive(&datagram);
                continue;
            }
            if delay.or_overtaken {
                self.hold(datagram.clone());
            }
            self.shared.lock().under_way += 1;
            let at = Instant::now() + delay.after;
            self.due.push(Reverse((at, delay.or_overtaken, datagram.clone())));
        }
    }

    fn hold(&mut self, datagram: Datagram) {
        self.held.push((datagram, 0));
    }

    /// Delivers an expired datagram, unless it was held and has been delivered already.
    fn deliver(&mut self, datagram: &Datagram, held: bool) {
        if held {
            let before = self.held.len();
            self.held.retain(|(other, _)| other.number != datagram.number);
            if self.held.len() == before {
                self.shared.record_arrival();
                return;
            }
        }
        self.arrive(datagram);
        self.shared.record_arrival();
    }

    /// Sends a datagram, then those that two later ones have overtaken with it.
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
        // A closed port drops datagrams, too.
        let _ = if datagram.to_server {
            let port = self.server.port() + datagram.port;
            back.socket.send_to(&datagram.bytes, SocketAddr::from((*self.server.ip(), port)))
        } else {
            let Some(front) = self.fronts.get(usize::from(datagram.port)) else { return };
            front.send_to(&datagram.bytes, back.client)
        };
    }
}
