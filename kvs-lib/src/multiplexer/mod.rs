//! The main channel of a v2 session, shared by all threads of the program.
//!
//! The library needs no thread for it, and no call waits for the round trip of another. A calling
//! thread appends its requests to the *outbox* and, unless another thread is sending, sends the
//! whole outbox; then it waits for its replies. One of the waiting threads, the *reader*, receives
//! responses for all of them until its own are complete; then the next waiting thread reads. The
//! server responds in the order of the requests, so the [`RequestMap`] is a queue.
//!
//! A server whose responses are not read stops reading requests. So a thread that cannot send
//! because the socket is full makes sure that responses are read: it reads itself, unless there is
//! a reader.
//!
//! Invariants:
//! - The lock on the state is held for a few instructions, never across a system call on the
//!   socket.
//! - At most one thread sends ([`Outbox`]), and at most one reads (`is_reading`).
//! - A failure of any kind (a lost connection, a malformed response, a timeout) fails the whole
//!   connection, because later responses could not be matched to their requests, or would come too
//!   late. Every waiting thread is woken with that failure.

mod batch;
mod call_slot;
mod outbox;
mod reader;
mod request_map;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvs_proto::v2::Malformed;
use kvs_proto::v2::request::Request;

use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::panic_points::panic_point;

pub(crate) use batch::{OwnedResponse, RequestBatch};
pub(crate) use call_slot::CallFailure;
use call_slot::{CallResult, CallSlot};
use outbox::Outbox;
use reader::ResponseReader;
use request_map::RequestMap;

/// The number of the first request. 0 is that of the server's welcome.
const FIRST_REQUEST: u32 = 1;

#[derive(Debug)]
pub(crate) struct Multiplexer {
    state: Mutex<MultiplexerState>,
    /// Locked by the thread that has set `is_reading`, and by no other.
    reader: Mutex<ResponseReader>,
    /// No thread sends, and no response is outstanding.
    became_idle: Condvar,
    /// Responses were received, or the reader has stopped reading.
    received: Condvar,
}

#[derive(Debug)]
struct MultiplexerState {
    /// `None` once the connection is closed.
    channel: Option<Arc<ClientChannel>>,
    outbox: Outbox,
    requests: RequestMap,
    /// A thread reads. Stays set after a panic of that thread, whose connection is then closed.
    is_reading: bool,
    /// How often responses were received.
    receive_count: u64,
    /// A close request is being sent: no request may follow.
    is_closing: bool,
    /// A thread waits for `became_idle`.
    is_idle_awaited: bool,
    /// A thread waits for `received`.
    is_receive_awaited: bool,
}

impl MultiplexerState {
    fn is_idle(&self) -> bool {
        !self.outbox.is_sending() && self.requests.is_empty()
    }
}

impl Multiplexer {
    /// For a channel on which the login is complete and the server's welcome was read.
    pub(crate) fn new(channel: ClientChannel) -> Self {
        Self {
            state: Mutex::new(MultiplexerState {
                channel: Some(Arc::new(channel)),
                outbox: Outbox::default(),
                requests: RequestMap::new(FIRST_REQUEST),
                is_reading: false,
                receive_count: 0,
                is_closing: false,
                is_idle_awaited: false,
                is_receive_awaited: false,
            }),
            reader: Mutex::new(ResponseReader::new()),
            became_idle: Condvar::new(),
            received: Condvar::new(),
        }
    }

    /// Sends all of `requests`, and waits for all replies.
    pub(crate) fn call(
        &self,
        requests: RequestBatch,
        deadline: Deadline,
    ) -> Result<Vec<OwnedResponse>, CallFailure> {
        let slot = Arc::new(CallSlot::default());
        let channel = self.enqueue(requests, &slot)?;
        panic_point!("requests queued");
        self.flush(&channel, deadline).map_err(CallFailure::Sending)?;
        panic_point!("requests sent");
        self.wait_for_replies(&channel, &slot, deadline)
    }

