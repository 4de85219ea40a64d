//! The local server's side of one application: [`MainChannel`] on the main channel, [`CallbackChannel`] on the
//! callback channel.
//!
//! **Reading strings.** A legal application sends one string with one `send` and then waits, and a `send`
//! of at most 99 bytes arrives whole. So what one `read` returns where a group, secret or key is due *is*
//! the string. After a value, however, the application does not wait: its next function code may be
//! glued to the value. They are told apart without doubt, because a value has no NUL and every code does:
//!
//! - no NUL: all of it is the value, and the code is still to come;
//! - a NUL: the last four bytes are the next code, everything before them is the value (perhaps empty,
//!   as an empty value puts no byte on the wire).
//!
//! Anything else is [`ProtocolError`]: close the connection, store nothing. `grouping_tests` proves the rule.
//!
//! The caller must hand over each `read` by itself, from a buffer larger than [`READ_LEN`], and handle
//! what it returned before the next.

use super::{CHANGED_KEY_LEN, CLOSE, FunctionCode, Hello, NO_SUCH_KEY, Protocol, REFUSED, YES};
use crate::{INT_LEN, Int, MAX_TEXT, Text, TextError, v2};

/// The most that a legal application ever has under way: a value and a function code.
pub const READ_LEN: usize = MAX_TEXT + INT_LEN;

/// What the application wants. All but `Put` and `Close` are to be answered by the method named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMessage {
    /// It wants into this group, and offers a kind of session: [`MainChannel::respond_to_group`].
    Group(Hello),
    /// Its secret: [`MainChannel::respond_to_secret`], after the callback channel was greeted.
    Secret(Text),
    /// It is about to store a value under this key: [`MainChannel::respond_ready`]. The value follows as
    /// [`Put`](Self::Put), unless the server is not ready for it.
    BeginPut(Text),
    /// It is about to watch a key: [`MainChannel::respond_ready`]. The key follows as
    /// [`Watch`](Self::Watch), unless the server is not ready for it.
    BeginWatch,
    /// Store this. There is no answer.
    Put {
        /// The key, not empty.
        key: Text,
        /// The value, possibly empty.
        value: Text,
    },
    /// Tell the value: [`MainChannel::respond_to_get`].
    Get(Text),
    /// Delete the pair: [`MainChannel::respond_found`].
    Delete(Text),
    /// Watch the key: [`MainChannel::respond_found`].
    Watch(Text),
    /// The application says goodbye and closes both sockets.
    Close,
}

/// The application broke the protocol. Close its connection; nothing of what was read last counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A string breaks the rules.
    #[error("bad {what}: {why}")]
    Text {
        /// Which one.
        what: &'static str,
        /// Which rule.
        why: TextError,
    },
    /// Bytes with a NUL in place of a value, but no function code at their end.
    #[error("the bytes after a value are no function code")]
    NoCodeAfterValue,
    /// It sent something although it was its turn to wait.
    #[error("{0} bytes came while an answer was due")]
    UnexpectedBytes(usize),
}

/// The main channel of one application.
#[derive(Debug, Clone)]
pub struct MainChannel {
    state: State,
    /// Of which kind it will be after the verdict.
    kind: Protocol,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Group,
    GroupAsked,
    Secret,
    SecretAsked,
    /// Waiting for a function code, of which `have` bytes are here.
    Code {
        bytes: [u8; INT_LEN],
        have: usize,
    },
    /// The caller owes the ready flag that lets the key follow.
    WatchAsked,
    Key(KeyFunction),
    /// The caller owes an answer to this.
    KeyAsked(KeyFunction),
    /// The caller owes the ready flag that lets the value follow.
    ValueAsked {
        key: Text,
    },
    Value {
        key: Text,
    },
    /// The login was the last that is this module's business.
    Framed,
    Over,
}

/// The functions that take a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyFunction {
    Put,
    Get,
    Delete,
    Watch,
}

const CODE: State = State::Code { bytes: [0; INT_LEN], have: 0 };

/// What one `read` brought: at most two requests (a put and what follows it), in order.
pub type ClientMessages = std::iter::Flatten<std::array::IntoIter<Option<ClientMessage>, 2>>;

impl MainChannel {
    /// A connection that was just accepted; `out` gets the greeting.
    pub fn accept(out: &mut Vec<u8>) -> Self {
        put_int(out, YES);
        Self { state: State::Group, kind: Protocol::V1 }
    }

