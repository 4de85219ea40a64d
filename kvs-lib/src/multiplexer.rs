//! The main channel of a framed session, shared by all threads of the program.
//!
//! No thread of the library is needed for it, and none waits for the round trip of another. Whoever calls puts its
//! requests into the *outbox* and, unless somebody is at it, sends what is there; then it waits for its answers. One of
//! those who wait, the *reader*, takes what comes off the socket for all of them, until its own answers are here; then
//! the next one is the reader. The server answers in the order of the requests, so those who wait stand in a queue.
//!
//! A server whose answers are not taken reads no further requests. So whoever cannot send for want of room sees to it that
//! answers are taken: by itself, or by the reader, for as long as there is one.
//!
//! The lock is held for moments only, never across a system call on the socket: outbox and [`Reader`] are *taken out*
//! of it by the thread that uses them.
//!
//! A failure of any kind (a lost connection, an answer that cannot be, a time-out) is that of the whole connection:
//! the answers of the others cannot be told any more, or would come too late. Everybody who waits learns how it failed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvs_proto::v2::request::{Request, WatchTarget};
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{Decoded, FrameDecoder, MAX_VALUE, Malformed, Version};

use crate::channel::{Channel, Deadline};
use crate::error::Error;
use crate::panic_points::panic_point;

/// What is received at once at most.
const READ: usize = 64 * 1024;

/// No answer is longer than the longest value.
const MAX_BODY: usize = MAX_VALUE;

/// An answer, for its owner.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    pub(crate) version: Version,
    pub(crate) body: Vec<u8>,
}

/// Requests of one thread that go out together.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    frames: Vec<u8>,
    count: u32,
    possible: Vec<Possible>,
}

/// Which answers there can be to a request, besides a plain `OK` and the refusals.
#[derive(Debug, Clone, Copy)]
struct Possible {
    no_such_key: bool,
    conflict: bool,
    /// With `OK`.
    body: bool,
}

impl Possible {
    fn to(request: &Request<'_>) -> Self {
        let (no_such_key, conflict, body) = match *request {
            Request::Get(_) => (true, false, true),
            Request::Put { expected, .. } => (false, expected.is_some(), false),
            Request::Delete { expected, .. } => (true, expected.is_some(), false),
            Request::Keys { .. } => (false, false, true),
            Request::Watch(WatchTarget::Key(_)) | Request::Unwatch(_) => (true, false, false),
            Request::Watch(WatchTarget::Prefix(_)) | Request::PutMany(_) | Request::Close => {
                (false, false, false)
            }
        };
        Self { no_such_key, conflict, body }
    }

    fn has(self, reply: &Reply) -> bool {
        match reply.status {
            Status::Ok => self.body || reply.body.is_empty(),
            Status::NoSuchKey => self.no_such_key,
            Status::Conflict => self.conflict,
            Status::TooLarge | Status::Limit | Status::Unknown => true,
            Status::Welcome => false,
        }
    }
}

impl Requests {
    /// Adds one that has an answer.
    pub(crate) fn push(&mut self, request: &Request<'_>) {
        self.frames.reserve(request.encoded_len());
        request.encode(self.count, &mut self.frames);
        self.possible.push(Possible::to(request));
        self.count += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }
}

/// What went wrong, and when.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Before all requests were sent.
    Sending(io::Error),
    /// After that.
    Receiving(io::Error),
    /// What came cannot be.
    Malformed(Malformed),
    /// The connection was closed by another thread, or before the call.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Multiplexer {
    state: Mutex<State>,
    /// Nobody waits for answers, and nobody sends.
    idle: Condvar,
    /// Answers were taken off the socket, or may be now.
    taken: Condvar,
}

