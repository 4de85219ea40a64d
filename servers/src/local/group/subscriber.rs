//! Pending change events of one subscriber.
//!
//! [`enqueue`](Subscriber::enqueue) runs under the group's lock, so events keep the order of the
//! commits; [`flush`](Subscriber::flush) runs after the lock is released. A key that changes again
//! while its event is pending is *coalesced*: the event keeps its position and carries the latest
//! version. So a key is pending at most once, however slow the application is, and the last change
//! of a key is never lost.
//!
//! Pending events are charged to the application's user. They are not bounded by the subscriptions:
//! the event of a key outlasts the subscription to it, and a prefix matches any number of keys.
//! When the user's quota is exhausted nothing more is enqueued, and the session is closed.
//!
//! A v1 event needs a handshake, so only the application's own reactor sends it. A v2 event just
//! goes out, so the thread that made the change writes it at once ([`EventWriter`]), without a
//! detour through another thread. What the application does not take waits, first in the kernel,
//! then here; its own reactor continues when the socket is writable again.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::mem;
use std::net::Shutdown;
use std::sync::Arc;

use kvs_proto::v2::Version;
use kvs_proto::v2::event::{MatchedBy, ServerEvent};
use parking_lot::Mutex;

use crate::local::limits::charge::Charge;
use crate::local::limits::quota::UserQuota;
use crate::local::metrics::events::EventCounters;
use crate::local::net::connection::{Connection, write_now};
use crate::local::net::mailbox::{Address, Message};

/// A key or prefix with subscriptions, shared by the index, the subscribers and their events.
pub(crate) type Key = Arc<[u8]>;

/// About how many bytes of events are written at a time.
const BATCH_BYTES: usize = 16 * 1024;

/// So many events may be pending for an application whatever is pending for others of its user: one
/// that takes its events is not to suffer from those that do not.
const MIN_PENDING: usize = 16;

/// The most writes of one flush. If events are enqueued as fast as they are written, the reactor of
/// the application continues.
const MAX_WRITES: usize = 4;

/// The capacity that is kept while no event is pending, in bytes and in events.
const IDLE_BYTES: usize = 4096;
const IDLE_EVENTS: usize = 64;

/// An application as seen by those who change what it is subscribed to.
#[derive(Debug)]
pub(crate) struct Subscriber {
    address: Address,
    user: Arc<UserQuota>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    events: EventQueue,
    /// The reactor has been notified and will ask until no event is pending.
    is_scheduled: bool,
    quota: QuotaState,
    writer: EventWriter,
}

/// The pending events, in the order in which their keys were enqueued first. A batch enqueues each
/// of its keys once, at the position of the key's last change.
#[derive(Debug)]
struct EventQueue {
    order: VecDeque<Key>,
    by_key: HashMap<Key, PendingEvent>,
    /// A v2 application is asked to close before it gets any event.
    close_requested: bool,
    counts: EventCounters,
}

#[derive(Debug)]
struct PendingEvent {
    version: Version,
    matched_by: MatchedBy,
    _charge: Charge,
}

/// Whether the user's quota had room for every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QuotaState {
    Available,
    /// It is exhausted, and nothing more is enqueued. The reactor has not been notified yet.
    Exhausted,
    /// The reactor has been notified.
    Reported,
}

/// Who writes the events.
#[derive(Debug)]
enum EventWriter {
    /// The reactor of a v1 application.
    V1,
    /// The next thread that flushes: no other is writing.
    Idle(EventSender),
    /// A thread that is writing.
    InUse {
        /// The socket has become writable since the write began.
        became_writable: bool,
    },
    /// No thread: the callback channel is closed, and events are dropped.
    Closed,
}

/// The callback channel of a v2 application.
#[derive(Debug)]
struct EventSender {
    connection: Arc<Connection>,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
    /// Counts `unsent` for the user.
    _charge: Option<Charge>,
    /// Whether to wait until the socket is writable.
    is_write_blocked: bool,
}

impl Subscriber {
    /// The subscriber of a v1 application.
    pub(crate) fn v1(address: Address, user: Arc<UserQuota>, counts: EventCounters) -> Self {
        Self::new(address, user, counts, EventWriter::V1)
    }

    /// The subscriber of a v2 application with this callback channel.
    pub(crate) fn v2(
        address: Address,
        user: Arc<UserQuota>,
        counts: EventCounters,
        connection: Arc<Connection>,
    ) -> Self {
        let sender =
            EventSender { connection, unsent: Vec::new(), _charge: None, is_write_blocked: false };
        Self::new(address, user, counts, EventWriter::Idle(sender))
    }

