//! The local servers: one link each, and the pair of ports that it was given.
//!
//! A link begins with `Connect` and is *unconfirmed* until its local server has used one of its two ports:
//! the answer to `Connect` may have been lost, or the sender may never have been a local server. There is
//! at most one unconfirmed link for each address that said `Connect`, so that a repeated datagram does not
//! take a second pair.
//!
//! Ports P, P+1 are the lowest pair above the listen port, in steps of 2, that is free here and can be
//! bound. A pair that was given back rests for a while before it is given out again (unless there is no
//! other): a late `CloseConnection` of the local server that had it must not end the one that gets it
//! next, and a late command should find a closed port rather than somebody else's link.
//!
//! No machine gets more than its share of the ports, so that none can take them all from the others.
//!
//! Anybody may send `Connect` as fast as the network allows, so nothing here looks at all links or at all
//! ports for one datagram: everything that is looked for has an index. The exception is the search for a
//! link that can give way: it looks at the machine's share or, when no ports are left at all, at every link.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use kvs_proto::link;
use mio::net::UdpSocket;
use mio::{Interest, Registry as Reactor};

use super::reactor::Port;
use super::registry::Owner;
use crate::startup::is_shortage;

/// A link. Ids are given once only, and a younger link has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LinkId(pub(super) usize);

/// One local server.
pub(super) struct Link {
    /// Who said `Connect`.
    pub(super) connector: SocketAddr,
    /// Whose share it is part of.
    machine: IpAddr,
    /// P, where commands arrive.
    pub(super) port: u16,
    /// The socket on P.
    pub(super) command_socket: UdpSocket,
    /// The socket on P+1.
    pub(super) close_socket: UdpSocket,
    /// Where `Connect_2` came from and the close flag goes. No two links have the same.
    close_address: Option<SocketAddr>,
    /// Whether the local server has used one of its two ports.
    confirmed: bool,
    /// When the last command of the local server arrived.
    heard: Instant,
    /// The exchanges on the command port.
    pub(super) exchanges: link::original::CommandPort<SocketAddr>,
}

impl Link {
    /// Whether a datagram from `from` can be this local server's.
    pub(super) fn is_from_its_machine(&self, from: SocketAddr) -> bool {
        self.connector.ip() == from.ip()
    }

    /// What this link is to the registry.
    pub(super) fn owner(&self, id: LinkId) -> Owner {
        Owner { link: id, ip: self.connector.ip(), machine: self.machine }
    }

    /// Where the close flag goes.
    pub(super) fn close_address(&self) -> Option<SocketAddr> {
        self.close_address
    }

    /// Whether the local server has used one of its two ports.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// When the last command of the local server arrived.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }
}

/// The machine behind an address, as far as shares are concerned. All addresses that any process of a machine
/// can choose from are one: those of an IPv6 network of 64 bits, and those of the loopback network. A server
/// that can be reached over the loopback network only has nobody to protect from it, and takes its
/// addresses for as many machines.
fn machine(ip: IpAddr, listen: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_loopback() && !listen.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// For logs.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the local server at {} (command port {})", self.connector, self.port)
    }
}

/// Why a local server gets no ports.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPorts {
    /// None of the pairs can be bound.
    #[error("no pair of ports is free")]
    AllTaken,
    /// Its machine has its share.
    #[error("its machine has {0} local servers already (--links-per-machine)")]
    ShareTaken(usize),
    /// The system has no sockets left.
    #[error("no more sockets can be opened: {0}")]
    Exhausted(#[source] io::Error),
}

/// All local servers.
pub(super) struct Links {
    listen: SocketAddr,
    rest: Duration,
    /// How many links one machine may have.
    share: usize,
    links: BTreeMap<LinkId, Link>,
    /// By who said `Connect`.
    unconfirmed: HashMap<SocketAddr, LinkId>,
    /// The same, by when they were heard.
    unconfirmed_since: BTreeSet<(Instant, LinkId)>,
    by_close_address: HashMap<SocketAddr, LinkId>,
    by_machine: HashMap<IpAddr, BTreeSet<LinkId>>,
    /// The pairs that are neither given out nor resting.
    free: BTreeSet<u16>,
    /// Pairs that were given back, and when, the first in front: they rest.
    resting: VecDeque<(Instant, u16)>,
    next_id: usize,
}

impl Links {
    /// For a server that listens on `listen`; `rest` is how long a pair rests, `share` how many links one
    /// machine may have.
    pub(super) fn new(listen: SocketAddr, rest: Duration, share: usize) -> Self {
        Self {
            listen,
            rest,
            share,
            links: BTreeMap::new(),
            unconfirmed: HashMap::new(),
            unconfirmed_since: BTreeSet::new(),
            by_close_address: HashMap::new(),
            by_machine: HashMap::new(),
            // P+1 must be a port, too.
            free: (listen.port().saturating_add(1)..u16::MAX).step_by(2).collect(),
            resting: VecDeque::new(),
            next_id: 0,
        }
    }

