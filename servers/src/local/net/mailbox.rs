//! Mailboxes: how other threads send messages to a reactor.
//!
//! A bottom layer: a message carries types of this layer or an opaque [`Task`], so that groups, the
//! link and the sessions can all send messages without a cycle between modules.
//!
//! Sending never blocks. The first message in an empty mailbox wakes the reactor; a reactor checks
//! its mailbox before it sleeps, so a message that it sends to itself needs no wake-up.

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};
use std::time::Duration;

use kvs_proto::Text;
use parking_lot::Mutex;

use crate::directory::Unavailable;
use crate::local::group::outcome::Outcome;
use crate::local::net::connection::{AcceptedConnection, Peer};

/// Identifies a session among all reactors for the lifetime of the server; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub u64);

/// A message to a reactor. Those that carry a [`SessionId`] are ignored when the session has ended
/// before they arrive.
#[derive(Debug)]
pub(crate) enum Message {
    /// Start a session on this connection.
    Serve(AcceptedConnection),
    /// To the accepting reactor: a session waits for its callback connection.
    AwaitCallback(Peer, Address),
    /// To the accepting reactor: the session no longer waits for a callback connection.
    CancelPairing(SessionId),
    /// To the accepting reactor: this callback connection belongs to another login.
    ReturnCallback(AcceptedConnection),
    /// The callback connection of a session.
    CallbackConnected(SessionId, AcceptedConnection),
    /// The secret of the group that a session logs in to; `None` if the authentication server has
    /// no such group.
    SecretReceived(SessionId, Result<Option<Text>, Unavailable>),
    /// The session used up its time slice, or may have more to read.
    Continue(SessionId),
    /// The session's subscriber has pending events.
    EventsPending(SessionId),
    /// The store has decided the session's write with this ticket.
    Committed(SessionId, u64, Outcome),
    /// Run this task for a time slice.
    Run(Box<dyn Task>),
    /// Ask the application to close its session.
    Close(SessionId),
    /// Ask all applications to close, and accept no further connections.
    CloseAll,
    /// End the reactor's thread.
    Stop,
}

/// Long work that a reactor does one time slice at a time, between the requests of its sessions.
pub(crate) trait Task: fmt::Debug + Send {
    /// Works for about `time_slice` and returns the task if some of it is left. The caller holds no
    /// lock.
    fn run(self: Box<Self>, time_slice: Duration) -> Option<Box<dyn Task>>;
}

/// The address of a session.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// The mailbox of the session's reactor.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The session.
    pub(crate) session: SessionId,
}

/// The mailbox of one reactor.
#[derive(Debug)]
pub(crate) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    waker: mio::Waker,
    owner: OnceLock<ThreadId>,
}

impl Mailbox {
    /// The mailbox of the reactor that `waker` wakes.
    pub(crate) fn new(waker: mio::Waker) -> Self {
        Self { messages: Mutex::default(), waker, owner: OnceLock::new() }
    }

    /// Makes the calling thread the owner, whose messages need no wake-up.
    pub(crate) fn own(&self) {
        // The reactor's thread calls this once, before anything else, so the cell is empty.
        let _ = self.owner.set(thread::current().id());
    }

    /// Appends a message. Never blocks.
    pub(crate) fn send(&self, message: Message) {
        let was_empty = {
            let mut messages = self.messages.lock();
            messages.push(message);
            messages.len() == 1
        };
        if was_empty
            && self.owner.get() != Some(&thread::current().id())
            && let Err(error) = self.waker.wake()
        {
            log_wake_error(&error);
        }
    }

    /// Whether a message waits.
    pub(crate) fn has_messages(&self) -> bool {
        !self.messages.lock().is_empty()
    }

    /// Removes all messages and returns them in order.
    pub(crate) fn take(&self) -> Vec<Message> {
        mem::take(&mut *self.messages.lock())
    }
}

/// An open eventfd can always be written to. If that fails nevertheless, the message waits until
/// the next event wakes the reactor.
fn log_wake_error(error: &io::Error) {
    tracing::error!("cannot wake a reactor; its messages wait for the next event: {error}");
}
