//! Who is measured, each through the client library that its users would take.
//!
//! What a scenario needs of a subject is a [`Client`]: one connection (or, of LMDB, one handle), one operation
//! at a time, done when the call returns. A client checks what it is answered, so that nothing is measured
//! that did not work: a get must find a value of the right length.

pub(crate) mod floor;
pub(crate) mod kvs;
pub(crate) mod lmdb;
#[cfg(feature = "memcached")]
pub(crate) mod memcached;
#[cfg(feature = "redis")]
pub(crate) mod redis;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Result, failed};

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// kvs by its framed session
    Kvs,
    /// kvs by the original protocol, whose puts are not acknowledged
    KvsOriginal,
    /// Redis over a UNIX socket, through hiredis
    Redis,
    /// memcached over a UNIX socket, through libmemcached
    Memcached,
    /// LMDB, in the process itself
    Lmdb,
    /// As many bytes as a get of kvs, to another process and back, and nothing else
    Floor,
}

impl Subject {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvs => "kvs",
            Self::KvsOriginal => "kvs-original",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
            Self::Lmdb => "lmdb",
            Self::Floor => "floor",
        }
    }
}

/// One user of a subject.
pub(crate) trait Client {
    /// Gets the value of a key that exists, which must be so long.
    fn get(&mut self, key: &[u8], len: usize) -> Result<()>;

    /// Stores a value, and waits for the acknowledgment if the subject has one.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
}

/// Whether a get has found what was stored.
pub(crate) fn check(subject: &str, key: &[u8], found: Option<usize>, len: usize) -> Result<()> {
    match found {
        Some(found) if found == len => Ok(()),
        Some(found) => failed(format!(
            "{subject}: the value of {} has {found} bytes instead of {len}",
            key.escape_ascii()
        )),
        None => failed(format!("{subject}: there is no {}, which was stored", key.escape_ascii())),
    }
}
