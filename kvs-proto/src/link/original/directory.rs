//! The groups of an authentication server, as one link sees them.

use crate::text::Text;

/// The groups that a [`CommandPort`](super::server::CommandPort) reads and changes on behalf of one
/// link.
pub trait LinkDirectory {
    /// The secret of a group that exists.
    fn secret(&self, name: &Text) -> Option<Text>;
    /// Stores a group; `false` when the name is taken.
    fn insert(&mut self, name: Text, secret: Text) -> bool;
    /// Deletes a group; `false` when no group of that name exists that this link may delete.
    fn remove(&mut self, name: &Text) -> bool;
    /// Whether the quota of this link allows this new group, whose name is free. If not, the
    /// response is that the name is taken: the original protocol has no other refusal.
    fn has_quota_for(&self, _name: &Text) -> bool {
        true
    }
    /// Reports that this link requested a new group under a name that is taken.
    fn name_taken(&mut self, _name: &Text) {}
}

/// A change that one datagram made on a command port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A group was stored.
    Created(Text),
    /// A group was deleted.
    Deleted(Text),
    /// The local server has disconnected.
    Closed,
}
