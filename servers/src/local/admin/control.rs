//! The control socket: an administrator's requests without the console (`docs/PROTOCOL.md`, section 8).
//!
//! Only the server's own user and root are served, which the mode of the path says, and the kernel once more for
//! each connection (`SO_PEERCRED`), as somebody may have changed the mode. All others are told so in one line.
//!
//! Requests wait for the authentication server, so each connection has a thread, and there are [`PLACES`] of them at most.
//! When all are taken, the one that has been waited for longest is closed: a connection that does nothing holds nobody up, and no
//! operation that has begun is cut short. A request must come within [`REQUEST_PATIENCE`] once it has begun, and each line of an
//! answer be taken within [`ANSWER_PATIENCE`]. The status of many applications is looked up and written in portions; no lock
//! is held while one is written.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvs_proto::Text;
use kvs_proto::control::{
    AdminErrorKind as Kind, AdminRequest, AdminResponse, ApplicationStatus, Bytes, DecodeError,
    GroupStatus, MAX_REQUEST_LEN, WatchedItem,
};
use mio::net::UnixListener;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;
use parking_lot::Mutex;

use crate::directory::Unavailable;
use crate::local::admin::administration::{
    Administration, Invalid, NoGroup, NotCreated, chosen_secret, group_id,
};
use crate::local::group::group::Group;
use crate::local::group::members::ClientStatus;
use crate::local::net::acceptor::Acceptor;
use crate::local::net::listener::Listener;
use crate::log_limiter::LogLimiter;
use crate::shutdown::Reason;

/// How many administrators are served at a time.
const PLACES: usize = 16;

/// How long a connection may say nothing.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);

/// How long a request may take from its first byte to its last.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take until a line of an answer is taken.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// How many applications are looked up at a time, under the lock of their group.
const APPLICATIONS: usize = 64;

/// How many watches of an application are told, as long as their keys have not more than [`WATCHED_BYTES`].
const WATCHES: usize = 1000;

/// The bytes of keys after which no more watches of an application are told. The longest key fits in.
const WATCHED_BYTES: usize = 1 << 16;

/// A part of the status is written when it describes about so many bytes.
const PORTION: usize = 1 << 16;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);

/// The thread that accepts, and the connections.
#[derive(Debug)]
pub(crate) struct Control {
    waker: Arc<Waker>,
    acceptor: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

impl Control {
    /// Serves, until it is dropped.
    ///
    /// # Errors
    /// When the system has no thread or descriptor for it.
    pub(crate) fn start(
        mut listener: Listener,
        administration: Arc<Administration>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let connections = Arc::new(Connections { administration, open: Mutex::default() });
        let mut socket = listener.take().ok_or_else(|| io::Error::other("it was taken before"))?;
        poll.registry().register(&mut socket, LISTENER, Interest::READABLE)?;
        let theirs = Arc::clone(&connections);
        let acceptor = thread::Builder::new().name("control".into()).spawn(move || {
            if let Err(error) = accept(poll, &socket, &theirs) {
                tracing::error!("the control socket is served no more: {error}");
            }
            drop(socket);
            // And with it the path.
            drop(listener);
        })?;
        Ok(Self { waker, acceptor: Some(acceptor), connections })
    }

