//! The authentication server: group → secret for all local servers, over UDP (`docs/PROTOCOL.md` §4).
//!
//! One thread does everything (`reactor`): it waits for datagrams on the listen port and on two ports for
//! each local server (`links`), and answers from one table (`registry`). It never waits for a local
//! server, and while nothing arrives and nothing is half done it sleeps without a time-out.
//!
//! Whoever can send a datagram to this server is trusted as far as the protocol forces us to: there is no
//! login. What is checked is the sender's IP address, so that one machine cannot delete the groups of
//! another, speak for its local servers, or take more than its share of ports and memory. Secrets are
//! never logged.
//!
//! ```no_run
//! use kvs_servers::auth::{Config, Server};
//! use kvs_servers::{console::Output, shutdown::Shutdown};
//!
//! let server = Server::bind(&Config::default())?;
//! server.run(&Shutdown::new(), &Output::new(std::io::stdout())?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod links;
mod options;
mod reactor;
mod registry;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Interest, Poll, Waker};

use crate::console::Output;
use crate::shutdown::Shutdown;
use crate::supervisor::Supervisor;
pub use options::Options;
use reactor::{Port, Reactor, WAKER};

/// Where the server listens, and how long it waits for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The listen port, and the address on which all other ports are opened too. With port 0 the system
    /// chooses one: see [`Server::local_addr`].
    pub listen: SocketAddr,
    /// After the request to end: how long local servers have to delete their groups and say goodbye.
    pub quit_wait: Duration,
    /// How long ports are kept for a sender of `Connect` that does not use them.
    pub confirm_wait: Duration,
    /// How long the groups of a local server that has connected anew are kept for it to register them again.
    pub heir_wait: Duration,
    /// How long a command may take from its first datagram to its last.
    pub exchange_wait: Duration,
    /// How long a local server that owns no group must have been silent before its ports may be given to
    /// another one, which is done only when there are no others.
    pub silence: Duration,
    /// How long ports that were given back are not given out again, as long as there are others.
    pub port_rest: Duration,
    /// How many local servers one machine may have connected at a time. A machine is an IPv4 address or
    /// an IPv6 network of 64 bits; the loopback network is one, unless the server listens there only.
    pub links_per_machine: usize,
    /// How many groups one machine may have. Beyond that, new names are answered as if they were taken.
    pub groups_per_machine: usize,
    /// After a signal, the server ends alone: the local servers are told to go on, and register their groups with the
    /// one that is started next.
    pub keep_local_servers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 58032)),
            quit_wait: Duration::from_secs(5),
            confirm_wait: Duration::from_secs(30),
            heir_wait: Duration::from_secs(30),
            exchange_wait: Duration::from_secs(10),
            silence: Duration::from_secs(3600),
            port_rest: Duration::from_secs(10),
            links_per_machine: 256,
            groups_per_machine: 100_000,
            keep_local_servers: false,
        }
    }
}

/// What to do about it.
fn in_use(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ". Is another KVS-AuthServer running? --listen chooses another port"
        }
        _ => "",
    }
}

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listen port cannot be opened.
    #[error("cannot listen on {address}: {source}{}", in_use(source))]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A local server is given two ports above the listen port, and there are none.
    #[error("cannot listen on {0}: local servers need ports above it, so 65533 is the highest")]
    NoPortsAbove(SocketAddr),
    /// The system refuses what is needed to wait for datagrams.
    #[error("cannot set up waiting for datagrams: {0}")]
    SetUp(#[source] io::Error),
    /// Waiting for datagrams failed.
    #[error("cannot wait for datagrams any more: {0}")]
    Wait(#[source] io::Error),
}

/// The server, listening; [`run`](Server::run) serves.
#[derive(Debug)]
pub struct Server {
    config: Config,
    poll: Poll,
    waker: Arc<Waker>,
    socket: UdpSocket,
    /// What `socket` is bound to.
    address: SocketAddr,
    supervisor: Supervisor,
}

impl Server {
    /// Opens the listen port. From here on datagrams are queued, to be answered by [`run`](Server::run).
    ///
    /// # Errors
    /// [`Error::Listen`] and [`Error::NoPortsAbove`] when the address cannot be used, [`Error::SetUp`]
    /// when the system lacks descriptors or memory.
    pub fn bind(config: &Config) -> Result<Self, Error> {
        let refused = |source| Error::Listen { address: config.listen, source };
        let mut socket = UdpSocket::bind(config.listen).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        if address.port() > u16::MAX - 2 {
            return Err(Error::NoPortsAbove(address));
        }
        let poll = Poll::new().map_err(Error::SetUp)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(Error::SetUp)?);
        poll.registry()
            .register(&mut socket, Port::Listen.token(), Interest::READABLE)
            .map_err(Error::SetUp)?;
        let supervisor = Supervisor::default();
        Ok(Self { config: config.clone(), poll, waker, socket, address, supervisor })
    }

    /// The same, and `supervisor` is told what it does.
    pub fn supervised_by(self, supervisor: &Supervisor) -> Self {
        Self { supervisor: supervisor.clone(), ..self }
    }

    /// The address of the listen port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is requested, then tells all local servers to close and waits until they
    /// have said goodbye, [`Config::quit_wait`] at most (but see [`Config::keep_local_servers`]). What happens is said to
    /// `output`.
    ///
    /// # Errors
    /// [`Error::Wait`] when the system does not let it wait for datagrams any more. No datagram and no
    /// local server can make it fail.
    pub fn run(self, shutdown: &Shutdown, output: &Output) -> Result<(), Error> {
        // The caller of `wake` drops it directly afterwards, and with the last reference the event would
        // go, too: this one stays until the end.
        let waker = Arc::clone(&self.waker);
        let to_request = Arc::clone(&waker);
        shutdown.on_request(move || {
            if let Err(error) = to_request.wake() {
                tracing::error!("the request to end cannot be passed on: {error}");
            }
        });
        let result = Reactor::new(self, output).run(shutdown);
        drop(waker);
        result
    }
}
