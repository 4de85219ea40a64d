//! Pairs the callback connection of an application with its session.
//!
//! An application connects its callback channel after its session has received the secret. The two
//! connections arrive on different sockets, so either may be accepted first; whichever is first
//! waits here for the other. They belong together when the kernel reports the same process for both
//! and, because a process may log in several times at once, when their sockets are bound to paths
//! of the same number: `app_socket_17` pairs with `app_socket_cb_17`.
//!
//! Only the accepting reactor uses it, so it needs no lock. An unclaimed callback connection is
//! closed when its timeout expires or when too many wait; one whose peer has hung up is never
//! paired. A session whose application has abandoned the login returns the connection that it
//! received, because that was meant for the next login.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::local::net::connection::{AcceptedConnection, Peer, has_hung_up};
use crate::local::net::mailbox::{Address, Message, SessionId};

/// The most callback connections that wait for their session; beyond it, the oldest is closed.
const MAX_UNCLAIMED: usize = 4096;

/// The sessions and the callback connections that wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    sessions: Vec<(Peer, Address)>,
    /// In order of arrival, which is the order of their deadlines.
    callbacks: VecDeque<(AcceptedConnection, Instant)>,
}

impl Pairing {
    /// Sends the callback connection of `peer` to `address`, now or when it is accepted.
    pub(crate) fn add_session(&mut self, peer: Peer, address: Address) {
        // Each search removes what it finds: a process that leaves many dead connections behind
        // must not make every login search through all of them.
        while let Some(at) = self.callbacks.iter().position(|(theirs, _)| theirs.peer == peer) {
            match self.callbacks.remove(at) {
                // It belongs to an abandoned login.
                Some((connection, _)) if has_hung_up(&connection.stream) => {}
                Some((connection, _)) => return send(&address, connection),
                None => break,
            }
        }
        self.sessions.push((peer, address));
    }

    /// Forgets a session that waits.
    pub(crate) fn cancel(&mut self, session: SessionId) {
        self.sessions.retain(|(_, address)| address.session != session);
    }

    /// Sends a callback connection to its session, or keeps it for `timeout` until that session
    /// asks for it.
    pub(crate) fn add_callback(&mut self, connection: AcceptedConnection, timeout: Duration) {
        if let Some(at) = self.sessions.iter().position(|(peer, _)| *peer == connection.peer) {
            return send(&self.sessions.remove(at).1, connection);
        }
        if self.callbacks.len() >= MAX_UNCLAIMED {
            tracing::debug!(
                "oldest callback connection closed: more than {MAX_UNCLAIMED} wait for a login"
            );
            self.callbacks.pop_front();
        }
        self.callbacks.push_back((connection, Instant::now() + timeout));
    }

    /// When the oldest callback connection expires.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.callbacks.front().map(|(_, deadline)| *deadline)
    }

    /// Closes the callback connections that have expired.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            if let Some((connection, _)) = self.callbacks.pop_front() {
                let pid = connection.peer.pid;
                tracing::debug!(pid, "callback connection closed: no login has claimed it");
            }
        }
    }
}

fn send(address: &Address, connection: AcceptedConnection) {
    address.mailbox.send(Message::CallbackConnected(address.session, connection));
}