    fn new(
        address: Address,
        user: Arc<UserQuota>,
        counts: EventCounters,
        writer: EventWriter,
    ) -> Self {
        let events = EventQueue {
            order: VecDeque::new(),
            by_key: HashMap::new(),
            close_requested: false,
            counts,
        };
        let state = State { events, is_scheduled: false, quota: QuotaState::Available, writer };
        Self { address, user, state: Mutex::new(state) }
    }

    /// Enqueues the event that `key` has this version now. Called under the group's lock, so it
    /// works in memory only.
    pub(crate) fn enqueue(&self, key: &Key, version: Version, matched_by: MatchedBy) {
        let state = &mut *self.state.lock();
        if matches!(state.writer, EventWriter::Closed) || state.quota != QuotaState::Available {
            return;
        }
        if !state.events.enqueue(key, version, matched_by, &self.user) {
            state.quota = QuotaState::Exhausted;
        }
    }

    /// Sends the pending events, or has the application's reactor send them. Called with no lock
    /// held.
    pub(crate) fn flush(&self) {
        if self.is_v1() || self.is_over_quota() {
            self.schedule();
            return;
        }
        match self.write(false) {
            // The reactor waits until the socket is writable.
            Ok(true) => self.schedule(),
            Ok(false) => {}
            // The reactor will notice, too. Nothing is enqueued until then.
            Err(_) => self.close(),
        }
    }

    /// Has the application's reactor send the pending events. Called with no lock held.
    pub(crate) fn schedule(&self) {
        let is_needless = {
            let mut state = self.state.lock();
            // An exhausted quota is reported even to a reactor that is scheduled: it may be waiting
            // for a socket that never becomes writable again.
            let is_news = state.quota == QuotaState::Exhausted;
            if is_news {
                state.quota = QuotaState::Reported;
            }
            let was_scheduled = mem::replace(&mut state.is_scheduled, true);
            matches!(state.writer, EventWriter::Closed) || (was_scheduled && !is_news)
        };
        if !is_needless {
            self.address.mailbox.send(Message::EventsPending(self.address.session));
        }
    }

    /// Lets the next [`schedule`](Self::schedule) notify the reactor again.
    pub(crate) fn clear_scheduled(&self) {
        self.state.lock().is_scheduled = false;
    }

    /// Has the application's reactor ask it to close. Called with no lock held.
    pub(crate) fn request_close(&self) {
        self.address.mailbox.send(Message::Close(self.address.session));
    }

    /// v1: takes out the next event. After `None` the reactor is notified of the next one.
    pub(crate) fn next_key(&self) -> Option<Key> {
        let mut state = self.state.lock();
        let next = state.events.pop();
        if next.is_none() {
            state.is_scheduled = false;
        }
        next.map(|(key, _)| key)
    }

    /// v2: writes the pending events, unless another thread is writing. `became_writable`: the
    /// socket is writable again. Returns whether the socket is full now.
    ///
    /// # Errors
    /// The application has disconnected.
    pub(crate) fn write(&self, became_writable: bool) -> io::Result<bool> {
        let Some(mut sender) = self.take_sender(became_writable) else { return Ok(false) };
        let mut batch = mem::take(&mut sender.unsent);
        for writes in 0.. {
            let written = write_now(&sender.connection.stream, &batch).inspect_err(|_| {
                // Whatever the reason is, both sides shall see the end of the channel.
                let _ = sender.connection.stream.shutdown(Shutdown::Both);
            })?;
            batch.drain(..written);
            sender.is_write_blocked = !batch.is_empty();
            let state = &mut *self.state.lock();
            let EventWriter::InUse { became_writable } = &mut state.writer else { break };
            let became_writable = mem::take(became_writable);
            let has_more = match sender.is_write_blocked {
                true => became_writable,
                false => state.events.encode(&mut batch),
            };
            if has_more && writes < MAX_WRITES {
                continue;
            }
            // With more to write the reactor tries at once, whatever the last write has come to.
            sender.is_write_blocked &= !has_more;
            let is_write_blocked = sender.is_write_blocked;
            sender.store(batch, &self.user);
            state.writer = EventWriter::Idle(sender);
            if has_more {
                break;
            }
            state.is_scheduled = false;
            return Ok(is_write_blocked);
        }
        self.schedule();
        Ok(false)
    }

