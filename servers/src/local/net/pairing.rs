//! Brings the two connections of an application together.
//!
//! An application connects its callback channel when its session has got the secret, but the two come in
//! on different sockets, so either may be seen first. What comes first waits here for the other. They
//! belong together when the kernel says that both come from the same process and, as a process may log in
//! several times at once, when their sockets are bound to paths of the same name: `app_socket_17` goes
//! with `app_socket_cb_17`.
//!
//! It belongs to the reactor that accepts, and needs no lock. Callback connections that nobody claims are
//! closed after a while, or when there are too many; those whose peer has hung up are never handed out. A
//! session whose application has given up hands what it gets back: it was meant for the next login.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::local::limits::quota::ConnectionPermit;
use crate::local::net::mailbox::{Address, Message, SessionId};
use crate::local::net::socket::has_hung_up;

/// The callback connections that may wait; the oldest are closed first.
const UNCLAIMED: usize = 4096;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The process that connected, as the kernel says.
    pub(crate) pid: i32,
    /// The user that it runs under.
    pub(crate) uid: u32,
    /// What its socket is bound to, after `app_socket_` or `app_socket_cb_`.
    name: Option<Vec<u8>>,
}

impl Peer {
    /// Reads it off a connection.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn of(stream: &UnixStream) -> nix::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let name = stream.peer_addr().ok().and_then(|address| {
            let file = address.as_pathname()?.file_name()?.as_encoded_bytes();
            let number = file
                .strip_prefix(b"app_socket_cb_")
                .or_else(|| file.strip_prefix(b"app_socket_"))?;
            Some(number.to_vec())
        });
        Ok(Self { pid: credentials.pid(), uid: credentials.uid(), name })
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The connection.
    pub(crate) stream: UnixStream,
    /// Who is at its other end.
    pub(crate) peer: Peer,
    /// Stands for it as long as it is open.
    pub(crate) place: ConnectionPermit,
}

/// The waiting room.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    sessions: Vec<(Peer, Address)>,
    /// In the order of arrival, and so of their deadlines.
    callbacks: VecDeque<(Arrival, Instant)>,
}

impl Pairing {
    /// A session waits for its callback connection.
    pub(crate) fn session(&mut self, peer: Peer, address: Address) {
        // Each look takes one out: a process that leaves many behind must not make every login look at all.
        while let Some(at) = self.callbacks.iter().position(|(theirs, _)| theirs.peer == peer) {
            match self.callbacks.remove(at) {
                // It belongs to a login that was given up.
                Some((arrival, _)) if has_hung_up(&arrival.stream) => {}
                Some((arrival, _)) => return hand_over(&address, arrival),
                None => break,
            }
        }
        self.sessions.push((peer, address));
    }

    /// The session waits no more.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.sessions.retain(|(_, address)| address.session != session);
    }

    /// A callback connection has come; it waits for `patience` at most.
    pub(crate) fn callback(&mut self, arrival: Arrival, patience: Duration) {
        if let Some(at) = self.sessions.iter().position(|(theirs, _)| *theirs == arrival.peer) {
            return hand_over(&self.sessions.remove(at).1, arrival);
        }
        if self.callbacks.len() >= UNCLAIMED {
            tracing::debug!(
                "{UNCLAIMED} callback connections wait for a login: closing the oldest"
            );
            self.callbacks.pop_front();
        }
        self.callbacks.push_back((arrival, Instant::now() + patience));
    }

    /// When the first callback connection has waited long enough.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.callbacks.front().map(|(_, deadline)| *deadline)
    }

    /// Closes what has waited long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            if let Some((arrival, _)) = self.callbacks.pop_front() {
                let pid = arrival.peer.pid;
                tracing::debug!(pid, "a callback connection without a login is closed");
            }
        }
    }
}

fn hand_over(address: &Address, arrival: Arrival) {
    address.mailbox.send(Message::Callback(address.session, arrival));
}
