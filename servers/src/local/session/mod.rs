//! One application: its two connections, its login, its operations, its changes.
//!
//! What is said is `kvs_proto`'s business; here requests meet the groups, and bytes the sockets. The login is the same
//! for both kinds of session; what follows it is in [`original`] and [`framed`]. Nothing here waits. A session that
//! has to end says so by an [`CloseReason`]; its reactor then drops it, which closes both connections.

pub(crate) mod close_reason;
mod framed;
mod original;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_proto::Protocol;
use kvs_proto::Text;
use kvs_proto::v1::server::{CallbackChannel, MainChannel};
use mio::{Registry, Token};
use subtle::ConstantTimeEq;

use self::close_reason::CLOSE_TIMEOUT;
pub(crate) use self::close_reason::CloseReason;
use self::framed::{Framed, Time};
use crate::directory::Unavailable;
use crate::local::group::registry::{Group, PendingNotifications};
use crate::local::group::subscriber::Subscriber;
use crate::local::limits::login_throttle::Admission;
use crate::local::limits::quota::{Limit, LogPermit, UserQuota};
use crate::local::metrics::Login as LoginResult;
use crate::local::net::connection::{AcceptedConnection, Peer};
use crate::local::net::context::{Context, Scratch};
use crate::local::net::mailbox::{Address, Message, SessionId};
use crate::local::net::socket::{Received, Socket};

/// The reads in one turn. Who keeps its socket full gets no more than its share.
const READS: usize = 2;

/// How long a framed session may carry out requests in one turn, about. What it has read besides waits for the next.
pub(crate) const TIME_SLICE: Duration = Duration::from_micros(250);

/// An application that is connected.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    peer: Peer,
    user: Arc<UserQuota>,
    main: Socket,
    /// The login, and all that follows in an original session.
    protocol: MainChannel,
    callback: Option<Callback>,
    stage: Stage,
    /// It has been told to close, or will be as soon as its callback channel allows.
    closing: bool,
    /// [`Context::schedule_continue`] was asked for. Never twice at a time: each event would add a read to every turn.
    more: bool,
    /// When its secret is looked at, if that has to wait for its turn.
    turn: Option<Instant>,
    /// When its login, or its closing, has taken too long.
    deadline: Option<Instant>,
    login_timeout: Duration,
}

/// The callback connection.
#[derive(Debug)]
struct Callback {
    socket: Socket,
    /// What is said on it in an original session. In a framed one, the subscriber speaks.
    notifier: CallbackChannel,
}

#[derive(Debug)]
enum Stage {
    /// Has not named a group that exists.
    New,
    /// Has named a group, and perhaps its secret.
    Login(Login),
    /// Is in.
    Member(Member),
}

struct Login {
    group: Arc<Group>,
    /// What the application says.
    secret: Option<Text>,
    /// What the authentication server says, once it has; `None` in it: it knows no such group.
    right: Option<Option<Text>>,
}

impl fmt::Debug for Login {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("group", &self.group).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Member {
    group: Arc<Group>,
    number: u64,
    subscriber: Arc<Subscriber>,
    /// What a framed session has besides; nothing in an original one.
    framed: Option<Framed>,
}

/// The token of a session's main connection; its callback connection has the next one.
fn main_token(id: SessionId) -> Token {
    Token(id.0 as usize * 2)
}

/// The session that a token belongs to, and whether it is that of its callback connection.
pub(super) fn session_of(token: Token) -> (SessionId, bool) {
    (SessionId(token.0 as u64 / 2), token.0 % 2 == 1)
}

impl Session {
    /// Greets a connection that was just accepted.
    pub(super) fn accept(
        id: SessionId,
        connection: AcceptedConnection,
        registry: &Registry,
        login_timeout: Duration,
    ) -> std::io::Result<Self> {
        let AcceptedConnection { stream, peer, permit } = connection;
        let user = Arc::clone(permit.user());
        let mut main = Socket::new(stream, permit);
        main.register(registry, main_token(id))?;
        let mut greeting = Vec::new();
        let protocol = MainChannel::accept(&mut greeting);
        main.write(&mut greeting)?;
        Ok(Self {
            id,
            peer,
            user,
            main,
            protocol,
            callback: None,
            stage: Stage::New,
            closing: false,
            more: false,
            turn: None,
            deadline: Some(Instant::now() + login_timeout),
            login_timeout,
        })
    }

