//! UDP sockets that speak to one peer.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;

/// A socket that speaks to `peer` alone.
pub(super) fn new_socket(peer: SocketAddr, port: u16) -> io::Result<UdpSocket> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, port))?;
    socket.connect(peer)?;
    Ok(socket)
}

pub(super) fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    match socket.send(datagram) {
        // A full buffer loses it like a network does.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        result => result.map(drop),
    }
}

pub(super) fn receive<'a>(
    socket: &UdpSocket,
    buffer: &'a mut [u8],
) -> io::Result<Option<&'a [u8]>> {
    loop {
        return match socket.recv(buffer) {
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}
