//! One link per local server, and the pair of ports assigned to it.
//!
//! A link begins with `Connect`. It is *unconfirmed* until its local server has used one of its two
//! ports: the response to `Connect` may have been lost, or the sender may not be a local server.
//! Each address that sent `Connect` has at most one unconfirmed link, so that a repeated datagram
//! does not take a second pair.
//!
//! The ports P and P+1 are the lowest pair above the listen port, in steps of 2, that is free here
//! and can be bound. A released pair cools down before it is assigned again, unless no other is
//! left: a late `CloseConnection` from its previous local server must not close the next link on
//! the pair, and a late command should meet a closed port, not the link of another local server.
//!
//! The number of links of one machine is limited.
//!
//! Anyone may send `Connect` as fast as the network allows. So no datagram makes this module scan
//! all links or all ports: every lookup has an index. The exception is the search for a link that
//! can be replaced (`service`), which scans the links of one machine or, when no ports are left at
//! all, every link.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use kvs_proto::Int;
use kvs_proto::link::original::{CommandPort, encode_int};
use mio::Interest;
use mio::net::UdpSocket;

use super::port::{LinkId, Port};
use super::registry::LinkIdentity;
use super::udp::send;
use crate::startup::is_shortage;

/// One local server.
pub(super) struct Link {
    /// The sender of `Connect`.
    pub(super) connector: SocketAddr,
    /// The machine whose share of links is charged.
    machine: IpAddr,
    /// P, where commands arrive.
    pub(super) port: u16,
    /// The socket on P.
    pub(super) command_socket: UdpSocket,
    /// The socket on P+1.
    pub(super) close_socket: UdpSocket,
    /// The sender of `Connect_2`, which receives the close flag. Unique among the links.
    close_address: Option<SocketAddr>,
    is_confirmed: bool,
    last_command: Instant,
    /// The exchanges on the command port.
    pub(super) exchanges: CommandPort<SocketAddr>,
}

impl Link {
    /// Whether `from` is an address of the local server's machine.
    pub(super) fn is_from_its_machine(&self, from: SocketAddr) -> bool {
        self.connector.ip() == from.ip()
    }

    /// The identity of this link in the registry.
    pub(super) fn identity(&self, id: LinkId) -> LinkIdentity {
        LinkIdentity { link: id, ip: self.connector.ip(), machine: self.machine }
    }

    /// Where the close flag is sent, once `Connect_2` has arrived.
    pub(super) fn close_address(&self) -> Option<SocketAddr> {
        self.close_address
    }

    /// Whether the local server has used one of its two ports.
    pub(super) fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// When the last command of the local server arrived.
    pub(super) fn last_command(&self) -> Instant {
        self.last_command
    }

    /// Sends a flag to the close port of the local server, if its address is known.
    pub(super) fn send_flag(&self, flag: Int) {
        if let Some(address) = self.close_address {
            send(&self.close_socket, address, &encode_int(flag));
        }
    }
}

/// The machine that is charged for an address. All addresses that any process of a machine can use
/// count as one machine: those of an IPv6 network of 64 bits, and those of the loopback network. A
/// server that listens on the loopback network only has no other machine to protect, so it counts
/// each loopback address as a separate machine.
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

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the local server at {} (command port {})", self.connector, self.port)
    }
}

/// The reason why a local server gets no ports.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPorts {
    /// No pair can be bound.
    #[error("no pair of ports is free")]
    AllTaken,
    /// The machine has reached its limit of links.
    #[error("its machine has {0} local servers already (--links-per-machine)")]
    ShareTaken(usize),
    /// The system has no sockets left.
    #[error("no more sockets can be opened: {0}")]
    Exhausted(#[source] io::Error),
}

/// All links.
pub(super) struct Links {
    listen: SocketAddr,
    port_cooldown: Duration,
    links_per_machine: usize,
    links: BTreeMap<LinkId, Link>,
    /// The unconfirmed links by the sender of their `Connect`.
    unconfirmed: HashMap<SocketAddr, LinkId>,
    /// The unconfirmed links by their last command.
    unconfirmed_since: BTreeSet<(Instant, LinkId)>,
    by_close_address: HashMap<SocketAddr, LinkId>,
    by_machine: HashMap<IpAddr, BTreeSet<LinkId>>,
    /// The pairs that are neither assigned nor cooling down.
    free: BTreeSet<u16>,
    /// The pairs that cool down and the time of their release, the oldest first.
    cooling: VecDeque<(Instant, u16)>,
    next_id: usize,
}

