//! The table of groups: name → secret and owner. The [`Directory`] of the authentication server.
//!
//! Every group is owned by an open link: when a link is closed, [`Registry::remove_link`] is called
//! for it. Every link may read every group, because an application may join its group on any
//! machine. A group may be deleted by its owner or by another link of the owner's machine: after a
//! restart of this server, two local servers of one machine may each be given the port that the
//! other one had.
//!
//! A local server that reconnects has a new link, the *successor* of the old one. The successor
//! inherits the groups of the old link, so that their names stay taken, and registers them again.
//! An inherited group that is not registered yet does not exist for the successor itself, which may
//! be a new process that knows nothing of it; after a timeout it is removed. A local server may
//! also register a group before its new link is known to be a successor (its `Connect_2` was late),
//! and be answered that the group exists. Such a group is *claimed*: it need not be registered
//! again.
//!
//! The number of groups of one machine is limited.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use kvs_proto::Text;
use kvs_proto::link::original::LinkDirectory;
use parking_lot::Mutex;

use super::port::LinkId;
use crate::directory::{Completion, Directory, Unavailable};

/// The link that reads and changes the directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkIdentity {
    pub(super) link: LinkId,
    pub(super) ip: IpAddr,
    /// The machine whose share of groups is charged.
    pub(super) machine: IpAddr,
}

struct RegisteredGroup {
    secret: Text,
    owner: LinkIdentity,
    /// The link of the same machine that last tried to create the group.
    claimed_by: Option<LinkId>,
    /// The owner has inherited the group and not registered it again.
    is_inherited: bool,
}

impl RegisteredGroup {
    /// Whether this link may create the group, although the name is taken for all other links.
    fn is_free_for(&self, link: LinkId) -> bool {
        self.is_inherited && self.owner.link == link
    }
}

/// All groups of all local servers. Clones are the same table.
#[derive(Clone)]
pub(super) struct Registry {
    table: Arc<Mutex<GroupTable>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// An empty table in which one machine may own `groups_per_machine` groups.
    pub(super) fn new(groups_per_machine: usize) -> Self {
        Self { table: Arc::new(Mutex::new(GroupTable::new(groups_per_machine))) }
    }

    /// The directory as `link` may read and change it.
    pub(super) fn view(&self, link: LinkIdentity) -> LinkView {
        LinkView { registry: self.clone(), link }
    }

    /// Removes all groups of `link` and returns their names.
    pub(super) fn remove_link(&self, link: LinkId) -> Vec<Text> {
        let table = &mut *self.table.lock();
        let names: Vec<Text> = table.by_link.remove(&link).into_iter().flatten().collect();
        for name in &names {
            table.remove(name);
        }
        names
    }

    /// Moves all groups of `link` to its successor. Returns whether there are any that the
    /// successor has not claimed: see [`remove_inherited`](Self::remove_inherited).
    pub(super) fn inherit(&self, link: LinkId, successor: LinkId) -> bool {
        let table = &mut *self.table.lock();
        let mut any_unclaimed = false;
        for name in table.by_link.remove(&link).unwrap_or_default() {
            if let Some(group) = table.groups.get_mut(&name) {
                group.owner.link = successor;
                group.is_inherited = group.claimed_by != Some(successor);
                any_unclaimed |= group.is_inherited;
                table.by_link.entry(successor).or_default().insert(name);
            }
        }
        any_unclaimed
    }

    /// Removes the groups that `link` has inherited and not registered again. Returns their names.
    pub(super) fn remove_inherited(&self, link: LinkId) -> Vec<Text> {
        let table = &mut *self.table.lock();
        let is_inherited =
            |name: &&Text| table.groups.get(*name).is_some_and(|group| group.is_inherited);
        let names: Vec<Text> =
            table.by_link.get(&link).into_iter().flatten().filter(is_inherited).copied().collect();
        for name in &names {
            table.remove(name);
        }
        names
    }

    /// Whether `link` owns a group.
    pub(super) fn owns_any(&self, link: LinkId) -> bool {
        self.table.lock().by_link.contains_key(&link)
    }
}

struct GroupTable {
    groups: HashMap<Text, RegisteredGroup>,
    /// The names of the groups that a link owns; no entry for a link without groups.
    by_link: HashMap<LinkId, HashSet<Text>>,
    /// How many groups a machine owns; no entry for a machine without groups.
    by_machine: HashMap<IpAddr, usize>,
    groups_per_machine: usize,
}

impl GroupTable {
    fn new(groups_per_machine: usize) -> Self {
        Self {
            groups: HashMap::new(),
            by_link: HashMap::new(),
            by_machine: HashMap::new(),
            groups_per_machine,
        }
    }

    /// The group, if it exists for `link`.
    fn get(&self, name: &Text, link: LinkId) -> Option<&RegisteredGroup> {
        self.groups.get(name).filter(|group| !group.is_free_for(link))
    }

    /// Creates a group; `false` when its name is taken for `owner`.
    fn create(&mut self, name: Text, secret: Text, owner: LinkIdentity) -> bool {
        let is_free = self.get(&name, owner.link).is_none();
        if is_free {
            self.remove(&name);
            self.groups.insert(
                name,
                RegisteredGroup { secret, owner, claimed_by: None, is_inherited: false },
            );
            self.by_link.entry(owner.link).or_default().insert(name);
            *self.by_machine.entry(owner.machine).or_default() += 1;
        }
        is_free
    }

