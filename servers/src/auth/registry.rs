//! Which groups there are: name → secret and owner.
//!
//! A group is owned by the link over which it was created, and every owner is a link that exists: whoever
//! forgets a link calls [`Registry::forget`] for it. Everybody may read every group, because an
//! application may be told the secret of its group on any machine. Only the owner may delete a group, or
//! another link of the owner's machine: after a restart of this server, two local servers of one machine
//! may each find themselves on the port that the other one had.
//!
//! When a local server has connected anew, its new link is the heir of the old one: its groups stay, so that
//! nobody else takes their names, and it registers them again. Those that it has not registered yet do not
//! exist for itself (it may be a new process, which knows nothing of them), and after a while for nobody.
//! It may also have registered them before it was recognised as the heir, because its greeting was late, and
//! been told that they exist: then they are *claimed*, and need not be registered again.
//!
//! No machine may own more than so many groups.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use kvs_proto::Text;
use kvs_proto::link::original::LinkDirectory;

use super::links::LinkId;

/// Who created a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) link: LinkId,
    pub(super) ip: IpAddr,
    /// Whose share it is part of.
    pub(super) machine: IpAddr,
}

struct Group {
    secret: Text,
    owner: Owner,
    /// The link of the same machine that wanted to create it last.
    claimed_by: Option<LinkId>,
    /// Its owner has inherited it and not registered it again.
    inherited: bool,
}

impl Group {
    /// Whether it does not exist for this link, whatever it is to others.
    fn is_free_for(&self, link: LinkId) -> bool {
        self.inherited && self.owner.link == link
    }
}

/// All groups of all local servers.
pub(super) struct Registry {
    groups: HashMap<Text, Group>,
    /// The names of the groups that a link owns, if any.
    by_link: HashMap<LinkId, HashSet<Text>>,
    /// How many groups a machine owns, if any.
    by_machine: HashMap<IpAddr, usize>,
    /// How many groups a machine may own.
    share: usize,
}

impl Registry {
    /// An empty one; `share` is how many groups a machine may own.
    pub(super) fn new(share: usize) -> Self {
        Self { groups: HashMap::new(), by_link: HashMap::new(), by_machine: HashMap::new(), share }
    }

    /// The groups as `visitor` may read and change them.
    pub(super) fn seen_by(&mut self, visitor: Owner) -> SeenBy<'_> {
        SeenBy { registry: self, visitor }
    }

    /// Removes all groups of `link` and returns their names.
    pub(super) fn forget(&mut self, link: LinkId) -> Vec<Text> {
        let names: Vec<Text> = self.by_link.remove(&link).into_iter().flatten().collect();
        for name in &names {
            self.remove(name);
        }
        names
    }

    /// Gives all groups of a link to its heir. Returns whether there are any that the heir has not claimed:
    /// see [`forget_inherited`](Self::forget_inherited).
    pub(super) fn hand_over(&mut self, from: LinkId, heir: LinkId) -> bool {
        let mut unclaimed = false;
        for name in self.by_link.remove(&from).unwrap_or_default() {
            if let Some(group) = self.groups.get_mut(&name) {
                group.owner.link = heir;
                group.inherited = group.claimed_by != Some(heir);
                unclaimed |= group.inherited;
                self.by_link.entry(heir).or_default().insert(name);
            }
        }
        unclaimed
    }

    /// Removes the groups that `heir` has inherited and not registered again, and returns their names.
    pub(super) fn forget_inherited(&mut self, heir: LinkId) -> Vec<Text> {
        let inherited = |name: &&Text| self.groups.get(*name).is_some_and(|group| group.inherited);
        let names: Vec<Text> =
            self.by_link.get(&heir).into_iter().flatten().filter(inherited).copied().collect();
        for name in &names {
            self.remove(name);
        }
        names
    }

    /// Whether `link` owns a group.
    pub(super) fn owns(&self, link: LinkId) -> bool {
        self.by_link.contains_key(&link)
    }

    fn insert(&mut self, name: Text, secret: Text, owner: Owner) {
        self.remove(&name);
        self.groups.insert(name, Group { secret, owner, claimed_by: None, inherited: false });
        self.by_link.entry(owner.link).or_default().insert(name);
        *self.by_machine.entry(owner.machine).or_default() += 1;
    }

    fn remove(&mut self, name: &Text) {
        let Some(Group { owner, .. }) = self.groups.remove(name) else { return };
        if let Some(names) = self.by_link.get_mut(&owner.link) {
            names.remove(name);
            if names.is_empty() {
                self.by_link.remove(&owner.link);
            }
        }
        let machine = owner.machine;
        if let Some(count) = self.by_machine.get_mut(&machine) {
            *count -= 1;
            if *count == 0 {
                self.by_machine.remove(&machine);
            }
        }
    }
}

/// The [`LinkDirectory`] of one link.
pub(super) struct SeenBy<'a> {
    registry: &'a mut Registry,
    visitor: Owner,
}

impl SeenBy<'_> {
    /// The group, if it exists for the visitor.
    fn get(&self, name: &Text) -> Option<&Group> {
        self.registry.groups.get(name).filter(|group| !group.is_free_for(self.visitor.link))
    }
}

impl LinkDirectory for SeenBy<'_> {
    fn secret(&self, name: &Text) -> Option<Text> {
        self.get(name).map(|group| group.secret)
    }

    fn insert(&mut self, name: Text, secret: Text) -> bool {
        let free = self.get(&name).is_none();
        if free {
            self.registry.insert(name, secret, self.visitor);
        }
        free
    }

    fn remove(&mut self, name: &Text) -> bool {
        let visitor = self.visitor;
        if self.registry.groups.get(name).is_some_and(|group| group.is_free_for(visitor.link)) {
            // It does not want what it has inherited: nobody has to wait until that is forgotten.
            self.registry.remove(name);
            return false;
        }
        let allowed = self
            .get(name)
            .is_some_and(|group| group.owner.link == visitor.link || group.owner.ip == visitor.ip);
        if allowed {
            self.registry.remove(name);
        }
        allowed
    }

    fn has_quota_for(&self, name: &Text) -> bool {
        let owned = self.registry.by_machine.get(&self.visitor.machine);
        owned.is_none_or(|owned| *owned < self.registry.share)
            // It takes the place of one that is counted.
            || self.registry.groups.contains_key(name)
    }

    fn name_taken(&mut self, name: &Text) {
        if let Some(group) = self.registry.groups.get_mut(name)
            && group.owner.ip == self.visitor.ip
        {
            group.claimed_by = Some(self.visitor.link);
        }
    }
}
