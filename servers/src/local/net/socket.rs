//! A non-blocking socket with the bytes that wait to be written to it.
//!
//! What the kernel does not take at once waits here until the socket is writable. The session does
//! not read from a peer that is write-blocked ([`Socket::is_write_blocked`]), so what waits are the
//! responses to what one read brought, and at most one of them is long. Long values are shared with
//! the table, never copied.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use kvs_table::ExtentRef;

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::local::limits::permit::ConnectionPermit;
use crate::local::net::connection::{Connection, has_hung_up, write_now};

/// A connection, and what was not written to it yet.
#[derive(Debug)]
pub(crate) struct Socket {
    connection: Arc<Connection>,
    unsent: VecDeque<Unsent>,
    /// Whether an event reports that the socket is writable.
    has_write_interest: bool,
}

/// Bytes that wait to be written.
#[derive(Debug)]
enum Unsent {
    Own(Vec<u8>),
    /// From this byte on.
    Shared(ExtentRef, usize),
}

impl Unsent {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes, from) => bytes.get(*from..).unwrap_or_default(),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Own(bytes) => drop(bytes.drain(..count)),
            Self::Shared(_, from) => *from += count,
        }
    }
}

/// The result of one `read`.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes were read.
    Bytes(usize),
    /// Nothing can be read now.
    Nothing,
    /// The end of the stream, or an error: nothing can be read any more.
    End,
}

impl Socket {
    /// A socket with nothing to write. The permit counts it while it is open.
    pub(crate) fn new(stream: UnixStream, permit: ConnectionPermit) -> Self {
        let connection = Arc::new(Connection::new(stream, permit));
        Self { connection, unsent: VecDeque::new(), has_write_interest: false }
    }

    /// Registers the socket for events that report what can be read.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        // The kernel removes the registration when the socket is closed.
        registry.register(&mut SourceFd(&self.descriptor()), token, Interest::READABLE)
    }

    /// Switches on or off the events that report that the socket is writable. They must be off when
    /// nothing waits: otherwise every `read` of the peer would cause one.
    pub(crate) fn update_write_interest(
        &mut self,
        wanted: bool,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        if wanted == self.has_write_interest {
            return Ok(());
        }
        let interest = match wanted {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        registry.reregister(&mut SourceFd(&self.descriptor()), token, interest)?;
        self.has_write_interest = wanted;
        Ok(())
    }

    fn descriptor(&self) -> RawFd {
        self.connection.stream.as_raw_fd()
    }

    /// The connection, for another owner that writes to it from now on.
    pub(crate) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// Reads once.
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

    /// Writes `bytes` and empties the vector; what the kernel does not take waits.
    ///
    /// # Errors
    /// The peer has closed the connection.
    pub(crate) fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let written = match self.is_write_blocked() {
            true => 0,
            false => write_now(&self.connection.stream, bytes)?,
        };
        match (&bytes[written..], self.unsent.back_mut()) {
            ([], _) => {}
            (rest, Some(Unsent::Own(unsent))) => unsent.extend_from_slice(rest),
            (rest, _) => self.unsent.push_back(Unsent::Own(rest.to_vec())),
        }
        bytes.clear();
        Ok(())
    }

    /// Writes bytes that have other owners, too; what the kernel does not take waits.
    ///
    /// # Errors
    /// The peer has closed the connection.
    pub(crate) fn write_shared(&mut self, bytes: ExtentRef) -> io::Result<()> {
        let written = match self.is_write_blocked() {
            true => 0,
            false => write_now(&self.connection.stream, &bytes)?,
        };
        if written < bytes.len() {
            self.unsent.push_back(Unsent::Shared(bytes, written));
        }
        Ok(())
    }

    /// Writes what waits. For when the socket is writable.
    ///
    /// # Errors
    /// The peer has closed the connection.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.unsent.front_mut() {
            let written = write_now(&self.connection.stream, first.bytes())?;
            first.advance(written);
            if !first.bytes().is_empty() {
                break;
            }
            self.unsent.pop_front();
        }
        Ok(())
    }

    /// Whether the peer has closed the connection and everything it sent was read.
    pub(crate) fn has_hung_up(&self) -> bool {
        has_hung_up(&self.connection.stream)
    }

    /// The bytes of memory that wait to be written or cannot be freed until they are: the whole of
    /// a long value as long as any part of it waits.
    pub(crate) fn buffered(&self) -> usize {
        let buffered = |unsent: &Unsent| match unsent {
            Unsent::Own(bytes) => bytes.capacity(),
            Unsent::Shared(bytes, _) => bytes.len(),
        };
        self.unsent.iter().map(buffered).sum()
    }

    /// The number of bytes that wait to be written.
    #[cfg(fuzzing)]
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.iter().map(|unsent| unsent.bytes().len()).sum()
    }

    /// Whether bytes wait until the socket is writable.
    pub(crate) fn is_write_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Shuts the connection down in both directions, for its other owners, too.
    pub(crate) fn shut_down(&self) {
        // It fails when the peer has closed the connection already.
        let _ = self.connection.stream.shutdown(Shutdown::Both);
    }
}
