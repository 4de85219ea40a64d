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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvs_proto::auth;
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
    /// P, where commands arrive.
    pub(super) port: u16,
    /// The socket on P.
    pub(super) command_socket: UdpSocket,
    /// The socket on P+1.
    pub(super) close_socket: UdpSocket,
    /// Where `Connect_2` came from and the close flag goes. No two links have the same.
    pub(super) close_address: Option<SocketAddr>,
    /// Whether the local server has used one of its two ports.
    pub(super) confirmed: bool,
    /// When the last command of the local server arrived.
    pub(super) heard: Instant,
    /// The exchange on the command port.
    pub(super) exchange: auth::Link<SocketAddr>,
    /// When that exchange began.
    pub(super) exchange_begun: Instant,
}

impl Link {
    /// Whether a datagram from `from` can be this local server's.
    pub(super) fn is_from_its_machine(&self, from: SocketAddr) -> bool {
        self.connector.ip() == from.ip()
    }

    /// What this link is to the registry.
    pub(super) fn owner(&self, id: LinkId) -> Owner {
        Owner { link: id, ip: self.connector.ip() }
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
    /// The system has no sockets left.
    #[error("no more sockets can be opened: {0}")]
    Exhausted(#[source] io::Error),
}

/// All local servers.
pub(super) struct Links {
    listen: SocketAddr,
    rest: Duration,
    links: BTreeMap<LinkId, Link>,
    unconfirmed: HashMap<SocketAddr, LinkId>,
    /// Pairs that were given back, and when: they rest.
    given_back: BTreeMap<u16, Instant>,
    next_id: usize,
}

impl Links {
    /// For a server that listens on `listen`; `rest` is how long a pair rests.
    pub(super) fn new(listen: SocketAddr, rest: Duration) -> Self {
        Self {
            listen,
            rest,
            links: BTreeMap::new(),
            unconfirmed: HashMap::new(),
            given_back: BTreeMap::new(),
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

    /// The unconfirmed link of `connector`.
    pub(super) fn unconfirmed_mut(&mut self, connector: SocketAddr) -> Option<&mut Link> {
        self.links.get_mut(self.unconfirmed.get(&connector)?)
    }

    /// The unconfirmed link that was heard longest ago, and when that was.
    pub(super) fn oldest_unconfirmed(&self) -> Option<(LinkId, Instant)> {
        let heard = |id: &LinkId| Some((*id, self.links.get(id)?.heard));
        self.unconfirmed.values().filter_map(heard).min_by_key(|(_, heard)| *heard)
    }

    /// The link to whose local server the close flag is sent at `address`.
    pub(super) fn with_close_address(&self, address: SocketAddr) -> Option<LinkId> {
        self.iter().find(|(_, link)| link.close_address == Some(address)).map(|(id, _)| id)
    }

    /// Marks a link as confirmed. Returns whether it was not before.
    pub(super) fn confirm(&mut self, id: LinkId) -> bool {
        match self.links.get_mut(&id) {
            Some(link) if !link.confirmed => {
                link.confirmed = true;
                self.unconfirmed.remove(&link.connector);
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
        let id = LinkId(self.next_id);
        let (port, command_socket, close_socket) = self.bind_pair(id, now, reactor)?;
        self.next_id += 1;
        self.given_back.remove(&port);
        self.unconfirmed.insert(connector, id);
        Ok(self.links.entry(id).or_insert(Link {
            connector,
            port,
            command_socket,
            close_socket,
            close_address: None,
            confirmed: false,
            heard: now,
            exchange: auth::Link::default(),
            exchange_begun: now,
        }))
    }

    /// Ends a link: its sockets are closed (which also ends the reactor's watch) and its pair rests.
    pub(super) fn close(&mut self, id: LinkId, now: Instant) -> Option<Link> {
        let link = self.links.remove(&id)?;
        if !link.confirmed {
            self.unconfirmed.remove(&link.connector);
        }
        self.given_back.insert(link.port, now);
        Some(link)
    }

    fn bind_pair(
        &mut self,
        id: LinkId,
        now: Instant,
        reactor: &Reactor,
    ) -> Result<(u16, UdpSocket, UdpSocket), NoPorts> {
        self.given_back.retain(|_, since| now.duration_since(*since) < self.rest);
        let taken: HashSet<u16> = self.links.values().map(|link| link.port).collect();
        // P+1 must be a port, too.
        let pairs = (self.listen.port().saturating_add(1)..u16::MAX).step_by(2);
        let fresh = pairs.filter(|port| !self.given_back.contains_key(port));
        // When there is no other, then the one that has rested longest.
        let mut resting: Vec<u16> = self.given_back.keys().copied().collect();
        resting.sort_by_key(|port| self.given_back.get(port));
        for port in fresh.chain(resting).filter(|port| !taken.contains(port)) {
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