#[derive(Debug)]
struct State {
    /// `None` once the connection is closed.
    channel: Option<Arc<Channel>>,
    /// Requests that wait to be sent.
    outbox: Vec<u8>,
    /// Somebody sends.
    sending: bool,
    /// `None` while somebody reads.
    reader: Option<Reader>,
    /// Whose answers are still to come, in the order of their requests.
    queue: VecDeque<Queued>,
    /// The number of the next request.
    next: u32,
    /// How often answers were taken off the socket.
    deliveries: u64,
    /// Somebody waits until it is idle.
    idle_awaited: bool,
    /// It was idle, and the server is being told goodbye: no request may follow.
    barred: bool,
    /// The one who sends waits until the reader has taken something.
    taking_awaited: bool,
}

impl State {
    /// The first of those who wait for their answers.
    fn waiting(&self) -> Option<&Waiter> {
        let waiter = |queued: &'_ Queued| queued.waiter.waits.load(Ordering::Relaxed);
        self.queue.iter().find(|queued| waiter(queued)).map(|queued| &*queued.waiter)
    }
}

/// What is needed to read.
#[derive(Debug)]
struct Reader {
    cutter: FrameDecoder,
    buffer: Box<[u8]>,
}

/// One thread that waits.
#[derive(Debug)]
struct Queued {
    /// The number of the next answer, and how many are missing.
    next: u32,
    missing: u32,
    /// What they can be.
    possible: Vec<Possible>,
    replies: Vec<Reply>,
    waiter: Arc<Waiter>,
}

/// Where a thread waits, and finds what it waits for.
#[derive(Debug, Default)]
struct Waiter {
    outcome: Mutex<Option<Result<Vec<Reply>, Failure>>>,
    /// Together with the lock of the [`State`].
    changed: Condvar,
    /// The thread waits for `changed`. Looked at and changed under that lock only.
    waits: AtomicBool,
}

impl Waiter {
    fn set(&self, outcome: Result<Vec<Reply>, Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.wake();
    }