    /// Removes the path. Who is connected stays so.
    pub(crate) fn accept_no_more(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        match self.waker.wake() {
            Ok(()) if acceptor.join().is_ok() => {}
            Ok(()) => tracing::error!("control ended by a panic"),
            Err(error) => tracing::error!("the thread of the control socket stays: {error}"),
        }
    }
}

impl Drop for Control {
    /// All connections end.
    fn drop(&mut self) {
        self.accept_no_more();
        let open = std::mem::take(&mut self.connections.open.lock().connections);
        for connection in open {
            end(&connection.stream);
        }
    }
}

/// Accepts until it is woken.
fn accept(mut poll: Poll, socket: &UnixListener, connections: &Arc<Connections>) -> io::Result<()> {
    let mut events = Events::with_capacity(8);
    let mut acceptor = Acceptor::new("administrators");
    let mut strangers = LogLimiter::default();
    loop {
        let pause = acceptor.paused_until();
        let timeout = pause.map(|until| until.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        if events.iter().any(|event| event.token() == WAKER) {
            return Ok(());
        }
        acceptor.resume(Instant::now());
        while let Some(stream) = acceptor.accept(socket) {
            admit(stream.into(), connections, &mut strangers);
        }
    }
}

fn admit(stream: OwnedFd, connections: &Arc<Connections>, strangers: &mut LogLimiter) {
    let stream = Arc::new(UnixStream::from(stream));
    let ours = geteuid().as_raw();
    match getsockopt(&stream, PeerCredentials) {
        Ok(peer) if peer.uid() == 0 || peer.uid() == ours => {}
        Ok(peer) => {
            if strangers.allow(Instant::now()) {
                let (pid, uid) = (peer.pid(), peer.uid());
                tracing::warn!(pid, uid, "refused on the control socket: not our user, nor root");
            }
            let message = "only root and the user of the server may administer it";
            return refuse(&stream, Kind::Denied, message);
        }
        Err(error) => return tracing::warn!("a control connection has no user: {error}"),
    }
    let Some(id) = connections.admit(&stream) else {
        return refuse(&stream, Kind::Busy, "too many administrators are at work; try again");
    };
    let connection = Served { id, stream, connections: Arc::clone(connections) };
    let thread =
        thread::Builder::new().name("control-client".into()).spawn(move || connection.serve());
    if let Err(error) = thread {
        tracing::warn!("no thread for a control connection: {error}");
    }
}

/// Says why and ends the connection. Never waits.
fn refuse(stream: &UnixStream, kind: Kind, message: &str) {
    let answer = AdminResponse::Error { kind, message: message.into() };
    // The first line always has room, unless the peer has gone.
    let _ = stream.set_nonblocking(true).and_then(|()| (&mut &*stream).write_all(&answer.encode()));
    end(stream);
}

fn end(stream: &UnixStream) {
    // It fails when the peer has gone already.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Who is connected.
#[derive(Debug)]
struct Connections {
    administration: Arc<Administration>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    stream: Arc<UnixStream>,
    /// Since when it is the peer's turn; nothing while an operation is under way.
    waited_for: Option<Instant>,
}

impl Connections {
    /// Finds a place, if need be that of another one who does nothing.
    fn admit(&self, stream: &Arc<UnixStream>) -> Option<u64> {
        let mut open = self.open.lock();
        let mut idle = None;
        if open.connections.len() >= PLACES {
            let waited_for = open.connections.iter().enumerate();
            let waited_for = waited_for.filter_map(|(at, other)| Some((other.waited_for?, at)));
            let (_, at) = waited_for.min()?;
            idle = Some(open.connections.swap_remove(at));
        }
        open.last += 1;
        let id = open.last;
        let (stream, waited_for) = (Arc::clone(stream), Some(Instant::now()));
        open.connections.push(Connection { id, stream, waited_for });
        drop(open);
        if let Some(idle) = idle {
            end(&idle.stream);
        }
        Some(id)
    }

    /// Whose turn it is from now on; `false` when the connection has lost its place.
    fn waits_for_peer(&self, id: u64, peer: bool) -> bool {
        let mut open = self.open.lock();
        let connection = open.connections.iter_mut().find(|connection| connection.id == id);
        match connection {
            Some(connection) => {
                connection.waited_for = peer.then(Instant::now);
                true
            }
            None => false,
        }
    }
}

/// A connection, in its thread.
struct Served {
    id: u64,
    stream: Arc<UnixStream>,
    connections: Arc<Connections>,
}

impl Drop for Served {
    fn drop(&mut self) {
        end(&self.stream);
        self.connections.open.lock().connections.retain(|connection| connection.id != self.id);
    }
}

impl Served {
    fn serve(self) {
        // Whoever dawdles or has gone is of no further interest.
        let _ = self.answer_all();
    }

    fn answer_all(&self) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        let mut lines = Lines { stream: &self.stream, received: Vec::new() };
        loop {
            match lines.next()? {
                Next::Line(line) => self.answer(&line)?,
                Next::TooLong => {
                    let message = format!("a request has {MAX_REQUEST_LEN} bytes at most");
                    // There is no telling where the next one begins.
                    return self.send(&AdminResponse::Error { kind: Kind::Invalid, message });
                }
                Next::End => return Ok(()),
            }
        }
    }

    fn answer(&self, line: &[u8]) -> io::Result<()> {
        let administration = &self.connections.administration;
        let request = match AdminRequest::decode(line) {
            Ok(request) => request,
            Err(error) => return self.send(&not_understood(&error)),
        };
        if administration.is_ending() {
            return self.send(&quitting());
        }
        // It has not been idle.
        if !self.connections.waits_for_peer(self.id, true) {
            return Ok(());
        }
        match request {
            AdminRequest::Status { group } => return self.status(group.as_ref()),
            AdminRequest::Quit {} => {
                let sent = self.send(&AdminResponse::Quitting {});
                administration.quit(Reason::Control);
                return sent;
            }
            _ => {}
        }
        if !self.connections.waits_for_peer(self.id, false) {
            return Ok(());
        }
        let answer = obey(administration, request);
        self.connections.waits_for_peer(self.id, true);
        self.send(&answer)
    }

    /// A part of an answer; who takes it is not idle.
    fn send_part(&self, part: AdminResponse) -> io::Result<()> {
        self.send(&part)?;
        self.connections.waits_for_peer(self.id, true);
        Ok(())
    }

    fn status(&self, group: Option<&Bytes>) -> io::Result<()> {
        let administration = &self.connections.administration;
        let groups = match group {
            None => administration.all(),
            Some(id) => match group_id(&id.0).map(|id| administration.group(&id)) {
                Ok(Some(group)) => vec![group],
                Ok(None) => return self.send(&not_found(id)),
                Err(error) => return self.send(&invalid_id(&error)),
            },
        };
        let mut portion = Portion::default();
        for group in groups {
            portion.begin(&group);
            let mut last = 0;
            loop {
                let found = group.applications_after(last, APPLICATIONS, WATCHES);
                let Some((number, ..)) = found.last() else { break };
                last = *number;
                for (number, application, watches) in found {
                    portion.add(&group, describe(number, application, watches));
                    if portion.size >= PORTION {
                        self.send_part(portion.take(true))?;
                    }
                }
            }
            if portion.size >= PORTION {
                self.send_part(portion.take(true))?;
            }
        }
        self.send(&portion.take(false))
    }

    /// Writes an answer, if the peer takes it in time.
    fn send(&self, answer: &AdminResponse) -> io::Result<()> {
        let line = answer.encode();
        let (mut rest, deadline) = (&line[..], Instant::now() + ANSWER_PATIENCE);
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(time_left(deadline)?))?;
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What stands between here and `deadline`.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// The requests of a connection.
struct Lines<'a> {
    stream: &'a UnixStream,
    /// What has come of the next ones: [`MAX_REQUEST_LEN`] bytes at most.
    received: Vec<u8>,
}

enum Next {
    /// Without its line feed.
    Line(Vec<u8>),
    TooLong,
    End,
}

impl Lines<'_> {
    /// Waits for the next line.
    fn next(&mut self) -> io::Result<Next> {
        let mut deadline = None;
        let mut buffer = [0; MAX_REQUEST_LEN];
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let rest = self.received.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.pop();
                return Ok(Next::Line(line));
            }
            let room = MAX_REQUEST_LEN - self.received.len();
            if room == 0 {
                return Ok(Next::TooLong);
            }
            let now = Instant::now();
            let begun = !self.received.is_empty();
            let until = match begun {
                true => *deadline.get_or_insert(now + REQUEST_PATIENCE),
                false => now + IDLE_PATIENCE,
            };
            self.stream.set_read_timeout(Some(time_left(until)?))?;
            let mut stream = self.stream;
            match stream.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Next::End),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Or the answer to what is no name, or no secret.
fn create(
    administration: &Administration,
    group: &Bytes,
    secret: Option<&Bytes>,
) -> Result<Result<Text, NotCreated>, AdminResponse> {
    let id = group_id(&group.0).map_err(|error| invalid("group id", &error))?;
    let secret = secret.map(|secret| chosen_secret(&secret.0)).transpose();
    let secret = secret.map_err(|error| invalid("secret", &error))?;
    Ok(administration.create(id, secret))
}

/// What is done at once, in the words of the control socket.
fn obey(administration: &Administration, request: AdminRequest) -> AdminResponse {
    match request {
        AdminRequest::Create { group, secret } => {
            match create(administration, &group, secret.as_ref()) {
                Ok(Ok(secret)) => {
                    AdminResponse::Created { group, secret: secret.as_bytes().into() }
                }
                Ok(Err(NotCreated::Exists)) => {
                    let message =
                        format!("the group {group} exists already, here or on another machine");
                    AdminResponse::Error { kind: Kind::Exists, message }
                }
                Ok(Err(NotCreated::Unavailable(error))) => {
                    unavailable(&group, "not created", &error)
                }
                Err(answer) => answer,
            }
        }
        AdminRequest::Delete { group } => {
            match group_id(&group.0).map(|id| administration.delete(id)) {
                Ok(Ok(())) => AdminResponse::Deleted { group },
                Ok(Err(NoGroup::NotFound)) => not_found(&group),
                Ok(Err(NoGroup::Unavailable(error))) => unavailable(&group, "not deleted", &error),
                Err(error) => invalid_id(&error),
            }
        }
        AdminRequest::Info { group } => {
            match group_id(&group.0).map(|id| administration.info(id)) {
                Ok(Ok(info)) => AdminResponse::Info {
                    group,
                    secret: info.secret.as_bytes().into(),
                    pairs: info.pairs as u64,
                },
                Ok(Err(NoGroup::NotFound)) => not_found(&group),
                Ok(Err(NoGroup::Unavailable(error))) => {
                    unavailable(&group, "not known for certain", &error)
                }
                Err(error) => invalid_id(&error),
            }
        }
        // They have no single answer, or must have it before they are done.
        AdminRequest::Status { .. } | AdminRequest::Quit {} => quitting(),
    }
}

fn not_understood(error: &DecodeError) -> AdminResponse {
    let kind = match error {
        DecodeError::Version(_) => Kind::Version,
        DecodeError::Malformed(_) | DecodeError::NoVersion => Kind::Invalid,
    };
    AdminResponse::Error { kind, message: error.to_string() }
}

fn invalid_id(error: &Invalid) -> AdminResponse {
    invalid("group id", error)
}

fn invalid(what: &str, error: &Invalid) -> AdminResponse {
    AdminResponse::Error { kind: Kind::Invalid, message: format!("invalid {what}: {error}") }
}

fn not_found(group: &Bytes) -> AdminResponse {
    let message = format!("this server has no group {group}");
    AdminResponse::Error { kind: Kind::NotFound, message }
}

fn unavailable(group: &Bytes, what: &str, error: &Unavailable) -> AdminResponse {
    let kind = match error {
        Unavailable::Ended => Kind::Quitting,
        _ => Kind::Unavailable,
    };
    AdminResponse::Error { kind, message: format!("the group {group} is {what}: {error}") }
}

fn quitting() -> AdminResponse {
    AdminResponse::Error { kind: Kind::Quitting, message: "the server is quitting".into() }
}

/// Some of the status, until it is written.
#[derive(Default)]
struct Portion {
    groups: Vec<GroupStatus>,
    /// About how many bytes it describes.
    size: usize,
}

impl Portion {
    fn begin(&mut self, group: &Group) {
        let name = group.name();
        self.size += 100 + name.as_bytes().len();
        self.groups.push(GroupStatus {
            group: name.as_bytes().into(),
            pairs: group.pairs() as u64,
            applications: Vec::new(),
        });
    }

