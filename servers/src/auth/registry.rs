//! Which groups there are: name → secret and owner.
//!
//! A group is owned by the link over which it was created, and every owner is a link that exists: whoever
//! forgets a link calls [`Registry::forget`] for it. Everybody may read every group, because an
//! application may be told the secret of its group on any machine. Only the owner may delete a group, or
//! another link of the owner's machine: after a restart of this server, two local servers of one machine
//! may each find themselves on the port that the other one had.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use kvs_proto::Text;
use kvs_proto::auth::Groups;

use super::links::LinkId;

/// Who created a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) link: LinkId,
    pub(super) ip: IpAddr,
}

struct Group {
    secret: Text,
    owner: Owner,
}

/// All groups of all local servers.
#[derive(Default)]
pub(super) struct Registry {
    groups: HashMap<Text, Group>,
}

impl Registry {
    /// The groups as `visitor` may read and change them.
    pub(super) fn seen_by(&mut self, visitor: Owner) -> SeenBy<'_> {
        SeenBy { registry: self, visitor }
    }

    /// Removes all groups of `link` and returns their names.
    pub(super) fn forget(&mut self, link: LinkId) -> Vec<Text> {
        self.groups.extract_if(|_, group| group.owner.link == link).map(|(name, _)| name).collect()
    }

    /// The links that own at least one group.
    pub(super) fn owners(&self) -> HashSet<LinkId> {
        self.groups.values().map(|group| group.owner.link).collect()
    }
}

/// The [`Groups`] of one link.
pub(super) struct SeenBy<'a> {
    registry: &'a mut Registry,
    visitor: Owner,
}

impl Groups for SeenBy<'_> {
    fn secret(&self, name: &Text) -> Option<Text> {
        self.registry.groups.get(name).map(|group| group.secret)
    }

    fn insert(&mut self, name: Text, secret: Text) -> bool {
        let free = !self.registry.groups.contains_key(&name);
        if free {
            self.registry.groups.insert(name, Group { secret, owner: self.visitor });
        }
        free
    }

    fn remove(&mut self, name: &Text) -> bool {
        let visitor = self.visitor;
        let allowed =
            self.registry.groups.get(name).is_some_and(|group| {
                group.owner.link == visitor.link || group.owner.ip == visitor.ip
            });
        allowed && self.registry.groups.remove(name).is_some()
    }
}
