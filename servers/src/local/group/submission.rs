//! The types by which sessions submit writes to a group and receive the outcome.

use std::fmt;
use std::sync::Arc;

use kvs_table::ExtentRef;

use crate::local::group::notifications::PendingNotifications;
use crate::local::group::outcome::Outcome;
use crate::local::group::subscriber::Subscriber;
use crate::local::limits::quota::UserQuota;

/// Receives the outcome of a submission that was pending. Called once, from any thread, with no
/// lock held.
pub(crate) type CompletionHandler = Box<dyn FnOnce(Outcome) + Send>;

/// The user that submits a write, and the receiver of an outcome that is pending.
pub(crate) struct Requester<'a> {
    /// The user who owns what is stored.
    pub(crate) user: &'a Arc<UserQuota>,
    /// Makes the receiver of the outcome. Called only for a submission that is pending.
    pub(crate) completion: &'a mut dyn FnMut() -> CompletionHandler,
}

impl fmt::Debug for Requester<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requester").field("user", self.user).finish_non_exhaustive()
    }
}

/// The result of a submission.
#[must_use]
#[derive(Debug)]
pub(crate) enum Submission {
    /// It is decided.
    Done(Applied),
    /// The store has not decided it yet. The requester's completion handler receives the outcome.
    Pending,
}

impl From<Outcome> for Submission {
    fn from(refusal: Outcome) -> Self {
        Self::Done(Applied::from(refusal))
    }
}

/// A decided write, and the effects that remain for when the group's lock is released.
#[must_use = "its subscribers must be notified"]
#[derive(Debug)]
pub(crate) struct Applied {
    outcome: Outcome,
    effects: Effects,
}

/// The effects of commits that remain for when the group's lock is released.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// The subscribers with new pending events, each once.
    pub(crate) subscribers: Vec<Arc<Subscriber>>,
    /// Replaced values. They may be long, so they are dropped after the lock is released.
    pub(crate) replaced: Vec<ExtentRef>,
}

impl Applied {
    /// What is left for when the group's lock is released, to be added to.
    pub(crate) fn effects(&mut self) -> &mut Effects {
        &mut self.effects
    }

    /// The number of subscribers to notify.
    pub(crate) fn fan_out(&self) -> usize {
        self.effects.subscribers.len()
    }

    /// Schedules the notification of the subscribers, and returns the outcome. The caller must hold
    /// no lock.
    pub(crate) fn schedule(self, notifications: &mut PendingNotifications) -> Outcome {
        notifications.schedule(self.effects.subscribers);
        self.outcome
    }
}

impl From<Outcome> for Applied {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, effects: Effects::default() }
    }
}
