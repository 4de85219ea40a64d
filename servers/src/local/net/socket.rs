//! A non-blocking connection with what is still to be written to it.
//!
//! What the kernel does not take at once waits here until the socket is writable. The caller does not read
//! from a peer that has not taken its answers ([`Socket::is_stuck`]), so what waits are the answers to what was read
//! at once, and at most one of them is long. Long values are shared with the table, and never copied.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::local::limits::quota::ConnectionPermit;

/// A connection of an application. The last one to hold it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    /// Given back when the descriptor is free again: fields are dropped in their order.
    _place: ConnectionPermit,
}

/// A connection, and what was not written to it yet.
#[derive(Debug)]
pub(crate) struct Socket {
    connection: Arc<Connection>,
    waiting: VecDeque<Waiting>,
    /// Events tell when it is writable.
    watched_for_room: bool,
}

/// Bytes that wait to be written.
#[derive(Debug)]
enum Waiting {
    Own(Vec<u8>),
    /// From this byte on.
    Shared(Arc<[u8]>, usize),
}

impl Waiting {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes, from) => bytes.get(*from..).unwrap_or_default(),
        }
    }

    fn written(&mut self, count: usize) {
        match self {
            Self::Own(bytes) => drop(bytes.drain(..count)),
            Self::Shared(_, from) => *from += count,
        }
    }
}

/// What one `read` brought.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever more: the end of the stream, or an error.
    End,
}

/// Whether the end of the stream is the next thing to read.
pub(crate) fn has_hung_up(stream: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    !matches!(recv(stream.as_raw_fd(), &mut [0], flags), Ok(1) | Err(Errno::EAGAIN | Errno::EINTR))
}

/// Writes as much as the kernel takes at once, and returns how much that was.
///
/// # Errors
/// The peer has gone.
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

impl Socket {
    pub(crate) fn new(stream: UnixStream, place: ConnectionPermit) -> Self {
        let connection = Arc::new(Connection { stream, _place: place });
        Self { connection, waiting: VecDeque::new(), watched_for_room: false }
    }

    /// Has events tell what comes.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        // It is taken out again by the kernel when it is closed.
        registry.register(&mut SourceFd(&self.descriptor()), token, Interest::READABLE)
    }

    /// Has events tell when it is writable, too, or not any more. Without need they must not: each `read` of the peer would
    /// be one.
    pub(crate) fn watch_for_room(
        &mut self,
        wanted: bool,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        if wanted == self.watched_for_room {
            return Ok(());
        }
        let interest = match wanted {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        registry.reregister(&mut SourceFd(&self.descriptor()), token, interest)?;
        self.watched_for_room = wanted;
        Ok(())
    }

    fn descriptor(&self) -> RawFd {
        self.connection.stream.as_raw_fd()
    }

    /// For somebody who writes to it himself from now on.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// One `read`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            return match (&self.connection.stream).read(buffer) {
                Ok(0) => Received::End,
                Ok(read) => Received::Bytes(read),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Nothing,
                Err(_) => Received::End,
            };
        }
    }

    /// Writes `bytes` and leaves them empty; what the kernel does not take waits.
    ///
    /// # Errors
    /// The peer has gone.
    pub(crate) fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let written = if self.is_stuck() { 0 } else { write_now(&self.connection.stream, bytes)? };
        match (&bytes[written..], self.waiting.back_mut()) {
            ([], _) => {}
            (rest, Some(Waiting::Own(waiting))) => waiting.extend_from_slice(rest),
            (rest, _) => self.waiting.push_back(Waiting::Own(rest.to_vec())),
        }
        bytes.clear();
        Ok(())
    }

    /// Writes bytes that are shared with others; what the kernel does not take waits.
    ///
    /// # Errors
    /// The peer has gone.
    pub(crate) fn write_shared(&mut self, bytes: Arc<[u8]>) -> io::Result<()> {
        let written = if self.is_stuck() { 0 } else { write_now(&self.connection.stream, &bytes)? };
        if written < bytes.len() {
            self.waiting.push_back(Waiting::Shared(bytes, written));
        }
        Ok(())
    }

    /// The socket is writable: writes what waits.
    ///
    /// # Errors
    /// The peer has gone.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.waiting.front_mut() {
            let written = write_now(&self.connection.stream, first.bytes())?;
            first.written(written);
            if !first.bytes().is_empty() {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Whether the peer has gone, and all that it sent was read.
    pub(crate) fn has_hung_up(&self) -> bool {
        has_hung_up(&self.connection.stream)
    }

    /// How much memory is kept by what waits to be written: all of a long value, for as long as any of it waits.
    pub(crate) fn kept(&self) -> usize {
        let kept = |waiting: &Waiting| match waiting {
            Waiting::Own(bytes) => bytes.capacity(),
            Waiting::Shared(bytes, _) => bytes.len(),
        };
        self.waiting.iter().map(kept).sum()
    }

    /// How much waits to be written.
    #[cfg(fuzzing)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.bytes().len()).sum()
    }

    /// Whether something waits to be written.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Ends the conversation, also for whoever else holds the connection for another moment.
    pub(crate) fn shut_down(&self) {
        // It fails when the peer has gone already.
        let _ = self.connection.stream.shutdown(Shutdown::Both);
    }
}
