//! The one thread of the authentication server: waits for datagrams and hands each to `service`.
//!
//! - Sockets are registered edge-triggered: a socket is reported when a datagram arrives, not while
//!   datagrams are queued. So a reported socket stays in `ready` until a read has found it empty.
//! - One iteration takes at most [`BURST`] datagrams from each ready socket, so that a flood on one
//!   port delays the other ports by one burst.
//! - Until the first `Connect_2` of a link is known, its close port is read before each of its
//!   commands: a `Connect_2` that was sent before a command takes effect before it, although they
//!   arrive on different sockets. (It may free the very name that the command wants to use.)
//! - The wait has a timeout only while a deadline exists: for unconfirmed links, for inherited
//!   groups, and while the server quits.

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvs_proto::Int;
use kvs_proto::link::original::{COMMAND_LEN, encode_int};
use mio::net::UdpSocket;
use mio::{Events, Poll};

use super::config::Config;
use super::error::Error;
use super::port::Port;
use super::quit::{self, Quit};
use super::service::Service;
use super::udp::send;
use crate::console::Output;
use crate::shutdown::{Reason, Shutdown};
use crate::supervisor::Supervisor;

/// How many datagrams of one socket are taken in one iteration.
const BURST: usize = 32;

/// How many sockets one wait can report. The next wait reports the others.
const EVENTS: usize = 1024;

/// How long the last lines may take to be printed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread of a running server.
pub(super) struct Reactor<'a> {
    config: Config,
    poll: Poll,
    socket: UdpSocket,
    /// The address of `socket`.
    address: SocketAddr,
    service: Service<'a>,
    /// The ports whose sockets may hold datagrams.
    ready: BTreeSet<Port>,
    quit: Option<Quit>,
    supervisor: Supervisor,
    output: &'a Output,
}

impl<'a> Reactor<'a> {
    /// Serves on `listen`, a socket that is registered with `poll`, and its address.
    pub(super) fn new(
        config: Config,
        poll: Poll,
        listen: (UdpSocket, SocketAddr),
        supervisor: Supervisor,
        output: &'a Output,
    ) -> Self {
        let (socket, address) = listen;
        Self {
            service: Service::new(config.clone(), address, output),
            config,
            poll,
            socket,
            address,
            ready: BTreeSet::new(),
            quit: None,
            supervisor,
            output,
        }
    }

