//! The context of a session: the parts of the server that it uses, and the messages of a login.
//!
//! This layer is below both the sessions and their reactor, so neither needs the other's types.

use std::sync::Arc;
use std::time::Duration;

use kvs_proto::v2::request::FrameLimits;

use crate::directory::Directory;
use crate::local::group::group::Group;
use crate::local::group::registry::Groups;
use crate::local::group::submission::CompletionHandler;
use crate::local::metrics::counters::Metrics;
use crate::local::net::connection::{AcceptedConnection, Peer};
use crate::local::net::mailbox::{Address, Mailbox, Message, SessionId};

/// The size of the buffer that sessions read into.
const READ_BUFFER: usize = 64 * 1024;

/// What the sessions of one reactor use of the rest of the server.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// All groups.
    pub(crate) groups: Arc<Groups>,
    /// Where the secrets of groups are looked up.
    pub(crate) directory: Arc<dyn Directory>,
    /// The mailbox of the sessions' own reactor.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The mailbox of the reactor that accepts.
    pub(crate) acceptor: Arc<Mailbox>,
    /// The longest time from the connection to the end of the login.
    pub(crate) login_timeout: Duration,
    /// The limits of frames in protocol v2.
    pub(crate) limits: FrameLimits,
    /// How long a session may carry out requests before other sessions are served, about.
    pub(crate) time_slice: Duration,
    /// The counters of the sessions' own reactor.
    pub(crate) metrics: Metrics,
}

/// Buffers that the sessions of one reactor share, so that an idle session keeps none.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Receives what is read.
    pub(crate) input: Box<[u8]>,
    /// Collects responses until they are written.
    pub(crate) output: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { input: vec![0; READ_BUFFER].into(), output: Vec::new() }
    }
}

impl Context {
    /// The address of a session of this reactor.
    pub(crate) fn address(&self, session: SessionId) -> Address {
        Address { mailbox: Arc::clone(&self.mailbox), session }
    }

    /// Requests the callback connection of `peer`. It arrives as [`Message::CallbackConnected`].
    pub(crate) fn await_callback(&self, peer: Peer, session: SessionId) {
        self.acceptor.send(Message::AwaitCallback(peer, self.address(session)));
    }

    /// Returns a callback connection that belongs to another login.
    pub(crate) fn return_callback(&self, connection: AcceptedConnection) {
        self.acceptor.send(Message::ReturnCallback(connection));
    }

    /// Withdraws [`await_callback`](Self::await_callback).
    pub(crate) fn cancel_pairing(&self, session: SessionId) {
        self.acceptor.send(Message::CancelPairing(session));
    }

    /// Looks up the secret of `group`. It arrives as [`Message::SecretReceived`].
    pub(crate) fn look_up_secret(&self, group: &Arc<Group>, session: SessionId) {
        if group.secret_lookup.join(self.address(session)) {
            look_up_secret(Arc::clone(&self.directory), Arc::clone(group));
        }
    }

    /// Makes the receiver of a pending write's outcome, which sends it to the session as
    /// [`Message::Committed`] with this ticket.
    pub(crate) fn completion(&self, session: SessionId, ticket: u64) -> CompletionHandler {
        let mailbox = Arc::clone(&self.mailbox);
        Box::new(move |outcome| mailbox.send(Message::Committed(session, ticket, outcome)))
    }

    /// Schedules [`Message::Continue`] behind the messages that wait already.
    pub(crate) fn schedule_continue(&self, session: SessionId) {
        self.mailbox.send(Message::Continue(session));
    }
}

/// Looks up the secret of a group, and again for the sessions that joined meanwhile.
fn look_up_secret(directory: Arc<dyn Directory>, group: Arc<Group>) {
    let again = Arc::clone(&directory);
    let name = group.name();
    directory.secret(
        name,
        Box::new(move |secret| {
            let (waiters, start_next) = group.secret_lookup.complete();
            for Address { mailbox, session } in waiters {
                mailbox.send(Message::SecretReceived(session, secret.clone()));
            }
            if start_next {
                look_up_secret(again, group);
            }
        }),
    );
}