    /// v2: asks the application to close, before it gets the pending events.
    ///
    /// # Errors
    /// The application has disconnected.
    pub(crate) fn send_close(&self) -> io::Result<()> {
        self.state.lock().events.close_requested = true;
        self.write(false).map(drop)
    }

    /// Whether more events came than the user's quota allows: the session is to be closed.
    pub(crate) fn is_over_quota(&self) -> bool {
        self.state.lock().quota != QuotaState::Available
    }

    /// v2: whether the reactor has to wait until the socket is writable.
    pub(crate) fn is_write_blocked(&self) -> bool {
        matches!(&self.state.lock().writer, EventWriter::Idle(sender) if sender.is_write_blocked)
    }

    fn is_v1(&self) -> bool {
        matches!(self.state.lock().writer, EventWriter::V1)
    }

    /// The sender, if there is reason to write and no other thread is writing.
    fn take_sender(&self, became_writable: bool) -> Option<EventSender> {
        self.state.lock().writer.take_sender(became_writable)
    }

    /// Drops all pending events; later ones are ignored. The channel is closed outside of the lock,
    /// by its last owner.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        let order = mem::take(&mut state.events.order);
        let by_key = mem::take(&mut state.events.by_key);
        let writer = mem::replace(&mut state.writer, EventWriter::Closed);
        drop(state);
        drop((order, by_key, writer));
    }

    /// The bytes that the application has not taken.
    #[cfg(fuzzing)]
    pub(crate) fn waiting(&self) -> usize {
        match &self.state.lock().writer {
            EventWriter::Idle(sender) => sender.unsent.len(),
            _ => 0,
        }
    }
}

impl EventWriter {
    fn take_sender(&mut self, became_writable: bool) -> Option<EventSender> {
        match mem::replace(self, Self::InUse { became_writable: false }) {
            Self::Idle(sender) if !sender.is_write_blocked || became_writable => Some(sender),
            Self::InUse { became_writable: before } => {
                *self = Self::InUse { became_writable: before || became_writable };
                None
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

impl EventSender {
    /// Keeps what the kernel has not taken, and counts it for `user`.
    fn store(&mut self, mut unsent: Vec<u8>, user: &Arc<UserQuota>) {
        if unsent.is_empty() && unsent.capacity() > IDLE_BYTES {
            unsent = Vec::new();
        }
        self._charge = (!unsent.is_empty()).then(|| Charge::buffer(user, unsent.len()));
        self.unsent = unsent;
    }
}

impl EventQueue {
    /// Adds an event, or coalesces it with the pending one of its key; `false`: the user's quota is
    /// exhausted.
    fn enqueue(
        &mut self,
        key: &Key,
        version: Version,
        matched_by: MatchedBy,
        user: &Arc<UserQuota>,
    ) -> bool {
        match self.by_key.entry(Arc::clone(key)) {
            Entry::Vacant(_) if self.order.len() >= MIN_PENDING && !user.check_backlog_quota() => {
                return false;
            }
            Entry::Vacant(entry) => {
                let charge = Charge::event(user, key.len());
                entry.insert(PendingEvent { version, matched_by, _charge: charge });
                self.order.push_back(Arc::clone(key));
                self.counts.enqueued(false);
            }
            Entry::Occupied(entry) => {
                let event = entry.into_mut();
                event.version = version;
                event.matched_by = event.matched_by.union(matched_by);
                self.counts.enqueued(true);
            }
        }
        true
    }

    fn pop(&mut self) -> Option<(Key, PendingEvent)> {
        let key = self.order.pop_front()?;
        let event = self.by_key.remove(&key)?;
        self.counts.sent();
        if self.by_key.is_empty() && self.by_key.capacity() > IDLE_EVENTS {
            (self.by_key, self.order) = (HashMap::new(), VecDeque::new());
        }
        Some((key, event))
    }

    /// Moves events into `batch`; `false`: it is still empty.
    fn encode(&mut self, batch: &mut Vec<u8>) -> bool {
        if mem::take(&mut self.close_requested) {
            ServerEvent::Close.encode(batch);
        }
        while batch.len() < BATCH_BYTES
            && let Some((key, PendingEvent { version, matched_by, .. })) = self.pop()
        {
            ServerEvent::Changed { key: &key, version, matched_by }.encode(batch);
        }
        !batch.is_empty()
    }
}
