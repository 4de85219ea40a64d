//! The application's side: [`LoginExchange`] and [`Operation`] on the main channel, [`CallbackListener`] on the callback
//! channel.
//!
//! Each is a script of steps that the caller plays on its sockets: ask for the [`next`](OperationExchange::next)
//! step, do it, report what was received, until it is done. Which error code a failed step means is the
//! caller's business; [`Incoming`] and [`Outgoing`] name the step for that.
//!
//! **Between operations.** Nothing separates a value from the function code that follows it, and the
//! original server needs them apart. [`Operation::Put`] therefore leaves a value behind on the socket, and
//! the caller must make sure that the peer has read it before it begins the next operation
//! ([`leaves_unread_value`](Operation::leaves_unread_value)).

use super::{CHANGED_KEY_LEN, CLOSE, FunctionCode, Hello, NO_SUCH_KEY, Protocol, REFUSED, YES};
use crate::{INT_LEN, Int, MAX_TEXT, Text, v2};

/// What a step sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// A function code.
    FunctionCode,
    /// A group name, secret, key or value (which may be empty: then nothing goes out).
    Text,
}

/// What a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// The first flag on either channel.
    ConnectionFlag,
    /// The flag that lets an operation go on.
    Ready,
    /// The answer to a group name, a secret or a key.
    Response,
    /// The length of a value.
    Length,
    /// The value and its NUL.
    Value,
}

/// The peer did not play its part: the step that went wrong and the integer that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A connection flag that is not 1: the server refuses.
    Refused(Int),
    /// A ready flag that is not 1.
    NotReady(Int),
    /// An answer that is neither yes nor no.
    BadResponse(Int),
    /// A length that no value has.
    BadLength(Int),
    /// A value with a NUL in it, or without one at its end.
    BadValue,
}

/// One of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// The one that was connected first.
    Main,
    /// The one on which changes come.
    Callback,
}

/// What to do next during the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginStep {
    /// Receive exactly four bytes and report them with [`LoginExchange::received`].
    Receive(ChannelKind, Incoming),
    /// Send these bytes on the main channel, then report [`LoginExchange::sent`].
    Send(Vec<u8>),
    /// Connect the callback channel, then report [`LoginExchange::connected`].
    ConnectCallback,
    /// It is over.
    Done(LoginResult),
}

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginResult {
    /// The session has begun; it is of this kind, and when it is framed, all that follows on both channels is
    /// the business of [`v2`].
    LoggedIn(Protocol),
    /// No such group.
    NoSuchGroup,
    /// The group exists, the secret is another.
    WrongSecret,
}

/// The login on a main channel that was just connected.
#[derive(Debug)]
pub struct LoginExchange {
    hello: Hello,
    secret: Text,
    /// What the server has chosen.
    kind: Protocol,
    at: LoginAt,
}

#[derive(Debug, Clone, Copy)]
enum LoginAt {
    MainFlag,
    SendGroup,
    GroupAnswer,
    SendSecret,
    ConnectCallback,
    CallbackFlag,
    Verdict,
    Done(LoginResult),
}

impl LoginExchange {
    /// Begins a login to `group` with `secret`, neither of them empty.
    pub fn new(group: Text, secret: Text, offer: Protocol) -> Self {
        let hello = Hello { group, offer };
        Self { hello, secret, kind: Protocol::V1, at: LoginAt::MainFlag }
    }

    /// What to do now.
    pub fn next(&self) -> LoginStep {
        match self.at {
            LoginAt::MainFlag => LoginStep::Receive(ChannelKind::Main, Incoming::ConnectionFlag),
            LoginAt::SendGroup => LoginStep::Send(self.hello.encode()),
            LoginAt::GroupAnswer | LoginAt::Verdict => {
                LoginStep::Receive(ChannelKind::Main, Incoming::Response)
            }
            LoginAt::SendSecret => LoginStep::Send(self.secret.as_bytes().to_vec()),
            LoginAt::ConnectCallback => LoginStep::ConnectCallback,
            LoginAt::CallbackFlag => {
                LoginStep::Receive(ChannelKind::Callback, Incoming::ConnectionFlag)
            }
            LoginAt::Done(result) => LoginStep::Done(result),
        }
    }

