//! The main channel: login, then one operation at a time.

use super::message::{ClientMessage, ProtocolError};
use super::value::{split_value, text};
use crate::integer::{INT_LEN, Int};
use crate::protocol::Protocol;
use crate::text::Text;
use crate::v1::flags::{NO_SUCH_KEY, REFUSED, YES, put_int};
use crate::v1::function_code::FunctionCode;
use crate::v1::hello::Hello;
use crate::v2::negotiation::YES_V2;

/// The main channel of one session.
#[derive(Debug, Clone)]
pub struct MainChannel {
    state: MainState,
    /// The protocol after the verdict.
    negotiated: Protocol,
}

#[derive(Debug, Clone, Copy)]
enum MainState {
    Group,
    GroupResponse,
    Secret,
    SecretResponse,
    /// Waits for a function code, of which `have` bytes are received.
    Code {
        bytes: [u8; INT_LEN],
        have: usize,
    },
    /// Waits for the caller's ready flag; the key follows it.
    WatchReady,
    Key(KeyFunction),
    /// Waits for the caller's response to this operation.
    KeyResponse(KeyFunction),
    /// Waits for the caller's ready flag; the value follows it.
    PutReady {
        key: Text,
    },
    Value {
        key: Text,
    },
    /// Protocol v2 has taken over.
    V2,
    Closed,
}

/// The functions that take a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyFunction {
    Put,
    Get,
    Delete,
    Watch,
}

const CODE: MainState = MainState::Code { bytes: [0; INT_LEN], have: 0 };

/// The messages in one `read`, in order: at most two, a put and the message after it.
pub type ClientMessages = std::iter::Flatten<std::array::IntoIter<Option<ClientMessage>, 2>>;

impl MainChannel {
    /// Begins a session on an accepted connection, and appends the connection flag to `out`.
    pub fn accept(out: &mut Vec<u8>) -> Self {
        put_int(out, YES);
        Self { state: MainState::Group, negotiated: Protocol::V1 }
    }

