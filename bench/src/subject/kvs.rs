//! kvs through its own library, the crate `kvs`: the only module that knows that library.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kvs::{Connection, Error as KvsError, PipelineResult, Protocol};

use super::{Client, check};
use crate::error::{Error, Result, failed};
use crate::scenario::Pipelined;

/// The longest value of the original protocol in bytes.
pub(crate) const MAX_ORIGINAL_VALUE: usize = kvs_proto::MAX_TEXT;

/// Which of the two kinds of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Session {
    /// `docs/PROTOCOL.md` §7.
    Framed,
    /// `docs/PROTOCOL.md` §1.
    Original,
}

impl Session {
    /// Its name on the command line of the process that is told.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Framed => "framed",
            Self::Original => "original",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Framed => "kvs",
            Self::Original => "kvs-original",
        }
    }
}

/// How to enter a group.
#[derive(Debug, Clone, Args)]
pub(crate) struct Address {
    /// The path of the local server's main socket.
    pub(crate) socket: PathBuf,
    /// The group.
    pub(crate) group: String,
    /// Its secret.
    pub(crate) secret: String,
}

/// A connection.
pub(crate) struct Kvs {
    connection: Connection,
    session: Session,
}

impl Kvs {
    /// Enters the group.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the server has no such session.
    pub(crate) fn open(address: &Address, session: Session) -> Result<Self> {
        let protocol = match session {
            Session::Framed => Protocol::V2,
            Session::Original => Protocol::V1,
        };
        let connection = Connection::builder()
            .socket(&address.socket)
            .protocol(protocol)
            .open(&address.group, &address.secret)
            .map_err(|error| failure(session, "opening a connection", &error))?;
        if connection.protocol() != protocol {
            return Err(Error::Unavailable("the server has no framed session".into()));
        }
        Ok(Self { connection, session })
    }

    /// Calls back whenever somebody puts the key.
    pub(crate) fn watch(
        &self,
        key: &[u8],
        callback: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<()> {
        let result = self.connection.watch(key, callback);
        result.map_err(|error| failure(self.session, "a watch", &error))
    }
}

fn failure(session: Session, what: &str, error: &KvsError) -> Error {
    Error::Failed(format!("{}: {what}: {error}", session.name()))
}

impl Client for Kvs {
    fn get(&mut self, key: &[u8], len: usize) -> Result<()> {
        let value = self.connection.get(key);
        let value = value.map_err(|error| failure(self.session, "a get", &error))?;
        check(self.session.name(), key, value.as_ref().map(Vec::len), len)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let result = self.connection.put(key, value);
        result.map(drop).map_err(|error| failure(self.session, "a put", &error))
    }
}

impl Pipelined for Kvs {
    fn batch(&mut self, keys: &[Vec<u8>], value: &[u8], is_get: bool) -> Result<()> {
        let failure = |error| failure(self.session, "a pipeline", &error);
        let mut pipeline = self.connection.pipeline().map_err(failure)?;
        for key in keys {
            match is_get {
                true => pipeline.get(key).map_err(failure)?,
                false => pipeline.put(key, value).map_err(failure)?,
            };
        }
        let answers = pipeline.run().map_err(failure)?;
        if answers.len() != keys.len() {
            return failed(format!("kvs: {} answers to {} requests", answers.len(), keys.len()));
        }
        for (key, answer) in keys.iter().zip(answers) {
            match answer {
                PipelineResult::Value(found) if is_get => {
                    check("kvs", key, Some(found.value.len()), value.len())?;
                }
                PipelineResult::Done(_) if !is_get => {}
                PipelineResult::NoSuchKey => check("kvs", key, None, value.len())?,
                other => return failed(format!("kvs: {other:?} to a request of a pipeline")),
            }
        }
        Ok(())
    }
}
