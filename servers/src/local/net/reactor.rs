//! The threads that serve the applications.
//!
//! Each reactor owns its sessions and nobody else touches them; other threads speak to it through its
//! [`Mailbox`]. It sleeps until a socket, a message or a deadline wakes it: without logins and closings
//! under way there is no deadline. The first reactor also accepts, and hands the connections round.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvs_proto::v1::server::refuse;
use kvs_proto::v2::request as wire;
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::directory::Directory;
use crate::local::group::registry::{Group, Groups};
use crate::local::limits::quota::{Channel, Quotas};
use crate::local::metrics::{Login, Metrics};
use crate::local::net::mailbox::{Address, Mailbox, Message, SessionId};
use crate::local::net::pairing::{Arrival, Pairing, Peer};
use crate::local::session::{End, Session, session_of};
use crate::log_limiter::LogLimiter;

/// The events that one `poll` returns at most.
const EVENTS: usize = 1024;

/// The most bytes that a session reads at once.
const READ_BUFFER: usize = 64 * 1024;

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
    /// Where the secrets of groups are looked up.
    pub(crate) directory: Arc<dyn Directory>,
    /// The box of the session's own reactor.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The box of the reactor that accepts.
    pub(crate) acceptor: Arc<Mailbox>,
    /// How long a login may take, from the connection to the verdict.
    pub(crate) login_patience: Duration,
    /// What framed sessions may send.
    pub(crate) limits: wire::FrameLimits,
    /// How long they may be at it while others wait, about.
    pub(crate) turn: Duration,
    /// Where the session's own reactor counts.
    pub(crate) metrics: Metrics,
}

/// Memory that every session uses for the time of its turn, so that none has to keep its own.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// For what is read.
    pub(crate) input: Box<[u8]>,
    /// For what is to be written.
    pub(crate) output: Vec<u8>,
}

/// What of a reactor a session may use in its turn.
#[derive(Debug)]
struct Desk<'a> {
    registry: &'a mio::Registry,
    scratch: &'a mut Scratch,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { input: vec![0; READ_BUFFER].into(), output: Vec::new() }
    }
}

impl Context {
    /// The session wants its callback connection as soon as it is there.
    pub(crate) fn await_callback(&self, peer: Peer, session: SessionId) {
        let address = Address { mailbox: Arc::clone(&self.mailbox), session };
        self.acceptor.send(Message::AwaitCallback(peer, address));
    }

    /// It has got one that is not for it.
    pub(crate) fn return_callback(&self, arrival: Arrival) {
        self.acceptor.send(Message::ReturnCallback(arrival));
    }

    /// It does not any more.
    pub(crate) fn forget_callback(&self, session: SessionId) {
        self.acceptor.send(Message::ForgetCallback(session));
    }

    /// The session wants to know the secret of `group`.
    pub(crate) fn ask_for_secret(&self, group: &Arc<Group>, session: SessionId) {
        if group.secret_lookup.join(Address { mailbox: Arc::clone(&self.mailbox), session }) {
            look_up_secret(Arc::clone(&self.directory), Arc::clone(group));
        }
    }

    /// The session has read what it may in one turn, and there may be more.
    pub(crate) fn read_more(&self, session: SessionId) {
        self.mailbox.send(Message::More(session));
    }
}

/// Looks up the secret of a group, and again for the sessions that need it meanwhile.
fn look_up_secret(directory: Arc<dyn Directory>, group: Arc<Group>) {
    let again = Arc::clone(&directory);
    let name = group.name();
    directory.secret(
        name,
        Box::new(move |secret| {
            let (waiters, start_next) = group.secret_lookup.complete();
            for Address { mailbox, session } in waiters {
                mailbox.send(Message::Secret(session, secret.clone()));
            }
            if start_next {
                look_up_secret(again, group);
            }
        }),
    );
}

