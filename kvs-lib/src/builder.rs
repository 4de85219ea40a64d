//! How a connection is opened: the [`Builder`], and the login that it plays.

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use kvs_proto::Protocol;
use kvs_proto::v1::client::{ChannelKind as On, Incoming, LoginExchange, LoginResult, LoginStep};
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN, MAX_VALUE};
use kvs_proto::{INT_LEN, Text, default_paths};

use crate::channel::{Channel, Deadline, End, Ends};
use crate::connection::{Connection, Session};
use crate::error::{Error, Invalid};
use crate::fork;
use crate::panic_points::panic_point;

/// Where the local server listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = default_paths::DEFAULT_SOCKET;

/// How long a call may take unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to open a [`Connection`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    socket: PathBuf,
    callback_socket: Option<PathBuf>,
    timeout: Duration,
    protocol: Protocol,
}

impl Default for Builder {
    /// [`DEFAULT_SOCKET`] and [`DEFAULT_TIMEOUT`], whatever the environment says.
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            callback_socket: None,
            timeout: DEFAULT_TIMEOUT,
            protocol: Protocol::V2,
        }
    }
}

impl Builder {
    /// The defaults, or what the environment says instead: `KVS_SOCKET`, `KVS_CALLBACK_SOCKET` (paths),
    /// `KVS_TIMEOUT_MS` (a number of milliseconds from 1 to 2147483647) and `KVS_PROTOCOL` (`original`, or `best`). What is empty
    /// counts as unset.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a `KVS_TIMEOUT_MS` that is no such number, and any other `KVS_PROTOCOL`.
    pub fn from_env() -> Result<Self, Error> {
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let mut builder = Self::default();
        if let Some(path) = set("KVS_SOCKET") {
            builder = builder.socket(path);
        }
        if let Some(path) = set("KVS_CALLBACK_SOCKET") {
            builder = builder.callback_socket(path);
        }
        if let Some(millis) = set("KVS_TIMEOUT_MS") {
            let millis = millis.to_str().and_then(|text| text.parse::<u64>().ok());
            // What is no number is as wrong as 0.
            builder = builder.timeout(Duration::from_millis(millis.unwrap_or(0)));
            if !builder.has_legal_timeout() {
                return Err(Error::Invalid { what: "KVS_TIMEOUT_MS", why: Invalid::Timeout });
            }
        }
        if let Some(protocol) = set("KVS_PROTOCOL") {
            builder = builder.protocol(match protocol.to_str() {
                Some("original") => Protocol::V1,
                Some("best") => Protocol::V2,
                _ => return Err(Error::Invalid { what: "KVS_PROTOCOL", why: Invalid::Protocol }),
            });
        }
        Ok(builder)
    }

