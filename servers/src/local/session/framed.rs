//! What follows the login in a framed session: requests and their answers on the main channel, in order, as many at a
//! time as the application likes; changes on the callback channel, which the [subscriber](crate::local::group::subscriber) sends.
//!
//! What an application makes the server keep is bounded, and charged to its user: a message that comes in pieces
//! ([`Framed::coming`]), and answers that the application does not take together with the requests after them, which
//! wait until it does ([`Framed::waiting`]). So is its time: what it has read and could not carry out in
//! [one turn](Time) waits for the next, when all others have had theirs.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_proto::v2::request::{FrameLimits, Request, RequestKind};
use kvs_proto::v2::response::{self, Response, Status};
use kvs_proto::v2::{Decoded, FrameDecoder, MAX_KEY, NO_VERSION};

use super::original::is_allowed;
use super::{CloseReason, Member, Session, Stage};
use crate::local::group::registry::{Change, Outcome, PendingNotifications};
use crate::local::limits::quota::{Charge, UserQuota, subscription_bytes};
use crate::local::metrics::Tally;
use crate::local::net::socket::{Received, Socket};
use crate::local::table::Value;

/// Answers are written when there are so many bytes of them, and no request is carried out before they are gone.
const MOST_ANSWERS: usize = 256 * 1024;

/// The clock is looked at when about so much was done: as much as so many small requests.
const WORK: usize = 16;

/// So many bytes that are copied are about as much work as a small request.
const BYTES_OF_WORK: usize = 4096;

/// What is left of a turn.
#[derive(Debug)]
pub(super) struct Time {
    turn: Duration,
    has_begun: bool,
    /// `None`: no end.
    end: Option<Instant>,
    /// So much may be done before the clock is looked at.
    unwatched: usize,
    is_over: bool,
}

impl Time {
    /// So much from when it [begins](Self::begin).
    pub(super) fn of(turn: Duration) -> Self {
        Self { turn, has_begun: false, end: None, unwatched: WORK, is_over: false }
    }

    /// There is something to do. Returns the time if it begins just now.
    pub(super) fn begin(&mut self) -> Option<Instant> {
        if mem::replace(&mut self.has_begun, true) {
            return None;
        }
        let now = Instant::now();
        self.end = now.checked_add(self.turn);
        Some(now)
    }

    /// So much was done.
    fn spend(&mut self, work: usize) {
        match self.unwatched.checked_sub(work) {
            Some(left) => self.unwatched = left,
            None => {
                self.unwatched = WORK;
                self.is_over = self.end.is_some_and(|end| Instant::now() >= end);
            }
        }
    }
}

/// For a message in pieces that is longer, its user must have room: only puts are. (It is charged in any case; but a deletion must
/// not be refused because there is no room.)
const MOST_UNASKED: usize = MAX_KEY + 4;

/// What a framed session has besides the rest.
#[derive(Debug)]
pub(super) struct Framed {
    limits: FrameLimits,
    cutter: FrameDecoder,
    /// Stands for the message that comes in pieces, if it is a long one.
    coming: Option<Charge>,
    /// What was read after requests whose answers wait, or for which there was no time.
    backlog: Vec<u8>,
    /// When the backlog was read, if metrics want to know.
    backlog_since: Option<Instant>,
    /// Stands for the backlog and for the answers that wait.
    waiting: Option<Charge>,
}

impl Framed {
    /// The login is over; `out` gets what a server says first.
    pub(super) fn begin(limits: FrameLimits, out: &mut Vec<u8>) -> Self {
        Response::new(0, Status::Welcome, limits.max_value as u64).encode(out);
        Self {
            limits,
            cutter: FrameDecoder::default(),
            coming: None,
            backlog: Vec::new(),
            backlog_since: None,
            waiting: None,
        }
    }

    /// Whether something was read that is still to be carried out.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }
}

/// Whom a request is carried out for.
#[derive(Debug)]
struct Requester<'a, 'm> {
    member: &'a Member,
    user: &'a Arc<UserQuota>,
    main: &'a mut Socket,
    pid: i32,
    notifications: &'a mut PendingNotifications,
    time: &'a mut Time,
    tally: &'a mut Tally<'m>,
}

