//! Opens the listen port and runs the reactor on it.

use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::UdpSocket;
use mio::{Interest, Poll, Waker};

use super::config::Config;
use super::error::Error;
use super::port::{Port, WAKER};
use super::reactor::Reactor;
use crate::console::Output;
use crate::shutdown::Shutdown;
use crate::supervisor::Supervisor;

/// The authentication server, listening; [`run`](Server::run) serves.
#[derive(Debug)]
pub struct Server {
    config: Config,
    poll: Poll,
    waker: Arc<Waker>,
    socket: UdpSocket,
    /// The address of `socket`.
    address: SocketAddr,
    supervisor: Supervisor,
}

impl Server {
    /// Opens the listen port. Datagrams are queued from here on, until [`run`](Server::run) answers
    /// them.
    ///
    /// # Errors
    /// [`Error::Listen`] and [`Error::NoPortsAbove`] when the address cannot be used,
    /// [`Error::SetUp`] when the system lacks descriptors or memory.
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

    /// The same server, which notifies `supervisor` of its state.
    pub fn supervised_by(self, supervisor: &Supervisor) -> Self {
        Self { supervisor: supervisor.clone(), ..self }
    }

    /// The address of the listen port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is requested. Then it sends all local servers the close flag and
    /// waits up to [`Config::quit_timeout`] for them to disconnect (but see
    /// [`Config::keep_local_servers`]). What happens is printed to `output`.
    ///
    /// # Errors
    /// [`Error::Wait`] when the system stops reporting datagrams. No datagram and no local server
    /// can make the server fail.
    pub fn run(self, shutdown: &Shutdown, output: &Output) -> Result<(), Error> {
        let Self { config, poll, waker, socket, address, supervisor } = self;
        // `Shutdown` drops its clone right after `wake`. An event whose waker is dropped may be
        // lost, so this reference stays until the reactor has returned.
        let on_request = Arc::clone(&waker);
        shutdown.on_request(move || {
            if let Err(error) = on_request.wake() {
                tracing::error!("cannot wake the server to shut it down: {error}");
            }
        });
        let result =
            Reactor::new(config, poll, (socket, address), supervisor, output).run(shutdown);
        drop(waker);
        result
    }
}
