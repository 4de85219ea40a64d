//! UDP ports that belong to one test.
//!
//! Tests run concurrently in several processes, and some of them restart a server on the same port.
//! The kernel may give a port that it chose to another process as soon as it is free. So blocks of
//! ports are reserved below the range from which the kernel chooses, and below that of the local
//! servers' close ports ([`CLOSE_PORTS`]). The reservation is a TCP listener on the first port of
//! the block: it does not conflict with UDP, every process of the machine sees it, and it ends with
//! its process in any case.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// The lowest port that a local server may choose as its close port.
const CLOSE_PORTS: u16 = 20_000;

/// A reserved block of UDP ports of 127.0.0.1, released when dropped.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    _reservation: TcpListener,
}

const _: () = assert!(Ports::LOWEST + Ports::BLOCKS * Ports::COUNT <= CLOSE_PORTS);

impl Ports {
    /// The number of ports in a block. An authentication server uses the first, and two for each
    /// local server.
    pub const COUNT: u16 = 32;

    const BLOCKS: u16 = 380;
    const LOWEST: u16 = 7_680;

    /// Reserves a block of free ports.
    ///
    /// # Panics
    /// If there is none.
    pub fn reserve() -> Self {
        // Processes begin at different blocks, only to find a free one sooner.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() as u16).wrapping_mul(13);
        for _ in 0..Self::BLOCKS {
            let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let first = Self::LOWEST + (n % Self::BLOCKS) * Self::COUNT;
            let Ok(reservation) = TcpListener::bind((Ipv4Addr::LOCALHOST, first)) else { continue };
            let taken = udp_ports_in_use();
            if !(first..first + Self::COUNT).any(|port| taken.contains(&port)) {
                return Self { first, _reservation: reservation };
            }
        }
        panic!("all {} blocks of test ports are in use", Self::BLOCKS);
    }

    /// The port number `n` of the block.
    ///
    /// # Panics
    /// If `n` is not below [`COUNT`](Self::COUNT).
    pub fn port(&self, n: u16) -> u16 {
        assert!(n < Self::COUNT);
        self.first + n
    }

    /// The address with the port number `n` of the block.
    pub fn addr(&self, n: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port(n))
    }
}

/// The UDP ports of this machine that are bound now, at any address.
///
/// Binding them to find out does not work: a process that another test starts at that moment
/// inherits the socket for an instant, and keeps the port in use.
fn udp_ports_in_use() -> HashSet<u16> {
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| {
            // The second field is the local address: `0100007F:E2B1`.
            let port = |line: &str| {
                let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
                u16::from_str_radix(port, 16).ok()
            };
            table.lines().skip(1).filter_map(port).collect::<Vec<u16>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn blocks_do_not_overlap_and_bound_ports_are_detected() {
        let (one, other) = (Ports::reserve(), Ports::reserve());
        assert!(one.port(0).abs_diff(other.port(0)) >= Ports::COUNT);
        let bound = UdpSocket::bind(one.addr(3)).unwrap();
        let in_use = udp_ports_in_use();
        assert!(in_use.contains(&bound.local_addr().unwrap().port()));
        assert!(!in_use.contains(&other.port(3)));
    }
}
