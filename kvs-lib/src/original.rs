//! The main channel of an original session: one operation at a time.
//!
//! The state machine of [`kvs_proto::app::client`] says what to send and what to expect; here the steps are played on
//! the socket, and a failed step becomes an [`Error`].

use kvs_proto::MAX_TEXT;
use kvs_proto::app::client::{Exchange, Operation, Outcome, Step};

use crate::channel::{Channel, Deadline};
use crate::error::Error;
use crate::panic_points::panic_point;

#[derive(Debug)]
pub(crate) struct Main {
    /// `None` once the connection is closed.
    pub(crate) channel: Option<Channel>,
    /// A value was sent that the server may not have read yet.
    value_under_way: bool,
}

impl Main {
    /// For a channel on which the login is over.
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel: Some(channel), value_under_way: false }
    }

    /// An empty value puts no byte on the wire, so the server knows of it only when the next function code
    /// comes. That must not wait until the application happens to call again: a get follows at once.
    pub(crate) fn play(
        &mut self,
        operation: Operation,
        deadline: Deadline,
    ) -> Result<Outcome, Error> {
        let outcome = self.play_one(operation, deadline)?;
        match operation {
            Operation::Put { key, value } if value.is_empty() => {
                self.play_one(Operation::Get(key), deadline).map(|_| Outcome::Done)
            }
            _ => Ok(outcome),
        }
    }

    fn play_one(&mut self, operation: Operation, deadline: Deadline) -> Result<Outcome, Error> {
        let channel = self.channel.as_ref().ok_or(Error::NotConnected)?;
        if self.value_under_way {
            channel.wait_until_read(deadline).map_err(Error::SendCode)?;
            self.value_under_way = false;
        }
        let mut exchange = Exchange::new(operation);
        let mut buffer = [0; MAX_TEXT + 1];
        loop {
            panic_point!("exchange step");
            match exchange.next() {
                Step::Send(what, bytes) => {
                    channel.send(bytes, deadline).map_err(|error| Error::sending(what, error))?;
                    exchange.sent();
                }
                Step::Receive(what, len) => {
                    let bytes = &mut buffer[..len];
                    channel
                        .receive(bytes, Some(deadline))
                        .map_err(|error| Error::receiving(what, error))?;
                    exchange.received(bytes)?;
                }
                Step::Done(outcome) => {
                    self.value_under_way = operation.leaves_value();
                    return Ok(outcome);
                }
            }
        }
    }
}