    /// The point in time at which [`expire`](Self::expire) is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.deadline, self.turn].into_iter().flatten().min()
    }

    /// The deadline has passed.
    pub(super) fn expire(&mut self, now: Instant, context: &Context) -> Result<(), CloseReason> {
        if self.turn.is_some_and(|turn| turn <= now) {
            return self.decide(context, now);
        }
        Err(if self.closing {
            CloseReason::CloseTimeout
        } else {
            CloseReason::LoginTimeout(self.login_timeout)
        })
    }

    /// There may be more than was read in the last turn.
    pub(super) fn resume(
        &mut self,
        context: &Context,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        self.more = false;
        self.main_ready(true, context, scratch)
    }

    /// The main connection may be read or written. `read_closed`: there is more to come than the first read
    /// shows, if only the end of the stream.
    pub(super) fn main_ready(
        &mut self,
        read_closed: bool,
        context: &Context,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        self.main.flush().map_err(|_| CloseReason::ConnectionLost)?;
        let Scratch { input, output } = scratch;
        output.clear();
        let mut time = Time::of(context.time_slice);
        // However this ends.
        let mut notifications = PendingNotifications::default();
        let mut tally = context.metrics.tally();
        for turn in 0.. {
            self.serve_backlog(output, &mut notifications, &mut time, &mut tally)?;
            // One that does not take its answers is not listened to until it does.
            if self.main.is_write_blocked() {
                break;
            }
            if turn == READS || self.has_backlog() {
                self.ask_for_more(context);
                break;
            }
            let room = if self.is_framed() { &mut input[..] } else { &mut input[..original::READ] };
            let (read, room) = match self.main.read(room) {
                Received::Bytes(read) => (&room[..read], room.len()),
                Received::Nothing => break,
                Received::End => return Err(self.gone()),
            };
            // One look at the clock does for both.
            let now = time.begin();
            tally.read(now);
            match self.framed() {
                Some(_) => {
                    self.serve_frames(read, output, &mut notifications, &mut time, &mut tally)?;
                }
                None => {
                    self.serve_original(read, output, &mut notifications, &mut tally, context)?
                }
            }
            self.main.write(output).map_err(|_| self.gone())?;
            tally.written();
            notifications.flush();
            if self.protocol.is_closed() {
                // It was told that there is no such group.
                return Err(CloseReason::NoSuchGroup);
            }
            // A stream socket that gave less than was asked for is empty, so the next `read` would be in
            // vain; what comes later is a new event. Not so the end of the stream, if that was it. (Only
            // descriptors that are passed along cut a read short; who does that waits for his next byte.)
            if read.len() < room && !read_closed && !self.has_backlog() {
                break;
            }
        }
        self.charge_waiting();
        Ok(())
    }

    /// Another turn, as soon as all others had theirs.
    fn ask_for_more(&mut self, context: &Context) {
        if !mem::replace(&mut self.more, true) {
            context.schedule_continue(self.id);
        }
    }

