//! The watches of one connection.

use std::collections::{BTreeMap, HashMap};

use kvs_proto::v2::Version;
use kvs_proto::v2::request::WatchTarget;

use super::callback::WatchCallback;

/// A [`WatchTarget`] that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedTarget {
    Key(Box<[u8]>),
    Prefix(Box<[u8]>),
}

impl OwnedTarget {
    pub(crate) fn as_target(&self) -> WatchTarget<'_> {
        match self {
            Self::Key(key) => WatchTarget::Key(key),
            Self::Prefix(prefix) => WatchTarget::Prefix(prefix),
        }
    }
}

/// The callback for a key or a prefix.
#[derive(Debug, Clone)]
pub(crate) struct RegisteredWatch {
    pub(crate) callback: WatchCallback,
    /// The watch reports changes with greater versions only: others were made before there was a
    /// watch. `None` while the server's response to the watch request is outstanding.
    pub(crate) since: Option<Version>,
}

/// All watches, by target.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    keys: HashMap<Box<[u8]>, RegisteredWatch>,
    prefixes: BTreeMap<Box<[u8]>, RegisteredWatch>,
}

impl Watches {
    /// Adds a watch and returns the one that it replaces.
    pub(crate) fn insert(
        &mut self,
        target: WatchTarget<'_>,
        watch: RegisteredWatch,
    ) -> Option<RegisteredWatch> {
        match target {
            WatchTarget::Key(key) => self.keys.insert(key.into(), watch),
            WatchTarget::Prefix(prefix) => self.prefixes.insert(prefix.into(), watch),
        }
    }

    pub(crate) fn get(&self, target: WatchTarget<'_>) -> Option<&RegisteredWatch> {
        match target {
            WatchTarget::Key(key) => self.keys.get(key),
            WatchTarget::Prefix(prefix) => self.prefixes.get(prefix),
        }
    }

    pub(crate) fn get_mut(&mut self, target: WatchTarget<'_>) -> Option<&mut RegisteredWatch> {
        match target {
            WatchTarget::Key(key) => self.keys.get_mut(key),
            WatchTarget::Prefix(prefix) => self.prefixes.get_mut(prefix),
        }
    }

    pub(crate) fn remove(&mut self, target: WatchTarget<'_>) -> Option<RegisteredWatch> {
        match target {
            WatchTarget::Key(key) => self.keys.remove(key),
            WatchTarget::Prefix(prefix) => self.prefixes.remove(prefix),
        }
    }

    /// The watched prefixes with which `key` begins.
    pub(crate) fn prefixes_of<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.prefixes.keys().map(|prefix| &**prefix).filter(|prefix| key.starts_with(prefix))
    }
}