    /// Sends a request that has no response.
    pub(crate) fn send(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<(), CallFailure> {
        let channel = {
            let state = &mut *self.lock();
            let channel = state.channel.clone().ok_or(CallFailure::Closed)?;
            state.outbox.push_unnumbered(request);
            channel
        };
        self.flush(&channel, deadline).map_err(CallFailure::Sending)
    }

    /// Waits until no thread sends and no response is outstanding, and admits no further call.
    /// `false`: the deadline passed first.
    pub(crate) fn drain(&self, deadline: Deadline) -> bool {
        let mut state = self.lock();
        while !state.is_idle() {
            let Some(left) = deadline.remaining() else { return false };
            state.is_idle_awaited = true;
            state = wait(&self.became_idle, state, left);
        }
        // Set under the same lock: another thread may have found the connection open, and not have
        // enqueued its requests yet.
        state.is_closing = true;
        true
    }

    /// Whether the connection was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().channel.is_none()
    }

    /// Shuts the connection down in both directions without closing it: every thread that waits
    /// sees the end of the stream.
    pub(crate) fn shut_down(&self) {
        let channel = self.lock().channel.clone();
        if let Some(channel) = channel {
            channel.shut_down();
        }
    }

    /// Closes the connection and fails all outstanding calls: with [`CallFailure::Closed`], or with
    /// a receive error if the connection `failed`.
    pub(crate) fn close(&self, failed: bool) -> Result<(), Error> {
        let channel = {
            let state = &mut *self.lock();
            state.requests.fail_all(|| match failed {
                true => CallFailure::Receiving(ErrorKind::ConnectionAborted.into()),
                false => CallFailure::Closed,
            });
            let channel = state.channel.take();
            // A thread that panicked while sending is still the sender.
            state.outbox.end_sending();
            self.notify_if_idle(state);
            self.notify_received(state);
            channel
        };
        let Some(channel) = channel else { return Ok(()) };
        // Ends the system calls of other threads, which then drop their references.
        channel.shut_down();
        match Arc::try_unwrap(channel) {
            Ok(channel) => channel.close(),
            // The thread that drops the last reference closes it.
            Err(_) => Ok(()),
        }
    }

    /// No code that holds this lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, MultiplexerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called by the thread that has set `is_reading`, so this never waits.
    fn lock_reader(&self) -> MutexGuard<'_, ResponseReader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers the requests of a call and appends them to the outbox, without any of another call
    /// between them.
    fn enqueue(
        &self,
        requests: RequestBatch,
        slot: &Arc<CallSlot>,
    ) -> Result<Arc<ClientChannel>, CallFailure> {
        let state = &mut *self.lock();
        if state.is_closing {
            return Err(CallFailure::Closed);
        }
        let channel = state.channel.clone().ok_or(CallFailure::Closed)?;
        let frames = state.requests.insert(requests, slot);
        state.outbox.push(frames);
        Ok(channel)
    }

    /// Sends the outbox, unless another thread is sending: that one then sends these requests, too,
    /// or wakes a waiting thread to do so. No thread sends for others more than once, or it might
    /// never return among many busy ones.
    fn flush(&self, channel: &ClientChannel, deadline: Deadline) -> io::Result<()> {
        loop {
            let Some(bytes) = self.lock().outbox.begin_sending() else { return Ok(()) };
            panic_point!("sending");
            let sent = self.send_all(channel, &bytes, deadline);
            let state = &mut *self.lock();
            state.outbox.end_sending();
            self.notify_if_idle(state);
            sent?;
            if state.outbox.has_no_sender()
                && let Some(next) = state.requests.first_waiting()
            {
                next.wake();
                return Ok(());
            }
        }
    }

