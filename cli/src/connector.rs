//! Connections to groups: which server, which group, and where the secret comes from.
//!
//! The secret is taken from the first of these that is set: the file of `--secret-file`,
//! `KVS_SECRET`, the file of `KVS_SECRET_FILE`, the terminal. An option of the command line thus
//! takes precedence over the environment. No option takes the secret itself, because every user of
//! the machine can read the arguments of a process.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use kvs::{Builder, Connection, DEFAULT_SOCKET, Protocol, Version, Versioned};
use kvs_proto::default_paths;
use rustix::io::Errno;

use crate::arguments::EndpointArgs;
use crate::error::Error;
use crate::output::Output;
use crate::quoting::Quoted;
use crate::secret::Secret;

/// The variable that holds the secret itself. `kvs watch --exec` does not pass it to its commands.
pub(crate) const SECRET_VARIABLE: &str = "KVS_SECRET";

/// Opens connections to a group.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    builder: Builder,
    socket: PathBuf,
    callback_socket: Option<PathBuf>,
    group: Option<Vec<u8>>,
    secret_file: Option<PathBuf>,
    /// The secret, once it is known: from the environment, or from an earlier connection.
    secret: Option<Secret>,
}

/// An open connection to a group.
#[derive(Debug)]
pub(crate) struct GroupConnection {
    pub(crate) connection: Arc<Connection>,
    pub(crate) group: Vec<u8>,
    pub(crate) socket: PathBuf,
    /// Variables with which another `kvs` reaches the same group. The secret is not among them.
    pub(crate) exec_environment: Vec<(&'static str, OsString)>,
}

impl Connector {
    pub(crate) fn new(endpoint: EndpointArgs, matches: &ArgMatches) -> Result<Self, Error> {
        let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let socket = endpoint.socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        // KVS_CALLBACK_SOCKET belongs to the server of KVS_SOCKET, not to that of --socket.
        let callback_socket =
            endpoint.callback_socket.filter(|_| is_typed("callback_socket") || !is_typed("socket"));
        // The library reads KVS_PROTOCOL.
        let from_env = Builder::from_env();
        let mut builder =
            from_env.map_err(|error| Error::from_library(error, &socket, b""))?.socket(&socket);
        builder = builder.callback_socket(
            callback_socket.clone().unwrap_or_else(|| default_paths::callback_socket(&socket)),
        );
        if let Some(millis) = endpoint.timeout {
            builder = builder.timeout(Duration::from_millis(millis));
        }
        let secret = std::env::var_os(SECRET_VARIABLE)
            .filter(|secret| !secret.is_empty() && !is_typed("secret_file"))
            .map(|secret| Secret::new(secret.into_vec()));
        let secret_file = endpoint.secret_file.filter(|_| secret.is_none());
        let group = endpoint.group.map(OsString::into_vec).filter(|group| !group.is_empty());
        Ok(Self { builder, socket, callback_socket, group, secret_file, secret })
    }

    pub(crate) fn group(&self) -> Option<&[u8]> {
        self.group.as_deref()
    }

    /// The secret, if it is known.
    pub(crate) fn secret(&self) -> Option<&[u8]> {
        self.secret.as_ref().map(Secret::as_bytes)
    }

    /// Switches to another group of the same server. The secret of the old group is dropped, so
    /// that the user is asked for the one of the new group.
    pub(crate) fn change_group(&mut self, group: Vec<u8>) {
        self.group = Some(group);
        self.secret_file = None;
        self.secret = None;
    }

    /// Connects to the group. Asks for the secret if it is not known, and forgets a wrong one.
    pub(crate) fn connect(&mut self, output: Output) -> Result<GroupConnection, Error> {
        let group = self.group.clone().ok_or(Error::NoGroup)?;
        let secret = match &self.secret {
            Some(secret) => secret.clone(),
            None => self.find_secret(&group, output)?,
        };
        let connection = match self.builder.open(&group, secret.as_bytes()) {
            Ok(connection) => Arc::new(connection),
            Err(error) => {
                if matches!(error, kvs::Error::WrongSecret | kvs::Error::Invalid { .. }) {
                    self.secret = None;
                }
                return Err(Error::from_library(error, &self.socket, &group));
            }
        };
        self.secret = Some(secret);
        let mut exec_environment = vec![
            ("KVS_GROUP", OsString::from_vec(group.clone())),
            ("KVS_SOCKET", self.socket.clone().into()),
        ];
        exec_environment
            .extend(self.callback_socket.clone().map(|path| ("KVS_CALLBACK_SOCKET", path.into())));
        exec_environment
            .extend(self.secret_file.clone().map(|path| ("KVS_SECRET_FILE", path.into())));
        Ok(GroupConnection { connection, group, socket: self.socket.clone(), exec_environment })
    }

    fn find_secret(&self, group: &[u8], output: Output) -> Result<Secret, Error> {
        if let Some(path) = &self.secret_file {
            let (secret, is_exposed) = Secret::read(path)?;
            if is_exposed {
                let shown = Quoted(path.as_os_str().as_bytes()).to_string();
                let message = format!(
                    "every user of this machine can read the secret file {shown}: \
                     chmod 600 {shown}"
                );
                output.warning("exposed_secret", &message);
            }
            return Ok(secret);
        }
        // The question goes to /dev/tty, so one of the two may be redirected.
        if !io::stdin().is_terminal() && !io::stderr().is_terminal() {
            return Err(Error::NoSecret { group: group.to_vec() });
        }
        match Secret::prompt(group) {
            Ok(Some(secret)) => Ok(secret),
            Ok(None) => Err(Error::NoSecret { group: group.to_vec() }),
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(Error::Interrupted),
            // The process has no controlling terminal.
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                Err(Error::NoSecret { group: group.to_vec() })
            }
            Err(error) => Err(Error::SecretPrompt(error)),
        }
    }
}

impl GroupConnection {
    /// An error of the library on this connection.
    pub(crate) fn error(&self, error: kvs::Error) -> Error {
        Error::from_library(error, &self.socket, &self.group)
    }

    /// The value of a key and its version, which is 0 in protocol v1.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, Version)>, Error> {
        let found = match self.connection.protocol() {
            Protocol::V2 => {
                let found = self.connection.get_versioned(key);
                found.map(|found| found.map(|Versioned { value, version }| (value, version)))
            }
            Protocol::V1 => self.connection.get(key).map(|found| found.map(|value| (value, 0))),
        };
        found.map_err(|error| self.error(error))
    }

    /// The error of a command whose key does not exist.
    pub(crate) fn no_such_key(&self, key: &[u8]) -> Error {
        Error::NoSuchKey { key: key.to_vec(), group: self.group.clone() }
    }

    /// The error of a connection that the server has closed.
    pub(crate) fn disconnected(&self) -> Error {
        Error::Disconnected { socket: self.socket.clone(), group: self.group.clone() }
    }
}
