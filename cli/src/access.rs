//! Which server and which group, and where the secret comes from.
//!
//! The secret is looked for in this order: the file of `--secret-file`; `KVS_SECRET`; the file of `KVS_SECRET_FILE`; the terminal.
//! What was typed goes before what is set for all commands. There is no option with the secret itself: everybody on the
//! machine can read the arguments of a process.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use kvs::{Builder, Connection, DEFAULT_SOCKET};
use kvs_proto::default_paths;
use rustix::io::Errno;

use crate::arguments::Place;
use crate::failure::Failure;
use crate::output::Output;
use crate::secret::Secret;
use crate::words::Quoted;

/// The variable that has a secret itself. It is not passed on to other programs.
pub(crate) const SECRET_VARIABLE: &str = "KVS_SECRET";

/// How to join a group.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    builder: Builder,
    socket: PathBuf,
    callback_socket: Option<PathBuf>,
    group: Option<Vec<u8>>,
    secret_file: Option<PathBuf>,
    /// Known already: set in the environment, or asked for before.
    secret: Option<Secret>,
}

/// Membership in a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) connection: Arc<Connection>,
    pub(crate) group: Vec<u8>,
    pub(crate) socket: PathBuf,
    /// What another `kvs` needs to come to the same place: names, and no secret.
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

impl Access {
    pub(crate) fn new(place: Place, matches: &ArgMatches) -> Result<Self, Failure> {
        let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let socket = place.socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        // The one of the environment belongs to the server of the environment.
        let callback_socket =
            place.callback_socket.filter(|_| typed("callback_socket") || !typed("socket"));
        // KVS_PROTOCOL is the library's.
        let from_env = Builder::from_env();
        let mut builder =
            from_env.map_err(|error| Failure::of_library(error, &socket, b""))?.socket(&socket);
        builder = builder.callback_socket(
            callback_socket.clone().unwrap_or_else(|| default_paths::callback_socket(&socket)),
        );
        if let Some(millis) = place.timeout {
            builder = builder.timeout(Duration::from_millis(millis));
        }
        let secret = std::env::var_os(SECRET_VARIABLE)
            .filter(|secret| !secret.is_empty() && !typed("secret_file"))
            .map(|secret| Secret::new(secret.into_vec()));
        let secret_file = place.secret_file.filter(|_| secret.is_none());
        let group = place.group.map(OsString::into_vec).filter(|group| !group.is_empty());
        Ok(Self { builder, socket, callback_socket, group, secret_file, secret })
    }

    pub(crate) fn group(&self) -> Option<&[u8]> {
        self.group.as_deref()
    }

    /// The secret, when it is known.
    pub(crate) fn secret(&self) -> Option<&[u8]> {
        self.secret.as_ref().map(Secret::as_bytes)
    }

    /// Another group of the same server. Its secret is asked for: what was set is that of the other one.
    pub(crate) fn change_group(&mut self, group: Vec<u8>) {
        self.group = Some(group);
        self.secret_file = None;
        self.secret = None;
    }

    /// Joins the group. The secret is asked for when it is not known, and forgotten when it is wrong.
    pub(crate) fn join(&mut self, output: Output) -> Result<Member, Failure> {
        let group = self.group.clone().ok_or(Failure::NoGroup)?;
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
                return Err(Failure::of_library(error, &self.socket, &group));
            }
        };
        self.secret = Some(secret);
        let mut variables = vec![
            ("KVS_GROUP", OsString::from_vec(group.clone())),
            ("KVS_SOCKET", self.socket.clone().into()),
        ];
        variables
            .extend(self.callback_socket.clone().map(|path| ("KVS_CALLBACK_SOCKET", path.into())));
        variables.extend(self.secret_file.clone().map(|path| ("KVS_SECRET_FILE", path.into())));
        Ok(Member { connection, group, socket: self.socket.clone(), variables })
    }

    /// [`join`](Self::join), once.
    pub(crate) fn open(mut self, output: Output) -> Result<Member, Failure> {
        self.join(output)
    }

    fn find_secret(&self, group: &[u8], output: Output) -> Result<Secret, Failure> {
        if let Some(path) = &self.secret_file {
            let (secret, exposed) = Secret::read(path)?;
            if exposed {
                let shown = Quoted(path.as_os_str().as_bytes()).to_string();
                let sentence = format!(
                    "everybody on this machine may read the secret file {shown}: chmod 600 {shown}"
                );
                output.warning("exposed_secret", &sentence);
            }
            return Ok(secret);
        }
        // It is asked for at the terminal itself, so either of these may be elsewhere.
        if !io::stdin().is_terminal() && !io::stderr().is_terminal() {
            return Err(Failure::NoSecret { group: group.to_vec() });
        }
        match Secret::ask(group) {
            Ok(Some(secret)) => Ok(secret),
            Ok(None) => Err(Failure::NoSecret { group: group.to_vec() }),
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(Failure::Interrupted),
            // Nobody is there to be asked.
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                Err(Failure::NoSecret { group: group.to_vec() })
            }
            Err(error) => Err(Failure::Asking(error)),
        }
    }
}

impl Member {
    pub(crate) fn failure(&self, error: kvs::Error) -> Failure {
        Failure::of_library(error, &self.socket, &self.group)
    }
}
