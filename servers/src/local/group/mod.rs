//! Groups: members, pairs, subscriptions, and the pending events of a subscriber.

pub(crate) mod commits;
pub(crate) mod deferred_cleanup;
pub(crate) mod fingerprint;
#[allow(clippy::module_inception)]
pub(crate) mod group;
pub(crate) mod members;
pub(crate) mod notifications;
pub(crate) mod outcome;
#[cfg(test)]
mod pending_tests;
pub(crate) mod registry;
pub(crate) mod state;
pub(crate) mod submission;
pub(crate) mod subscriber;
pub(crate) mod subscriptions;