impl Links {
    /// No links, for a server that listens on `listen`.
    pub(super) fn new(
        listen: SocketAddr,
        port_cooldown: Duration,
        links_per_machine: usize,
    ) -> Self {
        Self {
            listen,
            port_cooldown,
            links_per_machine,
            links: BTreeMap::new(),
            unconfirmed: HashMap::new(),
            unconfirmed_since: BTreeSet::new(),
            by_close_address: HashMap::new(),
            by_machine: HashMap::new(),
            // P+1 must be a port, too.
            free: (listen.port().saturating_add(1)..u16::MAX).step_by(2).collect(),
            cooling: VecDeque::new(),
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

    /// The unconfirmed link whose last command is the oldest, and when that arrived.
    pub(super) fn oldest_unconfirmed(&self) -> Option<(LinkId, Instant)> {
        self.unconfirmed_since.first().map(|(since, id)| (*id, *since))
    }

    /// The link whose close flag is sent to `address`.
    pub(super) fn with_close_address(&self, address: SocketAddr) -> Option<LinkId> {
        self.by_close_address.get(&address).copied()
    }

    /// Records that a command of the local server has arrived.
    pub(super) fn touch(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.is_confirmed {
            self.unconfirmed_since.remove(&(link.last_command, id));
            self.unconfirmed_since.insert((now, id));
        }
        link.last_command = now;
    }

    /// Sets where the close flag is sent. No other link may have this address.
    pub(super) fn set_close_address(&mut self, id: LinkId, address: SocketAddr) {
        if let Some(link) = self.links.get_mut(&id) {
            link.close_address = Some(address);
            self.by_close_address.insert(address, id);
        }
    }

    /// Marks a link as confirmed. Returns whether it was unconfirmed.
    pub(super) fn confirm(&mut self, id: LinkId) -> bool {
        match self.links.get_mut(&id) {
            Some(link) if !link.is_confirmed => {
                link.is_confirmed = true;
                self.unconfirmed.remove(&link.connector);
                self.unconfirmed_since.remove(&(link.last_command, id));
                true
            }
            _ => false,
        }
    }

    /// Opens an unconfirmed link: binds its ports and registers them with `events`.
    pub(super) fn open(
        &mut self,
        connector: SocketAddr,
        now: Instant,
        events: &mio::Registry,
    ) -> Result<&Link, NoPorts> {
        let machine = machine(connector.ip(), self.listen.ip());
        if self.by_machine.get(&machine).is_some_and(|ids| ids.len() >= self.links_per_machine) {
            return Err(NoPorts::ShareTaken(self.links_per_machine));
        }
        let id = LinkId(self.next_id);
        let (port, command_socket, close_socket) = self.bind_pair(id, now, events)?;
        self.next_id += 1;
        self.free.remove(&port);
        self.cooling.retain(|(_, other)| *other != port);
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
            is_confirmed: false,
            last_command: now,
            exchanges: CommandPort::with_main_address(connector),
        }))
    }

    /// Closes a link: its sockets are closed, which also removes their registration, and its pair
    /// cools down.
    pub(super) fn close(&mut self, id: LinkId, now: Instant) -> Option<Link> {
        let link = self.links.remove(&id)?;
        if !link.is_confirmed {
            self.unconfirmed.remove(&link.connector);
            self.unconfirmed_since.remove(&(link.last_command, id));
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
        self.cooling.push_back((now, link.port));
        Some(link)
    }

    fn bind_pair(
        &mut self,
        id: LinkId,
        now: Instant,
        events: &mio::Registry,
    ) -> Result<(u16, UdpSocket, UdpSocket), NoPorts> {
        while let Some((since, port)) = self.cooling.front()
            && now.saturating_duration_since(*since) >= self.port_cooldown
        {
            self.free.insert(*port);
            self.cooling.pop_front();
        }
        // Pairs that cool down are tried last, the one that was released first before the others.
        let cooling = self.cooling.iter().map(|(_, port)| *port);
        for port in self.free.iter().copied().chain(cooling) {
            let bind = |number, port: Port| {
                let mut address = self.listen;
                address.set_port(number);
                let mut socket = UdpSocket::bind(address)?;
                events.register(&mut socket, port.token(), Interest::READABLE)?;
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
