//! The threads that serve the applications.
//!
//! Each reactor owns its sessions, and no other thread touches them: other threads send messages to
//! the reactor's [`Mailbox`]. A reactor sleeps until a socket, a message or a deadline wakes it.
//! Only logins and closing sessions have deadlines, so an idle server does not wake up. The first
//! reactor also admits connections and distributes them ([`Dispatcher`]).

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use crate::local::limits::quota::Quotas;
use crate::local::metrics::labels::LoginOutcome;
use crate::local::net::connection::AcceptedConnection;
use crate::local::net::context::{Context, Scratch};
use crate::local::net::dispatcher::{Dispatcher, Listeners};
use crate::local::net::mailbox::{Mailbox, Message, SessionId};
use crate::local::session::Session;
use crate::local::session::close_reason::CloseReason;
use crate::local::session::main_connection::session_of;

/// The most events that one `poll` returns.
const MAX_EVENTS: usize = 1024;

// The tokens of sessions count up from 0, two for each session.
const WAKER: Token = Token(usize::MAX);
const MAIN_LISTENER: Token = Token(usize::MAX - 1);
const CALLBACK_LISTENER: Token = Token(usize::MAX - 2);

/// What a session uses of its reactor while it handles an event.
#[derive(Debug)]
struct SessionResources<'a> {
    registry: &'a mio::Registry,
    scratch: &'a mut Scratch,
}

/// One thread that serves applications.
#[derive(Debug)]
pub(crate) struct Reactor {
    poll: Poll,
    context: Context,
    sessions: HashMap<SessionId, Session>,
    scratch: Scratch,
    /// The deadlines of sessions that have one, the earliest first.
    deadlines: BTreeSet<(Instant, SessionId)>,
    dispatcher: Option<Dispatcher>,
    is_stopped: bool,
}

impl Reactor {
    /// Creates what a reactor waits on, and its mailbox. No thread runs yet.
    ///
    /// # Errors
    /// The system has no descriptor for it.
    pub(crate) fn prepare() -> io::Result<(Poll, Arc<Mailbox>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok((poll, Arc::new(Mailbox::new(waker))))
    }

    /// A reactor without sessions.
    pub(crate) fn new(poll: Poll, context: Context) -> Self {
        Self {
            poll,
            context,
            sessions: HashMap::new(),
            scratch: Scratch::default(),
            deadlines: BTreeSet::new(),
            dispatcher: None,
            is_stopped: false,
        }
    }

    /// Makes this the reactor that admits connections for all `reactors`.
    ///
    /// # Errors
    /// A listener cannot be registered.
    pub(crate) fn admit(
        &mut self,
        listeners: Listeners,
        quotas: Arc<Quotas>,
        reactors: Vec<Arc<Mailbox>>,
    ) -> io::Result<()> {
        self.dispatcher = Some(Dispatcher::new(
            listeners,
            (MAIN_LISTENER, CALLBACK_LISTENER),
            self.poll.registry(),
            quotas,
            reactors,
            self.context.login_timeout,
            self.context.metrics.clone(),
        )?);
        Ok(())
    }