    /// To wake nobody would be a system call, too.
    fn wake(&self) {
        if self.waits.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    fn take(&self) -> Option<Result<Vec<Reply>, Failure>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Multiplexer {
    /// For a channel on which the login is over and the server's welcome was read.
    pub(crate) fn new(channel: Channel) -> Self {
        let reader = Reader { cutter: FrameDecoder::default(), buffer: vec![0; READ].into() };
        Self {
            state: Mutex::new(State {
                channel: Some(Arc::new(channel)),
                outbox: Vec::new(),
                sending: false,
                reader: Some(reader),
                queue: VecDeque::new(),
                next: 1,
                deliveries: 0,
                idle_awaited: false,
                barred: false,
                taking_awaited: false,
            }),
            idle: Condvar::new(),
            taken: Condvar::new(),
        }
    }

    /// Nothing in here can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all of `requests`, and waits for all of their answers.
    pub(crate) fn call(
        &self,
        requests: Requests,
        deadline: Deadline,
    ) -> Result<Vec<Reply>, Failure> {
        let waiter = Arc::new(Waiter::default());
        let channel = self.enqueue(requests, &waiter)?;
        panic_point!("requests queued");
        self.send(&channel, deadline).map_err(Failure::Sending)?;
        panic_point!("requests sent");
        self.wait(&channel, &waiter, deadline)
    }

    /// Sends a request that has no answer.
    pub(crate) fn say(&self, request: &Request<'_>, deadline: Deadline) -> Result<(), Failure> {
        let channel = {
            let state = &mut *self.lock();
            let channel = state.channel.clone().ok_or(Failure::Closed)?;
            request.encode(0, &mut state.outbox);
            channel
        };
        self.send(&channel, deadline).map_err(Failure::Sending)
    }

    /// Numbers the requests and queues them. Several threads may do so at once; each one's stay together.
    fn enqueue(&self, requests: Requests, waiter: &Arc<Waiter>) -> Result<Arc<Channel>, Failure> {
        let Requests { mut frames, count, possible } = requests;
        let state = &mut *self.lock();
        if state.barred {
            return Err(Failure::Closed);
        }
        let channel = state.channel.clone().ok_or(Failure::Closed)?;
        let first = state.next;
        state.next = first.wrapping_add(count);
        renumber(&mut frames, first);
        if state.outbox.is_empty() {
            state.outbox = frames;
        } else {
            state.outbox.extend_from_slice(&frames);
        }
        state.queue.push_back(Queued {
            next: first,
            missing: count,
            possible,
            replies: Vec::with_capacity(count as usize),
            waiter: Arc::clone(waiter),
        });
        Ok(channel)
    }

    /// Sends what is in the outbox, unless somebody is at it: that one then sends ours, too, or has one of those who wait do
    /// so. Nobody sends for others more than once, or a thread among many busy ones would never come back.
    fn send(&self, channel: &Channel, deadline: Deadline) -> io::Result<()> {
        loop {
            let outbox = {
                let state = &mut *self.lock();
                if state.sending || state.outbox.is_empty() {
                    return Ok(());
                }
                state.sending = true;
                mem::take(&mut state.outbox)
            };
            panic_point!("sending");
            let sent = self.send_all(channel, &outbox, deadline);
            let state = &mut *self.lock();
            state.sending = false;
            self.note_idle(state);
            sent?;
            if !state.outbox.is_empty()
                && let Some(next) = state.waiting()
            {
                next.wake();
                return Ok(());
            }
        }
    }

    /// Sends all of `bytes`. A server whose answers are not taken reads no further requests: so while there is
    /// no room, answers are taken.
    fn send_all(&self, channel: &Channel, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = match channel.send_now(bytes)? {
                0 => {
                    self.make_room(channel, deadline)?;
                    bytes
                }
                sent => &bytes[sent..],
            };
        }
        Ok(())
    }

    fn make_room(&self, channel: &Channel, deadline: Deadline) -> io::Result<()> {
        let (reader, seen) = {
            let state = &mut *self.lock();
            (state.reader.take(), state.deliveries)
        };
        let Some(mut reader) = reader else {
            // Somebody takes answers, but perhaps not for long enough.
            if channel.wait_for_either(deadline)? {
                self.wait_until_taken(seen, deadline)?;
            }
            return Ok(());
        };
        let mut received = Ok(0);
        let readable = channel.wait_for_either(deadline);
        if let Ok(true) = readable {
            received = channel.receive_some(&mut reader.buffer, Some(deadline));
        }
        let delivered = match received {
            Ok(0) => Ok(()),
            Ok(count) => self.deliver(&mut reader, count).map_err(io::Error::other),
            Err(error) => Err(error),
        };
        self.give_back(reader);
        readable.and(delivered)
    }

    /// Waits until the reader has taken what was there when there had been `seen` deliveries, or reads no more.
    fn wait_until_taken(&self, seen: u64, deadline: Deadline) -> io::Result<()> {
        let mut state = self.lock();
        while state.reader.is_none() && state.deliveries == seen && state.channel.is_some() {
            let left = deadline.left().ok_or(ErrorKind::TimedOut)?;
            state.taking_awaited = true;
            state = self.taken.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.taking_awaited = false;
        }
        Ok(())
    }

    /// Waits for the answers to what was queued with `waiter`.
    fn wait(
        &self,
        channel: &Channel,
        waiter: &Waiter,
        deadline: Deadline,
    ) -> Result<Vec<Reply>, Failure> {
        let mut state = self.lock();
        loop {
            // Whoever has sent last relies on it that one of those who wait sends the rest; whose answer is here already leaves
            // it to another, if there is one.
            let mut outcome = waiter.take();
            if !state.sending && !state.outbox.is_empty() {
                match (&outcome, state.waiting()) {
                    (Some(_), Some(next)) => next.wake(),
                    (answered, _) => {
                        let is_answered = answered.is_some();
                        drop(state);
                        let sent = self.send(channel, deadline);
                        // A failure is found by those whose requests these are, too.
                        if !is_answered {
                            sent.map_err(Failure::Sending)?;
                        }
                        state = self.lock();
                        outcome = outcome.or_else(|| waiter.take());
                    }
                }
            }
            if let Some(outcome) = outcome {
                return outcome;
            }
            if let Some(reader) = state.reader.take() {
                drop(state);
                return self.read_until_answered(channel, reader, waiter, deadline);
            }
            let Some(left) = deadline.left() else {
                return Err(Failure::Receiving(ErrorKind::TimedOut.into()));
            };
            waiter.waits.store(true, Ordering::Relaxed);
            state =
                waiter.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            waiter.waits.store(false, Ordering::Relaxed);
        }
    }

    /// Takes answers for everybody, until all of one's own are here.
    fn read_until_answered(
        &self,
        channel: &Channel,
        mut reader: Reader,
        waiter: &Waiter,
        deadline: Deadline,
    ) -> Result<Vec<Reply>, Failure> {
        let outcome = loop {
            panic_point!("reading");
            let received = channel.receive_some(&mut reader.buffer, Some(deadline));
            let delivered = match received {
                Ok(count) => self.deliver(&mut reader, count).map_err(Failure::Malformed),
                Err(error) => Err(Failure::Receiving(error)),
            };
            // Whoever has closed the connection has said so.
            match (waiter.take(), delivered) {
                (Some(outcome), _) => break outcome,
                (None, Err(failure)) => break Err(failure),
                (None, Ok(())) => {}
            }
        };
        self.give_back(reader);
        outcome
    }

    /// Somebody else may read. One of those who wait has to know; whoever sends at this moment looks for it by himself.
    fn give_back(&self, reader: Reader) {
        let state = &mut *self.lock();
        state.reader = Some(reader);
        if let Some(next) = state.waiting() {
            next.wake();
        }
        self.note_taken(state);
    }

    /// The one who sends may go on.
    fn note_taken(&self, state: &State) {
        if state.taking_awaited {
            self.taken.notify_all();
        }
    }

    fn note_idle(&self, state: &State) {
        if state.idle_awaited && !state.sending && state.queue.is_empty() {
            self.idle.notify_all();
        }
    }

    /// Hands the answers in the first `count` bytes of the buffer to those who wait for them.
    fn deliver(&self, reader: &mut Reader, count: usize) -> Result<(), Malformed> {
        let Reader { cutter, buffer } = reader;
        let mut bytes = &buffer[..count];
        // Outside of the lock, as it copies what may be long.
        let mut replies = Vec::new();
        loop {
            match cutter.next(&mut bytes, |header, _| header.body_len as usize <= MAX_BODY)? {
                Decoded::Incomplete => break,
                Decoded::Rejected(_) => return Err(Malformed::Header("a body that is too long")),
                Decoded::Frame(header, body) => {
                    let Response { number, status, version, body } =
                        Response::decode(&header, body)?;
                    replies.push((number, Reply { status, version, body: body.to_vec() }));
                }
            }
        }
        let state = &mut *self.lock();
        state.deliveries += 1;
        self.note_taken(state);
        for (number, reply) in replies {
            let unexpected = Malformed::Unexpected(number);
            let first = state.queue.front_mut().ok_or(unexpected)?;
            let possible = first.possible.get(first.replies.len());
            if number != first.next || !possible.is_some_and(|possible| possible.has(&reply)) {
                return Err(unexpected);
            }
            first.replies.push(reply);
            first.next = first.next.wrapping_add(1);
            first.missing -= 1;
            if first.missing == 0
                && let Some(first) = state.queue.pop_front()
            {
                first.waiter.set(Ok(first.replies));
            }
        }
        self.note_idle(state);
        Ok(())
    }

    /// Ends the connection in both directions; whoever waits learns of it. It stays to be closed.
    pub(crate) fn shut_down(&self) {
        let channel = self.lock().channel.clone();
        if let Some(channel) = channel {
            channel.shut_down();
        }
    }

    /// Waits until nobody waits for answers, or sends; `false`: it took too long. Nobody begins any more afterwards.
    pub(crate) fn wait_until_idle(&self, deadline: Deadline) -> bool {
        let mut state = self.lock();
        while state.sending || !state.queue.is_empty() {
            let Some(left) = deadline.left() else { return false };
            state.idle_awaited = true;
            state = self.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        // From the same moment on: a thread may have seen the connection open, and not be in the queue yet.
        state.barred = true;
        true
    }

    /// Whether somebody has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().channel.is_none()
    }

    /// Closes the connection. Whoever still waits is told so, or that it has failed.
    pub(crate) fn close(&self, failed: bool) -> Result<(), Error> {
        let channel = {
            let state = &mut *self.lock();
            for queued in mem::take(&mut state.queue) {
                queued.waiter.set(Err(match failed {
                    true => Failure::Receiving(ErrorKind::ConnectionAborted.into()),
                    false => Failure::Closed,
                }));
            }
            let channel = state.channel.take();
            // Nobody sends any more. (A thread that has panicked could not say so.)
            state.sending = false;
            self.note_idle(state);
            self.note_taken(state);
            channel
        };
        let Some(channel) = channel else { return Ok(()) };
        // Whoever is in a system call on it comes back, and drops his share.
        channel.shut_down();
        match Arc::try_unwrap(channel) {
            Ok(channel) => channel.close(),
            // The last one to come back closes it.
            Err(_) => Ok(()),
        }
    }
}

/// Gives the frames consecutive numbers from `first` on.
fn renumber(frames: &mut [u8], first: u32) {
    let mut rest = frames;
    let mut number = first;
    while rest.len() >= kvs_proto::v2::HEADER_LEN {
        let len = kvs_proto::v2::FrameHeader::renumber(rest, number);
        rest = rest.split_at_mut(len.min(rest.len())).1;
        number = number.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use kvs_proto::v2::{FrameHeader, HEADER_LEN};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn deadline() -> Deadline {
        Deadline::after(TIMEOUT)
    }

    fn pair() -> (Multiplexer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(TIMEOUT)).unwrap();
        theirs.set_write_timeout(Some(TIMEOUT)).unwrap();
        let mut channel = Channel::of(ours.into());
        channel.set_timeout(TIMEOUT);
        (Multiplexer::new(channel), theirs)
    }

    /// The number and the key of the next request; `None` at the end.
    fn request(server: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; HEADER_LEN];
        server.read_exact(&mut header).ok()?;
        let header = FrameHeader::decode(&header).unwrap();
        let mut body = vec![0; header.body_len as usize];
        server.read_exact(&mut body).unwrap();
        body.truncate(header.key_len as usize);
        Some((header.number, body))
    }

