//! The configuration of the authentication server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Where the server listens, its timeouts and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The listen port, and the address on which all other ports are opened too. With port 0 the
    /// system chooses one: see [`Server::local_addr`](super::Server::local_addr).
    pub listen: SocketAddr,
    /// How long the server waits, once it quits, for the local servers to delete their groups and
    /// disconnect.
    pub quit_timeout: Duration,
    /// How long ports are reserved for a sender of `Connect` that does not use them.
    pub confirm_timeout: Duration,
    /// How long the groups of a local server that has reconnected are kept for it to register them
    /// again.
    pub inherit_timeout: Duration,
    /// How long a command may take from its first datagram to its last.
    pub exchange_timeout: Duration,
    /// How long a local server that owns no group must have been silent before its ports may be
    /// given to another one, which happens only when no other ports are left.
    pub idle_timeout: Duration,
    /// How long released ports are not assigned again, unless no others are left.
    pub port_cooldown: Duration,
    /// How many local servers one machine may have connected at a time. A machine is an IPv4
    /// address or an IPv6 network of 64 bits; the loopback network is one machine, unless the
    /// server listens there only.
    pub links_per_machine: usize,
    /// How many groups one machine may have. Beyond that, the server responds to new names as if
    /// they were taken.
    pub groups_per_machine: usize,
    /// Whether a signal ends this server alone: it asks the local servers to keep running, and they
    /// register their groups with the server that is started next.
    pub keep_local_servers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 58032)),
            quit_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_secs(30),
            inherit_timeout: Duration::from_secs(30),
            exchange_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            port_cooldown: Duration::from_secs(10),
            links_per_machine: 256,
            groups_per_machine: 100_000,
            keep_local_servers: false,
        }
    }
}
