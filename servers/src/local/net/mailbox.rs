//! How other threads speak to a reactor: messages in a box, and a wake-up when it was empty.
//!
//! A reactor looks into its box before it sleeps, so what it sends to itself needs no wake-up.

use std::io;
use std::mem;
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use crate::directory::Unavailable;
use crate::local::group::deferred_cleanup::DeferredCleanup;
use crate::local::net::pairing::{Arrival, Peer};
use kvs_proto::Text;

/// Identifies a session for as long as the server runs; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub u64);

/// What a reactor can be told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Serve this connection from now on.
    Serve(Arrival),
    /// To the accepting reactor: a session waits for its callback connection.
    AwaitCallback(Peer, Address),
    /// To the accepting reactor: it waits no more.
    ForgetCallback(SessionId),
    /// To the accepting reactor: the session has no use for its callback connection.
    ReturnCallback(Arrival),
    /// The callback connection of a session is here.
    Callback(SessionId, Arrival),
    /// What the authentication server says is the secret of the group that a session wants into; `None`:
    /// it knows no such group.
    Secret(SessionId, Result<Option<Text>, Unavailable>),
    /// An application has sent more than a session takes in one turn.
    More(SessionId),
    /// Keys that a session watches have changed.
    Changes(SessionId),
    /// Clear this away, little by little.
    Clear(DeferredCleanup),
    /// Tell the application to close, and close.
    Close(SessionId),
    /// Tell all applications to close, close, and accept no new ones.
    CloseAll,
    /// End the thread.
    Stop,
}

/// Where to reach a session.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// The box of its reactor.
    pub(crate) mailbox: std::sync::Arc<Mailbox>,
    /// Its number.
    pub(crate) session: SessionId,
}

/// The box of one reactor.
#[derive(Debug)]
pub(crate) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    waker: mio::Waker,
    owner: OnceLock<ThreadId>,
}

impl Mailbox {
    /// For the reactor that `waker` wakes.
    pub(crate) fn new(waker: mio::Waker) -> Self {
        Self { messages: Mutex::default(), waker, owner: OnceLock::new() }
    }

    /// Makes the calling thread the one that needs no wake-up.
    pub(crate) fn own(&self) {
        // It is called once, first thing by the reactor's thread.
        let _ = self.owner.set(thread::current().id());
    }

    /// Puts a message in. Never waits.
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

    /// Whether there is a message.
    pub(crate) fn has_messages(&self) -> bool {
        !self.messages.lock().is_empty()
    }

    /// Takes all messages out, in order.
    pub(crate) fn take(&self) -> Vec<Message> {
        mem::take(&mut *self.messages.lock())
    }
}

/// An eventfd that is open can always be written to; if not, the next event wakes the reactor.
fn log_wake_error(error: &io::Error) {
    tracing::error!("a reactor could not be woken: {error}");
}