    /// Answers with the key, again and again up to `len` bytes. Does not return before there is room for it.
    fn answer(server: &mut UnixStream, number: u32, key: &[u8], len: usize) {
        let body: Vec<u8> = key.iter().copied().cycle().take(len).collect();
        let mut frame = Vec::new();
        Response { number, status: Status::Ok, version: 1, body: &body }.encode(&mut frame);
        server.write_all(&frame).unwrap();
    }

    /// Reads a request when the answer to the one before was taken, as a server may.
    fn serve(mut server: UnixStream, len: usize) {
        while let Some((number, key)) = request(&mut server) {
            answer(&mut server, number, &key, len);
        }
    }

    fn gets(prefix: &str, count: usize) -> Requests {
        let mut requests = Requests::default();
        for n in 0..count {
            requests.push(&Request::Get(format!("{prefix}-{n}").as_bytes()));
        }
        requests
    }

    fn expect_gets(prefix: &str, count: usize, len: usize, replies: &[Reply]) {
        assert_eq!(replies.len(), count);
        for (n, reply) in replies.iter().enumerate() {
            assert_eq!((reply.status, reply.body.len()), (Status::Ok, len));
            assert!(reply.body.starts_with(format!("{prefix}-{n}").as_bytes()), "{prefix}-{n}");
        }
    }

