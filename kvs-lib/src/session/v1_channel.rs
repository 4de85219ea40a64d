//! The main channel of a v1 session.
//!
//! The state machine of [`kvs_proto::v1::client`] says what to send and what to expect; here its
//! steps are carried out on the socket, and a failed step becomes an [`Error`].

use std::io;

use kvs_proto::v1::client::{Operation, OperationExchange, OperationResult, OperationStep};
use kvs_proto::{INT_LEN, MAX_TEXT};

use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::panic_points::panic_point;

#[derive(Debug)]
pub(crate) struct V1Channel {
    channel: ClientChannel,
    /// A value was sent that the server may not have read yet.
    has_unread_value: bool,
    received: ReceiveBuffer,
}

/// Bytes that were received and not used yet. The server sends a value right after its length, so
/// one system call receives both.
#[derive(Debug)]
struct ReceiveBuffer {
    bytes: [u8; INT_LEN + MAX_TEXT + 1],
    next: usize,
    end: usize,
}

impl ReceiveBuffer {
    /// Fills `buffer`.
    fn receive(
        &mut self,
        channel: &ClientChannel,
        mut buffer: &mut [u8],
        deadline: Deadline,
    ) -> io::Result<()> {
        loop {
            let available = buffer.len().min(self.end - self.next);
            let (filled, rest) = buffer.split_at_mut(available);
            filled.copy_from_slice(&self.bytes[self.next..self.next + available]);
            self.next += available;
            buffer = rest;
            if buffer.is_empty() {
                return Ok(());
            }
            (self.next, self.end) = (0, 0);
            self.end = channel.receive_some(&mut self.bytes, Some(deadline))?;
        }
    }
}

impl V1Channel {
    /// For a channel on which the login is complete.
    pub(crate) fn new(channel: ClientChannel) -> Self {
        let received = ReceiveBuffer { bytes: [0; INT_LEN + MAX_TEXT + 1], next: 0, end: 0 };
        Self { channel, has_unread_value: false, received }
    }

    /// Carries out an operation.
    ///
    /// An empty value has no bytes on the wire, so the server notices it only when the next
    /// function code arrives. So that the value is stored without another call of the program, a
    /// get of the same key follows at once.
    pub(crate) fn run(
        &mut self,
        operation: Operation,
        deadline: Deadline,
    ) -> Result<OperationResult, Error> {
        let result = self.run_once(operation, deadline)?;
        match operation {
            Operation::Put { key, value } if value.is_empty() => {
                self.run_once(Operation::Get(key), deadline).map(|_| OperationResult::Done)
            }
            _ => Ok(result),
        }
    }

    /// Shuts the channel down without closing it.
    pub(crate) fn shut_down(&self) {
        self.channel.shut_down();
    }

    pub(crate) fn close(self) -> Result<(), Error> {
        self.channel.close()
    }

    fn run_once(
        &mut self,
        operation: Operation,
        deadline: Deadline,
    ) -> Result<OperationResult, Error> {
        let Self { channel, has_unread_value, received } = self;
        if *has_unread_value {
            channel.wait_until_read(deadline).map_err(Error::SendCode)?;
            *has_unread_value = false;
        }
        let mut exchange = OperationExchange::new(operation);
        let mut buffer = [0; MAX_TEXT + 1];
        loop {
            panic_point!("exchange step");
            match exchange.next() {
                OperationStep::Send(what, bytes) => {
                    channel.send(bytes, deadline).map_err(|error| Error::sending(what, error))?;
                    exchange.sent();
                }
                OperationStep::Receive(what, len) => {
                    let bytes = &mut buffer[..len];
                    received
                        .receive(channel, bytes, deadline)
                        .map_err(|error| Error::receiving(what, error))?;
                    exchange.received(bytes)?;
                }
                OperationStep::Done(result) => {
                    *has_unread_value = operation.leaves_unread_value();
                    return Ok(result);
                }
            }
        }
    }
}
