//! One operation on the main channel.

use super::step::{Incoming, Outgoing, Violation};
use crate::integer::{INT_LEN, Int};
use crate::text::{MAX_TEXT, Text};
use crate::v1::flags::{NO_SUCH_KEY, YES};
use crate::v1::function_code::FunctionCode;

/// An operation. Keys are not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Store a value.
    Put {
        /// The key.
        key: Text,
        /// The value, possibly empty.
        value: Text,
    },
    /// Read the value of a key.
    Get(Text),
    /// Delete a pair.
    Delete(Text),
    /// Watch a key.
    Watch(Text),
    /// Close the connection.
    Close,
}

impl Operation {
    fn function(&self) -> FunctionCode {
        match self {
            Self::Put { .. } => FunctionCode::Put,
            Self::Get(_) => FunctionCode::Get,
            Self::Delete(_) => FunctionCode::Delete,
            Self::Watch(_) => FunctionCode::Watch,
            Self::Close => FunctionCode::Close,
        }
    }

    /// Whether the server may not have read the value yet when the operation is done: the head of
    /// [`client`](crate::v1::client) says what the caller must do then.
    pub fn leaves_unread_value(&self) -> bool {
        matches!(self, Self::Put { .. })
    }
}

/// The result of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationResult {
    /// Put, close: everything is sent. Delete, watch: the server has confirmed it.
    Done,
    /// Get: the value.
    Value(Vec<u8>),
    /// Get, delete, watch: the key does not exist.
    NoSuchKey,
}

/// The next step of an operation.
#[derive(Debug, PartialEq, Eq)]
pub enum OperationStep<'a> {
    /// Send these bytes with one call, then report [`OperationExchange::sent`].
    Send(Outgoing, &'a [u8]),
    /// Receive exactly that many bytes, then report them with [`OperationExchange::received`].
    Receive(Incoming, usize),
    /// The operation has ended.
    Done(OperationResult),
}

/// The exchange of one operation.
#[derive(Debug)]
pub struct OperationExchange {
    operation: Operation,
    code: [u8; INT_LEN],
    state: OperationState,
}

#[derive(Debug, Clone)]
enum OperationState {
    SendCode,
    Ready,
    SendKey,
    /// Put: the flag after the key.
    ReadyForValue,
    SendValue,
    /// Delete and watch.
    Response,
    Length,
    Value(usize),
    Done(OperationResult),
}

impl OperationExchange {
    /// Begins an operation.
    pub fn new(operation: Operation) -> Self {
        Self { operation, code: operation.function().encode(), state: OperationState::SendCode }
    }