    #[test]
    fn more_requests_and_answers_than_the_sockets_hold_block_nobody() {
        const COUNT: usize = 20_000;
        let (multiplexer, server) = pair();
        thread::scope(|scope| {
            scope.spawn(|| serve(server, 1000));
            let replies = multiplexer.call(gets("k", COUNT), deadline()).unwrap();
            expect_gets("k", COUNT, 1000, &replies);
            multiplexer.close(false).unwrap();
        });
    }

    #[test]
    fn each_of_many_threads_gets_its_own_answers() {
        const THREADS: usize = 16;
        let (multiplexer, server) = pair();
        thread::scope(|scope| {
            scope.spawn(|| serve(server, 300));
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let multiplexer = &multiplexer;
                    scope.spawn(move || {
                        for round in 0..200 {
                            let prefix = format!("{thread}-{round}");
                            let count = 1 + round % 40;
                            let replies =
                                multiplexer.call(gets(&prefix, count), deadline()).unwrap();
                            expect_gets(&prefix, count, 300, &replies);
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(multiplexer.wait_until_idle(deadline()));
            multiplexer.close(false).unwrap();
        });
    }

    /// Waits for what no event tells. It is nearly always so at once.
    fn wait_for(what: &str, condition: impl Fn() -> bool) {
        let deadline = deadline();
        while !condition() {
            assert!(deadline.left().is_some(), "{what}");
            thread::yield_now();
        }
    }

    type Call<'scope> = thread::ScopedJoinHandle<'scope, Result<Vec<Reply>, Failure>>;

    fn spawn<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        multiplexer: &'scope Multiplexer,
        prefix: &'static str,
        count: usize,
    ) -> Call<'scope> {
        scope.spawn(move || multiplexer.call(gets(prefix, count), deadline()))
    }

    /// One whose answer is still to come, and who reads meanwhile; with the number and the key of its request.
    fn spawn_reader<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        multiplexer: &'scope Multiplexer,
        server: &mut UnixStream,
    ) -> (Call<'scope>, u32, Vec<u8>) {
        let reader = spawn(scope, multiplexer, "first", 1);
        let (number, key) = request(server).unwrap();
        wait_for("somebody reads", || multiplexer.lock().reader.is_none());
        (reader, number, key)
    }

