//! A network between the two servers that loses, repeats and delays datagrams, exactly the ones that a
//! test names.
//!
//! The relay stands before an authentication server and looks like it: what is sent to its port number
//! `n` goes to the real port number `n`, and the port in an answer to `Connect` is changed to the
//! relay's. Each socket of a local server has one of the relay's on the other side, so that the
//! authentication server can tell them apart as usual.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::{AuthServer, Ports};

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
}

/// A relay before an authentication server. It ends when dropped.
#[derive(Debug)]
pub struct Relay {
    ports: Ports,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    fate: Box<dyn Fn(usize) -> Fate + Send + Sync>,
    /// What is to be added to a port of the authentication server to get the relay's.
    offset: i32,
}

#[derive(Default)]
struct State {
    /// How many datagrams have come, in both directions.
    count: usize,
    late: Vec<Held>,
}

/// A datagram that waits for others to overtake it.
struct Held {
    to_server: bool,
    overtaken: usize,
    deliver: Box<dyn Fn() + Send>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Treats the next datagram as its number demands.
    fn forward(&self, to_server: bool, deliver: impl Fn() + Send + 'static) {
        let mut state = self.lock();
        let fate = (self.fate)(state.count);
        state.count += 1;
        match fate {
            Fate::Lost => return,
            Fate::Late => {
                state.late.push(Held { to_server, overtaken: 0, deliver: Box::new(deliver) });
                return;
            }
            Fate::Arrives => deliver(),
            Fate::Twice => {
                deliver();
                deliver();
            }
        }
        state.late.retain_mut(|held| {
            if held.to_server == to_server {
                held.overtaken += 1;
                if held.overtaken == 2 {
                    (held.deliver)();
                }
            }
            held.overtaken < 2
        });
    }
}

impl Relay {
    /// How many ports are relayed: enough for three local servers.
    const PORTS: u16 = 7;

    /// Starts a relay before `auth`, whose ports must be a reserved block. `fate` is asked for each
    /// datagram, which are numbered from 0 in the order in which they come, in both directions together.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(auth: &AuthServer, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Self {
        let ports = Ports::reserve();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            fate: Box::new(fate),
            offset: i32::from(ports.port(0)) - i32::from(auth.addr().port()),
        });
        for n in 0..Self::PORTS {
            let socket = Arc::new(UdpSocket::bind(ports.addr(n)).expect("the block is reserved"));
            let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, auth.addr().port() + n);
            let shared = Arc::downgrade(&shared);
            thread::spawn(move || relay_to_server(&socket, server, n == 0, &shared));
        }
        Self { ports, shared }
    }

    /// Where it looks like an authentication server.
    pub fn addr(&self) -> SocketAddrV4 {
        self.ports.addr(0)
    }

    /// How many datagrams have come.
    pub fn count(&self) -> usize {
        self.shared.lock().count
    }
}

/// Receives until the relay is dropped.
fn receive_all(
    socket: &UdpSocket,
    shared: &Weak<Shared>,
    mut each: impl FnMut(&Shared, &[u8], SocketAddr),
) {
    // Nothing tells a blocked thread that the relay is gone, so it looks now and then.
    let pause = Duration::from_millis(100);
    socket.set_read_timeout(Some(pause)).expect("the pause is not zero");
    let mut buffer = [0; 2048];
    loop {
        let received = socket.recv_from(&mut buffer);
        let Some(shared) = shared.upgrade() else { return };
        // A time-out, or a port of the authentication server that is closed at the moment.
        if let Ok((count, from)) = received {
            each(&shared, &buffer[..count], from);
        }
    }
}

fn relay_to_server(
    socket: &Arc<UdpSocket>,
    server: SocketAddrV4,
    is_listen_port: bool,
    shared: &Weak<Shared>,
) {
    let mut beyond = HashMap::<SocketAddr, Arc<UdpSocket>>::new();
    receive_all(socket, shared, |strong, bytes, client| {
        let upstream = Arc::clone(beyond.entry(client).or_insert_with(|| {
            let upstream =
                UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("the kernel has a port");
            upstream.connect(server).expect("a UDP socket can be connected");
            let upstream = Arc::new(upstream);
            let (socket, shared) = (Arc::clone(socket), shared.clone());
            let other = Arc::clone(&upstream);
            thread::spawn(move || {
                relay_to_client(&other, &socket, client, is_listen_port, &shared)
            });
            upstream
        }));
        let bytes = bytes.to_vec();
        strong.forward(true, move || {
            // A closed port loses datagrams, too.
            let _ = upstream.send(&bytes);
        });
    });
}

fn relay_to_client(
    upstream: &UdpSocket,
    socket: &Arc<UdpSocket>,
    client: SocketAddr,
    is_listen_port: bool,
    shared: &Weak<Shared>,
) {
    receive_all(upstream, shared, |strong, bytes, _| {
        let mut bytes = bytes.to_vec();
        if let (true, Ok(port)) = (is_listen_port, <[u8; 4]>::try_from(bytes.as_slice())) {
            bytes = (i32::from_ne_bytes(port) + strong.offset).to_ne_bytes().to_vec();
        }
        let socket = Arc::clone(socket);
        strong.forward(false, move || {
            let _ = socket.send_to(&bytes, client);
        });
    });
}
