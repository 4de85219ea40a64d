//! LMDB through the crate `heed`: a database in the process itself, without any server.
//!
//! Every get is a read transaction and every put a write transaction of its own, as a program that
//! shares the data with others needs them. Nothing is flushed to the disk (`MDB_NOSYNC`), as none
//! of the other systems does so, and the pages are written through the memory map (`MDB_WRITEMAP`).

use std::path::Path;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, WithTls};

use super::client::{Client, check};
use crate::error::{Error, IoContext, Result};

/// How the environment is opened, for the report.
pub(crate) const SETTINGS: &str = "MDB_NOSYNC, MDB_WRITEMAP, a transaction for each operation";

/// Address space, of which only what is used takes memory or disk.
const MAP_SIZE: usize = 4 << 30;

/// An environment with one database.
pub(crate) struct Lmdb {
    env: Env<WithTls>,
    database: Database<Bytes, Bytes>,
}

fn error(what: &str) -> impl FnOnce(heed::Error) -> Error {
    move |error| Error::Failed(format!("lmdb: {what}: {error}"))
}

impl Lmdb {
    /// Creates an environment in an empty directory.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir(dir).io_context(|| format!("making {}", dir.display()))?;
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_SIZE);
        // SAFETY: with these flags, what was written last may be lost or damaged when the system
        // crashes. The directory is temporary and is not opened after this run.
        unsafe { options.flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP) };
        // SAFETY: this program has just created the directory under a random name. No other process
        // changes the file beneath the memory map, and it is opened once.
        let env = unsafe { options.open(dir) }.map_err(error("opening the environment"))?;
        let mut writing = env.write_txn().map_err(error("a write transaction"))?;
        let database =
            env.create_database(&mut writing, None).map_err(error("making the database"))?;
        writing.commit().map_err(error("a commit"))?;
        Ok(Self { env, database })
    }

    /// The version of the library.
    pub(crate) fn version() -> String {
        let version = heed::lmdb_version();
        format!("{}.{}.{}", version.major, version.minor, version.patch)
    }

    /// Stores many pairs with one transaction.
    pub(crate) fn load(&mut self, keys: impl Iterator<Item = Vec<u8>>, value: &[u8]) -> Result<()> {
        let mut writing = self.env.write_txn().map_err(error("a write transaction"))?;
        for key in keys {
            self.database.put(&mut writing, &key, value).map_err(error("a put"))?;
        }
        writing.commit().map_err(error("a commit"))
    }
}

impl Client for Lmdb {
    fn get(&mut self, key: &[u8], len: usize) -> Result<()> {
        let reading = self.env.read_txn().map_err(error("a read transaction"))?;
        let found = self.database.get(&reading, key).map_err(error("a get"))?;
        // The other clients return a copy.
        let found = found.map(<[u8]>::to_vec);
        check("lmdb", key, found.as_ref().map(Vec::len), len)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut writing = self.env.write_txn().map_err(error("a write transaction"))?;
        self.database.put(&mut writing, key, value).map_err(error("a put"))?;
        writing.commit().map_err(error("a commit"))
    }
}