    /// The one who reads has his answer and goes, while another cannot send for want of room, and the server reads no more
    /// before its answers are taken.
    #[test]
    fn a_reader_that_goes_leaves_nobody_without_room() {
        const COUNT: usize = 20_000;
        let (multiplexer, mut server) = pair();
        thread::scope(|scope| {
            let (first, number, key) = spawn_reader(scope, &multiplexer, &mut server);
            let second = spawn(scope, &multiplexer, "second", COUNT);
            let unread = || {
                let channel = multiplexer.lock().channel.clone().unwrap();
                crate::sys::unread_by_peer(std::os::fd::AsFd::as_fd(&*channel)).unwrap()
            };
            wait_for("the socket is full", || unread() > 100_000);
            answer(&mut server, number, &key, 10);
            expect_gets("first", 1, 10, &first.join().unwrap().unwrap());
            scope.spawn(|| serve(server, 1000));
            expect_gets("second", COUNT, 1000, &second.join().unwrap().unwrap());
            multiplexer.close(false).unwrap();
        });
    }

    /// The same, and a third one waits behind the one who cannot send.
    #[test]
    fn those_who_wait_behind_a_full_socket_get_their_answers() {
        const COUNT: usize = 20_000;
        let (multiplexer, mut server) = pair();
        thread::scope(|scope| {
            let (first, number, key) = spawn_reader(scope, &multiplexer, &mut server);
            let second = spawn(scope, &multiplexer, "second", COUNT);
            wait_for("two wait", || multiplexer.lock().queue.len() == 2);
            let third = spawn(scope, &multiplexer, "third", 100);
            wait_for("three wait", || multiplexer.lock().queue.len() == 3);
            answer(&mut server, number, &key, 10);
            expect_gets("first", 1, 10, &first.join().unwrap().unwrap());
            scope.spawn(|| serve(server, 1000));
            expect_gets("second", COUNT, 1000, &second.join().unwrap().unwrap());
            expect_gets("third", 100, 1000, &third.join().unwrap().unwrap());
            multiplexer.close(false).unwrap();
        });
    }

