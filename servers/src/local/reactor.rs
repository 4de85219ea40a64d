//! The threads that serve the applications.
//!
//! Each reactor owns its sessions and nobody else touches them; other threads speak to it through its
//! [`Mailbox`]. It sleeps until a socket, a message or a deadline wakes it: without logins and closings
//! under way there is no deadline. The first reactor also accepts, and hands the connections round.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvs_proto::Text;
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::auth_link::AuthLink;
use super::groups::Groups;
use super::mailbox::{Address, Mailbox, Message, SessionId};
use super::pairing::{Pairing, Peer};
use super::session::{End, LOGIN_PATIENCE, Session, session_of};

/// The events that one `poll` returns at most.
const EVENTS: usize = 1024;

/// How many connections one listener accepts before the applications have their turn again.
const ACCEPT_BURST: usize = 32;

/// How long accepting pauses when the system has no descriptor or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

// Sessions have tokens from below: two each.
const WAKER: Token = Token(usize::MAX);
const MAIN_LISTENER: Token = Token(usize::MAX - 1);
const CALLBACK_LISTENER: Token = Token(usize::MAX - 2);

/// What sessions need from the rest of the server.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// All groups.
    pub(crate) groups: Arc<Groups>,
    /// Who asks the authentication server.
    pub(crate) auth: AuthLink,
    /// The box of the session's own reactor.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The box of the reactor that accepts.
    pub(crate) acceptor: Arc<Mailbox>,
}

impl Context {
    /// The session wants its callback connection as soon as it is there.
    pub(super) fn await_callback(&self, peer: Peer, session: SessionId) {
        let address = Address { mailbox: Arc::clone(&self.mailbox), session };
        self.acceptor.send(Message::AwaitCallback(peer, address));
    }

    /// It has got one that is not for it.
    pub(super) fn return_callback(&self, peer: Peer, stream: UnixStream) {
        self.acceptor.send(Message::ReturnCallback(peer, stream));
    }

    /// It does not any more.
    pub(super) fn forget_callback(&self, session: SessionId) {
        self.acceptor.send(Message::ForgetCallback(session));
    }

    /// The session wants to know the secret of `group`.
    pub(super) fn ask_for_secret(&self, group: Text, session: SessionId) {
        let mailbox = Arc::clone(&self.mailbox);
        self.auth.secret(group, move |answer| mailbox.send(Message::Secret(session, answer)));
    }
}

/// One thread that serves applications.
#[derive(Debug)]
pub(crate) struct Reactor {
    poll: Poll,
    context: Context,
    sessions: HashMap<SessionId, Session>,
    /// When to look at which session again.
    deadlines: BTreeSet<(Instant, SessionId)>,
    acceptor: Option<Acceptor>,
    stopped: bool,
}

/// What the first reactor does besides.
#[derive(Debug)]
struct Acceptor {
    main: UnixListener,
    callback: UnixListener,
    pairing: Pairing,
    /// All reactors, for the next connections in turn.
    reactors: Vec<Arc<Mailbox>>,
    next: usize,
    /// More connections wait than were accepted.
    more: bool,
    /// When to try again, after the system had no room for another connection.
    paused_until: Option<Instant>,
    /// The server quits: connections are closed at once.
    closed: bool,
}