    /// Serves until [`Message::Stop`].
    ///
    /// # Errors
    /// `poll` fails, which means that the server itself is broken.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.context.mailbox.own();
        let mut events = Events::with_capacity(MAX_EVENTS);
        while !self.is_stopped {
            let timeout = self.poll_timeout();
            self.poll_once(&mut events, timeout, Instant::now)?;
        }
        Ok(())
    }

    /// Waits for events, for `timeout` at most, and handles them, the deadlines that have passed at
    /// the time that `clock` then returns, and the messages.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub(crate) fn poll_once(
        &mut self,
        events: &mut Events,
        timeout: Option<Duration>,
        clock: impl FnOnce() -> Instant,
    ) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &*events {
            match event.token() {
                WAKER => {}
                MAIN_LISTENER | CALLBACK_LISTENER => self.accept(),
                token => {
                    let (id, is_callback) = session_of(token);
                    let has_ended = event.is_read_closed() || event.is_error();
                    let is_readable = event.is_readable() || has_ended;
                    self.with_session(id, |session, context, resources| match is_callback {
                        true => session.callback_ready(is_readable),
                        // Being writable matters only when something waits to be written.
                        false if is_readable || session.is_write_blocked() => {
                            session.main_ready(has_ended, context, resources.scratch)
                        }
                        false => Ok(()),
                    });
                }
            }
        }
        self.expire(clock());
        if self.dispatcher.as_ref().is_some_and(Dispatcher::has_more) {
            self.accept();
        }
        self.handle_messages();
        Ok(())
    }

    /// How long `poll` may wait. The reactor's messages to itself cause no wake-up, so they are
    /// checked here.
    fn poll_timeout(&self) -> Option<Duration> {
        if self.is_busy() {
            return Some(Duration::ZERO);
        }
        self.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether there is work that no event will report.
    pub(crate) fn is_busy(&self) -> bool {
        let can_accept = self.dispatcher.as_ref().is_some_and(Dispatcher::has_more);
        can_accept || self.context.mailbox.has_messages()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let session = self.deadlines.first().map(|(deadline, _)| *deadline);
        let dispatcher = self.dispatcher.as_ref().and_then(Dispatcher::deadline);
        [session, dispatcher].into_iter().flatten().min()
    }

    /// Applies `act` to a session, and closes the session if `act` returns a reason.
    fn with_session(
        &mut self,
        id: SessionId,
        act: impl FnOnce(&mut Session, &Context, SessionResources<'_>) -> Result<(), CloseReason>,
    ) {
        // Events and messages may arrive for a session that has ended meanwhile.
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let before = session.deadline();
        let resources =
            SessionResources { registry: self.poll.registry(), scratch: &mut self.scratch };
        let result = act(session, &self.context, resources)
            .and_then(|()| session.update_write_interest(self.poll.registry()));
        let after = session.deadline();
        match result {
            Ok(()) if before == after => {}
            Ok(()) => self.set_deadline(id, before, after),
            Err(reason) => {
                self.set_deadline(id, before, None);
                if let Some(session) = self.sessions.remove(&id) {
                    session.end(&reason, &self.context);
                }
            }
        }
    }

    fn set_deadline(&mut self, id: SessionId, before: Option<Instant>, after: Option<Instant>) {
        if let Some(before) = before {
            self.deadlines.remove(&(before, id));
        }
        if let Some(after) = after {
            self.deadlines.insert((after, id));
        }
    }

    /// Handles the messages that have arrived. Those that arrive meanwhile wait until the sockets
    /// were polled again.
    fn handle_messages(&mut self) {
        for message in self.context.mailbox.take() {
            self.handle(message);
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Serve(connection) => self.serve(connection),
            Message::AwaitCallback(peer, address) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.await_callback(peer, address);
                }
            }
            Message::ReturnCallback(connection) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.return_callback(connection);
                }
            }
            Message::CancelPairing(session) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.cancel_pairing(session);
                }
            }
            // The session may have ended while the message was on its way.
            Message::CallbackConnected(id, connection) if !self.sessions.contains_key(&id) => {
                self.context.return_callback(connection);
            }
            Message::CallbackConnected(id, connection) => {
                self.with_session(id, |session, context, resources| {
                    session.callback_connected(connection, resources.registry, context)
                });
            }
            Message::SecretReceived(id, answer) => {
                self.with_session(id, |session, context, _| {
                    session.secret_received(answer, context)
                });
            }
            Message::Continue(id) => {
                self.with_session(id, |session, context, resources| {
                    session.resume(context, resources.scratch)
                });
            }
            Message::EventsPending(id) => {
                self.with_session(id, |session, _, _| session.send_events());
            }
            Message::Committed(id, ticket, outcome) => {
                self.with_session(id, |session, context, resources| {
                    session.committed(ticket, outcome, context, resources.scratch)
                });
            }
            // What is left of a task waits behind the messages that have arrived meanwhile.
            Message::Run(task) => {
                if let Some(rest) = task.run(self.context.time_slice) {
                    self.context.mailbox.send(Message::Run(rest));
                }
            }
            Message::Close(id) => self.with_session(id, |session, _, _| session.close()),
            Message::CloseAll => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.close();
                }
                let ids: Vec<_> = self.sessions.keys().copied().collect();
                for id in ids {
                    self.with_session(id, |session, _, _| session.close());
                }
            }
            Message::Stop => self.is_stopped = true,
        }
    }

    fn serve(&mut self, connection: AcceptedConnection) {
        /// Shared by all reactors, so that ids are unique in the server.
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = SessionId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let pid = connection.peer.pid;
        let timeout = self.context.login_timeout;
        match Session::accept(id, connection, self.poll.registry(), timeout) {
            Ok(session) => {
                self.set_deadline(id, None, session.deadline());
                self.sessions.insert(id, session);
            }
            Err(error) => {
                tracing::debug!(pid, "connection closed before the greeting was sent: {error}");
                self.context.metrics.login(LoginOutcome::Abandoned);
            }
        }
    }

    /// The most bytes that wait to be written to one application.
    #[cfg(fuzzing)]
    pub(crate) fn max_unsent(&self) -> usize {
        self.sessions.values().map(Session::unsent).max().unwrap_or(0)
    }

    /// Handles all deadlines up to `now`.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.with_session(id, |session, context, _| session.expire(now, context));
        }
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.expire(now);
        }
    }

    fn accept(&mut self) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.accept();
        }
    }
}