impl Session {
    /// Goes on with what was read before, if the answers before it are gone.
    pub(super) fn serve_backlog(
        &mut self,
        out: &mut Vec<u8>,
        notifications: &mut PendingNotifications,
        time: &mut Time,
        tally: &mut Tally<'_>,
    ) -> Result<(), CloseReason> {
        if self.main.is_write_blocked() {
            return Ok(());
        }
        let backlog = match self.framed() {
            Some(framed) if !framed.backlog.is_empty() => {
                time.begin();
                tally.were_read(framed.backlog_since);
                mem::take(&mut framed.backlog)
            }
            _ => return Ok(()),
        };
        self.serve_frames(&backlog, out, notifications, time, tally)?;
        self.main.write(out).map_err(|_| self.gone())?;
        tally.written();
        Ok(())
    }

    /// Takes what one `read` brought.
    pub(super) fn serve_frames(
        &mut self,
        read: &[u8],
        out: &mut Vec<u8>,
        notifications: &mut PendingNotifications,
        time: &mut Time,
        tally: &mut Tally<'_>,
    ) -> Result<(), CloseReason> {
        let Stage::Member(member) = &mut self.stage else { return Ok(()) };
        // Taken out, as its requests need the rest of the member.
        let Some(mut framed) = member.framed.take() else { return Ok(()) };
        let (user, pid) = (&self.user, self.peer.pid);
        let main = &mut self.main;
        let mut requester = Requester { member, user, main, pid, notifications, time, tally };
        let served = framed.serve(read, out, &mut requester);
        member.framed = Some(framed);
        let end = match served {
            Ok(Served::All) => return Ok(()),
            Ok(Served::Goodbye) => self.goodbye(),
            Err(end) => end,
        };
        // What was carried out before is answered; whether that is taken does not matter any more.
        let _ = self.main.write(out);
        Err(end)
    }

    /// Has the user pay for what waits for the application.
    pub(super) fn charge_waiting(&mut self) {
        let waiting = self.main.buffered();
        let user = Arc::clone(&self.user);
        if let Some(framed) = self.framed() {
            let bytes = waiting + framed.backlog.len();
            framed.waiting = (bytes > 0).then(|| Charge::buffer(&user, bytes));
        }
    }

    /// The callback connection may be written, or read; `false`: it has ended. Nothing may come on it.
    pub(super) fn framed_callback_ready(&mut self, readable: bool) -> Result<bool, CloseReason> {
        let (Some(callback), Stage::Member(member)) = (&mut self.callback, &self.stage) else {
            return Ok(true);
        };
        if readable {
            match callback.socket.read(&mut [0]) {
                Received::Bytes(_) => return Err(CloseReason::UnexpectedBytes),
                Received::End => return Ok(false),
                Received::Nothing => {}
            }
        }
        Ok(member.subscriber.write(true).is_ok())
    }

    /// Tells what waits to be told.
    pub(super) fn notify_framed(&mut self) -> std::io::Result<()> {
        match (&self.callback, &self.stage) {
            (Some(_), Stage::Member(member)) => {
                member.subscriber.clear_scheduled();
                member.subscriber.write(false).map(drop)
            }
            _ => Ok(()),
        }
    }
}

/// How far a session has come with what was read.
enum Served {
    /// Everything is done, or waits for answers to be taken.
    All,
    /// The application has said goodbye.
    Goodbye,
}

impl Framed {
    fn serve(
        &mut self,
        mut read: &[u8],
        out: &mut Vec<u8>,
        requester: &mut Requester<'_, '_>,
    ) -> Result<Served, CloseReason> {
        loop {
            if out.len() >= MOST_ANSWERS {
                requester.write(out)?;
            }
            if requester.main.is_write_blocked() || requester.time.is_over {
                self.backlog.extend_from_slice(read);
                self.backlog_since = requester.tally.since();
                return Ok(Served::All);
            }
            let Self { limits, cutter, coming, .. } = self;
            let mut refused = Status::TooLarge;
            let next = cutter.next(&mut read, |header, in_pieces| {
                let mut wanted = limits.check(header);
                if wanted.is_ok() && in_pieces {
                    let len = header.body_len as usize;
                    if len > MOST_UNASKED {
                        let room = requester.user.check_quota(0, len as u64);
                        wanted = match requester.allows(room) {
                            true => Ok(()),
                            false => Err(Status::Limit),
                        };
                    }
                    *coming = Some(Charge::buffer(requester.user, len));
                }
                refused = wanted.err().unwrap_or(refused);
                wanted.is_ok()
            })?;
            match next {
                Decoded::Incomplete => return Ok(Served::All),
                Decoded::Rejected(header) => {
                    requester.time.spend(1);
                    *coming = None;
                    Response::new(header.number, refused, NO_VERSION).encode(out);
                    requester.tally.count(RequestKind::of(&header), refused);
                }
                Decoded::Frame(header, body) => {
                    // What is stored is charged by itself.
                    *coming = None;
                    requester.time.spend(1 + body.len() / BYTES_OF_WORK);
                    match Request::decode(&header, body, *limits)? {
                        Err(status) => {
                            Response::new(header.number, status, NO_VERSION).encode(out);
                            requester.tally.count(RequestKind::of(&header), status);
                        }
                        Ok(Request::Close) => return Ok(Served::Goodbye),
                        Ok(request) => {
                            let status = requester.serve(header.number, request, out)?;
                            requester.tally.count(RequestKind::of(&header), status);
                        }
                    }
                }
            }
        }
    }
}

