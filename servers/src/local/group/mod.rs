//! Groups: who is in, what is stored, who is subscribed, and the pending events of a subscriber.

pub(crate) mod deferred_cleanup;
pub(crate) mod fingerprint;
pub(crate) mod registry;
pub(crate) mod subscriber;
pub(crate) mod subscriptions;
