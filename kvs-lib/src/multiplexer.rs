//! The main channel of a framed session, shared by all threads of the program.
//!
//! No thread of the library is needed for it, and none waits for the round trip of another. Whoever calls puts its
//! requests into the *outbox* and, unless somebody is at it, sends what is there; then it waits for its answers. One of
//! those who wait, the *reader*, takes what comes off the socket for all of them, until its own answers are here; then
//! the next one is the reader. The server answers in the order of the requests, so those who wait stand in a queue.
//!
//! The lock is held for moments only, never across a system call on the socket: outbox and [`Reader`] are *taken out*
//! of it by the thread that uses them.
//!
//! A condition variable is a system call even when nobody waits, so it is known who does ([`Waiter::waits`]): a program
//! with one thread makes two system calls for a request, `send` and `recv`.
//!
//! A failure of any kind (a lost connection, an answer that cannot be, a time-out) is that of the whole connection:
//! the answers of the others cannot be told any more, or would come too late. Everybody who waits learns how it failed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvs_proto::framed::answer::{Answer, Status};
use kvs_proto::framed::request::Request;
use kvs_proto::framed::{Cutter, MAX_VALUE, Malformed, Next, Version};

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
}

impl Requests {
    /// Adds one that has an answer.
    pub(crate) fn push(&mut self, request: &Request<'_>) {
        self.frames.reserve(request.encoded_len());
        request.encode(self.count, &mut self.frames);
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
    /// Somebody waits for [`Multiplexer::idle`].
    closing: bool,
}

/// What is needed to read.
#[derive(Debug)]
struct Reader {
    cutter: Cutter,
    buffer: Box<[u8]>,
}

/// One thread that waits.
#[derive(Debug)]
struct Queued {
    /// The number of the next answer, and how many are missing.
    next: u32,
    missing: u32,
    replies: Vec<Reply>,
    waiter: Arc<Waiter>,
}

/// Where a thread waits, and finds what it waits for. Everything in it is used under the lock of the [`State`].
#[derive(Debug, Default)]
struct Waiter {
    outcome: Mutex<Option<Result<Vec<Reply>, Failure>>>,
    waits: AtomicBool,
    changed: Condvar,
}

impl Waiter {
    fn set(&self, outcome: Result<Vec<Reply>, Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.wake();
    }

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
        let reader = Reader { cutter: Cutter::default(), buffer: vec![0; READ].into() };
        Self {
            state: Mutex::new(State {
                channel: Some(Arc::new(channel)),
                outbox: Vec::new(),
                sending: false,
                reader: Some(reader),
                queue: VecDeque::new(),
                next: 1,
                closing: false,
            }),
            idle: Condvar::new(),
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
        let Requests { mut frames, count } = requests;
        let state = &mut *self.lock();
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
            replies: Vec::with_capacity(count as usize),
            waiter: Arc::clone(waiter),
        });
        Ok(channel)
    }

    /// Sends what is in the outbox, unless somebody is at it: that one then sends ours, too.
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
            let sent = self.send_all(channel, &outbox, deadline);
            let state = &mut *self.lock();
            state.sending = false;
            self.note_idle(state);
            sent?;
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
        let reader = self.lock().reader.take();
        let Some(mut reader) = reader else {
            // Somebody takes answers.
            return channel.wait_for_room(deadline);
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

    /// Waits for the answers to what was queued with `waiter`.
    fn wait(
        &self,
        channel: &Channel,
        waiter: &Waiter,
        deadline: Deadline,
    ) -> Result<Vec<Reply>, Failure> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = waiter.take() {
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

    /// Somebody else may read. One of those who still wait has to know.
    fn give_back(&self, reader: Reader) {
        let state = &mut *self.lock();
        state.reader = Some(reader);
        if let Some(first) = state.queue.front() {
            first.waiter.wake();
        }
    }

    /// Hands the answers in the first `count` bytes of the buffer to those who wait for them.
    fn deliver(&self, reader: &mut Reader, count: usize) -> Result<(), Malformed> {
        let Reader { cutter, buffer } = reader;
        let mut bytes = &buffer[..count];
        // Outside of the lock, as it copies what may be long.
        let mut replies = Vec::new();
        loop {
            match cutter.next(&mut bytes, |header, _| header.body as usize <= MAX_BODY)? {
                Next::Nothing => break,
                Next::Unwanted(_) => return Err(Malformed::Header("a body that is too long")),
                Next::Frame(header, body) => {
                    let Answer { number, status, version, body } = Answer::decode(&header, body)?;
                    replies.push((number, Reply { status, version, body: body.to_vec() }));
                }
            }
        }
        let state = &mut *self.lock();
        for (number, reply) in replies {
            let unexpected = Malformed::Unexpected(number);
            let first = state.queue.front_mut().ok_or(unexpected)?;
            if number != first.next || reply.status == Status::Welcome {
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

    /// Waits until nobody waits for answers, or sends; `false`: it took too long. Nobody may begin meanwhile.
    pub(crate) fn wait_until_idle(&self, deadline: Deadline) -> bool {
        let mut state = self.lock();
        state.closing = true;
        while state.sending || !state.queue.is_empty() {
            let Some(left) = deadline.left() else { return false };
            state = self.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn note_idle(&self, state: &State) {
        if state.closing && !state.sending && state.queue.is_empty() {
            self.idle.notify_all();
        }
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
            self.note_idle(state);
            state.channel.take()
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
    while rest.len() >= kvs_proto::framed::HEADER_LEN {
        let len = kvs_proto::framed::Header::renumber(rest, number);
        rest = rest.split_at_mut(len.min(rest.len())).1;
        number = number.wrapping_add(1);
    }
}