impl Requester<'_, '_> {
    /// Carries it out and answers; how it went.
    fn serve(
        &mut self,
        number: u32,
        request: Request<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Status, CloseReason> {
        let Member { group, number: application, .. } = self.member;
        tracing::debug!(pid = self.pid, ?request, "request");
        let outcome = match request {
            Request::Get(key) => return self.get(number, key, out),
            Request::Put { key, value, expected } => {
                self.settle(group.put_if(key, value, expected, self.user))
            }
            Request::Delete { key, expected } => self.settle(group.delete(key, expected)),
            Request::PutMany(entries) => {
                let change = group.put_many(entries, self.user);
                self.time.spend(WORK);
                self.settle(change)
            }
            Request::Keys { prefix, cursor, limit } => {
                let page = group.keys(prefix, cursor, limit as usize);
                let mut body = Vec::new();
                page.keys().for_each(|key| response::push_key(key, &mut body));
                self.time.spend(WORK);
                Response { number, status: Status::Ok, version: page.next, body: &body }
                    .encode(out);
                return Ok(Status::Ok);
            }
            Request::Watch(watched) => {
                let bytes = subscription_bytes(watched.bytes().len()) as u64;
                match self.user.check_quota(0, bytes) {
                    Ok(()) => group.subscribe(watched, *application, self.user),
                    Err(limit) => Outcome::Limit(limit),
                }
            }
            Request::Unwatch(watched) => match group.unsubscribe(watched, *application) {
                true => Outcome::Done(NO_VERSION),
                false => Outcome::NoSuchKey,
            },
            // It has no answer; see above.
            Request::Close => return Ok(Status::Ok),
        };
        let (status, version) = match outcome {
            Outcome::Done(version) => (Status::Ok, version),
            Outcome::NoSuchKey => (Status::NoSuchKey, NO_VERSION),
            Outcome::Conflict(version) => (Status::Conflict, version),
            Outcome::TooLarge => (Status::TooLarge, NO_VERSION),
            Outcome::Limit(limit) => {
                self.allows(Err(limit));
                (Status::Limit, NO_VERSION)
            }
        };
        Response::new(number, status, version).encode(out);
        Ok(status)
    }

    /// A short value is copied; a long one is shared with the table until it is written.
    fn get(&mut self, number: u32, key: &[u8], out: &mut Vec<u8>) -> Result<Status, CloseReason> {
        let before = out.len();
        let mut status = Status::Ok;
        let long = self.member.group.get(key, |pair| {
            let Some(pair) = pair else {
                status = Status::NoSuchKey;
                Response::new(number, status, NO_VERSION).encode(out);
                return None;
            };
            let answer = Response { number, status: Status::Ok, version: pair.version, body: &[] };
            match pair.value {
                Value::Short(body) => {
                    Response { body, ..answer }.encode(out);
                    None
                }
                Value::Long(value) => {
                    out.extend_from_slice(&answer.encode_header(value.len()));
                    Some(value)
                }
            }
        });
        if let Some(value) = long {
            if let Err(limit) = self.user.check_buffer_quota(value.len() as u64) {
                self.allows(Err(limit));
                out.truncate(before);
                Response::new(number, Status::Limit, NO_VERSION).encode(out);
                return Ok(Status::Limit);
            }
            self.time.spend(1 + value.len() / BYTES_OF_WORK);
            self.write(out)?;
            self.main.write_shared(value).map_err(|_| CloseReason::ConnectionLost)?;
        }
        Ok(status)
    }

    /// Has those told who are to be told; each is work.
    fn settle(&mut self, change: Change) -> Outcome {
        self.time.spend(change.watchers());
        change.settle(self.notifications)
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), CloseReason> {
        self.main.write(out).map_err(|_| CloseReason::ConnectionLost)?;
        self.tally.written();
        Ok(())
    }

    fn allows(&self, allowed: Result<(), crate::local::limits::quota::Limit>) -> bool {
        is_allowed(allowed, self.user, self.pid)
    }
}
