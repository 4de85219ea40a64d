//! The login: two connected channels and an agreed protocol, or an error.
//!
//! [`LoginExchange`] says what to send and what to expect; here its steps are carried out on the
//! sockets. After an error nothing stays open.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use kvs_proto::v1::client::{ChannelKind, Incoming, LoginExchange, LoginResult, LoginStep};
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN, MAX_VALUE, Malformed};
use kvs_proto::{INT_LEN, Protocol};

use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::endpoint::{ClientEndpoint, ClientEndpoints};
use crate::error::Error;
use crate::panic_points::panic_point;

/// Where the server listens.
#[derive(Debug)]
pub(crate) struct ServerPaths {
    pub(crate) main: PathBuf,
    pub(crate) callback: PathBuf,
}

/// A successful login.
#[derive(Debug)]
pub(crate) struct EstablishedSession {
    pub(crate) main: ClientChannel,
    pub(crate) callback: ClientChannel,
    pub(crate) agreed: AgreedProtocol,
}

/// The protocol of the session, with what the server announced for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgreedProtocol {
    V1,
    V2 {
        /// The longest value that the server accepts, in bytes.
        max_value: usize,
    },
}

/// Connects both channels and logs in.
pub(crate) fn log_in(
    paths: &ServerPaths,
    exchange: LoginExchange,
    deadline: Deadline,
) -> Result<EstablishedSession, Error> {
    // `_number` stays claimed until both endpoints are connected.
    let ClientEndpoints { main, callback: endpoint, number: _number } = ClientEndpoints::bind()?;
    panic_point!("endpoints bound");
    let main = main.connect(&paths.main, deadline, |_| false)?;
    let mut login =
        LoginInProgress { paths, main, endpoint: Some(endpoint), callback: None, deadline };
    let result = login.run(exchange);
    let LoginInProgress { main, callback, .. } = login;
    match (result, callback) {
        (Ok(agreed), Some(callback)) => Ok(EstablishedSession { main, callback, agreed }),
        (result, callback) => {
            // A child that another thread is forking may hold copies for a moment. The server must
            // not take this login for an open one when the next login arrives.
            callback.iter().chain([&main]).for_each(ClientChannel::shut_down);
            Err(result.err().unwrap_or(Error::NotConnected))
        }
    }
}

/// A login in progress.
struct LoginInProgress<'a> {
    paths: &'a ServerPaths,
    main: ClientChannel,
    /// The endpoint of the callback channel, until it is connected.
    endpoint: Option<ClientEndpoint>,
    callback: Option<ClientChannel>,
    deadline: Deadline,
}

impl LoginInProgress<'_> {
    fn run(&mut self, mut exchange: LoginExchange) -> Result<AgreedProtocol, Error> {
        loop {
            panic_point!("login step");
            match exchange.next() {
                LoginStep::Receive(on, incoming) => {
                    exchange.received(self.receive(on, incoming)?)?;
                }
                LoginStep::Send(bytes) => {
                    self.main.send(&bytes, self.deadline).map_err(Error::SendText)?;
                    exchange.sent();
                }
                LoginStep::ConnectCallback => {
                    if let Some(endpoint) = self.endpoint.take() {
                        self.callback = Some(self.connect_callback(endpoint)?);
                    }
                    exchange.connected();
                }
                LoginStep::Done(LoginResult::NoSuchGroup) => return Err(Error::NoSuchGroup),
                LoginStep::Done(LoginResult::WrongSecret) => return Err(Error::WrongSecret),
                LoginStep::Done(LoginResult::LoggedIn(Protocol::V1)) => {
                    return Ok(AgreedProtocol::V1);
                }
                LoginStep::Done(LoginResult::LoggedIn(Protocol::V2)) => {
                    return self.receive_welcome();
                }
            }
        }
    }

    fn receive(&self, on: ChannelKind, incoming: Incoming) -> Result<[u8; INT_LEN], Error> {
        let mut bytes = [0; INT_LEN];
        match (on, &self.callback) {
            // A server that closes the main channel does not greet on the callback channel.
            (ChannelKind::Callback, Some(callback)) => {
                callback.receive_while_open(&mut bytes, &self.main, self.deadline)
            }
            (ChannelKind::Main, _) | (ChannelKind::Callback, None) => {
                self.main.receive(&mut bytes, Some(self.deadline))
            }
        }
        .map_err(|error| match incoming {
            Incoming::Response => Error::ReceiveLogin(error),
            other => Error::receiving(other, error),
        })?;
        Ok(bytes)
    }

    /// Connects the callback channel. The original server binds its callback socket anew for every
    /// client, at some point of the login: until then, the path is missing or refuses connections.
    fn connect_callback(&self, endpoint: ClientEndpoint) -> Result<ClientChannel, Error> {
        const MAX_RETRY_INTERVAL: Duration = Duration::from_millis(50);
        let mut interval = Duration::from_millis(1);
        endpoint.connect(&self.paths.callback, self.deadline, |error| {
            // A server that hung up will not bind the socket. Shortly before the deadline the
            // caller gets this error, which says more than a timeout.
            if !is_not_bound_yet(error)
                || self.deadline.remaining().is_none_or(|left| left <= interval)
                || self.main.hangs_up_within(interval).unwrap_or(true)
            {
                return false;
            }
            interval = (interval * 2).min(MAX_RETRY_INTERVAL);
            true
        })
    }

    /// Receives the first message of a server that speaks protocol v2: its limits.
    fn receive_welcome(&self) -> Result<AgreedProtocol, Error> {
        let mut bytes = [0; HEADER_LEN];
        self.main.receive(&mut bytes, Some(self.deadline)).map_err(Error::ReceiveResponse)?;
        let header = FrameHeader::decode(&bytes)?;
        if header.body_len > 0 {
            return Err(Error::BadFrame(Malformed::Unexpected(header.number)));
        }
        match Response::decode(&header, &[])? {
            Response { number: 0, status: Status::Welcome, version, .. } => {
                let max_value = usize::try_from(version).unwrap_or(MAX_VALUE).min(MAX_VALUE);
                Ok(AgreedProtocol::V2 { max_value })
            }
            Response { number, .. } => Err(Error::BadFrame(Malformed::Unexpected(number))),
        }
    }
}

fn is_not_bound_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}
