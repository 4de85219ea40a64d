//! One application: its two connections, its login, its requests and its change events.
//!
//! The protocols themselves are in `kvs_proto`; here requests meet the groups, and bytes meet the
//! sockets. A session is first a [login](login), then speaks [protocol v1](v1) or [v2](v2). What
//! they have in common is here: reading from the main connection, fairness between sessions, and
//! what is done at the end. No method blocks. A session that must end returns a [`CloseReason`];
//! its reactor then drops it, which closes both connections.

mod active;
mod callback;
pub(crate) mod close_reason;
mod login;
pub(crate) mod main_connection;
mod pending_responses;
#[cfg(test)]
mod pending_tests;
mod request_context;
mod time_budget;
mod unserved_input;
mod v1;
mod v2;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_proto::{Protocol, Text};
use mio::Registry;

use self::close_reason::CloseReason;
use self::login::LoginSession;
use self::main_connection::MainConnection;
use self::request_context::RequestContext;
use self::v1::V1Session;
use self::v2::V2Session;
use crate::directory::Unavailable;
use crate::local::group::outcome::Outcome;
use crate::local::limits::log::LogPermit;
use crate::local::net::connection::AcceptedConnection;
use crate::local::net::context::{Context, Scratch};
use crate::local::net::mailbox::SessionId;
use crate::local::net::socket::{Received, Socket};

/// The most reads in one time slice, so that an application that keeps its socket full gets no more
/// than its share.
const MAX_READS: usize = 2;

/// How long a session may carry out requests before other sessions are served, about.
pub(crate) const TIME_SLICE: Duration = Duration::from_micros(250);

/// The session of one application.
#[derive(Debug)]
pub(crate) struct Session {
    main: MainConnection,
    state: State,
}

#[derive(Debug)]
enum State {
    Login(LoginSession),
    V1(V1Session),
    V2(V2Session),
}

impl Session {
    /// Starts a session on a connection, and sends the greeting.
    ///
    /// # Errors
    /// The application has closed the connection, or it cannot be registered.
    pub(crate) fn accept(
        id: SessionId,
        connection: AcceptedConnection,
        registry: &Registry,
        login_timeout: Duration,
    ) -> std::io::Result<Self> {
        let AcceptedConnection { stream, peer, permit } = connection;
        let user = Arc::clone(permit.user());
        let socket = Socket::new(stream, permit);
        let mut main = MainConnection { id, peer, user, socket, continue_scheduled: false };
        let token = main.token();
        main.socket.register(registry, token)?;
        let mut greeting = Vec::new();
        let login = LoginSession::start(login_timeout, &mut greeting);
        main.socket.write(&mut greeting)?;
        Ok(Self { main, state: State::Login(login) })
    }