    /// The path of the local server's main socket.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = path.into();
        self
    }

    /// The path of the local server's callback socket; that of the main socket followed by `_cb` unless
    /// set.
    pub fn callback_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.callback_socket = Some(path.into());
        self
    }

    /// The longest time that any call may wait for the server, from 1 ms to about 24 days.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Which protocol it may speak.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Joins `group`.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], [`Error::WrongSecret`]; [`Error::Connect`] when no local server listens at
    /// the path; [`Error::Invalid`] for names that cannot be. All others say which step of the login
    /// failed. Nothing is left open after an error.
    pub fn open(
        &self,
        group: impl AsRef<[u8]>,
        secret: impl AsRef<[u8]>,
    ) -> Result<Connection, Error> {
        if !self.has_legal_timeout() {
            return Err(Error::Invalid { what: "time-out", why: Invalid::Timeout });
        }
        self.open_until(group.as_ref(), secret.as_ref(), Deadline::after(self.timeout))
    }

    /// [`open`](Self::open) in what is left of the time-out, which must be legal.
    pub(crate) fn open_until(
        &self,
        group: &[u8],
        secret: &[u8],
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        let group = text("group name", group)?;
        let secret = text("secret", secret)?;
        fork::watch().map_err(Error::System)?;
        let (mut main, callback, session) =
            self.log_in(LoginExchange::new(group, secret, self.protocol), deadline)?;
        main.set_timeout(self.timeout);
        Connection::start(main, callback, session, self.timeout)
    }

    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn timeout_value(&self) -> Duration {
        self.timeout
    }

    fn has_legal_timeout(&self) -> bool {
        (1..=i32::MAX as u128).contains(&self.timeout.as_millis())
    }

    fn log_in(
        &self,
        login: LoginExchange,
        deadline: Deadline,
    ) -> Result<(Channel, Channel, Session), Error> {
        let Ends { main, callback: callback_end, number: _until_both_are_connected } =
            Ends::bind()?;
        panic_point!("ends bound");
        let main = main.connect(&self.socket, deadline, |_| false)?;
        let mut callback = None;
        let result = self.play_login(login, &main, callback_end, &mut callback, deadline);
        match (result, callback) {
            (Ok(session), Some(callback)) => Ok((main, callback, session)),
            (result, callback) => {
                // A program that another thread is starting may hold copies for a moment, and the server
                // must not take this login for alive when the next one comes.
                callback.iter().chain([&main]).for_each(Channel::shut_down);
                Err(result.err().unwrap_or(Error::NotConnected))
            }
        }
    }

    fn play_login(
        &self,
        mut login: LoginExchange,
        main: &Channel,
        callback_end: End,
        callback: &mut Option<Channel>,
        deadline: Deadline,
    ) -> Result<Session, Error> {
        let mut callback_end = Some(callback_end);
        loop {
            panic_point!("login step");
            match login.next() {
                LoginStep::Receive(on, expected) => {
                    let mut bytes = [0; INT_LEN];
                    match (on, &*callback) {
                        // A server that closes the main channel will not greet on the other.
                        (On::Callback, Some(callback)) => {
                            callback.receive_while_open(&mut bytes, main, deadline)
                        }
                        (On::Main, _) | (On::Callback, None) => {
                            main.receive(&mut bytes, Some(deadline))
                        }
                    }
                    .map_err(|error| match expected {
                        Incoming::Response => Error::ReceiveLogin(error),
                        other => Error::receiving(other, error),
                    })?;
                    login.received(bytes)?;
                }
                LoginStep::Send(bytes) => {
                    main.send(&bytes, deadline).map_err(Error::SendText)?;
                    login.sent();
                }
                LoginStep::ConnectCallback => {
                    if let Some(end) = callback_end.take() {
                        *callback = Some(self.connect_callback(main, end, deadline)?);
                    }
                    login.connected();
                }
                LoginStep::Done(LoginResult::NoSuchGroup) => return Err(Error::NoSuchGroup),
                LoginStep::Done(LoginResult::WrongSecret) => return Err(Error::WrongSecret),
                LoginStep::Done(LoginResult::LoggedIn(Protocol::V1)) => {
                    return Ok(Session::Original);
                }
                LoginStep::Done(LoginResult::LoggedIn(Protocol::V2)) => {
                    return welcomed(main, deadline);
                }
            }
        }
    }

    /// The original server binds its callback socket anew for every application, at some point of the
    /// login: until it is there, the path is missing or refuses.
    fn connect_callback(
        &self,
        main: &Channel,
        end: End,
        deadline: Deadline,
    ) -> Result<Channel, Error> {
        const LONGEST_PAUSE: Duration = Duration::from_millis(50);
        let path = match &self.callback_socket {
            Some(path) => path.clone(),
            None => default_paths::callback_socket(&self.socket),
        };
        let mut pause = Duration::from_millis(1);
        end.connect(&path, deadline, |error| {
            // A server that has hung up will not bind it any more. At the end of the time, what is told
            // is why it could not be reached, not that the time is over.
            if !is_not_there_yet(error)
                || deadline.left().is_none_or(|left| left <= pause)
                || main.hangs_up_within(pause).unwrap_or(true)
            {
                return false;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            true
        })
    }
}

fn is_not_there_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// A text that must not be empty.
pub(crate) fn text(what: &'static str, bytes: &[u8]) -> Result<Text, Error> {
    if bytes.is_empty() {
        return Err(Error::Invalid { what, why: Invalid::Empty });
    }
    value(what, bytes)
}

/// A text that may be empty.
pub(crate) fn value(what: &'static str, bytes: &[u8]) -> Result<Text, Error> {
    Text::new(bytes).map_err(|error| Error::Invalid { what, why: error.into() })
}

/// What a server says first in a framed session.
fn welcomed(main: &Channel, deadline: Deadline) -> Result<Session, Error> {
    let mut bytes = [0; HEADER_LEN];
    main.receive(&mut bytes, Some(deadline)).map_err(Error::ReceiveAnswer)?;
    let header = FrameHeader::decode(&bytes)?;
    if header.body_len > 0 {
        return Err(Error::BadFrame(kvs_proto::v2::Malformed::Unexpected(header.number)));
    }
    match Response::decode(&header, &[])? {
        Response { number: 0, status: Status::Welcome, version, .. } => {
            let max_value = usize::try_from(version).unwrap_or(MAX_VALUE).min(MAX_VALUE);
            Ok(Session::Framed { max_value })
        }
        Response { number, .. } => {
            Err(Error::BadFrame(kvs_proto::v2::Malformed::Unexpected(number)))
        }
    }
}