    pub(super) fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    /// All links, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    /// The links of the machine of `address`.
    pub(super) fn of_machine(&self, address: SocketAddr) -> impl Iterator<Item = (LinkId, &Link)> {
        let ids =
            self.by_machine.get(&machine(address.ip(), self.listen.ip())).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.links.get(id)?)))
    }

    /// The unconfirmed link of `connector`.
    pub(super) fn unconfirmed(&self, connector: SocketAddr) -> Option<LinkId> {
        self.unconfirmed.get(&connector).copied()
    }

    /// The unconfirmed link that was heard longest ago, and when that was.
    pub(super) fn oldest_unconfirmed(&self) -> Option<(LinkId, Instant)> {
        self.unconfirmed_since.first().map(|(heard, id)| (*id, *heard))
    }

    /// The link to whose local server the close flag is sent at `address`.
    pub(super) fn with_close_address(&self, address: SocketAddr) -> Option<LinkId> {
        self.by_close_address.get(&address).copied()
    }

    /// The local server gives a sign of life.
    pub(super) fn hear(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.confirmed {
            self.unconfirmed_since.remove(&(link.heard, id));
            self.unconfirmed_since.insert((now, id));
        }
        link.heard = now;
    }

    /// Notes where the close flag goes. No other link has this address, and this one no other.
    pub(super) fn greet(&mut self, id: LinkId, address: SocketAddr) {
        if let Some(link) = self.links.get_mut(&id) {
            link.close_address = Some(address);
            self.by_close_address.insert(address, id);
        }
    }

    /// Marks a link as confirmed. Returns whether it was not before.
    pub(super) fn confirm(&mut self, id: LinkId) -> bool {
        match self.links.get_mut(&id) {
            Some(link) if !link.confirmed => {
                link.confirmed = true;
                self.unconfirmed.remove(&link.connector);
                self.unconfirmed_since.remove(&(link.heard, id));
                true
            }
            _ => false,
        }
    }

    /// Begins an unconfirmed link, with its ports bound and watched by `reactor`.
    pub(super) fn open(
        &mut self,
        connector: SocketAddr,
        now: Instant,
        reactor: &Reactor,
    ) -> Result<&Link, NoPorts> {
        let machine = machine(connector.ip(), self.listen.ip());
        if self.by_machine.get(&machine).is_some_and(|ids| ids.len() >= self.share) {
            return Err(NoPorts::ShareTaken(self.share));
        }
        let id = LinkId(self.next_id);
        let (port, command_socket, close_socket) = self.bind_pair(id, now, reactor)?;
        self.next_id += 1;
        self.free.remove(&port);
        self.resting.retain(|(_, resting)| *resting != port);
        self.unconfirmed.insert(connector, id);
        self.unconfirmed_since.insert((now, id));
        self.by_machine.entry(machine).or_default().insert(id);
        Ok(self.links.entry(id).or_insert(Link {
            connector,
            machine,
            port,
            command_socket,
            close_socket,
            close_address: None,
            confirmed: false,
            heard: now,
            exchanges: link::original::CommandPort::with_main_address(connector),
        }))
    }

    /// Ends a link: its sockets are closed (which also ends the reactor's watch) and its pair rests.
    pub(super) fn close(&mut self, id: LinkId, now: Instant) -> Option<Link> {
        let link = self.links.remove(&id)?;
        if !link.confirmed {
            self.unconfirmed.remove(&link.connector);
            self.unconfirmed_since.remove(&(link.heard, id));
        }
        if let Some(address) = link.close_address {
            self.by_close_address.remove(&address);
        }
        if let Some(ids) = self.by_machine.get_mut(&link.machine) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_machine.remove(&link.machine);
            }
        }
        self.resting.push_back((now, link.port));
        Some(link)
    }

    fn bind_pair(
        &mut self,
        id: LinkId,
        now: Instant,
        reactor: &Reactor,
    ) -> Result<(u16, UdpSocket, UdpSocket), NoPorts> {
        while let Some((since, port)) = self.resting.front()
            && now.saturating_duration_since(*since) >= self.rest
        {
            self.free.insert(*port);
            self.resting.pop_front();
        }
        // When there is no other, then the one that has rested longest.
        let resting = self.resting.iter().map(|(_, port)| *port);
        for port in self.free.iter().copied().chain(resting) {
            let bind = |number, port: Port| {
                let mut address = self.listen;
                address.set_port(number);
                let mut socket = UdpSocket::bind(address)?;
                reactor.register(&mut socket, port.token(), Interest::READABLE)?;
                io::Result::Ok(socket)
            };
            let pair = bind(port, Port::Command(id))
                .and_then(|command| Ok((port, command, bind(port + 1, Port::Close(id))?)));
            match pair {
                Ok(pair) => return Ok(pair),
                Err(error) if is_shortage(&error) => return Err(NoPorts::Exhausted(error)),
                Err(error) => tracing::debug!("ports {port} and {}: {error}", port + 1),
            }
        }
        Err(NoPorts::AllTaken)
    }
}