    /// Sends all of `bytes`, and has responses read while the socket is full.
    fn send_all(
        &self,
        channel: &ClientChannel,
        mut bytes: &[u8],
        deadline: Deadline,
    ) -> io::Result<()> {
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

    /// Waits until there may be room to send: reads responses, or waits until the reader has.
    fn make_room(&self, channel: &ClientChannel, deadline: Deadline) -> io::Result<()> {
        let (has_reader, seen) = {
            let state = &mut *self.lock();
            (std::mem::replace(&mut state.is_reading, true), state.receive_count)
        };
        if has_reader {
            // The reader may stop reading before there is room.
            if channel.wait_until_readable_or_writable(deadline)? {
                self.wait_until_received(seen, deadline)?;
            }
            return Ok(());
        }
        let mut reader = self.lock_reader();
        let mut received = Ok(0);
        let is_readable = channel.wait_until_readable_or_writable(deadline);
        if let Ok(true) = is_readable {
            received = reader.receive(channel, deadline);
        }
        let delivered = match received {
            Ok(0) => Ok(()),
            Ok(count) => self.deliver(&mut reader, count).map_err(io::Error::other),
            Err(error) => Err(error),
        };
        self.end_reading(reader);
        is_readable.and(delivered)
    }

    /// Waits until the reader has received more often than `seen` times, or reads no more.
    fn wait_until_received(&self, seen: u64, deadline: Deadline) -> io::Result<()> {
        let mut state = self.lock();
        while state.is_reading && state.receive_count == seen && state.channel.is_some() {
            let left = deadline.remaining_or_timed_out()?;
            state.is_receive_awaited = true;
            state = wait(&self.received, state, left);
            state.is_receive_awaited = false;
        }
        Ok(())
    }

    /// Waits until the call of `slot` is complete. Meanwhile the thread sends and reads for all
    /// calls, if no other thread does.
    fn wait_for_replies(
        &self,
        channel: &ClientChannel,
        slot: &CallSlot,
        deadline: Deadline,
    ) -> CallResult {
        let mut state = self.lock();
        loop {
            let mut result = slot.take();
            // The last sender relies on a waiting thread to send the rest. A thread whose call is
            // complete leaves that to another one, if there is one.
            if state.outbox.has_no_sender() {
                match (&result, state.requests.first_waiting()) {
                    (Some(_), Some(next)) => next.wake(),
                    (complete, _) => {
                        let is_complete = complete.is_some();
                        drop(state);
                        let sent = self.flush(channel, deadline);
                        // The threads whose requests these are notice a failure themselves.
                        if !is_complete {
                            sent.map_err(CallFailure::Sending)?;
                        }
                        state = self.lock();
                        result = result.or_else(|| slot.take());
                    }
                }
            }
            if let Some(result) = result {
                return result;
            }
            if !state.is_reading {
                state.is_reading = true;
                drop(state);
                return self.read_until_complete(channel, slot, deadline);
            }
            let Some(left) = deadline.remaining() else {
                return Err(CallFailure::Receiving(ErrorKind::TimedOut.into()));
            };
            state = slot.wait(state, left);
        }
    }

    /// Receives responses for all calls, until the call of `slot` is complete. To be called by the
    /// thread that has set `is_reading`.
    fn read_until_complete(
        &self,
        channel: &ClientChannel,
        slot: &CallSlot,
        deadline: Deadline,
    ) -> CallResult {
        let mut reader = self.lock_reader();
        let result = loop {
            panic_point!("reading");
            let delivered = match reader.receive(channel, deadline) {
                Ok(count) => self.deliver(&mut reader, count).map_err(CallFailure::Malformed),
                Err(error) => Err(CallFailure::Receiving(error)),
            };
            // A result takes precedence: a thread that closed the connection stored one.
            match (slot.take(), delivered) {
                (Some(result), _) => break result,
                (None, Err(failure)) => break Err(failure),
                (None, Ok(())) => {}
            }
        };
        self.end_reading(reader);
        result
    }

    /// Lets another thread read, and wakes one that waits for its replies to do so. A thread that
    /// is sending checks for itself.
    fn end_reading(&self, reader: MutexGuard<'_, ResponseReader>) {
        drop(reader);
        let state = &mut *self.lock();
        state.is_reading = false;
        if let Some(next) = state.requests.first_waiting() {
            next.wake();
        }
        self.notify_received(state);
    }

    /// Assigns the responses in the first `count` bytes of the buffer to their calls.
    fn deliver(&self, reader: &mut ResponseReader, count: usize) -> Result<(), Malformed> {
        // Decoding copies values, which may be long: so it happens outside the lock.
        let replies = reader.decode(count)?;
        let state = &mut *self.lock();
        state.receive_count += 1;
        self.notify_received(state);
        for (number, reply) in replies {
            state.requests.accept(number, reply)?;
        }
        self.notify_if_idle(state);
        Ok(())
    }

    fn notify_received(&self, state: &MultiplexerState) {
        if state.is_receive_awaited {
            self.received.notify_all();
        }
    }

    fn notify_if_idle(&self, state: &MultiplexerState) {
        if state.is_idle_awaited && state.is_idle() {
            self.became_idle.notify_all();
        }
    }
}

fn wait<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, MultiplexerState>,
    timeout: std::time::Duration,
) -> MutexGuard<'a, MultiplexerState> {
    condition.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
}
