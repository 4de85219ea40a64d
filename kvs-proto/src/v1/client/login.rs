//! The login: group, secret, callback channel, verdict.

use super::step::{ChannelKind, Incoming, Violation};
use crate::integer::{INT_LEN, Int};
use crate::protocol::Protocol;
use crate::text::Text;
use crate::v1::flags::{REFUSED, YES};
use crate::v1::hello::Hello;
use crate::v2::negotiation::YES_V2;

/// The next step of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginStep {
    /// Receive exactly four bytes, then report them with [`LoginExchange::received`].
    Receive(ChannelKind, Incoming),
    /// Send these bytes on the main channel, then report [`LoginExchange::sent`].
    Send(Vec<u8>),
    /// Connect the callback channel, then report [`LoginExchange::connected`].
    ConnectCallback,
    /// The login has ended.
    Done(LoginResult),
}

/// The result of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginResult {
    /// The session has begun. With [`Protocol::V2`], [`v2`](crate::v2) takes over on both channels.
    LoggedIn(Protocol),
    /// The group does not exist.
    NoSuchGroup,
    /// The group exists and has another secret.
    WrongSecret,
}

/// A login on a main channel that was just connected.
#[derive(Debug)]
pub struct LoginExchange {
    hello: Hello,
    secret: Text,
    /// The protocol that the server has chosen.
    negotiated: Protocol,
    state: LoginState,
}

#[derive(Debug, Clone, Copy)]
enum LoginState {
    MainFlag,
    SendGroup,
    GroupResponse,
    SendSecret,
    ConnectCallback,
    CallbackFlag,
    Verdict,
    Done(LoginResult),
}

impl LoginExchange {
    /// Begins a login to `group` with `secret`. Neither is empty.
    pub fn new(group: Text, secret: Text, offer: Protocol) -> Self {
        let hello = Hello { group, offer };
        Self { hello, secret, negotiated: Protocol::V1, state: LoginState::MainFlag }
    }

    /// The step to perform now.
    pub fn next(&self) -> LoginStep {
        match self.state {
            LoginState::MainFlag => LoginStep::Receive(ChannelKind::Main, Incoming::ConnectionFlag),
            LoginState::SendGroup => LoginStep::Send(self.hello.encode()),
            LoginState::GroupResponse | LoginState::Verdict => {
                LoginStep::Receive(ChannelKind::Main, Incoming::Response)
            }
            LoginState::SendSecret => LoginStep::Send(self.secret.as_bytes().to_vec()),
            LoginState::ConnectCallback => LoginStep::ConnectCallback,
            LoginState::CallbackFlag => {
                LoginStep::Receive(ChannelKind::Callback, Incoming::ConnectionFlag)
            }
            LoginState::Done(result) => LoginStep::Done(result),
        }
    }

    /// Reports that [`LoginStep::Send`] is done.
    pub fn sent(&mut self) {
        self.state = match self.state {
            LoginState::SendGroup => LoginState::GroupResponse,
            LoginState::SendSecret => LoginState::ConnectCallback,
            other => other,
        };
    }

    /// Reports that [`LoginStep::ConnectCallback`] is done.
    pub fn connected(&mut self) {
        if let LoginState::ConnectCallback = self.state {
            self.state = LoginState::CallbackFlag;
        }
    }

    /// Reports the bytes that [`LoginStep::Receive`] received.
    ///
    /// # Errors
    /// A [`Violation`]: the login has failed.
    pub fn received(&mut self, bytes: [u8; INT_LEN]) -> Result<(), Violation> {
        let int = Int::from_ne_bytes(bytes);
        self.state = match (self.state, int) {
            (LoginState::MainFlag, YES) => LoginState::SendGroup,
            (LoginState::CallbackFlag, YES) => LoginState::Verdict,
            (LoginState::MainFlag | LoginState::CallbackFlag, other) => {
                return Err(Violation::Refused(other));
            }
            (LoginState::GroupResponse, YES) => LoginState::SendSecret,
            (LoginState::GroupResponse, YES_V2) if self.hello.offer == Protocol::V2 => {
                self.negotiated = Protocol::V2;
                LoginState::SendSecret
            }
            (LoginState::GroupResponse, REFUSED) => LoginState::Done(LoginResult::NoSuchGroup),
            (LoginState::Verdict, YES) => LoginState::Done(LoginResult::LoggedIn(self.negotiated)),
            (LoginState::Verdict, REFUSED) => LoginState::Done(LoginResult::WrongSecret),
            (_, other) => return Err(Violation::BadResponse(other)),
        };
        Ok(())
    }
}