    /// Takes what one `read` returned. Bytes that are due at once are appended to `out`: send them after
    /// the requests were handled.
    ///
    /// # Errors
    /// [`ProtocolError`]: the session is over, but a put that was complete before is still among what
    /// earlier calls returned.
    pub fn receive(
        &mut self,
        read: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<ClientMessages, ProtocolError> {
        let result = self.advance(read, out);
        if result.is_err() {
            self.state = State::Over;
        }
        result.map(|requests| requests.into_iter().flatten())
    }

    fn advance(
        &mut self,
        read: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<[Option<ClientMessage>; 2], ProtocolError> {
        if read.is_empty() {
            return Ok([None, None]);
        }
        match self.state {
            State::Group => {
                let hello = Hello::decode(read)
                    .map_err(|why| ProtocolError::Text { what: "group name", why })?;
                self.state = State::GroupAsked;
                Ok([Some(ClientMessage::Group(hello)), None])
            }
            State::Secret => {
                let secret = text("secret", read)?;
                self.state = State::SecretAsked;
                Ok([Some(ClientMessage::Secret(secret)), None])
            }
            State::Code { bytes, have } => Ok([self.code(bytes, have, read, out)?, None]),
            State::Key(function) => {
                let key = text("key", read)?;
                let request = match function {
                    KeyFunction::Put => {
                        self.state = State::ValueAsked { key };
                        return Ok([Some(ClientMessage::BeginPut(key)), None]);
                    }
                    KeyFunction::Get => ClientMessage::Get(key),
                    KeyFunction::Delete => ClientMessage::Delete(key),
                    KeyFunction::Watch => ClientMessage::Watch(key),
                };
                self.state = State::KeyAsked(function);
                Ok([Some(request), None])
            }
            State::Value { key } => {
                let (value, code) = split_value(read)?;
                self.state = CODE;
                let next = match code {
                    Some(code) => self.code([0; INT_LEN], 0, &code.encode(), out)?,
                    None => None,
                };
                Ok([Some(ClientMessage::Put { key, value }), next])
            }
            State::GroupAsked
            | State::SecretAsked
            | State::WatchAsked
            | State::KeyAsked(_)
            | State::ValueAsked { .. }
            | State::Framed
            | State::Over => Err(ProtocolError::UnexpectedBytes(read.len())),
        }
    }

    /// Collects a function code. An unknown one is not answered: the next may follow.
    fn code(
        &mut self,
        mut bytes: [u8; INT_LEN],
        mut have: usize,
        read: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<ClientMessage>, ProtocolError> {
        for (at, &byte) in read.iter().enumerate() {
            bytes[have] = byte;
            have += 1;
            if have < INT_LEN {
                continue;
            }
            have = 0;
            let Some(function) = FunctionCode::from_code(Int::from_ne_bytes(bytes)) else {
                continue;
            };
            let rest = read.len() - at - 1;
            if rest > 0 {
                return Err(ProtocolError::UnexpectedBytes(rest));
            }
            let keyed = match function {
                FunctionCode::Put => KeyFunction::Put,
                FunctionCode::Get => KeyFunction::Get,
                FunctionCode::Delete => KeyFunction::Delete,
                FunctionCode::Watch => {
                    self.state = State::WatchAsked;
                    return Ok(Some(ClientMessage::BeginWatch));
                }
                FunctionCode::Close => {
                    self.state = State::Over;
                    return Ok(Some(ClientMessage::Close));
                }
            };
            put_int(out, YES);
            self.state = State::Key(keyed);
            return Ok(None);
        }
        self.state = State::Code { bytes, have };
        Ok(None)
    }

    /// Answers [`ClientMessage::Group`]: of which kind the session will be, one that was offered. When there is no
    /// such group, the session is over.
    pub fn respond_to_group(&mut self, exists: Option<Protocol>, out: &mut Vec<u8>) {
        debug_assert!(matches!(self.state, State::GroupAsked), "{:?}", self.state);
        put_int(
            out,
            match exists {
                None => REFUSED,
                Some(Protocol::V1) => YES,
                Some(Protocol::V2) => v2::YES_V2,
            },
        );
        self.kind = exists.unwrap_or_default();
        self.state = if exists.is_some() { State::Secret } else { State::Over };
    }

    /// Answers [`ClientMessage::Secret`]. When it is wrong, the session is over. When it is right and the session
    /// [framed](Self::negotiated), all that follows on both channels is the business of [`v2`].
    pub fn respond_to_secret(&mut self, right: bool, out: &mut Vec<u8>) {
        debug_assert!(matches!(self.state, State::SecretAsked), "{:?}", self.state);
        put_int(out, if right { YES } else { REFUSED });
        self.state = match self.kind {
            _ if !right => State::Over,
            Protocol::V1 => CODE,
            Protocol::V2 => State::Framed,
        };
    }

    /// The kind of the session, which is known when its group was answered.
    pub fn negotiated(&self) -> Protocol {
        self.kind
    }

    /// Answers [`ClientMessage::BeginPut`] and [`ClientMessage::BeginWatch`]. When the server is not ready, the operation
    /// is over: a legal application sends neither value nor key, but its next function code.
    pub fn respond_ready(&mut self, ready: bool, out: &mut Vec<u8>) {
        put_int(out, if ready { YES } else { REFUSED });
        self.state = match self.state {
            _ if !ready => CODE,
            State::ValueAsked { key } => State::Value { key },
            State::WatchAsked => State::Key(KeyFunction::Watch),
            other => {
                debug_assert!(false, "{other:?}");
                other
            }
        };
    }

    /// Answers [`ClientMessage::Get`]: the value, or `None` when there is no such key.
    pub fn respond_to_get(&mut self, value: Option<&[u8]>, out: &mut Vec<u8>) {
        debug_assert!(matches!(self.state, State::KeyAsked(KeyFunction::Get)), "{:?}", self.state);
        match value {
            Some(value) => {
                // Values are texts, so their length always fits.
                put_int(out, Int::try_from(value.len()).unwrap_or(Int::MAX));
                out.extend_from_slice(value);
                out.push(0);
            }
            None => put_int(out, NO_SUCH_KEY),
        }
        self.state = CODE;
    }

    /// Answers [`ClientMessage::Delete`] and [`ClientMessage::Watch`].
    pub fn respond_found(&mut self, found: bool, out: &mut Vec<u8>) {
        debug_assert!(
            matches!(self.state, State::KeyAsked(KeyFunction::Delete | KeyFunction::Watch)),
            "{:?}",
            self.state
        );
        put_int(out, if found { YES } else { NO_SUCH_KEY });
        self.state = CODE;
    }

    /// Whether nothing more can come of this session: refused, malformed, or closed by the application.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

/// What a connection gets in place of the greeting, on either channel, when it is not to be served. Close it
/// then.
pub fn refuse(out: &mut Vec<u8>) {
    put_int(out, REFUSED);
}

fn put_int(out: &mut Vec<u8>, value: Int) {
    out.extend_from_slice(&value.to_ne_bytes());
}

fn text(what: &'static str, bytes: &[u8]) -> Result<Text, ProtocolError> {
    Text::new(bytes).map_err(|why| ProtocolError::Text { what, why })
}

/// The rule at the head of this module.
fn split_value(read: &[u8]) -> Result<(Text, Option<FunctionCode>), ProtocolError> {
    if !read.contains(&0) {
        return Ok((text("value", read)?, None));
    }
    let (value, code) =
        read.split_last_chunk::<INT_LEN>().ok_or(ProtocolError::NoCodeAfterValue)?;
    let function = FunctionCode::from_code(Int::from_ne_bytes(*code))
        .ok_or(ProtocolError::NoCodeAfterValue)?;
    Ok((text("value", value)?, Some(function)))
}

/// The callback channel of one application: the handshake for one change at a time, and the request to
/// close.
///
/// It holds no queue: the caller offers the next change when [`is_idle`](Self::is_idle).
#[derive(Debug)]
pub struct CallbackChannel {
    state: CallbackState,
}

#[derive(Debug, Clone, Copy)]
enum CallbackState {
    Idle,
    /// 1 is out for this key; the application's 1 lets it follow, of which `have` bytes are here.
    Announced {
        key: Text,
        bytes: [u8; INT_LEN],
        have: usize,
    },
    /// -1 is out, or something came that cannot be: nothing more is sent.
    Over,
}

/// The application sent something on the callback channel that it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unexpected bytes on the callback channel")]
pub struct UnexpectedReply;

impl CallbackChannel {
    /// A callback connection that was just paired with its session; `out` gets the greeting.
    pub fn accept(out: &mut Vec<u8>) -> Self {
        put_int(out, YES);
        Self { state: CallbackState::Idle }
    }

    /// Whether a change, or the request to close, can be sent now.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, CallbackState::Idle)
    }

    /// Announces that `key` has changed. Only when [`is_idle`](Self::is_idle).
    pub fn notify(&mut self, key: Text, out: &mut Vec<u8>) {
        debug_assert!(self.is_idle(), "{:?}", self.state);
        put_int(out, YES);
        self.state = CallbackState::Announced { key, bytes: [0; INT_LEN], have: 0 };
    }

    /// Tells the application to close. Only when [`is_idle`](Self::is_idle): in the middle of a change
    /// the flag would be read as part of the key.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        debug_assert!(self.is_idle(), "{:?}", self.state);
        put_int(out, CLOSE);
        self.state = CallbackState::Over;
    }

    /// Takes what one `read` returned; the key follows in `out` when the application is ready for it.
    ///
    /// # Errors
    /// [`UnexpectedReply`] for anything but one 1 after each announcement.
    pub fn receive(&mut self, read: &[u8], out: &mut Vec<u8>) -> Result<(), UnexpectedReply> {
        for &byte in read {
            match &mut self.state {
                CallbackState::Announced { key, bytes, have } => {
                    bytes[*have] = byte;
                    *have += 1;
                    if *have < INT_LEN {
                        continue;
                    }
                    if Int::from_ne_bytes(*bytes) != YES {
                        self.state = CallbackState::Over;
                        return Err(UnexpectedReply);
                    }
                    out.extend_from_slice(&key.padded::<CHANGED_KEY_LEN>());
                    self.state = CallbackState::Idle;
                }
                CallbackState::Idle | CallbackState::Over => {
                    self.state = CallbackState::Over;
                    return Err(UnexpectedReply);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn t(s: &[u8]) -> Text {
        Text::new(s).unwrap()
    }

    fn hello(group: &[u8]) -> Hello {
        Hello { group: t(group), offer: Protocol::V1 }
    }

    /// What a server makes of the first bytes.
    fn heard(bytes: &[u8]) -> Result<Hello, ProtocolError> {
        let mut session = MainChannel::accept(&mut Vec::new());
        let heard = session.receive(bytes, &mut Vec::new())?.next();
        match heard {
            Some(ClientMessage::Group(hello)) => Ok(hello),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_offer_is_understood_and_one_of_tomorrow_is_no_error() {
        let framed = Hello { group: t(b"g1"), offer: Protocol::V2 };
        assert_eq!(heard(b"g1\0kvs2"), Ok(framed));
        assert_eq!(heard(&framed.encode()), Ok(framed));
        assert_eq!(heard(b"g1\0kvs432"), Ok(framed));
        assert_eq!(heard(b"g1\0kvs3"), Ok(hello(b"g1")));
        assert_eq!(heard(b"g1\0kvs"), Ok(hello(b"g1")));
        assert_eq!(hello(b"g1").encode(), b"g1");
        for bad in [&b"g1\0"[..], b"g1\0kv", b"g1\0xkvs2", b"g1\0\0kvs2"] {
            assert!(heard(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_without_room_for_an_offer_stays_alone() {
        let offering = |len| Hello { group: t(&vec![b'n'; len]), offer: Protocol::V2 };
        let longest = offering(95);
        assert_eq!(longest.encode().len(), 100);
        assert_eq!(heard(&longest.encode()), Ok(longest));
        assert_eq!(offering(96).encode(), [b'n'; 96]);
        assert!(heard(&[&[b'n'; 96][..], b"\0kvs2"].concat()).is_err());
    }

    #[test]
    fn a_framed_session_takes_over_after_the_verdict() {
        let mut out = Vec::new();
        let mut session = MainChannel::accept(&mut out);
        assert_eq!(session.receive(b"g1\0kvs2", &mut out).unwrap().count(), 1);
        session.respond_to_group(Some(Protocol::V2), &mut out);
        assert_eq!(session.receive(b"abcde", &mut out).unwrap().count(), 1);
        session.respond_to_secret(true, &mut out);
        assert_eq!(out, [1i32, 2, 1].map(i32::to_ne_bytes).concat());
        assert_eq!((session.negotiated(), session.is_closed()), (Protocol::V2, false));
    }

    fn logged_in() -> MainChannel {
        let mut out = Vec::new();
        let mut session = MainChannel::accept(&mut out);
        assert_eq!(
            session.receive(b"g1", &mut out).unwrap().next(),
            Some(ClientMessage::Group(hello(b"g1")))
        );
        session.respond_to_group(Some(Protocol::V1), &mut out);
        assert_eq!(
            session.receive(b"abcde", &mut out).unwrap().next(),
            Some(ClientMessage::Secret(t(b"abcde")))
        );
        session.respond_to_secret(true, &mut out);
        assert_eq!(out, [1i32.to_ne_bytes(); 3].concat());
        session
    }

    /// A session that waits for the value of `k`.
    fn waiting_for_value() -> MainChannel {
        let mut session = logged_in();
        let mut out = Vec::new();
        assert_eq!(session.receive(&FunctionCode::Put.encode(), &mut out).unwrap().count(), 0);
        let asked: Vec<_> = session.receive(b"k", &mut out).unwrap().collect();
        assert_eq!(asked, [ClientMessage::BeginPut(t(b"k"))]);
        session.respond_ready(true, &mut out);
        session
    }

    #[test]
    fn a_refused_login_is_over() {
        let mut out = Vec::new();
        let mut session = MainChannel::accept(&mut out);
        assert_eq!(session.receive(b"nogroup", &mut out).unwrap().count(), 1);
        out.clear();
        session.respond_to_group(None, &mut out);
        assert_eq!(out, 0i32.to_ne_bytes());
        assert!(session.is_closed());
        assert!(session.receive(b"more", &mut out).is_err());
    }

    #[test]
    fn a_value_and_the_next_code_are_told_apart() {
        let cases: [(&[u8], &[u8]); 5] = [
            (b"v", b"v"),
            (b"", b""),
            (b"a\x01", b"a\x01"),
            (b"\x04", b"\x04"),
            (&[9; 99], &[9; 99]),
        ];
        for (sent, value) in cases {
            let put = ClientMessage::Put { key: t(b"k"), value: t(value) };
            for function in [FunctionCode::Put, FunctionCode::Get, FunctionCode::Delete] {
                let mut session = waiting_for_value();
                let mut out = Vec::new();
                let glued = [sent, &function.encode()].concat();
                let requests: Vec<_> = session.receive(&glued, &mut out).unwrap().collect();
                assert_eq!(requests, [put]);
                assert_eq!(out, 1i32.to_ne_bytes(), "the code after the value is answered");
            }
            let mut session = waiting_for_value();
            let mut out = Vec::new();
            let glued = [sent, &FunctionCode::Watch.encode()].concat();
            let requests: Vec<_> = session.receive(&glued, &mut out).unwrap().collect();
            assert_eq!(requests, [put, ClientMessage::BeginWatch]);
            session.respond_ready(true, &mut out);
            assert_eq!(out, 1i32.to_ne_bytes(), "the code after the value is answered");
            let mut session = waiting_for_value();
            let glued = [sent, &FunctionCode::Close.encode()].concat();
            let requests: Vec<_> = session.receive(&glued, &mut Vec::new()).unwrap().collect();
            assert_eq!(requests, [put, ClientMessage::Close]);
            assert!(session.is_closed());
        }
    }

    #[test]
    fn rubbish_in_place_of_a_value_stores_nothing() {
        let hundred = [b'x'; 100];
        let too_long = [&hundred[..], &[0; 4]].concat();
        for bad in [
            &b"v\0"[..],
            b"\0\0\0",
            b"v\x05\0\0\0",
            b"v\0\0\0\0\0",
            b"v\x01\0\0\0w",
            &hundred,
            &too_long,
        ] {
            let mut session = waiting_for_value();
            assert!(session.receive(bad, &mut Vec::new()).is_err(), "{bad:?} was taken");
            assert!(session.is_closed());
        }
    }

    #[test]
    fn a_put_or_watch_that_the_server_is_not_ready_for_is_over_and_the_next_operation_goes_on() {
        for (function, key) in [(FunctionCode::Put, Some(b"k")), (FunctionCode::Watch, None)] {
            let mut session = logged_in();
            let mut out = Vec::new();
            let mut asked = session.receive(&function.encode(), &mut out).unwrap().count();
            if let Some(key) = key {
                assert_eq!(out, 1i32.to_ne_bytes(), "the key is asked for");
                out.clear();
                asked = session.receive(key, &mut out).unwrap().count();
            }
            assert_eq!(asked, 1);
            assert!(out.is_empty(), "the caller decides");
            // Nothing may be sent before the answer.
            session.respond_ready(false, &mut out);
            assert_eq!(out, 0i32.to_ne_bytes());
            out.clear();
            assert_eq!(session.receive(&FunctionCode::Get.encode(), &mut out).unwrap().count(), 0);
            assert_eq!(out, 1i32.to_ne_bytes());
            let requests: Vec<_> = session.receive(b"k", &mut out).unwrap().collect();
            assert_eq!(requests, [ClientMessage::Get(t(b"k"))]);
        }
    }

    #[test]
    fn an_unknown_code_is_not_answered_and_a_cut_one_is_waited_for() {
        let mut session = logged_in();
        let mut out = Vec::new();
        assert_eq!(session.receive(&77i32.to_ne_bytes(), &mut out).unwrap().count(), 0);
        for byte in FunctionCode::Get.encode() {
            assert!(out.is_empty());
            assert_eq!(session.receive(&[byte], &mut out).unwrap().count(), 0);
        }
        assert_eq!(out, 1i32.to_ne_bytes());
    }

    #[test]
    fn speaking_out_of_turn_ends_the_session() {
        let mut session = logged_in();
        let glued = [&FunctionCode::Get.encode()[..], b"k"].concat();
        assert_eq!(
            session.receive(&glued, &mut Vec::new()).err(),
            Some(ProtocolError::UnexpectedBytes(1))
        );
        assert!(session.is_closed());
    }

    #[test]
    fn a_change_is_announced_then_told() {
        let mut out = Vec::new();
        let mut notifier = CallbackChannel::accept(&mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        out.clear();
        notifier.notify(t(b"k1"), &mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        assert!(!notifier.is_idle());
        out.clear();
        // The ready flag may come in pieces.
        notifier.receive(&1i32.to_ne_bytes()[..1], &mut out).unwrap();
        assert!(out.is_empty());
        notifier.receive(&1i32.to_ne_bytes()[1..], &mut out).unwrap();
        assert_eq!(out, t(b"k1").padded::<100>());
        assert!(notifier.is_idle());
        out.clear();
        notifier.close(&mut out);
        assert_eq!(out, (-1i32).to_ne_bytes());
        assert_eq!(notifier.receive(b"x", &mut out), Err(UnexpectedReply));
    }

    #[test]
    fn anything_but_one_ready_flag_is_unexpected() {
        let mut out = Vec::new();
        assert!(CallbackChannel::accept(&mut out).receive(b"x", &mut out).is_err());
        let mut notifier = CallbackChannel::accept(&mut out);
        notifier.notify(t(b"k1"), &mut out);
        assert!(notifier.receive(&2i32.to_ne_bytes(), &mut out).is_err());
        let mut notifier = CallbackChannel::accept(&mut out);
        notifier.notify(t(b"k1"), &mut out);
        let twice = [1i32.to_ne_bytes(); 2].concat();
        assert!(notifier.receive(&twice, &mut out).is_err());
    }

    proptest! {
        /// Whatever arrives: no panic, and a put only of a key and a value that were sent.
        #[test]
        fn any_bytes_are_survived(
            reads in prop::collection::vec(
                prop_oneof![
                    (0i32..6).prop_map(|code| code.to_ne_bytes().to_vec()),
                    prop::collection::vec(any::<u8>(), 0..120),
                    "[a-z]{1,4}".prop_map(String::into_bytes),
                ], 0..60)
        ) {
            let mut session = logged_in();
            let mut out = Vec::new();
            let mut sent: Vec<u8> = Vec::new();
            for read in reads {
                sent.extend(&read);
                let Ok(requests) = session.receive(&read, &mut out) else { break };
                for request in requests {
                    match request {
                        ClientMessage::Put { key, value } => {
                            let both = [key.as_bytes(), value.as_bytes()].concat();
                            prop_assert!(sent.windows(both.len().max(1)).any(|w| w == both));
                        }
                        ClientMessage::BeginPut(key) => {
                            session.respond_ready(!key.as_bytes().len().is_multiple_of(3), &mut out);
                        }
                        ClientMessage::BeginWatch => session.respond_ready(!sent.len().is_multiple_of(3), &mut out),
                        ClientMessage::Get(_) => session.respond_to_get(Some(b"v"), &mut out),
                        ClientMessage::Delete(_) | ClientMessage::Watch(_) => {
                            session.respond_found(false, &mut out);
                        }
                        ClientMessage::Group(_) | ClientMessage::Secret(_) => unreachable!("logged in already"),
                        ClientMessage::Close => prop_assert!(session.is_closed()),
                    }
                }
            }
        }
    }
}