    fn add(&mut self, group: &Group, application: ApplicationStatus) {
        let name = group.name();
        if self.groups.last().is_none_or(|last| last.group.0 != name.as_bytes()) {
            self.begin(group);
        }
        let watched = application.watches.iter().map(|watch| 30 + bytes_of(watch).len());
        self.size += 150 + watched.sum::<usize>();
        if let Some(last) = self.groups.last_mut() {
            last.applications.push(application);
        }
    }

    fn take(&mut self, more: bool) -> AdminResponse {
        let Self { groups, .. } = std::mem::take(self);
        AdminResponse::Status { groups, more }
    }
}

fn bytes_of(watch: &WatchedItem) -> &[u8] {
    let (WatchedItem::Key(bytes) | WatchedItem::Prefix(bytes)) = watch;
    &bytes.0
}

fn describe(number: u64, application: ClientStatus, watch_count: usize) -> ApplicationStatus {
    let mut room = WATCHED_BYTES;
    let told = application.watches.iter().take(WATCHES).map_while(|(key, is_prefix)| {
        room = room.checked_sub(key.len())?;
        let key = Bytes::from(&key[..]);
        Some(if *is_prefix { WatchedItem::Prefix(key) } else { WatchedItem::Key(key) })
    });
    ApplicationStatus {
        number,
        pid: application.pid,
        watches: told.collect(),
        connected_at: seconds(application.connected_at),
        closed_at: application.closed_at.map(seconds),
        seconds: to_millis(application.stay),
        watch_count: watch_count as u64,
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> f64 {
    // Nobody has connected earlier.
    to_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn to_millis(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use kvs_proto::control::MAX_RESPONSE_LEN;
    use kvs_proto::v2::MAX_KEY;

    use super::*;

    #[test]
    fn a_line_of_the_status_is_never_too_long() {
        // The bytes that take the most room in JSON.
        let application = |key: &[u8], watches| ClientStatus {
            pid: i32::MIN,
            connected_at: SystemTime::now(),
            closed_at: Some(SystemTime::now()),
            stay: Duration::MAX,
            watches: vec![(key.into(), true); watches],
        };
        for (key, watches) in [(vec![1; MAX_KEY], 3), (vec![1], 1_000_000), (vec![1; 65], WATCHES)]
        {
            let described = describe(u64::MAX, application(&key, watches), usize::MAX);
            assert!(!described.watches.is_empty(), "a key of any length can be told");
            let group = GroupStatus {
                group: Bytes(vec![1; kvs_proto::MAX_TEXT]),
                pairs: u64::MAX,
                // The portion was almost full before the last.
                applications: vec![described.clone(), described],
            };
            let line = AdminResponse::Status { groups: vec![group], more: true }.encode();
            assert!(line.len() <= MAX_RESPONSE_LEN, "{} bytes", line.len());
        }
    }
}
