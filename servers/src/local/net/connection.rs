//! Connections of applications: the peer's identity, and a stream with the permit that counts it.
//!
//! A bottom layer: it knows users' permits, but no sessions, groups or reactors.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;

use mio::net::UnixStream;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{MsgFlags, getsockopt, recv};

use crate::local::limits::permit::ConnectionPermit;

/// The process at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its process id when it connected, according to the kernel.
    pub(crate) pid: i32,
    /// The user that it runs as.
    pub(crate) uid: u32,
    /// The part after `app_socket_` or `app_socket_cb_` in the file name that its socket is bound
    /// to.
    name: Option<Vec<u8>>,
}

impl Peer {
    /// Asks the kernel for the peer of `stream`.
    ///
    /// # Errors
    /// The kernel does not report the peer's credentials.
    pub(crate) fn of(stream: &UnixStream) -> nix::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let name = stream.peer_addr().ok().and_then(|address| {
            let file = address.as_pathname()?.file_name()?.as_encoded_bytes();
            let number = file
                .strip_prefix(b"app_socket_cb_")
                .or_else(|| file.strip_prefix(b"app_socket_"))?;
            Some(number.to_vec())
        });
        Ok(Self { pid: credentials.pid(), uid: credentials.uid(), name })
    }
}

/// A connection that was accepted and is within its user's quota.
#[derive(Debug)]
pub(crate) struct AcceptedConnection {
    /// The stream.
    pub(crate) stream: UnixStream,
    /// The process at its other end.
    pub(crate) peer: Peer,
    /// Counts the connection for its user while it is open.
    pub(crate) permit: ConnectionPermit,
}

/// An open stream with its permit. Several threads may share it; the last owner closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The stream.
    pub(crate) stream: UnixStream,
    /// Declared after the stream, so that the permit is released after the descriptor is closed:
    /// fields are dropped in the order of their declaration.
    _permit: ConnectionPermit,
}

impl Connection {
    /// Ties `stream` to the permit that counts it.
    pub(crate) fn new(stream: UnixStream, permit: ConnectionPermit) -> Self {
        Self { stream, _permit: permit }
    }
}

/// Whether the end of the stream is the next thing to read.
pub(crate) fn has_hung_up(stream: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    !matches!(recv(stream.as_raw_fd(), &mut [0], flags), Ok(1) | Err(Errno::EAGAIN | Errno::EINTR))
}

/// Writes as much as the kernel takes without blocking, and returns the number of bytes.
///
/// # Errors
/// The peer has closed the connection.
pub(crate) fn write_now(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