    /// [`LoginStep::Send`] is done.
    pub fn sent(&mut self) {
        self.at = match self.at {
            LoginAt::SendGroup => LoginAt::GroupAnswer,
            LoginAt::SendSecret => LoginAt::ConnectCallback,
            other => other,
        };
    }

    /// [`LoginStep::ConnectCallback`] is done.
    pub fn connected(&mut self) {
        if let LoginAt::ConnectCallback = self.at {
            self.at = LoginAt::CallbackFlag;
        }
    }

    /// [`LoginStep::Receive`] brought this.
    ///
    /// # Errors
    /// A [`Violation`] ends the login.
    pub fn received(&mut self, bytes: [u8; INT_LEN]) -> Result<(), Violation> {
        let int = Int::from_ne_bytes(bytes);
        self.at = match (self.at, int) {
            (LoginAt::MainFlag, YES) => LoginAt::SendGroup,
            (LoginAt::CallbackFlag, YES) => LoginAt::Verdict,
            (LoginAt::MainFlag | LoginAt::CallbackFlag, other) => {
                return Err(Violation::Refused(other));
            }
            (LoginAt::GroupAnswer, YES) => LoginAt::SendSecret,
            (LoginAt::GroupAnswer, v2::YES_V2) if self.hello.offer == Protocol::V2 => {
                self.kind = Protocol::V2;
                LoginAt::SendSecret
            }
            (LoginAt::GroupAnswer, REFUSED) => LoginAt::Done(LoginResult::NoSuchGroup),
            (LoginAt::Verdict, YES) => LoginAt::Done(LoginResult::LoggedIn(self.kind)),
            (LoginAt::Verdict, REFUSED) => LoginAt::Done(LoginResult::WrongSecret),
            (_, other) => return Err(Violation::BadResponse(other)),
        };
        Ok(())
    }
}

