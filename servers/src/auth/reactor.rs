//! The one thread of the authentication server: waits for datagrams and does what they ask.
//!
//! - The sockets are watched edge-triggered: a socket is reported when something arrives, not as long as
//!   something is there. So a socket that was reported stays in `ready` until a read has found it empty.
//! - A turn takes at most [`BURST`] datagrams from each socket in `ready`, so that a flood on one port
//!   delays the others by that much and no more.
//! - Before the first `Connect_2` of a link is known, its close port is read before each of its commands
//!   is obeyed: a `Connect_2` that was sent before a command counts before it, though they arrive on
//!   different sockets. (It may free the very name that the command wants to use.)
//! - Deadlines exist for unconfirmed links, for groups that were inherited, and while quitting, and only
//!   then has the wait a time-out. An exchange that was left half done needs none: it is found to be too
//!   old when the next datagram comes.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvs_proto::Int;
use kvs_proto::link::original::{
    CLOSE, COMMAND_LEN, LinkCommand, LinkEvent, RECONNECT, encode_int,
};
use mio::net::UdpSocket;
use mio::{Events, Poll, Token};

use super::links::{Link, LinkId, Links, NoPorts};
use super::registry::Registry;
use super::{Config, Error, Server};
use crate::console::Output;
use crate::log_limiter::LogLimiter;
use crate::shutdown::{Reason, Shutdown};
use crate::supervisor::Supervisor;

/// How many datagrams of one socket are taken in one turn.
const BURST: usize = 32;

/// How many sockets one wait can report. More are reported by the next.
const EVENTS: usize = 1024;

/// How often a local server that has not said goodbye is told to close.
const TELL_AGAIN: Duration = Duration::from_millis(300);

/// How long the last lines may take to be printed.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The event of the waker.
pub(super) const WAKER: Token = Token(0);

/// A port of the server, in the order in which they are read in one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    /// Where `Connect` arrives.
    Listen,
    /// Where `Connect_2` arrives.
    Close(LinkId),
    /// Where all other commands arrive.
    Command(LinkId),
}

impl Port {
    pub(super) fn token(self) -> Token {
        match self {
            Self::Listen => Token(1),
            Self::Close(LinkId(id)) => Token(2 + 2 * id),
            Self::Command(LinkId(id)) => Token(3 + 2 * id),
        }
    }

    fn of(token: Token) -> Option<Self> {
        match token {
            WAKER => None,
            Token(1) => Some(Self::Listen),
            Token(n) if n % 2 == 0 => Some(Self::Close(LinkId(n / 2 - 1))),
            Token(n) => Some(Self::Command(LinkId(n / 2 - 1))),
        }
    }
}

/// How often each local server is told that this server ends alone: nothing answers that.
const LEAVING_TOLD: usize = 3;

/// What is known from the request to end on.
struct Quit {
    deadline: Instant,
    tell_again: Instant,
}

/// All state of a server that runs.
pub(super) struct Reactor<'a> {
    config: Config,
    poll: Poll,
    socket: UdpSocket,
    address: SocketAddr,
    links: Links,
    registry: Registry,
    /// The line about a `Connect` that is not answered.
    refusal_logged: LogLimiter,
    /// The sockets that may hold datagrams.
    ready: BTreeSet<Port>,
    quit: Option<Quit>,
    /// Who has inherited groups, and when; the first in front.
    heirs: VecDeque<(Instant, LinkId)>,
    supervisor: Supervisor,
    output: &'a Output,
}

impl<'a> Reactor<'a> {
    pub(super) fn new(server: Server, output: &'a Output) -> Self {
        let Server { config, poll, socket, address, supervisor, .. } = server;
        let links = Links::new(address, config.port_rest, config.links_per_machine);
        let registry = Registry::new(config.groups_per_machine);
        let ready = BTreeSet::new();
        let (quit, heirs) = (None, VecDeque::new());
        let refusal_logged = LogLimiter::default();
        Self {
            config,
            poll,
            socket,
            address,
            links,
            registry,
            refusal_logged,
            ready,
            quit,
            heirs,
            supervisor,
            output,
        }
    }