    /// The step to perform now.
    pub fn next(&self) -> OperationStep<'_> {
        match &self.state {
            OperationState::SendCode => OperationStep::Send(Outgoing::FunctionCode, &self.code),
            OperationState::Ready => OperationStep::Receive(Incoming::Ready, INT_LEN),
            OperationState::SendKey => OperationStep::Send(Outgoing::Text, self.key()),
            // This flag responds to the key, so a failure to receive it is one of the response.
            OperationState::ReadyForValue | OperationState::Response => {
                OperationStep::Receive(Incoming::Response, INT_LEN)
            }
            OperationState::SendValue => OperationStep::Send(Outgoing::Text, self.value()),
            OperationState::Length => OperationStep::Receive(Incoming::Length, INT_LEN),
            OperationState::Value(len) => OperationStep::Receive(Incoming::Value, len + 1),
            OperationState::Done(result) => OperationStep::Done(result.clone()),
        }
    }

    fn key(&self) -> &[u8] {
        match &self.operation {
            Operation::Put { key, .. }
            | Operation::Get(key)
            | Operation::Delete(key)
            | Operation::Watch(key) => key.as_bytes(),
            Operation::Close => &[],
        }
    }

    fn value(&self) -> &[u8] {
        match &self.operation {
            Operation::Put { value, .. } => value.as_bytes(),
            _ => &[],
        }
    }

    /// Reports that [`OperationStep::Send`] is done.
    pub fn sent(&mut self) {
        self.state = match (&self.state, self.operation) {
            (OperationState::SendCode, Operation::Close) => {
                OperationState::Done(OperationResult::Done)
            }
            (OperationState::SendCode, _) => OperationState::Ready,
            (OperationState::SendKey, Operation::Put { .. }) => OperationState::ReadyForValue,
            (OperationState::SendKey, Operation::Get(_)) => OperationState::Length,
            (OperationState::SendKey, _) => OperationState::Response,
            (OperationState::SendValue, _) => OperationState::Done(OperationResult::Done),
            (other, _) => other.clone(),
        };
    }

    /// Reports the bytes that [`OperationStep::Receive`] received: as many as it asked for.
    ///
    /// # Errors
    /// A [`Violation`]: the stream is out of step, so the connection must be closed.
    pub fn received(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if let OperationState::Value(len) = self.state {
            self.state = match bytes.split_last() {
                Some((0, value)) if value.len() == len && !value.contains(&0) => {
                    OperationState::Done(OperationResult::Value(value.to_vec()))
                }
                _ => return Err(Violation::BadValue),
            };
            return Ok(());
        }
        let int = <[u8; INT_LEN]>::try_from(bytes).map(Int::from_ne_bytes).unwrap_or(Int::MIN);
        self.state = match (&self.state, int) {
            (OperationState::Ready, YES) => OperationState::SendKey,
            (OperationState::ReadyForValue, YES) => OperationState::SendValue,
            (OperationState::Ready | OperationState::ReadyForValue, other) => {
                return Err(Violation::NotReady(other));
            }
            (OperationState::Response, YES) => OperationState::Done(OperationResult::Done),
            (OperationState::Response | OperationState::Length, NO_SUCH_KEY) => {
                OperationState::Done(OperationResult::NoSuchKey)
            }
            (OperationState::Length, other) => match usize::try_from(other) {
                Ok(len) if len <= MAX_TEXT => OperationState::Value(len),
                _ => return Err(Violation::BadLength(other)),
            },
            (_, other) => return Err(Violation::BadResponse(other)),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(s: &[u8]) -> Text {
        Text::new(s).unwrap()
    }

    /// Plays `operation` against a server that sends these responses, one for each receive step.
    fn play(
        operation: Operation,
        responses: &[&[u8]],
    ) -> (Vec<Vec<u8>>, Result<OperationResult, Violation>) {
        let mut exchange = OperationExchange::new(operation);
        let (mut sent, mut responses) = (Vec::new(), responses.iter());
        loop {
            match exchange.next() {
                OperationStep::Send(_, bytes) => {
                    sent.push(bytes.to_vec());
                    exchange.sent();
                }
                OperationStep::Receive(_, len) => {
                    let response = responses.next().expect("an response for every receive");
                    assert_eq!(response.len(), len);
                    if let Err(violation) = exchange.received(response) {
                        return (sent, Err(violation));
                    }
                }
                OperationStep::Done(result) => return (sent, Ok(result)),
            }
        }
    }

    const ONE: &[u8] = &1i32.to_ne_bytes();
    const MINUS_ONE: &[u8] = &(-1i32).to_ne_bytes();

    #[test]
    fn every_operation_sends_its_bytes() {
        let (sent, result) = play(Operation::Put { key: t(b"k"), value: t(b"") }, &[ONE, ONE]);
        assert_eq!(sent, [&[0, 0, 0, 0][..], b"k", b""]);
        assert_eq!(result, Ok(OperationResult::Done));
        let (sent, result) = play(Operation::Get(t(b"k")), &[ONE, &2i32.to_ne_bytes(), b"v1\0"]);
        assert_eq!(sent, [ONE, b"k"]);
        assert_eq!(result, Ok(OperationResult::Value(b"v1".to_vec())));
        assert_eq!(
            play(Operation::Get(t(b"k")), &[ONE, MINUS_ONE]).1,
            Ok(OperationResult::NoSuchKey)
        );
        assert_eq!(
            play(Operation::Delete(t(b"k")), &[ONE, MINUS_ONE]).1,
            Ok(OperationResult::NoSuchKey)
        );
        assert_eq!(play(Operation::Watch(t(b"k")), &[ONE, ONE]).1, Ok(OperationResult::Done));
        assert_eq!(
            play(Operation::Close, &[]),
            (vec![4i32.to_ne_bytes().to_vec()], Ok(OperationResult::Done))
        );
    }

    #[test]
    fn violations_of_the_server_are_reported() {
        let get = Operation::Get(t(b"k"));
        let hundred = 100i32.to_ne_bytes();
        let violation = |operation, responses: &[&[u8]]| play(operation, responses).1.unwrap_err();
        assert_eq!(violation(get, &[&[0; 4]]), Violation::NotReady(0));
        assert_eq!(violation(get, &[ONE, &hundred]), Violation::BadLength(100));
        assert_eq!(violation(get, &[ONE, &(-2i32).to_ne_bytes()]), Violation::BadLength(-2));
        assert_eq!(violation(get, &[ONE, ONE, b"ab"]), Violation::BadValue);
        assert_eq!(violation(get, &[ONE, ONE, b"\0\0"]), Violation::BadValue);
        let put = Operation::Put { key: t(b"k"), value: t(b"v") };
        assert_eq!(violation(put, &[ONE, MINUS_ONE]), Violation::NotReady(-1));
        assert_eq!(
            violation(Operation::Delete(t(b"k")), &[ONE, &[0; 4]]),
            Violation::BadResponse(0)
        );
    }
}
