//! The connection of the link: `Connect`, `Connect_2`, the close port, and waiting for datagrams.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::time::{Duration, Instant};
use std::{io, mem};

use kvs_proto::link::original::{CLOSE, COMMAND_LEN, LinkCommand, RECONNECT, decode_int};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use super::pacing::Pacing;
use super::udp::{new_socket, receive, send};
use crate::local::stable_hash::stable_hash;
use crate::shutdown::{Reason, Shutdown};
use crate::startup::is_shortage;

/// How long one `Connect` waits for its response before the next is sent. All are sent from the
/// same socket, so the response to any of them will do.
const CONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// How many more copies of `Connect_2` are sent to one close port while the network is distrusted.
const CONNECT_2_COPIES: u32 = 8;

/// The close port is bound to a fixed port of this range, below the usual range of ephemeral ports.
const CLOSE_PORTS: Range<u16> = 20_000..30_000;

/// The event of the waker.
pub(super) const WAKER: Token = Token(0);

const CLOSE_PORT: Token = Token(1);

/// The event of the socket of an exchange.
pub(super) const EXCHANGE: Token = Token(2);

/// Why the link could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host name has no address.
    #[error("cannot resolve the address of the authentication server {server}: {source}")]
    Resolve {
        /// The configured address.
        server: String,
        /// The error of the resolver.
        source: io::Error,
    },
    /// No datagram came back.
    #[error(
        "the authentication server {server} does not answer{}. Is KVS-AuthServer running there, \
         and does the network let UDP through?",
        last.as_ref().map_or(String::new(), |error| format!(" ({error})"))
    )]
    NoAnswer {
        /// The configured address.
        server: String,
        /// The last error that the system reported, if any.
        last: Option<io::Error>,
    },
    /// The system refuses sockets or the like.
    #[error("cannot set up the link to the authentication server: {0}")]
    Io(#[from] io::Error),
}

/// The link's view of the authentication server and of the network.
pub(super) struct LinkConnection {
    /// The authentication server, `HOST:PORT`.
    server: String,
    /// Selects the close port; the same each time this local server is started.
    identity: Vec<u8>,
    shutdown: Shutdown,
    pub(super) poll: Poll,
    pub(super) pacing: Pacing,
    /// The addresses of the last lookup.
    addresses: Vec<SocketAddr>,
    ports: Option<LinkPorts>,
    /// The authentication server has announced that it exits and that another will be started.
    is_leaving: bool,
}

/// The ports that the last `Connect` was given.
struct LinkPorts {
    command: SocketAddr,
    close: UdpSocket,
    /// How many more copies of `Connect_2` may be sent.
    connect_2_copies: u32,
}

impl LinkConnection {
    pub(super) fn new(server: String, identity: Vec<u8>, shutdown: Shutdown, poll: Poll) -> Self {
        Self {
            server,
            identity,
            shutdown,
            poll,
            pacing: Pacing::new(),
            addresses: Vec::new(),
            ports: None,
            is_leaving: false,
        }
    }

    /// The command port, if there is a connection.
    pub(super) fn command_port(&self) -> Option<SocketAddr> {
        self.ports.as_ref().map(|ports| ports.command)
    }

    /// Whether there is a connection.
    pub(super) fn is_open(&self) -> bool {
        self.ports.is_some()
    }

    /// Drops the connection without notifying the authentication server.
    pub(super) fn drop_ports(&mut self) {
        self.ports = None;
    }

    /// Whether the authentication server has asked for a reconnection.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// Drops the connection if the authentication server has asked for a reconnection.
    pub(super) fn drop_if_leaving(&mut self) {
        if mem::take(&mut self.is_leaving) {
            self.ports = None;
        }
    }

    /// Looks up the addresses of the authentication server. With a host name, this takes as long as
    /// the resolver of the system takes.
    pub(super) fn look_up(&mut self) -> Result<(), ConnectError> {
        let server = &self.server;
        self.addresses = server
            .to_socket_addrs()
            .map_err(|source| ConnectError::Resolve { server: server.clone(), source })?
            .collect();
        Ok(())
    }

    /// The error that the authentication server does not answer.
    pub(super) fn no_answer(&self, last: Option<io::Error>) -> ConnectError {
        ConnectError::NoAnswer { server: self.server.clone(), last }
    }