    /// See [`Server::run`].
    pub(super) fn run(mut self, shutdown: &Shutdown) -> Result<(), Error> {
        tracing::info!("listening on {}", self.address);
        self.supervisor.status(format_args!("Listening on {}", self.address));
        self.supervisor.ready();
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let now = Instant::now();
            self.forget_unconfirmed(now);
            self.forget_inherited(now);
            if let (Some(reason), None) = (shutdown.reason(), &self.quit) {
                if self.config.keep_local_servers && matches!(reason, Reason::Signal(_)) {
                    tracing::info!("ending alone: {reason}; the local servers go on");
                    self.supervisor.stopping(reason);
                    for (_, link) in self.links.iter() {
                        (0..LEAVING_TOLD).for_each(|_| tell(link, RECONNECT));
                    }
                    break;
                }
                self.begin_to_quit(reason, now);
            }
            if self.has_quit(now) {
                break;
            }
            self.turn(&mut events, now)?;
        }
        self.output.say("Exiting Authentification Server...");
        self.output.flush(FLUSH_LIMIT);
        Ok(())
    }

    /// Waits, then takes what has arrived.
    fn turn(&mut self, events: &mut Events, now: Instant) -> Result<(), Error> {
        match self.poll.poll(events, self.time_out(now)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(Error::Wait(error)),
        }
        self.ready.extend(events.iter().filter_map(|event| Port::of(event.token())));
        for port in mem::take(&mut self.ready) {
            if !self.drain(port) {
                self.ready.insert(port);
            }
        }
        Ok(())
    }

    /// How long a wait that begins `now` may last.
    fn time_out(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let confirm =
            self.links.oldest_unconfirmed().map(|(_, heard)| heard + self.config.confirm_wait);
        let inherited = self.heirs.front().map(|(since, _)| *since + self.config.heir_wait);
        let quit = self.quit.as_ref().map(|quit| quit.deadline.min(quit.tell_again));
        let deadline = confirm.into_iter().chain(inherited).chain(quit).min()?;
        Some(deadline.saturating_duration_since(now))
    }

    /// Takes at most [`BURST`] datagrams from one port. Returns whether that has emptied it.
    fn drain(&mut self, port: Port) -> bool {
        // One byte more than any datagram of the protocol: what is longer is cut, and still too long.
        let mut buffer = [0; COMMAND_LEN + 1];
        for _ in 0..BURST {
            let socket = match port {
                Port::Listen => Some(&self.socket),
                Port::Close(id) => self.links.get(id).map(|link| &link.close_socket),
                Port::Command(id) => self.links.get(id).map(|link| &link.command_socket),
            };
            let Some(socket) = socket else {
                return true;
            };
            let (datagram, from) = match socket.recv_from(&mut buffer) {
                Ok((len, from)) => (&buffer[..len], from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    // What went wrong on a connectionless socket concerns one datagram and is over now.
                    tracing::warn!("receiving on {port:?} failed: {error}");
                    continue;
                }
            };
            let now = Instant::now();
            match port {
                Port::Listen => self.on_listen_port(from, datagram, now),
                Port::Close(id) => self.on_close_port(id, from, datagram, now),
                Port::Command(id) => {
                    if self.links.get(id).is_some_and(|link| link.close_address().is_none()) {
                        // What is left there is reported or in `ready`, as always.
                        self.drain(Port::Close(id));
                    }
                    self.on_command_port(id, from, datagram, now);
                }
            }
        }
        false
    }

    fn on_listen_port(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if LinkCommand::decode(datagram) != Some(LinkCommand::Connect) {
            tracing::debug!("{from} sent no Connect to the listen port: ignored");
            return;
        }
        if self.quit.is_some() {
            tracing::info!("{from} wants to connect, but this server quits: not answered");
            return;
        }
        let known = self.links.unconfirmed(from);
        let port = if let Some((id, link)) = known.and_then(|id| Some((id, self.links.get(id)?))) {
            let port = link.port;
            self.links.hear(id, now);
            port
        } else {
            let port = match self.open_link(from, now) {
                Ok(port) => port,
                Err(reason) => {
                    // Anybody can ask as often as he likes.
                    if self.refusal_logged.allow(now) {
                        tracing::warn!("{from} wants to connect and is not answered: {reason}");
                    }
                    return;
                }
            };
            // A socket that takes both kinds of addresses shows IPv4 ones as a part of IPv6.
            let (ip, source) = (from.ip().to_canonical(), from.port());
            self.output.say(format_args!(
                "Authentification server received connection request from ({ip}, {source})"
            ));
            port
        };
        send(&self.socket, from, &encode_int(Int::from(port)));
    }

    /// Begins a link, on the ports of one that is not used any more if need be.
    fn open_link(&mut self, connector: SocketAddr, now: Instant) -> Result<u16, NoPorts> {
        let reason = match self.links.open(connector, now, self.poll.registry()) {
            Ok(link) => return Ok(link.port),
            Err(reason) => reason,
        };
        let silent = |link: &Link| now.duration_since(link.heard()) >= self.config.silence;
        // A link without a close address has never behaved like a local server.
        let is_unused = |(id, link): &(LinkId, &Link)| {
            link.is_confirmed()
                && !self.registry.owns(*id)
                && (link.close_address().is_none() || silent(link))
        };
        let longest_unheard = |links: &mut dyn Iterator<Item = (LinkId, &Link)>| {
            let unused = links.filter(is_unused);
            unused.min_by_key(|(_, link)| link.heard()).map(|(id, _)| id)
        };
        // Whose machine has its share does not take anything from the others.
        let unused = match reason {
            NoPorts::ShareTaken(_) => longest_unheard(&mut self.links.of_machine(connector)),
            _ => longest_unheard(&mut self.links.iter()),
        };
        let Some(id) = unused else {
            return Err(reason);
        };
        self.forget(id, now, "has been silent for long, and its ports are needed");
        self.links.open(connector, now, self.poll.registry()).map(|link| link.port)
    }

    fn on_close_port(&mut self, id: LinkId, from: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if !link.is_from_its_machine(from)
            || LinkCommand::decode(datagram) != Some(LinkCommand::Connect2)
        {
            tracing::debug!("{from} sent something else than Connect_2 of {link}: ignored");
            return;
        }
        if link.close_address().is_some_and(|address| address != from) {
            tracing::debug!("{from} said Connect_2 to {link}, which has a close port: ignored");
            return;
        }
        match self.links.with_close_address(from) {
            // That port has had an owner since who has greeted, too: this greeting was late.
            Some(other) if other > id => {
                tracing::debug!("a late Connect_2 from {from}: ignored");
                return;
            }
            Some(other) if other < id => {
                if self.registry.hand_over(other, id) {
                    self.heirs.push_back((now, id));
                }
                self.forget(other, now, "has a successor, who has its close port");
            }
            _ => {}
        }
        self.links.hear(id, now);
        self.links.greet(id, from);
        if let (true, Some(link)) = (self.quit.is_some(), self.links.get(id)) {
            tell(link, CLOSE);
        }
        self.confirm(id);
    }

    fn on_command_port(&mut self, id: LinkId, from: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if !link.is_from_its_machine(from) {
            tracing::debug!("{from} is not the machine of {link}: ignored");
            return;
        }
        match LinkCommand::decode(datagram) {
            None => {
                // A link is heard when a command comes.
                let age = now.saturating_duration_since(link.heard());
                if link.exchanges.has_exchanges() && age >= self.config.exchange_wait {
                    tracing::info!("{link} has left a command half done: forgotten");
                    link.exchanges.clear_exchanges();
                }
            }
            Some(LinkCommand::Connect | LinkCommand::Connect2) => {}
            Some(command) => {
                tracing::debug!("{command:?} from {from} for {link}");
                self.links.hear(id, now);
                self.confirm(id);
            }
        }
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let mut groups = self.registry.seen_by(link.owner(id));
        let mut reply = Vec::new();
        let event = link.exchanges.receive(from, datagram, &mut groups, &mut reply);
        if !reply.is_empty() {
            send(&link.command_socket, from, &reply);
        }
        match event {
            None => {}
            Some(LinkEvent::Created(name)) => {
                self.output.say("Group created!");
                tracing::debug!("{link} created {name:?}");
            }
            Some(LinkEvent::Deleted(name)) => {
                self.output.say("Group deleted!");
                tracing::debug!("{link} deleted {name:?}");
            }
            Some(LinkEvent::Closed) => {
                self.output.say("Connection closed");
                self.forget(id, now, "has said goodbye");
            }
        }
    }

    fn confirm(&mut self, id: LinkId) {
        if self.links.confirm(id) {
            self.output.say("New Local Server Connected");
            if let Some(link) = self.links.get(id) {
                tracing::info!("{link} is connected");
            }
        }
    }

    /// Ends a link. LinkDirectory that it still owns are no more: nobody else would ever delete them.
    fn forget(&mut self, id: LinkId, now: Instant, why: &str) {
        let Some(link) = self.links.close(id, now) else {
            return;
        };
        tracing::info!("{link} {why}: forgotten");
        let groups = self.registry.forget(id);
        if !groups.is_empty() {
            tracing::warn!(
                "{link} had not deleted these groups, which are deleted now: {groups:?}"
            );
        }
    }

    fn forget_unconfirmed(&mut self, now: Instant) {
        while let Some((id, heard)) = self.links.oldest_unconfirmed()
            && now.saturating_duration_since(heard) >= self.config.confirm_wait
        {
            self.forget(id, now, "has asked for ports and does not use them");
        }
    }

    /// Whoever has not registered a group again by now does not know it.
    fn forget_inherited(&mut self, now: Instant) {
        while let Some((since, heir)) = self.heirs.front()
            && now.saturating_duration_since(*since) >= self.config.heir_wait
        {
            let groups = self.registry.forget_inherited(*heir);
            if !groups.is_empty() {
                tracing::warn!("these groups were left behind and are deleted now: {groups:?}");
            }
            self.heirs.pop_front();
        }
    }

    fn begin_to_quit(&mut self, reason: Reason, now: Instant) {
        tracing::info!("quitting: {reason}");
        self.supervisor.stopping(reason);
        for (_, link) in self.links.iter() {
            if link.is_confirmed() && link.close_address().is_none() {
                tracing::warn!("{link} has never said Connect_2 and cannot be told to close");
            }
        }
        self.quit = Some(Quit { deadline: now + self.config.quit_wait, tell_again: now });
    }

    /// Whether there is nobody left to wait for. Tells those who are left to close.
    fn has_quit(&mut self, now: Instant) -> bool {
        let Some(quit) = &mut self.quit else {
            return false;
        };
        let mut left =
            self.links.iter().filter(|(_, link)| link.close_address().is_some()).peekable();
        if left.peek().is_none() {
            return true;
        }
        if now >= quit.deadline {
            for (_, link) in left {
                tracing::warn!("{link} has not said goodbye");
            }
            return true;
        }
        if now >= quit.tell_again {
            left.for_each(|(_, link)| tell(link, CLOSE));
            quit.tell_again = now + TELL_AGAIN;
        }
        false
    }
}

