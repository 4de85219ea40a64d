//! Opening a connection: the [`Builder`].

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use kvs_proto::v1::client::LoginExchange;
use kvs_proto::{Protocol, default_paths};

use crate::arguments::text;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::error::{Error, Invalid};
use crate::fork;
use crate::login::{self, ServerPaths};

/// The default path of the local server's main socket.
pub const DEFAULT_SOCKET: &str = default_paths::DEFAULT_SOCKET;

/// The default timeout of a call.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings with which a [`Connection`] is opened.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    socket: PathBuf,
    callback_socket: Option<PathBuf>,
    timeout: Duration,
    protocol: Protocol,
}

impl Default for Builder {
    /// [`DEFAULT_SOCKET`], [`DEFAULT_TIMEOUT`] and the best protocol that both sides speak. Does
    /// not read the environment.
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            callback_socket: None,
            timeout: DEFAULT_TIMEOUT,
            protocol: Protocol::V2,
        }
    }
}

/// The constructors. They are in this module because [`Builder`] uses [`Connection`], and modules
/// form no circle.
impl Connection {
    /// Joins `group` at the local server, with the settings of the environment: short for
    /// [`Builder::from_env`] and [`Builder::open`].
    ///
    /// # Errors
    /// Those of the two functions.
    pub fn open(group: impl AsRef<[u8]>, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        Builder::from_env()?.open(group, secret)
    }

    /// A builder for a connection with another socket, timeout or protocol.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// The defaults, replaced by what the environment sets:
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `KVS_SOCKET` | path of the main socket |
    /// | `KVS_CALLBACK_SOCKET` | path of the callback socket |
    /// | `KVS_TIMEOUT_MS` | timeout in milliseconds, 1 to 2147483647 |
    /// | `KVS_PROTOCOL` | `original`: protocol v1; `best`: v2 if the server speaks it |
    ///
    /// An empty variable counts as unset.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `KVS_TIMEOUT_MS` is not a number in that range, or `KVS_PROTOCOL` has
    /// another value.
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
            builder = builder.timeout(Duration::from_millis(millis.unwrap_or(0)));
            if !builder.has_valid_timeout() {
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

    /// Sets the path of the local server's main socket.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = path.into();
        self
    }

    /// Sets the path of the local server's callback socket. The default is the path of the main
    /// socket followed by `_cb`.
    pub fn callback_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.callback_socket = Some(path.into());
        self
    }

    /// Sets the longest time that a call waits for the server: 1 ms to 2147483647 ms (about 24
    /// days).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the newest protocol that the connection may speak. [`Protocol::V2`], the default, falls
    /// back to v1 with a server that does not know v2.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Joins `group`.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], [`Error::WrongSecret`]; [`Error::Connect`] if no local server
    /// listens at the path; [`Error::Invalid`] for a group name or secret that no group can have,
    /// or a timeout out of range. All other errors say which step of the login failed. After an
    /// error nothing stays open.
    pub fn open(
        &self,
        group: impl AsRef<[u8]>,
        secret: impl AsRef<[u8]>,
    ) -> Result<Connection, Error> {
        if !self.has_valid_timeout() {
            return Err(Error::Invalid { what: "timeout", why: Invalid::Timeout });
        }
        self.open_until(group.as_ref(), secret.as_ref(), Deadline::after(self.timeout))
    }

    /// [`open`](Self::open) with a deadline. The timeout of the builder must be valid.
    pub(crate) fn open_until(
        &self,
        group: &[u8],
        secret: &[u8],
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        let group = text("group name", group)?;
        let secret = text("secret", secret)?;
        fork::install_handler().map_err(Error::System)?;
        let paths = ServerPaths {
            main: self.socket.clone(),
            callback: match &self.callback_socket {
                Some(path) => path.clone(),
                None => default_paths::callback_socket(&self.socket),
            },
        };
        let exchange = LoginExchange::new(group, secret, self.protocol);
        let mut logged_in = login::log_in(&paths, exchange, deadline)?;
        logged_in.main.set_timeout(self.timeout);
        Connection::start(logged_in, self.timeout)
    }

    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn timeout_value(&self) -> Duration {
        self.timeout
    }

    fn has_valid_timeout(&self) -> bool {
        (1..=i32::MAX as u128).contains(&self.timeout.as_millis())
    }
}
