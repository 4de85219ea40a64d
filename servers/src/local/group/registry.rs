//! All groups of this local server, by name.
//!
//! A new group begins empty: it does not [recover](kvs_store::Store::recover) what its store kept
//! in an earlier life of the group.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use kvs_proto::Text;
use kvs_store::{MemoryStore, Store};
use parking_lot::RwLock;

use crate::local::group::group::Group;

/// Makes the store of a group with this name.
pub(crate) type StoreFactory = Box<dyn Fn(&Text) -> Box<dyn Store> + Send + Sync>;

/// All groups.
pub(crate) struct Groups {
    groups: RwLock<HashMap<Text, Arc<Group>>>,
    store_factory: StoreFactory,
}

impl Default for Groups {
    /// No groups yet; each keeps its pairs in memory only.
    fn default() -> Self {
        Self::new(Box::new(|_| Box::new(MemoryStore::default())))
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Groups {
    /// No groups yet; each gets a store from `store_factory`.
    pub(crate) fn new(store_factory: StoreFactory) -> Self {
        Self { groups: RwLock::default(), store_factory }
    }

    /// A group that applications may join.
    pub(crate) fn open_group(&self, name: &Text) -> Option<Arc<Group>> {
        self.find(name).filter(|group| group.is_open())
    }

    /// A group, open or closing.
    pub(crate) fn find(&self, name: &Text) -> Option<Arc<Group>> {
        self.groups.read().get(name).cloned()
    }

    /// Adds a group that the authentication server has accepted.
    pub(crate) fn add(&self, name: Text, secret: Text) {
        let store = (self.store_factory)(&name);
        let group = Arc::new(Group::new(name, secret, store));
        self.groups.write().insert(name, group);
    }

    /// Removes a group and its pairs, even if a session still has a reference to it.
    pub(crate) fn remove(&self, name: &Text) {
        let removed = self.groups.write().remove(name);
        if let Some(group) = removed {
            group.clear();
        }
    }

    /// All groups, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self.groups.read().values().cloned().collect();
        groups.sort_by_key(|group| group.created());
        groups
    }
}
