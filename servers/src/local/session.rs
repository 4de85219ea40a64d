//! One application: its two connections, its login, its operations, its changes.
//!
//! What is said is `kvs_proto::app::server`'s business; here its requests meet the groups, and its bytes the
//! sockets. Nothing here waits. A session that has to end says so by an [`End`]; its reactor then drops
//! it, which closes both connections.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_proto::Text;
use kvs_proto::app::server::{Malformed, Notifier, Request, Session as Protocol, UnexpectedReply};
use mio::{Registry, Token};
use subtle::ConstantTimeEq;

use super::auth_link::Unavailable;
use super::groups::Group;
use super::guesses::Turn;
use super::mailbox::{Address, SessionId};
use super::pairing::{Arrival, Peer};
use super::quota::{Limit, Line, User, WATCH_BYTES};
use super::reactor::Context;
use super::socket::{Received, Socket};
use super::watcher::Watcher;

/// How long an application may take to close after it was told to.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// More than any legal application ever has under way, so that one read takes all there is.
const READ_BUFFER: usize = 4096;

/// The reads in one turn. A legal application never fills more than one buffer; one that keeps its socket
/// full gets no more than its share.
const READS: usize = 2;

/// An application that is connected.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    peer: Peer,
    user: Arc<User>,
    main: Socket,
    protocol: Protocol,
    callback: Option<(Socket, Notifier)>,
    stage: Stage,
    /// It has been told to close, or will be as soon as its callback channel allows.
    closing: bool,
    /// [`Context::read_more`] was asked for. Never twice at a time: each event would add a read to every turn.
    more: bool,
    /// When its secret is looked at, if that has to wait for its turn.
    turn: Option<Instant>,
    /// When its login, or its closing, has taken too long.
    deadline: Option<Instant>,
    login_patience: Duration,
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
    watcher: Arc<Watcher>,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The application said goodbye.
    #[error("closed by the application")]
    Goodbye,
    /// The main connection has ended without a goodbye.
    #[error("the application is gone")]
    Gone,
    /// No such group, or a wrong secret; the application was told.
    #[error("login refused: {0}")]
    Refused(&'static str),
    /// The secret cannot be asked for.
    #[error("login not possible: {0}")]
    Unavailable(Unavailable),
    /// The group was deleted during the login.
    #[error("the group was deleted during the login")]
    GroupDeleted,
    /// The application broke the protocol on the main channel.
    #[error("protocol error: {0}")]
    Malformed(#[from] Malformed),
    /// The application broke the protocol on the callback channel.
    #[error("protocol error: {0}")]
    UnexpectedReply(#[from] UnexpectedReply),
    /// The user sends too many wrong secrets; the application was not told whether this one was right.
    #[error("login refused: too many wrong secrets before this one")]
    TooManyGuesses,
    /// The login took too long.
    #[error("the login was not finished within {} s (--login-timeout)", .0.as_secs())]
    LoginTooLong(Duration),
    /// It was told to close.
    #[error("closed, as its group was deleted or the server quits")]
    ClosedByServer,
    /// It was told to close, and did not.
    #[error("did not close within {} s of being told to", CLOSE_PATIENCE.as_secs())]
    Unresponsive,
}

impl End {
    /// Whether an administrator may want to know: not for what happens every day.
    fn is_remarkable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Malformed(_)
                | Self::UnexpectedReply(_)
                | Self::LoginTooLong(_)
                | Self::Unresponsive
        )
    }
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
        arrival: Arrival,
        registry: &Registry,
        login_patience: Duration,
    ) -> std::io::Result<Self> {
        let Arrival { stream, peer, place } = arrival;
        let user = Arc::clone(place.user());
        let mut main = Socket::new(stream, place);
        main.register(registry, main_token(id))?;
        let mut greeting = Vec::new();
        let protocol = Protocol::accept(&mut greeting);
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
            deadline: Some(Instant::now() + login_patience),
            login_patience,
        })
    }

    /// The point in time at which [`expired`](Self::expired) is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.deadline, self.turn].into_iter().flatten().min()
    }

    /// The deadline has passed.
    pub(super) fn expired(&mut self, now: Instant, context: &Context) -> Result<(), End> {
        if self.turn.is_some_and(|turn| turn <= now) {
            return self.decide(context, now);
        }
        Err(if self.closing { End::Unresponsive } else { End::LoginTooLong(self.login_patience) })
    }

    /// There may be more than was read in the last turn.
    pub(super) fn read_more(&mut self, context: &Context) -> Result<(), End> {
        self.more = false;
        self.main_ready(true, context)
    }

    /// The main connection may be read or written. `read_closed`: there is more to come than the first read
    /// shows, if only the end of the stream.
    pub(super) fn main_ready(&mut self, read_closed: bool, context: &Context) -> Result<(), End> {
        self.main.flush().map_err(|_| End::Gone)?;
        let mut buffer = [0; READ_BUFFER];
        let mut out = Vec::new();
        for turn in 0.. {
            // One that does not take its answers is not listened to until it does.
            if self.main.is_stuck() {
                break;
            }
            if turn == READS {
                if !mem::replace(&mut self.more, true) {
                    context.read_more(self.id);
                }
                break;
            }
            let read = match self.main.read(&mut buffer) {
                Received::Bytes(read) => &buffer[..read],
                Received::Nothing => break,
                Received::End => return Err(self.gone()),
            };
            let mut requests = self.protocol.receive(read, &mut out)?;
            requests.try_for_each(|request| self.serve(request, &mut out, context))?;
            self.main.write(&mut out).map_err(|_| self.gone())?;
            if self.protocol.is_over() {
                // It was told that there is no such group.
                return Err(End::Refused("no such group"));
            }
            // A stream socket that gave less than was asked for is empty, so the next `read` would be in
            // vain; what comes later is a new event. Not so the end of the stream, if that was it. (Only
            // descriptors that are passed along cut a read short; who does that waits for his next byte.)
            if read.len() < READ_BUFFER && !read_closed {
                break;
            }
        }
        Ok(())
    }

    fn gone(&self) -> End {
        if self.closing { End::ClosedByServer } else { End::Gone }
    }

    fn serve(&mut self, request: Request, out: &mut Vec<u8>, context: &Context) -> Result<(), End> {
        let member = match (&self.stage, request) {
            (_, Request::Group(name)) => {
                let group = context.groups.open_group(&name);
                tracing::debug!(pid = self.peer.pid, group = ?name, found = group.is_some(), "login");
                self.protocol.answer_group(group.is_some(), out);
                if let Some(group) = group {
                    self.stage = Stage::Login(Login { group, secret: None, right: None });
                }
                return Ok(());
            }
            (_, Request::Secret(secret)) => {
                self.ask_for_secret(secret, context);
                return Ok(());
            }
            (_, Request::Close) => {
                return Err(if self.closing { End::ClosedByServer } else { End::Goodbye });
            }
            (Stage::Member(member), _) => member,
            // The protocol lets nothing else through before the verdict.
            (Stage::New | Stage::Login(_), _) => return Err(End::Refused("not logged in")),
        };
        let pid = self.peer.pid;
        match request {
            Request::BeginPut(key) => {
                let allowed = member.group.may_put(&key, &self.user);
                let ready = is_allowed(allowed, &self.user, pid);
                self.protocol.answer_ready(ready, out);
            }
            Request::BeginWatch => {
                let allowed = self.user.room_for(0, WATCH_BYTES.into());
                let ready = is_allowed(allowed, &self.user, pid);
                self.protocol.answer_ready(ready, out);
            }
            Request::Put { key, value } => {
                let watchers = member.group.put(&key, &value, &self.user);
                tracing::debug!(pid, ?key, watchers = watchers.len(), "put");
                for watcher in watchers {
                    watcher.changed(key);
                }
            }
            Request::Get(key) => {
                let protocol = &mut self.protocol;
                let found = member.group.get(&key, |value| {
                    protocol.answer_get(value, out);
                    value.is_some()
                });
                tracing::debug!(pid, ?key, found, "get");
            }
            Request::Delete(key) => {
                let found = member.group.delete(&key);
                tracing::debug!(pid, ?key, found, "delete");
                self.protocol.answer_found(found, out);
            }
            Request::Watch(key) => {
                let found = member.group.watch(&key, member.number, &self.user);
                tracing::debug!(pid, ?key, found, "watch");
                self.protocol.answer_found(found, out);
            }
            Request::Group(_) | Request::Secret(_) | Request::Close => {}
        }
        Ok(())
    }

    /// The secret is here: the callback connection and the authentication server's answer must follow.
    fn ask_for_secret(&mut self, secret: Text, context: &Context) {
        if let Stage::Login(login) = &mut self.stage {
            login.secret = Some(secret);
            context.await_callback(self.peer.clone(), self.id);
            context.ask_for_secret(&login.group, self.id);
        }
    }

    /// The callback connection is here.
    pub(super) fn callback_connected(
        &mut self,
        arrival: Arrival,
        registry: &Registry,
        context: &Context,
    ) -> Result<(), End> {
        if self.main.has_hung_up() {
            // The application has given this login up, so this is for its next one.
            context.return_callback(arrival);
            return Err(End::Gone);
        }
        let mut socket = Socket::new(arrival.stream, arrival.place);
        let token = Token(main_token(self.id).0 + 1);
        socket.register(registry, token).map_err(|_| End::Gone)?;
        let mut greeting = Vec::new();
        let notifier = Notifier::accept(&mut greeting);
        if socket.write(&mut greeting).is_err() {
            // It was left over from a login that was given up: ours is still to come.
            context.await_callback(self.peer.clone(), self.id);
            return Ok(());
        }
        self.callback = Some((socket, notifier));
        self.decide(context, Instant::now())
    }

    /// The authentication server has answered, or does not.
    pub(super) fn secret_known(
        &mut self,
        answer: Result<Option<Text>, Unavailable>,
        context: &Context,
    ) -> Result<(), End> {
        if let Stage::Login(login) = &mut self.stage {
            login.right = Some(answer.map_err(End::Unavailable)?);
        }
        self.decide(context, Instant::now())
    }

    /// The verdict, as soon as everything for it is here and its turn has come. The callback channel was
    /// greeted before.
    fn decide(&mut self, context: &Context, now: Instant) -> Result<(), End> {
        let Stage::Login(Login { group, secret: Some(secret), right: Some(right) }) = &self.stage
        else {
            return Ok(());
        };
        if self.callback.is_none() {
            return Ok(());
        }
        let matches = right.is_some_and(|right| right.as_bytes().ct_eq(secret.as_bytes()).into());
        let uid = self.peer.uid;
        match self.turn {
            None => match group.guesses.turn(uid, matches, now) {
                Turn::Now => {}
                Turn::At(then) => {
                    self.turn = Some(then);
                    return Ok(());
                }
                Turn::Never => {
                    let (pid, name) = (self.peer.pid, group.name());
                    self.user.log(
                        Limit::Guesses,
                        format_args!("a login of process {pid} to {name:?} is refused"),
                    );
                    return Err(End::TooManyGuesses);
                }
            },
            Some(then) if then > now => return Ok(()),
            Some(_) if matches => group.guesses.shown_right(uid),
            Some(_) => {}
        }
        let mut out = Vec::new();
        if !matches {
            self.protocol.answer_secret(false, &mut out);
            // It is refused whether it hears of it or not.
            let _ = self.main.write(&mut out);
            return Err(End::Refused("wrong secret"));
        }
        let address = Address { mailbox: Arc::clone(&context.mailbox), session: self.id };
        let watcher = Arc::new(Watcher::new(address, Arc::clone(&self.user)));
        let number =
            group.enter(self.peer.pid, Arc::clone(&watcher)).map_err(|_| End::GroupDeleted)?;
        let group = Arc::clone(group);
        self.stage = Stage::Member(Member { group, number, watcher });
        (self.turn, self.deadline) = (None, None);
        self.protocol.answer_secret(true, &mut out);
        self.main.write(&mut out).map_err(|_| End::Gone)
    }

    /// The callback connection may be read or written.
    pub(super) fn callback_ready(&mut self) -> Result<(), End> {
        let Some((socket, notifier)) = &mut self.callback else { return Ok(()) };
        let mut buffer = [0; READ_BUFFER];
        let mut out = Vec::new();
        let mut ended = socket.flush().is_err();
        while !ended && !socket.is_stuck() {
            match socket.read(&mut buffer) {
                Received::Bytes(read) => {
                    notifier.receive(&buffer[..read], &mut out)?;
                    ended = socket.write(&mut out).is_err();
                }
                Received::Nothing => break,
                Received::End => ended = true,
            }
        }
        if ended {
            return self.callback_lost();
        }
        self.notify()
    }

    /// It can be told nothing any more, and goes on without. On an orderly goodbye both connections end,
    /// in any order.
    fn callback_lost(&mut self) -> Result<(), End> {
        self.callback = None;
        match &self.stage {
            Stage::Member(member) => {
                member.watcher.stop();
                if self.closing { Err(End::ClosedByServer) } else { Ok(()) }
            }
            Stage::New | Stage::Login(_) => Err(End::Gone),
        }
    }

    /// Tells the next change, or that it is to close, if the callback channel is ready for it.
    pub(super) fn notify(&mut self) -> Result<(), End> {
        let (Some((socket, notifier)), Stage::Member(member)) = (&mut self.callback, &self.stage)
        else {
            return Ok(());
        };
        if socket.is_stuck() || !notifier.is_idle() {
            return Ok(());
        }
        let mut out = Vec::new();
        if self.closing {
            notifier.close(&mut out);
        } else if let Some(key) = member.watcher.next() {
            notifier.announce(key, &mut out);
        }
        if socket.write(&mut out).is_err() {
            return self.callback_lost();
        }
        Ok(())
    }

    /// It is to close, within [`CLOSE_PATIENCE`].
    pub(super) fn close(&mut self) -> Result<(), End> {
        if self.closing {
            return Ok(());
        }
        self.closing = true;
        if !matches!(self.stage, Stage::Member(_)) || self.callback.is_none() {
            // It cannot be told, other than by the end of its connection.
            return Err(End::ClosedByServer);
        }
        self.deadline = Some(Instant::now() + CLOSE_PATIENCE);
        self.notify()
    }

    /// How much waits to be written on either connection.
    #[cfg(fuzzing)]
    pub(super) fn waiting(&self) -> usize {
        self.main.waiting() + self.callback.as_ref().map_or(0, |(socket, _)| socket.waiting())
    }

    /// The last act: leaves the group and the pairing.
    pub(super) fn end(self, why: &End, context: &Context) {
        let pid = self.peer.pid;
        let group = match &self.stage {
            Stage::New => None,
            Stage::Login(login) => Some(login.group.name()),
            Stage::Member(member) => Some(member.group.name()),
        };
        let group = group.map(tracing::field::debug);
        match why.is_remarkable().then(|| self.user.log_line()).flatten() {
            None => tracing::debug!(pid, group, "application: {why}"),
            Some(Line::Last) => tracing::warn!(
                pid,
                group,
                "application: {why} (no more of this for a while about the applications of this user)"
            ),
            Some(Line::OneOfMany) => tracing::warn!(pid, group, "application: {why}"),
        }
        match self.stage {
            Stage::Member(member) => {
                member.watcher.stop();
                // The connections are closed first: whoever waits for the group to be empty may count on
                // it.
                drop((self.main, self.callback));
                member.group.leave(member.number);
            }
            Stage::Login(_) if self.callback.is_none() => context.forget_callback(self.id),
            Stage::Login(_) | Stage::New => {}
        }
    }
}

/// Whether there was no limit in the way; if there was, it is logged.
fn is_allowed(allowed: Result<(), Limit>, user: &User, pid: i32) -> bool {
    if let Err(limit) = allowed {
        user.log(limit, format_args!("an operation of process {pid} is refused"));
    }
    allowed.is_ok()
}