/// Sends a flag to the close port, if it is known where that is.
fn tell(link: &Link, flag: Int) {
    if let Some(address) = link.close_address() {
        send(&link.close_socket, address, &encode_int(flag));
    }
}

/// Sends one datagram or loses it, as UDP may anyway: who waits for it will ask again.
fn send(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) {
    match socket.send_to(datagram, to) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tracing::debug!("no room for a datagram to {to}: lost");
        }
        Err(error) => tracing::warn!("cannot send to {to}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvs_proto::Text;
    use kvs_proto::link::original::{LinkDirectory, decode_int};
    use std::net::UdpSocket as Client;

    fn with_reactor(test: impl FnOnce(Reactor<'_>)) {
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let output = Output::new(io::sink()).unwrap();
        test(Reactor::new(Server::bind(&config).unwrap(), &output));
    }

    fn client() -> Client {
        let client = Client::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    fn turn(reactor: &mut Reactor<'_>) {
        reactor.turn(&mut Events::with_capacity(EVENTS), Instant::now()).unwrap();
    }

    /// All integers that `client` has been sent.
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
            turn(reactor);
            if let [port] = received(client)[..] {
                let (id, _) =
                    reactor.links.iter().find(|(_, link)| Int::from(link.port) == port).unwrap();
                return id;
            }
        }
    }

    /// Sends `command` to a port of a link and waits until it can be read there.
    fn send_to_link(reactor: &Reactor<'_>, client: &Client, command: LinkCommand, port: Port) {
        let socket = match port {
            Port::Listen => &reactor.socket,
            Port::Close(id) => &reactor.links.get(id).unwrap().close_socket,
            Port::Command(id) => &reactor.links.get(id).unwrap().command_socket,
        };
        client.send_to(&command.encode(), socket.local_addr().unwrap()).unwrap();
        while socket.peek_from(&mut [0; 200]).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_flood_on_one_port_delays_the_others_by_one_burst() {
        with_reactor(|mut reactor| {
            let (flooding, modest) = (client(), client());
            let flooded = Port::Command(connect(&mut reactor, &flooding));
            let other = Port::Command(connect(&mut reactor, &modest));
            for _ in 0..3 * BURST {
                send_to_link(&reactor, &flooding, LinkCommand::FindGroup, flooded);
            }
            send_to_link(&reactor, &modest, LinkCommand::FindGroup, other);
            turn(&mut reactor);
            assert_eq!(received(&modest), [1]);
            assert_eq!(received(&flooding).len(), BURST);
            // The system does not report the rest again.
            assert!(reactor.ready.contains(&flooded));
            assert_eq!(reactor.time_out(Instant::now()), Some(Duration::ZERO));
            turn(&mut reactor);
            turn(&mut reactor);
            assert_eq!(received(&flooding).len(), 2 * BURST);
        });
    }

    #[test]
    fn the_wait_has_a_time_out_only_while_something_is_due() {
        with_reactor(|mut reactor| {
            assert_eq!(reactor.time_out(Instant::now()), None);
            let client = client();
            let id = connect(&mut reactor, &client);
            let wait = reactor.time_out(Instant::now()).unwrap();
            assert!(!wait.is_zero() && wait <= reactor.config.confirm_wait);
            // Confirmed by a command, which stays half done.
            send_to_link(&reactor, &client, LinkCommand::NewGroup, Port::Command(id));
            turn(&mut reactor);
            assert!(reactor.links.get(id).unwrap().exchanges.has_exchanges());
            assert_eq!(reactor.time_out(Instant::now()), None);
            reactor.begin_to_quit(Reason::Console, Instant::now());
            assert!(reactor.time_out(Instant::now()).is_some());
        });
    }

    #[test]
    fn a_greeting_sent_before_a_command_counts_before_it() {
        with_reactor(|mut reactor| {
            let (first, second, close) = (client(), client(), client());
            let predecessor = connect(&mut reactor, &first);
            send_to_link(&reactor, &close, LinkCommand::Connect2, Port::Close(predecessor));
            turn(&mut reactor);
            let group = Text::new(b"g").unwrap();
            let owner = reactor.links.get(predecessor).unwrap().owner(predecessor);
            assert!(reactor.registry.seen_by(owner).insert(group, group));
            let successor = connect(&mut reactor, &second);
            send_to_link(&reactor, &close, LinkCommand::Connect2, Port::Close(successor));
            send_to_link(&reactor, &second, LinkCommand::NewGroup, Port::Command(successor));
            // Whichever of the two ports the system reports first.
            reactor.drain(Port::Command(successor));
            let owner = reactor.links.get(successor).unwrap().owner(successor);
            assert_eq!(reactor.registry.seen_by(owner).secret(&group), None);
            assert_eq!(received(&second), [1]);
        });
    }

    #[test]
    fn each_port_has_its_own_event() {
        let ports = [
            Port::Listen,
            Port::Close(LinkId(0)),
            Port::Command(LinkId(0)),
            Port::Close(LinkId(1)),
            Port::Command(LinkId(1)),
        ];
        for port in ports {
            assert_eq!(Port::of(port.token()), Some(port));
        }
        assert_eq!(Port::of(WAKER), None);
    }
}
