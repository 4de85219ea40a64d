//! The main channel of an original session: one operation at a time.
//!
//! The state machine of [`kvs_proto::v1::client`] says what to send and what to expect; here the steps are played on
//! the socket, and a failed step becomes an [`Error`].

use std::io;

use kvs_proto::v1::client::{Operation, OperationExchange, OperationResult, OperationStep};

use kvs_proto::{INT_LEN, MAX_TEXT};

use crate::channel::{Channel, Deadline};
use crate::error::Error;
use crate::panic_points::panic_point;

#[derive(Debug)]
pub(crate) struct Main {
    /// `None` once the connection is closed.
    pub(crate) channel: Option<Channel>,
    /// A value was sent that the server may not have read yet.
    value_under_way: bool,
    inbox: Inbox,
}

/// What has come and was not asked for yet: the server sends a value right behind its length, so one system call
/// brings both.
#[derive(Debug)]
struct Inbox {
    bytes: [u8; INT_LEN + MAX_TEXT + 1],
    next: usize,
    end: usize,
}

impl Inbox {
    /// Fills `buffer`.
    fn receive(
        &mut self,
        channel: &Channel,
        mut buffer: &mut [u8],
        deadline: Deadline,
    ) -> io::Result<()> {
        loop {
            let here = buffer.len().min(self.end - self.next);
            let (filled, rest) = buffer.split_at_mut(here);
            filled.copy_from_slice(&self.bytes[self.next..self.next + here]);
            self.next += here;
            buffer = rest;
            if buffer.is_empty() {
                return Ok(());
            }
            (self.next, self.end) = (0, 0);
            self.end = channel.receive_some(&mut self.bytes, Some(deadline))?;
        }
    }
}

impl Main {
    /// For a channel on which the login is over.
    pub(crate) fn new(channel: Channel) -> Self {
        let inbox = Inbox { bytes: [0; INT_LEN + MAX_TEXT + 1], next: 0, end: 0 };
        Self { channel: Some(channel), value_under_way: false, inbox }
    }

    /// An empty value puts no byte on the wire, so the server knows of it only when the next function code
    /// comes. That must not wait until the application happens to call again: a get follows at once.
    pub(crate) fn play(
        &mut self,
        operation: Operation,
        deadline: Deadline,
    ) -> Result<OperationResult, Error> {
        let outcome = self.play_one(operation, deadline)?;
        match operation {
            Operation::Put { key, value } if value.is_empty() => {
                self.play_one(Operation::Get(key), deadline).map(|_| OperationResult::Done)
            }
            _ => Ok(outcome),
        }
    }

    fn play_one(
        &mut self,
        operation: Operation,
        deadline: Deadline,
    ) -> Result<OperationResult, Error> {
        let channel = self.channel.as_ref().ok_or(Error::NotConnected)?;
        if self.value_under_way {
            channel.wait_until_read(deadline).map_err(Error::SendCode)?;
            self.value_under_way = false;
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
                    self.inbox
                        .receive(channel, bytes, deadline)
                        .map_err(|error| Error::receiving(what, error))?;
                    exchange.received(bytes)?;
                }
                OperationStep::Done(outcome) => {
                    self.value_under_way = operation.leaves_unread_value();
                    return Ok(outcome);
                }
            }
        }
    }
}