/// What the application wants done. Keys are not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Store a value.
    Put {
        /// Under this key.
        key: Text,
        /// Possibly empty.
        value: Text,
    },
    /// Tell a value.
    Get(Text),
    /// Delete a pair.
    Delete(Text),
    /// Watch a key.
    Watch(Text),
    /// Say goodbye.
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

    /// Whether a value may still be on its way when the operation is done: see the head of this module.
    pub fn leaves_unread_value(&self) -> bool {
        matches!(self, Self::Put { .. })
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationResult {
    /// Put and close: all is sent. Delete and watch: the server has done it.
    Done,
    /// Get: the value.
    Value(Vec<u8>),
    /// Get, delete, watch: there is no such key.
    NoSuchKey,
}

/// What to do next in an operation.
#[derive(Debug, PartialEq, Eq)]
pub enum OperationStep<'a> {
    /// Send these bytes with one call, then report [`OperationExchange::sent`].
    Send(Outgoing, &'a [u8]),
    /// Receive exactly that many bytes and report them with [`OperationExchange::received`].
    Receive(Incoming, usize),
    /// It is over.
    Done(OperationResult),
}

/// One operation under way.
#[derive(Debug)]
pub struct OperationExchange {
    operation: Operation,
    code: [u8; INT_LEN],
    at: At,
}

#[derive(Debug, Clone)]
enum At {
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
    /// Begins.
    pub fn new(operation: Operation) -> Self {
        Self { operation, code: operation.function().encode(), at: At::SendCode }
    }

    /// What to do now.
    pub fn next(&self) -> OperationStep<'_> {
        match &self.at {
            At::SendCode => OperationStep::Send(Outgoing::FunctionCode, &self.code),
            At::Ready => OperationStep::Receive(Incoming::Ready, INT_LEN),
            At::SendKey => OperationStep::Send(Outgoing::Text, self.key()),
            // It answers the key: an error here is one of receiving that answer.
            At::ReadyForValue | At::Response => OperationStep::Receive(Incoming::Response, INT_LEN),
            At::SendValue => OperationStep::Send(Outgoing::Text, self.value()),
            At::Length => OperationStep::Receive(Incoming::Length, INT_LEN),
            At::Value(len) => OperationStep::Receive(Incoming::Value, len + 1),
            At::Done(outcome) => OperationStep::Done(outcome.clone()),
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

    /// [`OperationStep::Send`] is done.
    pub fn sent(&mut self) {
        self.at = match (&self.at, self.operation) {
            (At::SendCode, Operation::Close) => At::Done(OperationResult::Done),
            (At::SendCode, _) => At::Ready,
            (At::SendKey, Operation::Put { .. }) => At::ReadyForValue,
            (At::SendKey, Operation::Get(_)) => At::Length,
            (At::SendKey, _) => At::Response,
            (At::SendValue, _) => At::Done(OperationResult::Done),
            (other, _) => other.clone(),
        };
    }

    /// [`OperationStep::Receive`] brought this: as many bytes as it named.
    ///
    /// # Errors
    /// A [`Violation`] ends the connection: what follows on the stream cannot be told any more.
    pub fn received(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if let At::Value(len) = self.at {
            self.at = match bytes.split_last() {
                Some((0, value)) if value.len() == len && !value.contains(&0) => {
                    At::Done(OperationResult::Value(value.to_vec()))
                }
                _ => return Err(Violation::BadValue),
            };
            return Ok(());
        }
        let int = <[u8; INT_LEN]>::try_from(bytes).map(Int::from_ne_bytes).unwrap_or(Int::MIN);
        self.at = match (&self.at, int) {
            (At::Ready, YES) => At::SendKey,
            (At::ReadyForValue, YES) => At::SendValue,
            (At::Ready | At::ReadyForValue, other) => return Err(Violation::NotReady(other)),
            (At::Response, YES) => At::Done(OperationResult::Done),
            (At::Response | At::Length, NO_SUCH_KEY) => At::Done(OperationResult::NoSuchKey),
            (At::Length, other) => match usize::try_from(other) {
                Ok(len) if len <= MAX_TEXT => At::Value(len),
                _ => return Err(Violation::BadLength(other)),
            },
            (_, other) => return Err(Violation::BadResponse(other)),
        };
        Ok(())
    }
}

/// What the callback channel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackEvent {
    /// This key has changed: run its callback, then listen on.
    Changed(Text),
    /// The server closes the connection: say goodbye on the main channel.
    Close,
}

/// What to do next on the callback channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackStep {
    /// Receive exactly that many bytes and report them with [`CallbackListener::received`].
    Receive(usize),
    /// Send these bytes, then report [`CallbackListener::sent`].
    Send([u8; INT_LEN]),
}

/// The callback channel after its connection flag.
#[derive(Debug, Default)]
pub struct CallbackListener {
    at: CallbackPosition,
}

#[derive(Debug, Clone, Copy, Default)]
enum CallbackPosition {
    #[default]
    Flag,
    SendReady,
    Key,
}

/// The server sent something on the callback channel that it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server broke the protocol on the callback channel")]
pub struct CallbackError;

impl CallbackListener {
    /// What to do now.
    pub fn next(&self) -> CallbackStep {
        match self.at {
            CallbackPosition::Flag => CallbackStep::Receive(INT_LEN),
            CallbackPosition::SendReady => CallbackStep::Send(YES.to_ne_bytes()),
            CallbackPosition::Key => CallbackStep::Receive(CHANGED_KEY_LEN),
        }
    }