    /// Serves until `shutdown` is requested and the local servers have been asked to close.
    pub(super) fn run(mut self, shutdown: &Shutdown) -> Result<(), Error> {
        tracing::info!("listening on {}", self.address);
        self.supervisor.status(format_args!("Listening on {}", self.address));
        self.supervisor.ready();
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let now = Instant::now();
            self.service.expire(now);
            if let (Some(reason), None) = (shutdown.reason(), &self.quit) {
                if self.config.keep_local_servers && matches!(reason, Reason::Signal(_)) {
                    tracing::info!("quitting: {reason}; the local servers keep running");
                    self.supervisor.stopping(reason);
                    quit::send_reconnect(self.service.links());
                    break;
                }
                self.begin_to_quit(reason, now);
            }
            if let Some(quit) = &mut self.quit
                && quit.poll(self.service.links(), now)
            {
                break;
            }
            self.poll_once(&mut events, now)?;
        }
        self.output.say("Exiting Authentification Server...");
        self.output.flush(FLUSH_TIMEOUT);
        Ok(())
    }

    fn begin_to_quit(&mut self, reason: Reason, now: Instant) {
        tracing::info!("quitting: {reason}");
        self.supervisor.stopping(reason);
        self.service.quit();
        self.quit = Some(Quit::begin(self.service.links(), now, self.config.quit_timeout));
    }

    /// Waits for datagrams, then takes a burst from each ready port.
    fn poll_once(&mut self, events: &mut Events, now: Instant) -> Result<(), Error> {
        match self.poll.poll(events, self.timeout(now)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(Error::Wait(error)),
        }
        self.ready.extend(events.iter().filter_map(|event| Port::from_token(event.token())));
        for port in mem::take(&mut self.ready) {
            if !self.drain(port) {
                self.ready.insert(port);
            }
        }
        Ok(())
    }

    /// How long a wait that begins `now` may last; `None`: until a datagram arrives.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let quit = self.quit.as_ref().map(Quit::deadline);
        let deadline = self.service.next_expiry().into_iter().chain(quit).min()?;
        Some(deadline.saturating_duration_since(now))
    }

    /// Takes at most [`BURST`] datagrams from one port. Returns whether its socket is empty.
    fn drain(&mut self, port: Port) -> bool {
        // One byte more than any datagram of the protocol: a longer one is cut, and still too long.
        let mut buffer = [0; COMMAND_LEN + 1];
        for _ in 0..BURST {
            let links = self.service.links();
            let socket = match port {
                Port::Listen => Some(&self.socket),
                Port::Close(id) => links.get(id).map(|link| &link.close_socket),
                Port::Command(id) => links.get(id).map(|link| &link.command_socket),
            };
            let Some(socket) = socket else {
                return true;
            };
            let (datagram, from) = match socket.recv_from(&mut buffer) {
                Ok((len, from)) => (&buffer[..len], from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    // On a connectionless socket an error concerns one datagram, and reading it has
                    // cleared it.
                    tracing::warn!("cannot receive on {port:?}: {error}");
                    continue;
                }
            };
            let now = Instant::now();
            match port {
                Port::Listen => {
                    let events = self.poll.registry();
                    let answer = self.service.on_listen_port(from, datagram, now, events);
                    if let Some(port) = answer {
                        send(&self.socket, from, &encode_int(Int::from(port)));
                    }
                }
                Port::Close(id) => self.service.on_close_port(id, from, datagram, now),
                Port::Command(id) => {
                    let link = self.service.links().get(id);
                    if link.is_some_and(|link| link.close_address().is_none()) {
                        // Datagrams beyond the burst are reported later, or the port is in `ready`.
                        self.drain(Port::Close(id));
                    }
                    self.service.on_command_port(id, from, datagram, now);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Client;

    use kvs_proto::Text;
    use kvs_proto::link::original::{LinkCommand, LinkDirectory, decode_int};
    use mio::Interest;

    use super::*;
    use crate::auth::port::LinkId;

    fn with_reactor(test: impl FnOnce(Reactor<'_>)) {
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let output = Output::new(io::sink()).unwrap();
        let poll = Poll::new().unwrap();
        let mut socket = UdpSocket::bind(config.listen).unwrap();
        poll.registry().register(&mut socket, Port::Listen.token(), Interest::READABLE).unwrap();
        let address = socket.local_addr().unwrap();
        test(Reactor::new(config, poll, (socket, address), Supervisor::default(), &output));
    }

    fn client() -> Client {
        let client = Client::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    fn poll_once(reactor: &mut Reactor<'_>) {
        reactor.poll_once(&mut Events::with_capacity(EVENTS), Instant::now()).unwrap();
    }

    /// All integers that `client` has received.
    fn received(client: &Client) -> Vec<Int> {
        let mut buffer = [0; 200];
        std::iter::from_fn(|| {
            client.recv(&mut buffer).ok().and_then(|len| decode_int(&buffer[..len]))
        })
        .collect()
    }

    fn connect(reactor: &mut Reactor<'_>, client: &Client) -> LinkId {
        client.send_to(&LinkCommand::Connect.encode(), reactor.address).unwrap();
        loop {
            poll_once(reactor);
            if let [port] = received(client)[..] {
                let (id, _) = reactor
                    .service
                    .links()
                    .iter()
                    .find(|(_, link)| Int::from(link.port) == port)
                    .unwrap();
                return id;
            }
        }
    }

    /// Sends `command` to a port of a link and waits until it can be read there.
    fn send_to_link(reactor: &Reactor<'_>, client: &Client, command: LinkCommand, port: Port) {
        let socket = match port {
            Port::Listen => &reactor.socket,
            Port::Close(id) => &reactor.service.links().get(id).unwrap().close_socket,
            Port::Command(id) => &reactor.service.links().get(id).unwrap().command_socket,
        };
        client.send_to(&command.encode(), socket.local_addr().unwrap()).unwrap();
        while socket.peek_from(&mut [0; 200]).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn flood_on_one_port_delays_the_others_by_one_burst() {
        with_reactor(|mut reactor| {
            let (flooding, modest) = (client(), client());
            let flooded = Port::Command(connect(&mut reactor, &flooding));
            let other = Port::Command(connect(&mut reactor, &modest));
            for _ in 0..3 * BURST {
                send_to_link(&reactor, &flooding, LinkCommand::FindGroup, flooded);
            }
            send_to_link(&reactor, &modest, LinkCommand::FindGroup, other);
            poll_once(&mut reactor);
            assert_eq!(received(&modest), [1]);
            assert_eq!(received(&flooding).len(), BURST);
            // The system does not report the rest again.
            assert!(reactor.ready.contains(&flooded));
            assert_eq!(reactor.timeout(Instant::now()), Some(Duration::ZERO));
            poll_once(&mut reactor);
            poll_once(&mut reactor);
            assert_eq!(received(&flooding).len(), 2 * BURST);
        });
    }

    #[test]
    fn wait_has_a_timeout_only_while_a_deadline_exists() {
        with_reactor(|mut reactor| {
            assert_eq!(reactor.timeout(Instant::now()), None);
            let client = client();
            let id = connect(&mut reactor, &client);
            let wait = reactor.timeout(Instant::now()).unwrap();
            assert!(!wait.is_zero() && wait <= reactor.config.confirm_timeout);
            // Confirmed by a command whose exchange stays incomplete.
            send_to_link(&reactor, &client, LinkCommand::NewGroup, Port::Command(id));
            poll_once(&mut reactor);
            assert!(reactor.service.links().get(id).unwrap().exchanges.has_exchanges());
            assert_eq!(reactor.timeout(Instant::now()), None);
            reactor.begin_to_quit(Reason::Console, Instant::now());
            assert!(reactor.timeout(Instant::now()).is_some());
        });
    }

    #[test]
    fn connect_2_sent_before_a_command_takes_effect_before_it() {
        with_reactor(|mut reactor| {
            let (first, second, close) = (client(), client(), client());
            let predecessor = connect(&mut reactor, &first);
            send_to_link(&reactor, &close, LinkCommand::Connect2, Port::Close(predecessor));
            poll_once(&mut reactor);
            let group = Text::new(b"g").unwrap();
            let owner = reactor.service.links().get(predecessor).unwrap().identity(predecessor);
            assert!(reactor.service.registry().view(owner).insert(group, group));
            let successor = connect(&mut reactor, &second);
            send_to_link(&reactor, &close, LinkCommand::Connect2, Port::Close(successor));
            send_to_link(&reactor, &second, LinkCommand::NewGroup, Port::Command(successor));
            // Whichever of the two ports the system reports first.
            reactor.drain(Port::Command(successor));
            let owner = reactor.service.links().get(successor).unwrap().identity(successor);
            let view = reactor.service.registry().view(owner);
            assert_eq!(LinkDirectory::secret(&view, &group), None);
            assert_eq!(received(&second), [1]);
        });
    }
}