impl Reactor {
    /// A reactor without connections, and its box. Nothing runs yet.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub(crate) fn prepare() -> io::Result<(Poll, Arc<Mailbox>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok((poll, Arc::new(Mailbox::new(waker))))
    }

    /// One that serves what it is handed.
    pub(crate) fn new(poll: Poll, context: Context) -> Self {
        Self {
            poll,
            context,
            sessions: HashMap::new(),
            deadlines: BTreeSet::new(),
            acceptor: None,
            stopped: false,
        }
    }

    /// Makes it the one that accepts for all `reactors`.
    ///
    /// # Errors
    /// When a listener cannot be watched.
    pub(crate) fn accept(
        &mut self,
        mut main: UnixListener,
        mut callback: UnixListener,
        reactors: Vec<Arc<Mailbox>>,
    ) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut main, MAIN_LISTENER, Interest::READABLE)?;
        registry.register(&mut callback, CALLBACK_LISTENER, Interest::READABLE)?;
        self.acceptor = Some(Acceptor {
            main,
            callback,
            pairing: Pairing::default(),
            reactors,
            next: 0,
            more: false,
            paused_until: None,
            closed: false,
        });
        Ok(())
    }

    /// Serves until [`Message::Stop`].
    ///
    /// # Errors
    /// When `poll` fails, which it does only if the server itself is broken.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.context.mailbox.own();
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopped {
            let timeout = self.time_to_sleep();
            self.turn(&mut events, timeout, Instant::now)?;
        }
        Ok(())
    }

    /// Waits for `timeout` at most, and does what there is to do at the time that `clock` then tells.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub(super) fn turn(
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
                MAIN_LISTENER | CALLBACK_LISTENER => self.accept_some(),
                token => {
                    let (id, is_callback) = session_of(token);
                    self.with_session(id, |session, context, _| match is_callback {
                        true => session.callback_ready(),
                        false => session.main_ready(event.is_read_closed(), context),
                    });
                }
            }
        }
        self.expire(clock());
        if self.acceptor.as_ref().is_some_and(|acceptor| acceptor.more) {
            self.accept_some();
        }
        self.read_messages();
        Ok(())
    }

    /// How long there is nothing to do. Messages to ourselves wake nobody, so they are looked for here.
    fn time_to_sleep(&self) -> Option<Duration> {
        if self.is_busy() {
            return Some(Duration::ZERO);
        }
        self.next_deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether there is something to do that no event will tell of.
    pub(super) fn is_busy(&self) -> bool {
        let more = self.acceptor.as_ref().is_some_and(|acceptor| acceptor.more);
        more || self.context.mailbox.has_messages()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let session = self.deadlines.first().map(|(deadline, _)| *deadline);
        let acceptor = self.acceptor.as_ref();
        let pairing = acceptor.and_then(|acceptor| acceptor.pairing.deadline());
        let paused = acceptor.and_then(|acceptor| acceptor.paused_until);
        [session, pairing, paused].into_iter().flatten().min()
    }

    /// Lets `act` do something to a session, and ends it if that is what comes of it.
    fn with_session(
        &mut self,
        id: SessionId,
        act: impl FnOnce(&mut Session, &Context, &mio::Registry) -> Result<(), End>,
    ) {
        // An event or message may come for a session that has ended meanwhile.
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let before = session.deadline();
        let result = act(session, &self.context, self.poll.registry());
        let after = session.deadline();
        match result {
            Ok(()) if before == after => {}
            Ok(()) => {
                self.set_deadline(id, before, after);
            }
            Err(why) => {
                self.set_deadline(id, before, None);
                if let Some(session) = self.sessions.remove(&id) {
                    session.end(&why, &self.context);
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

    /// Those that come meanwhile have their turn after the next look at the sockets.
    fn read_messages(&mut self) {
        for message in self.context.mailbox.take() {
            self.read(message);
        }
    }

    fn read(&mut self, message: Message) {
        match message {
            Message::Serve(stream, peer) => self.serve(stream, peer),
            Message::AwaitCallback(peer, address) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.pairing.session(peer, address);
                }
            }
            Message::ReturnCallback(peer, stream) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.pairing.callback(peer, stream, LOGIN_PATIENCE);
                }
            }
            Message::ForgetCallback(session) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.pairing.forget(session);
                }
            }
            // Its session may have ended while the message was on its way.
            Message::Callback(id, stream) if !self.sessions.contains_key(&id) => {
                if let Ok(peer) = Peer::of(&stream) {
                    self.context.return_callback(peer, stream);
                }
            }
            Message::Callback(id, stream) => self.with_session(id, |session, context, registry| {
                session.callback_connected(stream, registry, context)
            }),
            Message::Secret(id, answer) => {
                self.with_session(id, |session, context, _| session.secret_known(answer, context));
            }
            Message::Changes(id) => self.with_session(id, |session, _, _| session.notify()),
            Message::Close(id) => self.with_session(id, |session, _, _| session.close()),
            Message::CloseAll => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.closed = true;
                }
                let ids: Vec<_> = self.sessions.keys().copied().collect();
                for id in ids {
                    self.with_session(id, |session, _, _| session.close());
                }
            }
            Message::Stop => self.stopped = true,
        }
    }

    fn serve(&mut self, stream: UnixStream, peer: Peer) {
        /// Numbers are unique over all reactors.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = SessionId(LAST.fetch_add(1, Ordering::Relaxed));
        let pid = peer.pid;
        match Session::accept(id, peer, stream, self.poll.registry()) {
            Ok(session) => {
                self.set_deadline(id, None, session.deadline());
                self.sessions.insert(id, session);
            }
            Err(error) => tracing::debug!(pid, "gone before it was greeted: {error}"),
        }
    }

    /// How much waits to be written to the application that has taken the least.
    #[cfg(fuzzing)]
    pub(super) fn most_waiting(&self) -> usize {
        self.sessions.values().map(Session::waiting).max().unwrap_or(0)
    }

    /// Does what is due at `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.with_session(id, |session, _, _| Err(session.expired()));
        }
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.pairing.expire(now);
            if acceptor.paused_until.is_some_and(|until| until <= now) {
                self.accept_some();
            }
        }
    }

    fn accept_some(&mut self) {
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.paused_until = None;
            acceptor.more = false;
            acceptor.accept_main();
            acceptor.accept_callbacks();
        }
    }
}

impl Acceptor {
    fn accept_main(&mut self) {
        for _ in 0..ACCEPT_BURST {
            let Some(stream) = accept(&self.main, &mut self.paused_until) else { return };
            if let Some(peer) = self.admit(&stream) {
                self.reactors[self.next].send(Message::Serve(stream, peer));
                self.next = (self.next + 1) % self.reactors.len();
            }
        }
        self.more = true;
    }

    fn accept_callbacks(&mut self) {
        for _ in 0..ACCEPT_BURST {
            let Some(stream) = accept(&self.callback, &mut self.paused_until) else { return };
            if let Some(peer) = self.admit(&stream) {
                self.pairing.callback(peer, stream, LOGIN_PATIENCE);
            }
        }
        self.more = true;
    }

    fn admit(&self, stream: &UnixStream) -> Option<Peer> {
        if self.closed {
            return None;
        }
        let peer = Peer::of(stream);
        peer.inspect_err(|error| tracing::warn!("a connection without an owner is closed: {error}"))
            .ok()
    }
}

/// The next connection, if there is one and there is room for it.
fn accept(listener: &UnixListener, paused_until: &mut Option<Instant>) -> Option<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return None,
                // Whoever it was has gone again.
                ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                _ => {
                    tracing::warn!("no more connections for now: {error}");
                    *paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                    return None;
                }
            },
        }
    }
}
