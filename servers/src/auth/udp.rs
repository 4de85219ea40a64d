//! Sends datagrams without waiting.

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;

/// Sends one datagram. If the send buffer is full, the datagram is dropped, as any UDP datagram may
/// be: a peer that needs the response repeats its request.
pub(super) fn send(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) {
    match socket.send_to(datagram, to) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tracing::debug!("datagram to {to} dropped: the send buffer is full");
        }
        Err(error) => tracing::warn!("cannot send to {to}: {error}"),
    }
}