    /// Deletes a group; `false` when there is none that `link` may delete.
    fn delete(&mut self, name: &Text, link: LinkIdentity) -> bool {
        let Some(group) = self.groups.get(name) else { return false };
        let exists = !group.is_free_for(link.link);
        let is_allowed = group.owner.link == link.link || group.owner.ip == link.ip;
        if is_allowed {
            // A group that `link` has inherited and deletes is removed at once, not after the
            // timeout. It did not exist for `link`, so the response is still "no such group".
            self.remove(name);
        }
        exists && is_allowed
    }

    /// Whether the machine of `link` may store this group.
    fn has_capacity(&self, name: &Text, link: LinkIdentity) -> bool {
        let owned = self.by_machine.get(&link.machine);
        owned.is_none_or(|owned| *owned < self.groups_per_machine)
            // The group replaces one that is counted already.
            || self.groups.contains_key(name)
    }

    fn claim(&mut self, name: &Text, link: LinkIdentity) {
        if let Some(group) = self.groups.get_mut(name)
            && group.owner.ip == link.ip
        {
            group.claimed_by = Some(link.link);
        }
    }

    fn remove(&mut self, name: &Text) {
        let Some(RegisteredGroup { owner, .. }) = self.groups.remove(name) else { return };
        if let Some(names) = self.by_link.get_mut(&owner.link) {
            names.remove(name);
            if names.is_empty() {
                self.by_link.remove(&owner.link);
            }
        }
        if let Some(count) = self.by_machine.get_mut(&owner.machine) {
            *count -= 1;
            if *count == 0 {
                self.by_machine.remove(&owner.machine);
            }
        }
    }
}

/// The directory as one link may read and change it.
///
/// As a [`LinkDirectory`] it serves the link's command port: the few operations that the UDP
/// protocol needs, which complete at once. As a [`Directory`] it serves a local server in the same
/// process.
#[derive(Debug, Clone)]
pub(super) struct LinkView {
    registry: Registry,
    link: LinkIdentity,
}

impl LinkDirectory for LinkView {
    fn secret(&self, name: &Text) -> Option<Text> {
        self.registry.table.lock().get(name, self.link.link).map(|group| group.secret)
    }

    fn insert(&mut self, name: Text, secret: Text) -> bool {
        self.registry.table.lock().create(name, secret, self.link)
    }

    fn remove(&mut self, name: &Text) -> bool {
        self.registry.table.lock().delete(name, self.link)
    }

    fn has_quota_for(&self, name: &Text) -> bool {
        self.registry.table.lock().has_capacity(name, self.link)
    }

    fn name_taken(&mut self, name: &Text) {
        self.registry.table.lock().claim(name, self.link);
    }
}

impl Directory for LinkView {
    fn secret(&self, name: Text, done: Completion<Option<Text>>) {
        let secret = LinkDirectory::secret(self, &name);
        done(Ok(secret));
    }

    fn create(&self, name: Text, secret: Text, done: Completion<bool>) {
        let result = {
            let table = &mut *self.registry.table.lock();
            let is_taken = table.get(&name, self.link.link).is_some();
            if is_taken || table.has_capacity(&name, self.link) {
                Ok(table.create(name, secret, self.link))
            } else {
                Err(Unavailable::Refused("in this process".into()))
            }
        };
        // After the lock is released: the completion may use the directory.
        done(result);
    }

    fn delete(&self, name: Text, done: Completion<()>) {
        self.registry.table.lock().delete(&name, self.link);
        done(Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::wait;

    fn text(s: &str) -> Text {
        Text::new(s.as_bytes()).unwrap()
    }

    fn link(id: usize, machine: u8) -> LinkIdentity {
        let ip = IpAddr::from([192, 0, 2, machine]);
        LinkIdentity { link: LinkId(id), ip, machine: ip }
    }

    #[test]
    fn directory_creates_finds_and_deletes_groups() {
        let registry = Registry::new(2);
        let directories: [&dyn Directory; 2] =
            [&registry.view(link(0, 1)), &registry.view(link(1, 2))];
        let [owner, other] = directories;
        let secret = |of: &dyn Directory, name| wait(|done| of.secret(text(name), done)).unwrap();
        let create =
            |of: &dyn Directory, name| wait(|done| of.create(text(name), text("abc"), done));
        assert_eq!(secret(owner, "g"), None);
        assert!(create(owner, "g").unwrap());
        assert!(!create(owner, "g").unwrap());
        assert!(!create(other, "g").unwrap());
        assert_eq!(secret(other, "g"), Some(text("abc")));
        // Another machine may not delete it, but its request is not an error.
        wait(|done| other.delete(text("g"), done)).unwrap();
        assert_eq!(secret(owner, "g"), Some(text("abc")));
        // One machine has two groups at most. A taken name is still reported as taken.
        assert!(create(owner, "h").unwrap());
        assert!(matches!(create(owner, "i"), Err(Unavailable::Refused(_))));
        assert!(!create(owner, "h").unwrap());
        wait(|done| owner.delete(text("g"), done)).unwrap();
        assert_eq!(secret(other, "g"), None);
        assert!(create(owner, "i").unwrap());
    }

    #[test]
    fn completion_may_use_the_directory() {
        let view = Registry::new(10).view(link(0, 1));
        let again = view.clone();
        let found = wait(|done| {
            view.create(
                text("g"),
                text("abc"),
                Box::new(move |_| Directory::secret(&again, text("g"), done)),
            );
        });
        assert_eq!(found.unwrap(), Some(text("abc")));
    }
}