    /// Whoever has sent his own requests leaves those that have come meanwhile to somebody who waits, or he would not come
    /// back while others are busy. That he has is seen by the server reading none of theirs.
    #[test]
    fn whoever_has_sent_leaves_it_to_others_to_send_theirs() {
        const COUNT: usize = 20_000;
        let (multiplexer, mut server) = pair();
        let (sent, is_sent) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let multiplexer = &multiplexer;
            let first = scope.spawn(move || {
                let waiter = Arc::new(Waiter::default());
                let channel = multiplexer.enqueue(gets("first", COUNT), &waiter).unwrap();
                multiplexer.send(&channel, deadline()).unwrap();
                sent.send(()).unwrap();
                multiplexer.wait(&channel, &waiter, deadline())
            });
            wait_for("the first has no room", || multiplexer.lock().reader.is_none());
            // When one of the two reads, the other one waits.
            let second = spawn(scope, multiplexer, "second", COUNT);
            wait_for("two are there", || multiplexer.lock().queue.len() == 2);
            let third = spawn(scope, multiplexer, "third", 1);
            let waiting = || {
                let waits = |queued: &&Queued| queued.waiter.waits.load(Ordering::Relaxed);
                multiplexer.lock().queue.iter().filter(waits).count()
            };
            wait_for("both wait", || waiting() == 2);
            for _ in 0..COUNT {
                let (number, key) = request(&mut server).unwrap();
                answer(&mut server, number, &key, 20);
            }
            is_sent.recv_timeout(TIMEOUT).expect("the first has nothing more to send");
            scope.spawn(|| serve(server, 20));
            expect_gets("first", COUNT, 20, &first.join().unwrap().unwrap());
            expect_gets("second", COUNT, 20, &second.join().unwrap().unwrap());
            expect_gets("third", 1, 20, &third.join().unwrap().unwrap());
            multiplexer.close(false).unwrap();
        });
    }

    #[test]
    fn whoever_waits_learns_of_the_end_at_once() {
        let (multiplexer, mut server) = pair();
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| multiplexer.call(gets("k", 1), deadline())))
                .collect();
            for _ in 0..4 {
                request(&mut server).unwrap();
            }
            multiplexer.close(false).unwrap();
            for thread in waiting {
                let failed = thread.join().unwrap().unwrap_err();
                assert!(matches!(failed, Failure::Closed), "{failed:?}");
            }
            let failed = multiplexer.call(gets("k", 1), deadline()).unwrap_err();
            assert!(matches!(failed, Failure::Closed), "{failed:?}");
            assert!(request(&mut server).is_none());
        });
    }

    #[test]
    fn an_answer_that_nobody_awaits_is_a_failure() {
        for (wrong, status) in [(2, Status::Ok), (0, Status::Ok), (1, Status::Welcome)] {
            let (multiplexer, mut server) = pair();
            thread::scope(|scope| {
                let call = scope.spawn(|| multiplexer.call(gets("k", 1), deadline()));
                let (number, _) = request(&mut server).unwrap();
                assert_eq!(number, 1);
                server.write_all(&Response::new(wrong, status, 1).encode_header(0)).unwrap();
                let failed = call.join().unwrap().unwrap_err();
                assert!(matches!(failed, Failure::Malformed(_)), "{failed:?}");
            });
        }
    }

    #[test]
    fn numbers_go_on_after_the_last() {
        let (multiplexer, server) = pair();
        multiplexer.lock().next = u32::MAX - 1;
        thread::scope(|scope| {
            scope.spawn(|| serve(server, 10));
            for _ in 0..3 {
                let replies = multiplexer.call(gets("k", 3), deadline()).unwrap();
                expect_gets("k", 3, 10, &replies);
            }
            multiplexer.close(false).unwrap();
        });
    }
}