    /// When [`expire`](Self::expire) is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Login(login) => Some(login.deadline()),
            State::V1(V1Session { active, .. }) | State::V2(V2Session { active, .. }) => {
                active.deadline()
            }
        }
    }

    /// The deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant, context: &Context) -> Result<(), CloseReason> {
        match &self.state {
            State::Login(login) => {
                login.expire(now)?;
                self.try_finish_login(context, now)
            }
            State::V1(_) | State::V2(_) => Err(CloseReason::CloseTimeout),
        }
    }

    /// Continues after the other sessions were served.
    pub(crate) fn resume(
        &mut self,
        context: &Context,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        self.main.continue_scheduled = false;
        self.main_ready(true, context, scratch)
    }

    /// The main connection may be read or written. `has_more`: there may be more to read than one
    /// read returns, if only the end of the stream.
    pub(crate) fn main_ready(
        &mut self,
        has_more: bool,
        context: &Context,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let Scratch { input, output } = scratch;
        let mut requests = RequestContext::new(context, output);
        self.main.socket.flush().map_err(|_| self.connection_lost())?;
        for reads in 0.. {
            self.serve_unserved_input(&mut requests)?;
            // An application is not read while it does not read its responses, or while a request
            // waits for the store.
            if self.main.socket.is_write_blocked() || self.awaits_commits() {
                break;
            }
            if reads == MAX_READS || self.has_unserved_input() {
                self.main.schedule_continue(context);
                break;
            }
            let buffer = match &self.state {
                State::V2(_) => &mut input[..],
                State::Login(_) | State::V1(_) => &mut input[..v1::READ_LEN],
            };
            let (read, capacity) = match self.main.socket.read(buffer) {
                Received::Bytes(read) => (&buffer[..read], buffer.len()),
                Received::Nothing => break,
                Received::End => return Err(self.connection_lost()),
            };
            // One clock read serves both.
            let now = requests.budget.begin();
            requests.recorder.read(now);
            match &mut self.state {
                State::Login(login) => login.serve(read, &self.main, &mut requests)?,
                State::V1(session) => session.serve(read, &self.main, &mut requests)?,
                State::V2(session) => session.serve(read, &mut self.main, &mut requests)?,
            }
            self.write(&mut requests)?;
            requests.notifications.flush();
            if let State::Login(login) = &self.state
                && login.is_refused()
            {
                return Err(CloseReason::NoSuchGroup);
            }
            // A stream socket that returned less than was asked for is empty, so another read would
            // return nothing, and what arrives later is a new event. The end of the stream is not.
            // (Descriptors passed along cut a read short, too; their sender waits for the next
            // byte.)
            if read.len() < capacity && !has_more && !self.has_unserved_input() {
                break;
            }
        }
        if let State::V2(session) = &mut self.state {
            session.charge_buffers(&self.main);
        }
        Ok(())
    }

    /// The store has decided a pending write: sends the responses that are complete now, and
    /// continues if the session has waited for it.
    pub(crate) fn committed(
        &mut self,
        ticket: u64,
        outcome: Outcome,
        context: &Context,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        let has_waited = self.awaits_commits();
        let mut requests = RequestContext::new(context, &mut scratch.output);
        match &mut self.state {
            // A login submits nothing.
            State::Login(_) => return Ok(()),
            State::V1(session) => session.committed(outcome, &self.main, &mut requests)?,
            State::V2(session) => {
                session.committed(ticket, outcome, &mut self.main, &mut requests)?
            }
        }
        self.write(&mut requests)?;
        drop(requests);
        if has_waited && !self.awaits_commits() {
            return self.main_ready(true, context, scratch);
        }
        if let State::V2(session) = &mut self.state {
            session.charge_buffers(&self.main);
        }
        Ok(())
    }

    /// Serves requests that were read earlier, unless the application does not read its responses.
    fn serve_unserved_input(
        &mut self,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        match &mut self.state {
            State::V2(session) if !self.main.socket.is_write_blocked() => {
                if session.serve_unserved_input(&mut self.main, requests)? {
                    self.write(requests)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn has_unserved_input(&self) -> bool {
        matches!(&self.state, State::V2(session) if session.has_unserved_input())
    }

    fn awaits_commits(&self) -> bool {
        match &self.state {
            State::Login(_) => false,
            State::V1(session) => session.awaits_commit(),
            State::V2(session) => session.awaits_commits(),
        }
    }

    fn write(&mut self, requests: &mut RequestContext<'_>) -> Result<(), CloseReason> {
        self.main.socket.write(requests.output).map_err(|_| self.connection_lost())?;
        requests.recorder.written();
        Ok(())
    }

    /// Whether the application has not read all of its responses.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.main.socket.is_write_blocked()
    }

    fn connection_lost(&self) -> CloseReason {
        match &self.state {
            State::Login(_) => CloseReason::ConnectionLost,
            State::V1(V1Session { active, .. }) | State::V2(V2Session { active, .. }) => {
                active.connection_lost()
            }
        }
    }

    /// The callback connection was paired with this session.
    pub(crate) fn callback_connected(
        &mut self,
        connection: AcceptedConnection,
        registry: &Registry,
        context: &Context,
    ) -> Result<(), CloseReason> {
        match &mut self.state {
            State::Login(login) => {
                login.callback_connected(connection, &self.main, registry, context)?;
                self.try_finish_login(context, Instant::now())
            }
            // Only a login asks for one.
            State::V1(_) | State::V2(_) => {
                context.return_callback(connection);
                Ok(())
            }
        }
    }

    /// The secret of the group was looked up.
    pub(crate) fn secret_received(
        &mut self,
        found: Result<Option<Text>, Unavailable>,
        context: &Context,
    ) -> Result<(), CloseReason> {
        if let State::Login(login) = &mut self.state {
            login.secret_received(found)?;
        }
        self.try_finish_login(context, Instant::now())
    }

    /// Changes from the login to the protocol of the session, if the login is complete.
    fn try_finish_login(&mut self, context: &Context, now: Instant) -> Result<(), CloseReason> {
        let State::Login(login) = &mut self.state else { return Ok(()) };
        let mut output = Vec::new();
        let Some(login) = login.finish(&mut self.main, &mut output, context, now)? else {
            return Ok(());
        };
        let (active, callback) = (login.active, login.callback);
        self.state = match login.protocol {
            Protocol::V1 => State::V1(V1Session::new(active, login.channel, callback)),
            Protocol::V2 => {
                let socket = callback.socket;
                State::V2(V2Session::new(active, socket, context.limits, &mut output))
            }
        };
        self.main.socket.write(&mut output).map_err(|_| CloseReason::ConnectionLost)
    }

    /// The callback connection may be written, or read.
    pub(crate) fn callback_ready(&mut self, is_readable: bool) -> Result<(), CloseReason> {
        match &mut self.state {
            State::Login(login) => login.callback_ready(),
            State::V1(session) => session.callback_ready(),
            State::V2(session) => session.callback_ready(is_readable),
        }
    }

    /// Switches the events on that report when a write-blocked connection is writable, and off when
    /// none is.
    pub(crate) fn update_write_interest(&mut self, registry: &Registry) -> Result<(), CloseReason> {
        let lost = |_| CloseReason::ConnectionLost;
        let Self { main, state } = self;
        let (token, callback_token) = (main.token(), main.callback_token());
        let is_blocked = main.socket.is_write_blocked();
        main.socket.update_write_interest(is_blocked, registry, token).map_err(lost)?;
        let (callback, is_blocked) = match state {
            State::Login(login) => (login.callback(), None),
            State::V1(session) => (session.callback().map(|callback| &mut callback.socket), None),
            State::V2(session) => {
                let is_blocked = session.active.subscriber.is_write_blocked();
                (session.callback(), Some(is_blocked))
            }
        };
        let Some(callback) = callback else { return Ok(()) };
        let is_blocked = is_blocked.unwrap_or_else(|| callback.is_write_blocked());
        callback.update_write_interest(is_blocked, registry, callback_token).map_err(lost)
    }

    /// Sends pending events to the application.
    pub(crate) fn send_events(&mut self) -> Result<(), CloseReason> {
        match &mut self.state {
            State::Login(_) => Ok(()),
            State::V1(session) => session.send_events(),
            State::V2(session) => session.send_events(),
        }
    }

    /// Asks the application to close within [`close_reason::CLOSE_TIMEOUT`].
    pub(crate) fn close(&mut self) -> Result<(), CloseReason> {
        match &mut self.state {
            // The end of the connection is the only way to inform the application.
            State::Login(_) => Err(CloseReason::ClosedByServer),
            State::V1(V1Session { active, .. }) | State::V2(V2Session { active, .. })
                if active.is_closing() =>
            {
                Ok(())
            }
            State::V1(session) => session.close(),
            State::V2(session) => session.close(),
        }
    }

    /// The number of bytes that wait to be written on either connection.
    #[cfg(fuzzing)]
    pub(crate) fn unsent(&self) -> usize {
        let callback = match &self.state {
            State::Login(login) => login.unsent(),
            State::V1(session) => session.unsent(),
            State::V2(session) => session.active.subscriber.waiting(),
        };
        self.main.socket.unsent() + callback
    }

    /// Logs the end of the session, and leaves the group or the pairing.
    pub(crate) fn end(self, reason: &CloseReason, context: &Context) {
        let (group, is_logged_in) = match &self.state {
            State::Login(login) => (login.group(), false),
            State::V1(V1Session { active, .. }) | State::V2(V2Session { active, .. }) => {
                (Some(&active.group), true)
            }
        };
        context.metrics.end(reason, is_logged_in);
        let (pid, uid) = (self.main.peer.pid, self.main.peer.uid);
        let group = group.map(|group| tracing::field::debug(group.name()));
        let subject = reason.subject();
        match reason.is_notable().then(|| self.main.user.log_permit()).flatten() {
            None => tracing::debug!(pid, uid, group, "{subject} disconnected: {reason}"),
            Some(LogPermit::Last) => tracing::warn!(
                pid,
                uid,
                group,
                "{subject} disconnected: {reason} (further lines about this user's applications \
                 are suppressed for a while)"
            ),
            Some(LogPermit::More) => {
                tracing::warn!(pid, uid, group, "{subject} disconnected: {reason}");
            }
        }
        match self.state {
            State::Login(login) => login.end(&self.main, context),
            State::V1(session) => session.end(self.main, context),
            State::V2(session) => session.end(self.main, context),
        }
    }
}
