//! The measured systems.

use clap::ValueEnum;
use serde::Serialize;

/// A measured system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// kvs with protocol v2
    Kvs,
    /// kvs with protocol v1, whose puts have no response
    KvsOriginal,
    /// Redis over a UNIX socket, through hiredis
    Redis,
    /// memcached over a UNIX socket, through libmemcached
    Memcached,
    /// LMDB, in the process itself
    Lmdb,
    /// As many bytes as a get of kvs, to another process and back
    Floor,
}

impl System {
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
