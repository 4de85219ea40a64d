//! The main connection of an application: its socket, and on whose behalf requests come over it.

use std::sync::Arc;

use mio::Token;

use crate::local::limits::limit::Limit;
use crate::local::limits::quota::UserQuota;
use crate::local::net::connection::Peer;
use crate::local::net::context::Context;
use crate::local::net::mailbox::SessionId;
use crate::local::net::socket::Socket;

/// The main connection of a session, in every state of it.
#[derive(Debug)]
pub(super) struct MainConnection {
    /// The session.
    pub(super) id: SessionId,
    /// The process at the other end.
    pub(super) peer: Peer,
    /// The user that everything is charged to.
    pub(super) user: Arc<UserQuota>,
    /// The socket.
    pub(super) socket: Socket,
    /// A message to continue is on its way. There is never a second one: otherwise each event would
    /// add another read to every time slice.
    pub(super) continue_scheduled: bool,
}

impl MainConnection {
    /// The token of the main connection's events.
    pub(super) fn token(&self) -> Token {
        Token(self.id.0 as usize * 2)
    }

    /// The token of the callback connection's events.
    pub(super) fn callback_token(&self) -> Token {
        Token(self.token().0 + 1)
    }

    /// Has the session continue when the other sessions were served.
    pub(super) fn schedule_continue(&mut self, context: &Context) {
        if !self.continue_scheduled {
            self.continue_scheduled = true;
            context.schedule_continue(self.id);
        }
    }

    /// Whether `checked` found the operation within its limits. A refusal is logged.
    pub(super) fn is_within_limits(&self, checked: Result<(), Limit>) -> bool {
        if let Err(limit) = checked {
            let pid = self.peer.pid;
            self.user.log_refusal(limit, format_args!("operation of process {pid} refused"));
        }
        checked.is_ok()
    }
}

/// The session that a token belongs to, and whether it is that of the callback connection.
pub(crate) fn session_of(token: Token) -> (SessionId, bool) {
    (SessionId(token.0 as u64 / 2), token.0 % 2 == 1)
}