/// One thread that serves applications.
#[derive(Debug)]
pub(crate) struct Reactor {
    poll: Poll,
    context: Context,
    sessions: HashMap<SessionId, Session>,
    scratch: Scratch,
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
    quotas: Arc<Quotas>,
    pairing: Pairing,
    login_patience: Duration,
    metrics: Metrics,
    /// All reactors, for the next connections in turn.
    reactors: Vec<Arc<Mailbox>>,
    next: usize,
    /// More connections wait than were accepted.
    more: bool,
    /// When to try again, after the system had no room for another connection.
    paused_until: Option<Instant>,
    /// The line about it in the log.
    pause_logged: LogLimiter,
    /// Connections that come while the server quits are for the next one, who gets the same listeners.
    keep_waiting: bool,
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
            scratch: Scratch::default(),
            deadlines: BTreeSet::new(),
            acceptor: None,
            stopped: false,
        }
    }

    /// Makes it the one that accepts for all `reactors`; with `keep_waiting` only until the server quits, so that what
    /// comes then waits for the next server with these listeners.
    ///
    /// # Errors
    /// When a listener cannot be watched.
    pub(crate) fn accept(
        &mut self,
        mut main: UnixListener,
        mut callback: UnixListener,
        quotas: Arc<Quotas>,
        reactors: Vec<Arc<Mailbox>>,
        keep_waiting: bool,
    ) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut main, MAIN_LISTENER, Interest::READABLE)?;
        registry.register(&mut callback, CALLBACK_LISTENER, Interest::READABLE)?;
        self.acceptor = Some(Acceptor {
            main,
            callback,
            quotas,
            pairing: Pairing::default(),
            login_patience: self.context.login_patience,
            metrics: self.context.metrics.clone(),
            reactors,
            next: 0,
            more: false,
            paused_until: None,
            pause_logged: LogLimiter::default(),
            keep_waiting,
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
    pub(crate) fn turn(
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
                    // That it is writable is no news unless something waits.
                    let ended = event.is_read_closed() || event.is_error();
                    let news = event.is_readable() || ended;
                    self.with_session(id, |session, context, desk| match is_callback {
                        true => session.callback_ready(news),
                        false if news || session.is_stuck() => {
                            session.main_ready(ended, context, desk.scratch)
                        }
                        false => Ok(()),
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
    pub(crate) fn is_busy(&self) -> bool {
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
        act: impl FnOnce(&mut Session, &Context, Desk<'_>) -> Result<(), End>,
    ) {
        // An event or message may come for a session that has ended meanwhile.
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let before = session.deadline();
        let desk = Desk { registry: self.poll.registry(), scratch: &mut self.scratch };
        let result = act(session, &self.context, desk)
            .and_then(|()| session.watch_for_room(self.poll.registry()));
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
            Message::Serve(arrival) => self.serve(arrival),
            Message::AwaitCallback(peer, address) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.pairing.session(peer, address);
                }
            }
            Message::ReturnCallback(arrival) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.pairing.callback(arrival, acceptor.login_patience);
                }
            }
            Message::ForgetCallback(session) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.pairing.forget(session);
                }
            }
            // Its session may have ended while the message was on its way.
            Message::Callback(id, arrival) if !self.sessions.contains_key(&id) => {
                self.context.return_callback(arrival);
            }
            Message::Callback(id, arrival) => {
                self.with_session(id, |session, context, desk| {
                    session.callback_connected(arrival, desk.registry, context)
                });
            }
            Message::Secret(id, answer) => {
                self.with_session(id, |session, context, _| session.secret_known(answer, context));
            }
            Message::More(id) => {
                self.with_session(id, |session, context, desk| {
                    session.read_more(context, desk.scratch)
                });
            }
            Message::Changes(id) => self.with_session(id, |session, _, _| session.notify()),
            // The rest has its next turn after all others.
            Message::Clear(leftovers) => {
                if let Some(rest) = leftovers.reap(self.context.turn) {
                    self.context.mailbox.send(Message::Clear(rest));
                }
            }
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

    fn serve(&mut self, arrival: Arrival) {
        /// Numbers are unique over all reactors.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = SessionId(LAST.fetch_add(1, Ordering::Relaxed));
        let pid = arrival.peer.pid;
        match Session::accept(id, arrival, self.poll.registry(), self.context.login_patience) {
            Ok(session) => {
                self.set_deadline(id, None, session.deadline());
                self.sessions.insert(id, session);
            }
            Err(error) => {
                tracing::debug!(pid, "gone before it was greeted: {error}");
                self.context.metrics.login(Login::Abandoned);
            }
        }
    }

    /// How much waits to be written to the application that has taken the least.
    #[cfg(fuzzing)]
    pub(crate) fn most_waiting(&self) -> usize {
        self.sessions.values().map(Session::waiting).max().unwrap_or(0)
    }

    /// Does what is due at `now`.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.with_session(id, |session, context, _| session.expired(now, context));
        }
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.pairing.expire(now);
            if acceptor.paused_until.is_some_and(|until| until <= now) {
                acceptor.paused_until = None;
                self.accept_some();
            }
        }
    }

    fn accept_some(&mut self) {
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.accept_some();
        }
    }
}

impl Acceptor {
    /// Each connection that comes is an event, so during a pause events are passed over: it ends by itself.
    fn accept_some(&mut self) {
        self.more = false;
        if self.closed && self.keep_waiting {
            return;
        }
        // Callbacks first: when there is little room left, it is for those who are half in.
        for channel in [Channel::Callback, Channel::Main] {
            for turn in 1.. {
                if self.paused_until.is_some() {
                    return;
                }
                let Some(stream) = self.accept(channel) else { break };
                self.admit(stream, channel);
                if turn == ACCEPT_BURST {
                    self.more = true;
                    break;
                }
            }
        }
    }

    /// The next connection, if there is one and there is room for it.
    fn accept(&mut self, channel: Channel) -> Option<UnixStream> {
        let listener = match channel {
            Channel::Main => &self.main,
            Channel::Callback => &self.callback,
        };
        loop {
            match listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return None,
                    // Whoever it was has gone again.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.pause(&error);
                        return None;
                    }
                },
            }
        }
    }

    fn pause(&mut self, why: &io::Error) {
        let now = Instant::now();
        self.paused_until = Some(now + ACCEPT_PAUSE);
        if self.pause_logged.allow(now) {
            tracing::warn!("no more connections for now: {why}");
        }
    }

    fn admit(&mut self, mut stream: UnixStream, channel: Channel) {
        if self.closed {
            return;
        }
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!("a connection without an owner is closed: {error}");
                return;
            }
        };
        let Ok(place) = self.quotas.admit(peer.uid, peer.pid, channel) else {
            if channel == Channel::Main {
                self.metrics.login(Login::Limit);
            }
            let mut refusal = Vec::new();
            refuse(&mut refusal);
            // Nothing was written before, so there is room for it. It is refused whether it hears of it
            // or not.
            let _ = stream.write(&refusal);
            return;
        };
        let arrival = Arrival { stream, peer, place };
        match channel {
            Channel::Main => {
                self.reactors[self.next].send(Message::Serve(arrival));
                self.next = (self.next + 1) % self.reactors.len();
            }
            Channel::Callback => self.pairing.callback(arrival, self.login_patience),
        }
    }
}