    /// Sends `Connect` and `Connect_2`. Returns the command port.
    pub(super) fn connect(&mut self, timeout: Duration) -> Result<u16, ConnectError> {
        // The new close port may have the number of the old one, which is closed here.
        self.ports = None;
        let deadline = Instant::now() + timeout;
        let mut last = None;
        let mut sockets: Vec<(SocketAddr, UdpSocket)> = Vec::new();
        for &address in &self.addresses {
            // All tries use one socket: a repeated request from one address is recognised.
            match new_socket(address, 0) {
                Ok(socket) => sockets.push((address, socket)),
                Err(error) if is_shortage(&error) => return Err(error.into()),
                Err(error) => last = Some(error),
            }
        }
        while Instant::now() < deadline {
            for (address, socket) in &mut sockets {
                let until = deadline.min(Instant::now() + CONNECT_INTERVAL);
                match self.request_port(socket, until) {
                    Ok(Some(port)) => {
                        let command = SocketAddr::new(address.ip(), port);
                        let close = self.open_close_port(command)?;
                        let connect_2_copies = CONNECT_2_COPIES;
                        self.ports = Some(LinkPorts { command, close, connect_2_copies });
                        self.is_leaving = false;
                        return Ok(port);
                    }
                    Ok(None) => {}
                    Err(error) => last = Some(error),
                }
            }
            if sockets.is_empty() {
                break;
            }
        }
        Err(self.no_answer(last))
    }

    /// Sends one `Connect` and waits for its response.
    fn request_port(&mut self, socket: &mut UdpSocket, until: Instant) -> io::Result<Option<u16>> {
        self.poll.registry().register(socket, EXCHANGE, Interest::READABLE)?;
        let mut refused = send(socket, &LinkCommand::Connect.encode());
        let mut port = None;
        while port.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait(Some(left))?;
            let mut buffer = [0; COMMAND_LEN];
            while let Some(received) = receive(socket, &mut buffer).unwrap_or_else(|error| {
                refused = Err(error);
                None
            }) {
                port = decode_int(received)
                    .and_then(|port| u16::try_from(port).ok())
                    // The close port follows it.
                    .filter(|port| (1..u16::MAX).contains(port))
                    .or(port);
            }
        }
        self.poll.registry().deregister(socket)?;
        if port.is_none() {
            refused?;
        }
        Ok(port)
    }

    /// Opens the socket on which the authentication server may ask this server to quit. It has the
    /// same port each time, so that the authentication server recognises a local server that was
    /// killed and started again, and removes the old link.
    fn open_close_port(&mut self, command_port: SocketAddr) -> io::Result<UdpSocket> {
        let to = SocketAddr::new(command_port.ip(), command_port.port() + 1);
        let span = u64::from(CLOSE_PORTS.end - CLOSE_PORTS.start);
        let offset = stable_hash(&self.identity) % span;
        let port = CLOSE_PORTS.start + offset as u16;
        let mut socket = new_socket(to, port).or_else(|error| {
            tracing::debug!("close port {port} is not free ({error}): using any");
            new_socket(to, 0)
        })?;
        self.poll.registry().register(&mut socket, CLOSE_PORT, Interest::READABLE)?;
        if let Err(error) = send(&socket, &LinkCommand::Connect2.encode()) {
            tracing::warn!(
                "cannot send Connect_2, so the authentication server cannot ask this server to \
                 quit: {error}"
            );
        }
        Ok(socket)
    }

    /// Sends `Connect_2` once more, if it may have been lost.
    pub(super) fn repeat_connect_2(&mut self) {
        if let (false, Some(ports)) = (self.pacing.is_trusted(), &mut self.ports)
            && ports.connect_2_copies > 0
        {
            ports.connect_2_copies -= 1;
            if let Err(error) = send(&ports.close, &LinkCommand::Connect2.encode()) {
                tracing::debug!("cannot repeat Connect_2: {error}");
            }
        }
    }

    /// Notifies the authentication server that this local server disconnects.
    pub(super) fn disconnect(&mut self) {
        let Some(ports) = &self.ports else { return };
        let result = new_socket(ports.command, 0)
            .and_then(|socket| send(&socket, &LinkCommand::CloseConnection.encode()));
        if let Err(error) = result {
            tracing::warn!("cannot disconnect from the authentication server: {error}");
        }
    }

    /// Waits for a datagram, a job, or the timeout, and reads the close port.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if events.iter().any(|event| event.token() == CLOSE_PORT) {
            self.read_close_port();
        }
        Ok(())
    }

    fn read_close_port(&mut self) {
        let Some(ports) = &self.ports else { return };
        let mut buffer = [0; COMMAND_LEN];
        loop {
            match receive(&ports.close, &mut buffer) {
                Ok(Some(datagram)) => match decode_int(datagram) {
                    Some(CLOSE) => self.shutdown.request(Reason::AuthServer),
                    Some(RECONNECT) if !self.is_leaving => {
                        self.is_leaving = true;
                        tracing::info!(
                            "the authentication server is exiting: connecting to the next one"
                        );
                    }
                    _ => {}
                },
                Ok(None) => break,
                // "Refused" answers our `Connect_2`: the next exchange shows what the matter is.
                Err(error) => tracing::debug!("cannot read the close port: {error}"),
            }
        }
    }
}
