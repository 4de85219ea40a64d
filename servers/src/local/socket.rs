//! A non-blocking connection with what is still to be written to it.
//!
//! What the kernel does not take at once waits here until the socket is writable. The caller does not read
//! from a peer that has not taken its answers ([`Socket::is_stuck`]), so no more than one answer waits.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use mio::event::Source;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::quota::Place;

/// A connection of an application.
#[derive(Debug)]
pub(super) struct Socket {
    stream: UnixStream,
    /// Given back when the descriptor is free again: fields are dropped in their order.
    _place: Place,
    /// What was not written yet.
    waiting: Vec<u8>,
}

/// What one `read` brought.
#[derive(Debug)]
pub(super) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever more: the end of the stream, or an error.
    End,
}

/// Whether the end of the stream is the next thing to read.
pub(super) fn has_hung_up(stream: &UnixStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    !matches!(recv(stream.as_raw_fd(), &mut [0], flags), Ok(1) | Err(Errno::EAGAIN | Errno::EINTR))
}

impl Socket {
    pub(super) fn new(stream: UnixStream, place: Place) -> Self {
        Self { stream, _place: place, waiting: Vec::new() }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// One `read`.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            return match self.stream.read(buffer) {
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
    pub(super) fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if self.waiting.is_empty() {
            let written = self.write_now(bytes)?;
            self.waiting.extend_from_slice(&bytes[written..]);
        } else {
            self.waiting.extend_from_slice(bytes);
        }
        bytes.clear();
        Ok(())
    }

    /// The socket is writable: writes what waits.
    ///
    /// # Errors
    /// The peer has gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            let written = self.write_now(&waiting)?;
            self.waiting.extend_from_slice(&waiting[written..]);
        }
        Ok(())
    }

    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.write(&bytes[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Whether the peer has gone, and all that it sent was read.
    pub(super) fn has_hung_up(&self) -> bool {
        has_hung_up(&self.stream)
    }

    /// How much waits to be written.
    #[cfg(fuzzing)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether something waits to be written.
    pub(super) fn is_stuck(&self) -> bool {
        !self.waiting.is_empty()
    }
}