    /// [`CallbackStep::Send`] is done.
    pub fn sent(&mut self) {
        if let CallbackPosition::SendReady = self.at {
            self.at = CallbackPosition::Key;
        }
    }

    /// [`CallbackStep::Receive`] brought this: as many bytes as it named.
    ///
    /// # Errors
    /// [`CallbackError`]: nothing on this channel can be trusted any more.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Option<CallbackEvent>, CallbackError> {
        match self.at {
            CallbackPosition::Flag => {
                let bytes = <[u8; INT_LEN]>::try_from(bytes).map_err(|_| CallbackError)?;
                match Int::from_ne_bytes(bytes) {
                    YES => {
                        self.at = CallbackPosition::SendReady;
                        Ok(None)
                    }
                    CLOSE => Ok(Some(CallbackEvent::Close)),
                    _ => Err(CallbackError),
                }
            }
            CallbackPosition::Key => {
                self.at = CallbackPosition::Flag;
                Text::from_padded(bytes)
                    .map(|key| Some(CallbackEvent::Changed(key)))
                    .ok_or(CallbackError)
            }
            CallbackPosition::SendReady => Err(CallbackError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(s: &[u8]) -> Text {
        Text::new(s).unwrap()
    }

    /// Plays `operation` against a server that answers with these bytes, one slice for each receive.
    fn play(
        operation: Operation,
        answers: &[&[u8]],
    ) -> (Vec<Vec<u8>>, Result<OperationResult, Violation>) {
        let mut exchange = OperationExchange::new(operation);
        let (mut sent, mut answers) = (Vec::new(), answers.iter());
        loop {
            match exchange.next() {
                OperationStep::Send(_, bytes) => {
                    sent.push(bytes.to_vec());
                    exchange.sent();
                }
                OperationStep::Receive(_, len) => {
                    let answer = answers.next().expect("an answer for every receive");
                    assert_eq!(answer.len(), len);
                    if let Err(violation) = exchange.received(answer) {
                        return (sent, Err(violation));
                    }
                }
                OperationStep::Done(outcome) => return (sent, Ok(outcome)),
            }
        }
    }

    const ONE: &[u8] = &1i32.to_ne_bytes();
    const MINUS_ONE: &[u8] = &(-1i32).to_ne_bytes();

    #[test]
    fn every_operation_sends_its_bytes() {
        let (sent, outcome) = play(Operation::Put { key: t(b"k"), value: t(b"") }, &[ONE, ONE]);
        assert_eq!(sent, [&[0, 0, 0, 0][..], b"k", b""]);
        assert_eq!(outcome, Ok(OperationResult::Done));
        let (sent, outcome) = play(Operation::Get(t(b"k")), &[ONE, &2i32.to_ne_bytes(), b"v1\0"]);
        assert_eq!(sent, [ONE, b"k"]);
        assert_eq!(outcome, Ok(OperationResult::Value(b"v1".to_vec())));
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
    fn a_server_that_breaks_the_protocol_is_found_out() {
        let get = Operation::Get(t(b"k"));
        let hundred = 100i32.to_ne_bytes();
        let violation = |operation, answers: &[&[u8]]| play(operation, answers).1.unwrap_err();
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

    #[test]
    fn the_listener_tells_keys_and_the_end() {
        let mut listener = CallbackListener::default();
        assert_eq!(listener.next(), CallbackStep::Receive(4));
        assert_eq!(listener.received(ONE), Ok(None));
        assert_eq!(listener.next(), CallbackStep::Send(1i32.to_ne_bytes()));
        listener.sent();
        assert_eq!(listener.next(), CallbackStep::Receive(100));
        assert_eq!(
            listener.received(&t(b"k").padded::<100>()),
            Ok(Some(CallbackEvent::Changed(t(b"k"))))
        );
        assert_eq!(listener.received(MINUS_ONE), Ok(Some(CallbackEvent::Close)));
        assert_eq!(listener.received(&[0; 4]), Err(CallbackError));
    }
}
