//! The callback connection in protocol v1, and of a login: one handshake at a time.

use std::io;

use kvs_proto::v1::server::CallbackChannel;

use crate::local::net::socket::{Received, Socket};
use crate::local::session::close_reason::CloseReason;

/// One `read` takes all replies that an application can have sent.
const READ_LEN: usize = 256;

/// A callback connection that speaks protocol v1.
#[derive(Debug)]
pub(super) struct Callback {
    /// The socket.
    pub(super) socket: Socket,
    /// The state of the handshake.
    pub(super) channel: CallbackChannel,
}

/// Whether the application still holds its end of the callback connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallbackStatus {
    /// It does.
    Open,
    /// It has closed it.
    Lost,
}

impl Callback {
    /// Greets the application.
    ///
    /// # Errors
    /// The application has closed the connection.
    pub(super) fn greet(mut socket: Socket) -> io::Result<Self> {
        let mut greeting = Vec::new();
        let channel = CallbackChannel::accept(&mut greeting);
        socket.write(&mut greeting)?;
        Ok(Self { socket, channel })
    }

    /// Writes what waits, and reads the application's replies.
    ///
    /// # Errors
    /// A reply that the protocol does not allow.
    pub(super) fn ready(&mut self) -> Result<CallbackStatus, CloseReason> {
        let mut buffer = [0; READ_LEN];
        let mut output = Vec::new();
        if self.socket.flush().is_err() {
            return Ok(CallbackStatus::Lost);
        }
        while !self.socket.is_write_blocked() {
            match self.socket.read(&mut buffer) {
                Received::Bytes(read) => {
                    self.channel.receive(&buffer[..read], &mut output)?;
                    if self.socket.write(&mut output).is_err() {
                        return Ok(CallbackStatus::Lost);
                    }
                }
                Received::Nothing => break,
                Received::End => return Ok(CallbackStatus::Lost),
            }
        }
        Ok(CallbackStatus::Open)
    }

    /// Whether a new handshake can begin.
    pub(super) fn is_idle(&self) -> bool {
        !self.socket.is_write_blocked() && self.channel.is_idle()
    }
}
