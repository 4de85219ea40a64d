//! A session after its login: the application's membership in its group.

use std::sync::Arc;
use std::time::Instant;

use crate::local::group::deferred_cleanup::DeferredCleanup;
use crate::local::group::group::Group;
use crate::local::group::subscriber::Subscriber;
use crate::local::net::context::Context;
use crate::local::net::mailbox::Message;
use crate::local::net::socket::Socket;
use crate::local::session::close_reason::{CLOSE_TIMEOUT, CloseReason};

/// The membership of an application in its group, in both protocols.
#[derive(Debug)]
pub(super) struct Active {
    /// The group.
    pub(super) group: Arc<Group>,
    /// The application's number in the group.
    pub(super) number: u64,
    /// The application's pending change events.
    pub(super) subscriber: Arc<Subscriber>,
    phase: SessionPhase,
}

#[derive(Debug, Clone, Copy)]
enum SessionPhase {
    Open,
    /// The server has asked the application to close its session, which must happen by then.
    Closing(Instant),
}

impl Active {
    /// An application that has just joined its group.
    pub(super) fn new(group: Arc<Group>, number: u64, subscriber: Arc<Subscriber>) -> Self {
        Self { group, number, subscriber, phase: SessionPhase::Open }
    }

    /// Whether the server has asked the application to close.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, SessionPhase::Closing(_))
    }

    /// The application must close its session within [`CLOSE_TIMEOUT`] from now on.
    pub(super) fn begin_closing(&mut self) {
        self.phase = SessionPhase::Closing(Instant::now() + CLOSE_TIMEOUT);
    }

    /// When the session is closed at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            SessionPhase::Open => None,
            SessionPhase::Closing(deadline) => Some(deadline),
        }
    }

    /// The reason to close when the main connection was lost.
    pub(super) fn connection_lost(&self) -> CloseReason {
        match self.phase {
            SessionPhase::Open => CloseReason::ConnectionLost,
            SessionPhase::Closing(_) => CloseReason::ClosedByServer,
        }
    }

    /// The reason to close when the application asks for it.
    pub(super) fn closed_by_client(&self) -> CloseReason {
        match self.phase {
            SessionPhase::Open => CloseReason::ClosedByClient,
            SessionPhase::Closing(_) => CloseReason::ClosedByServer,
        }
    }

    /// The callback connection was lost: events are no longer kept. The session goes on without,
    /// unless it is closing: then both connections end, in either order.
    pub(super) fn callback_lost(&self) -> Result<(), CloseReason> {
        self.subscriber.close();
        match self.phase {
            SessionPhase::Open => Ok(()),
            SessionPhase::Closing(_) => Err(CloseReason::ClosedByServer),
        }
    }

    /// Leaves the group. The connections are closed first: an administrator who waits for the group
    /// to become empty relies on it.
    pub(super) fn leave(self, main: Socket, callback: Option<Socket>, context: &Context) {
        self.subscriber.close();
        // Another thread may still hold the callback connection to write an event.
        if let Some(callback) = &callback {
            callback.shut_down();
        }
        drop((main, callback));
        if let Some(subscriptions) = self.group.leave(self.number) {
            let rest = DeferredCleanup { group: self.group, subscriptions };
            context.mailbox.send(Message::Run(Box::new(rest)));
        }
    }
}