    /// Decodes the bytes of one `read`. Appends immediate responses to `out`; the caller sends them
    /// after it has handled the messages.
    ///
    /// # Errors
    /// [`ProtocolError`]: the session is closed. Messages that earlier calls returned stay valid.
    pub fn receive(
        &mut self,
        read: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<ClientMessages, ProtocolError> {
        let result = self.advance(read, out);
        if result.is_err() {
            self.state = MainState::Closed;
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
            MainState::Group => {
                let hello = Hello::decode(read)
                    .map_err(|why| ProtocolError::Text { what: "group name", why })?;
                self.state = MainState::GroupResponse;
                Ok([Some(ClientMessage::Group(hello)), None])
            }
            MainState::Secret => {
                let secret = text("secret", read)?;
                self.state = MainState::SecretResponse;
                Ok([Some(ClientMessage::Secret(secret)), None])
            }
            MainState::Code { bytes, have } => Ok([self.code(bytes, have, read, out)?, None]),
            MainState::Key(function) => {
                let key = text("key", read)?;
                let request = match function {
                    KeyFunction::Put => {
                        self.state = MainState::PutReady { key };
                        return Ok([Some(ClientMessage::BeginPut(key)), None]);
                    }
                    KeyFunction::Get => ClientMessage::Get(key),
                    KeyFunction::Delete => ClientMessage::Delete(key),
                    KeyFunction::Watch => ClientMessage::Watch(key),
                };
                self.state = MainState::KeyResponse(function);
                Ok([Some(request), None])
            }
            MainState::Value { key } => {
                let (value, code) = split_value(read)?;
                self.state = CODE;
                let next = match code {
                    Some(code) => self.code([0; INT_LEN], 0, &code.encode(), out)?,
                    None => None,
                };
                Ok([Some(ClientMessage::Put { key, value }), next])
            }
            MainState::GroupResponse
            | MainState::SecretResponse
            | MainState::WatchReady
            | MainState::KeyResponse(_)
            | MainState::PutReady { .. }
            | MainState::V2
            | MainState::Closed => Err(ProtocolError::UnexpectedBytes(read.len())),
        }
    }

    /// Collects a function code. An unknown code gets no response, and the next code may follow.
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
                    self.state = MainState::WatchReady;
                    return Ok(Some(ClientMessage::BeginWatch));
                }
                FunctionCode::Close => {
                    self.state = MainState::Closed;
                    return Ok(Some(ClientMessage::Close));
                }
            };
            put_int(out, YES);
            self.state = MainState::Key(keyed);
            return Ok(None);
        }
        self.state = MainState::Code { bytes, have };
        Ok(None)
    }

    /// Responds to [`ClientMessage::Group`] with the protocol of the session, one that was offered.
    /// `None`: the group does not exist, and the session is closed.
    pub fn respond_to_group(&mut self, exists: Option<Protocol>, out: &mut Vec<u8>) {
        debug_assert!(matches!(self.state, MainState::GroupResponse), "{:?}", self.state);
        put_int(
            out,
            match exists {
                None => REFUSED,
                Some(Protocol::V1) => YES,
                Some(Protocol::V2) => YES_V2,
            },
        );
        self.negotiated = exists.unwrap_or_default();
        self.state = if exists.is_some() { MainState::Secret } else { MainState::Closed };
    }

    /// Responds to [`ClientMessage::Secret`]. A wrong secret closes the session. After a right one,
    /// if v2 is [negotiated](Self::negotiated), [`v2`](crate::v2) takes over on both channels.
    pub fn respond_to_secret(&mut self, right: bool, out: &mut Vec<u8>) {
        debug_assert!(matches!(self.state, MainState::SecretResponse), "{:?}", self.state);
        put_int(out, if right { YES } else { REFUSED });
        self.state = match self.negotiated {
            _ if !right => MainState::Closed,
            Protocol::V1 => CODE,
            Protocol::V2 => MainState::V2,
        };
    }

    /// The protocol of the session, valid after the response to its group.
    pub fn negotiated(&self) -> Protocol {
        self.negotiated
    }

    /// Responds to [`ClientMessage::BeginPut`] and [`ClientMessage::BeginWatch`]. When the server
    /// is not ready, the operation ends: a legal application sends neither value nor key, but its
    /// next function code.
    pub fn respond_ready(&mut self, ready: bool, out: &mut Vec<u8>) {
        put_int(out, if ready { YES } else { REFUSED });
        self.state = match self.state {
            _ if !ready => CODE,
            MainState::PutReady { key } => MainState::Value { key },
            MainState::WatchReady => MainState::Key(KeyFunction::Watch),
            other => {
                debug_assert!(false, "{other:?}");
                other
            }
        };
    }

    /// Responds to [`ClientMessage::Get`] with the value, or `None` when the key does not exist.
    pub fn respond_to_get(&mut self, value: Option<&[u8]>, out: &mut Vec<u8>) {
        debug_assert!(
            matches!(self.state, MainState::KeyResponse(KeyFunction::Get)),
            "{:?}",
            self.state
        );
        match value {
            Some(value) => {
                // The values of v1 are texts, so their length always fits.
                put_int(out, Int::try_from(value.len()).unwrap_or(Int::MAX));
                out.extend_from_slice(value);
                out.push(0);
            }
            None => put_int(out, NO_SUCH_KEY),
        }
        self.state = CODE;
    }

    /// Responds to [`ClientMessage::Delete`] and [`ClientMessage::Watch`].
    pub fn respond_found(&mut self, found: bool, out: &mut Vec<u8>) {
        debug_assert!(
            matches!(self.state, MainState::KeyResponse(KeyFunction::Delete | KeyFunction::Watch)),
            "{:?}",
            self.state
        );
        put_int(out, if found { YES } else { NO_SUCH_KEY });
        self.state = CODE;
    }

    /// Whether the session has ended: refused, closed by the application, or after a protocol
    /// error.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, MainState::Closed)
    }
}