    /// Whether the application has not taken all of its answers.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.main.is_write_blocked()
    }

    fn gone(&self) -> CloseReason {
        if self.closing { CloseReason::ClosedByServer } else { CloseReason::ConnectionLost }
    }

    /// The application says goodbye.
    fn goodbye(&self) -> CloseReason {
        if self.closing { CloseReason::ClosedByServer } else { CloseReason::ClosedByClient }
    }

    /// The secret is here: the callback connection and the authentication server's answer must follow.
    fn ask_for_secret(&mut self, secret: Text, context: &Context) {
        if let Stage::Login(login) = &mut self.stage {
            login.secret = Some(secret);
            context.await_callback(self.peer.clone(), self.id);
            context.look_up_secret(&login.group, self.id);
        }
    }

    /// The callback connection is here.
    pub(super) fn callback_connected(
        &mut self,
        connection: AcceptedConnection,
        registry: &Registry,
        context: &Context,
    ) -> Result<(), CloseReason> {
        if self.main.has_hung_up() {
            // The application has given this login up, so this is for its next one.
            context.return_callback(connection);
            return Err(CloseReason::ConnectionLost);
        }
        let mut socket = Socket::new(connection.stream, connection.permit);
        let token = Token(main_token(self.id).0 + 1);
        socket.register(registry, token).map_err(|_| CloseReason::ConnectionLost)?;
        let mut greeting = Vec::new();
        let notifier = CallbackChannel::accept(&mut greeting);
        if socket.write(&mut greeting).is_err() {
            // It was left over from a login that was given up: ours is still to come.
            context.await_callback(self.peer.clone(), self.id);
            return Ok(());
        }
        self.callback = Some(Callback { socket, notifier });
        self.decide(context, Instant::now())
    }

    /// The authentication server has answered, or does not.
    pub(super) fn secret_received(
        &mut self,
        answer: Result<Option<Text>, Unavailable>,
        context: &Context,
    ) -> Result<(), CloseReason> {
        if let Stage::Login(login) = &mut self.stage {
            login.right = Some(answer.map_err(CloseReason::Unavailable)?);
        }
        self.decide(context, Instant::now())
    }

    /// The verdict, as soon as everything for it is here and its turn has come. The callback channel was
    /// greeted before.
    fn decide(&mut self, context: &Context, now: Instant) -> Result<(), CloseReason> {
        let Stage::Login(Login { group, secret: Some(secret), right: Some(right) }) = &self.stage
        else {
            return Ok(());
        };
        let Some(callback) = &self.callback else { return Ok(()) };
        let matches = right.is_some_and(|right| right.as_bytes().ct_eq(secret.as_bytes()).into());
        let uid = self.peer.uid;
        match self.turn {
            None => match group.login_throttle.admit(uid, matches, now) {
                Admission::Now => {}
                Admission::At(then) => {
                    self.turn = Some(then);
                    return Ok(());
                }
                Admission::Denied => {
                    let (pid, name) = (self.peer.pid, group.name());
                    self.user.log_refusal(
                        Limit::FailedLogins,
                        format_args!("a login of process {pid} to {name:?} is refused"),
                    );
                    return Err(CloseReason::TooManyFailedLogins);
                }
            },
            Some(then) if then > now => return Ok(()),
            Some(_) if matches => group.login_throttle.confirm(uid),
            Some(_) => {}
        }
        let mut out = Vec::new();
        if !matches {
            self.protocol.respond_to_secret(false, &mut out);
            // It is refused whether it hears of it or not.
            let _ = self.main.write(&mut out);
            return Err(CloseReason::WrongSecret);
        }
        let address = Address { mailbox: Arc::clone(&context.mailbox), session: self.id };
        let user = Arc::clone(&self.user);
        let kind = self.protocol.negotiated();
        let subscriber = Arc::new(match kind {
            Protocol::V1 => Subscriber::v1(address, user, context.metrics.changes()),
            Protocol::V2 => Subscriber::v2(
                address,
                user,
                context.metrics.changes(),
                callback.socket.connection(),
            ),
        });
        let number = group
            .join(self.peer.pid, kind, Arc::clone(&subscriber))
            .map_err(|_| CloseReason::GroupDeleted)?;
        context.metrics.login(LoginResult::Ok);
        let group = Arc::clone(group);
        self.protocol.respond_to_secret(true, &mut out);
        let framed = match kind {
            Protocol::V1 => None,
            Protocol::V2 => Some(Framed::begin(context.limits, &mut out)),
        };
        self.stage = Stage::Member(Member { group, number, subscriber, framed });
        (self.turn, self.deadline) = (None, None);
        self.main.write(&mut out).map_err(|_| CloseReason::ConnectionLost)
    }

    /// The callback connection may be written, or read.
    pub(super) fn callback_ready(&mut self, readable: bool) -> Result<(), CloseReason> {
        let kept = match self.is_framed() {
            true => self.framed_callback_ready(readable)?,
            false => self.original_callback_ready()?,
        };
        if kept { self.send_events() } else { self.callback_lost() }
    }

    /// Has events tell when a connection is writable on which something waits.
    pub(super) fn update_write_interest(&mut self, registry: &Registry) -> Result<(), CloseReason> {
        let token = main_token(self.id);
        let wanted = self.main.is_write_blocked();
        self.main
            .update_write_interest(wanted, registry, token)
            .map_err(|_| CloseReason::ConnectionLost)?;
        let Some(callback) = &mut self.callback else { return Ok(()) };
        let wanted = match &self.stage {
            Stage::Member(Member { framed: Some(_), subscriber, .. }) => {
                subscriber.is_write_blocked()
            }
            _ => callback.socket.is_write_blocked(),
        };
        let token = Token(token.0 + 1);
        callback
            .socket
            .update_write_interest(wanted, registry, token)
            .map_err(|_| CloseReason::ConnectionLost)
    }

    /// It can be told nothing any more, and goes on without. On an orderly goodbye both connections end,
    /// in any order.
    fn callback_lost(&mut self) -> Result<(), CloseReason> {
        self.callback = None;
        match &self.stage {
            Stage::Member(member) => {
                member.subscriber.close();
                if self.closing { Err(CloseReason::ClosedByServer) } else { Ok(()) }
            }
            Stage::New | Stage::Login(_) => Err(CloseReason::ConnectionLost),
        }
    }

    /// Tells changes, or that it is to close, if the callback channel is ready for it.
    pub(super) fn send_events(&mut self) -> Result<(), CloseReason> {
        if let Stage::Member(member) = &self.stage
            && member.subscriber.is_over_quota()
        {
            return Err(CloseReason::TooManyEvents);
        }
        let told = match self.is_framed() {
            true => self.notify_framed(),
            false => self.notify_original(),
        };
        if told.is_err() { self.callback_lost() } else { Ok(()) }
    }

    /// Whether it has read more than it could carry out.
    fn has_backlog(&mut self) -> bool {
        self.framed().is_some_and(|framed| framed.has_backlog())
    }

    fn is_framed(&self) -> bool {
        matches!(&self.stage, Stage::Member(Member { framed: Some(_), .. }))
    }

    fn framed(&mut self) -> Option<&mut Framed> {
        match &mut self.stage {
            Stage::Member(member) => member.framed.as_mut(),
            Stage::New | Stage::Login(_) => None,
        }
    }

    /// It is to close, within [`CLOSE_TIMEOUT`].
    pub(super) fn close(&mut self) -> Result<(), CloseReason> {
        if self.closing {
            return Ok(());
        }
        self.closing = true;
        if !matches!(self.stage, Stage::Member(_)) || self.callback.is_none() {
            // It cannot be told, other than by the end of its connection.
            return Err(CloseReason::ClosedByServer);
        }
        self.deadline = Some(Instant::now() + CLOSE_TIMEOUT);
        if let (true, Stage::Member(member)) = (self.is_framed(), &self.stage) {
            return member.subscriber.send_close().or_else(|_| self.callback_lost());
        }
        self.send_events()
    }

    /// How much waits to be written on either connection.
    #[cfg(fuzzing)]
    pub(super) fn unsent(&self) -> usize {
        let callback = self.callback.as_ref().map_or(0, |callback| callback.socket.unsent());
        let changes = match &self.stage {
            Stage::Member(member) => member.subscriber.waiting(),
            Stage::New | Stage::Login(_) => 0,
        };
        self.main.unsent() + callback + changes
    }

    /// The last act: leaves the group and the pairing.
    pub(super) fn end(self, why: &CloseReason, context: &Context) {
        let pid = self.peer.pid;
        let group = match &self.stage {
            Stage::New => None,
            Stage::Login(login) => Some(login.group.name()),
            Stage::Member(member) => Some(member.group.name()),
        };
        let group = group.map(tracing::field::debug);
        context.metrics.end(why, matches!(self.stage, Stage::Member(_)));
        match why.is_notable().then(|| self.user.log_permit()).flatten() {
            None => tracing::debug!(pid, group, "application: {why}"),
            Some(LogPermit::Last) => tracing::warn!(
                pid,
                group,
                "application: {why} (no more of this for a while about the applications of this user)"
            ),
            Some(LogPermit::More) => tracing::warn!(pid, group, "application: {why}"),
        }
        match self.stage {
            Stage::Member(member) => {
                member.subscriber.close();
                // The connections are closed first: whoever waits for the group to be empty may count on
                // it. Somebody may be just about to tell a change.
                if let Some(callback) = &self.callback {
                    callback.socket.shut_down();
                }
                drop((self.main, self.callback));
                if let Some(rest) = member.group.leave(member.number) {
                    context.mailbox.send(Message::Run(Box::new(rest)));
                }
            }
            Stage::Login(_) if self.callback.is_none() => context.cancel_pairing(self.id),
            Stage::Login(_) | Stage::New => {}
        }
    }
}
