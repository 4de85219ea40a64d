//! kvs through its own library, the crate `kvs`. No other module uses that library.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kvs::{Connection, Error as KvsError, PipelineResult, Protocol};

use super::client::{Client, Pipelined, check};
use crate::error::{Error, Result, failed};

/// The maximum length of a value in protocol v1, in bytes.
pub(crate) const MAX_V1_VALUE: usize = kvs_proto::MAX_TEXT;

/// The protocol of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvsProtocol {
    /// `docs/PROTOCOL.md` §7.
    V2,
    /// `docs/PROTOCOL.md` §1.
    V1,
}

impl KvsProtocol {
    /// Its name on the command line of the subscriber process.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V2 => "kvs",
            Self::V1 => "kvs-original",
        }
    }
}

/// A group on a local server, and its secret.
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
    session: KvsProtocol,
}

impl Kvs {
    /// Logs in to the group.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the server does not support the protocol.
    pub(crate) fn open(address: &Address, session: KvsProtocol) -> Result<Self> {
        let protocol = match session {
            KvsProtocol::V2 => Protocol::V2,
            KvsProtocol::V1 => Protocol::V1,
        };
        let connection = Connection::builder()
            .socket(&address.socket)
            .protocol(protocol)
            .open(&address.group, &address.secret)
            .map_err(|error| failure(session, "opening a connection", &error))?;
        if connection.protocol() != protocol {
            return Err(Error::Unavailable("the server does not support protocol v2".into()));
        }
        Ok(Self { connection, session })
    }

    /// Calls back for each put of the key.
    pub(crate) fn watch(
        &self,
        key: &[u8],
        callback: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<()> {
        let result = self.connection.watch(key, callback);
        result.map_err(|error| failure(self.session, "a watch", &error))
    }
}

fn failure(session: KvsProtocol, what: &str, error: &KvsError) -> Error {
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
        let responses = pipeline.run().map_err(failure)?;
        if responses.len() != keys.len() {
            return failed(format!(
                "kvs: {} responses to {} requests",
                responses.len(),
                keys.len()
            ));
        }
        for (key, response) in keys.iter().zip(responses) {
            match response {
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
