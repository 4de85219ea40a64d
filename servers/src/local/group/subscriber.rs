//! The changes that one application has still to be told.
//!
//! A change is [noted](Subscriber::note) under the lock of its group, so that the changes of a key are noted in the
//! order in which they were made, and [told](Subscriber::tell) when that lock is free. A key that changes again
//! while it waits keeps its place: it is told once, with its last version. So a key waits at most once for each
//! time that it was watched, however slow the application is, and the last change of a key is never lost. What
//! waits is charged to the application's user: a key that was deleted meanwhile waits on although it is watched
//! no more, and who reads nothing could gather as many of them as it likes. By a prefix it could do so without
//! asking for anything: when there are more than its user may have, the session ends.
//!
//! In an original session each change needs a handshake, and only the application's own reactor tells it. In a framed
//! session changes just go out, and whoever has made one [sends](Sender) it at once, without the detour by
//! another thread. One thread at a time has the sender: it *takes it out* of the lock for as long as it
//! writes. What the application does not take waits, first in the kernel, then here; its own reactor goes on when
//! there is room again.

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

/// A key that is watched, shared by all who have to do with it.
pub(crate) type Key = Arc<[u8]>;

/// How many bytes of changes are put together for one write, about.
const BATCH: usize = 16 * 1024;

/// So many changes may wait for an application whatever others of its user have waiting.
const FEW: usize = 16;

/// The writes in one go. Who reads as fast as others change what it watches is told the rest by its own reactor.
const BATCHES: usize = 4;

/// An application for which nothing waits keeps no more room for it than this, in bytes and in changes.
const KEPT: usize = 4096;
const KEPT_CHANGES: usize = 64;

/// One application as those see it who change what it watches.
#[derive(Debug)]
pub(crate) struct Subscriber {
    address: Address,
    user: Arc<UserQuota>,
    pending: Mutex<Pending>,
}

#[derive(Debug)]
struct Pending {
    order: VecDeque<Key>,
    keys: HashMap<Key, Change>,
    /// The reactor knows that there is something, and will ask until there is nothing.
    scheduled: bool,
    /// There is no callback channel any more.
    stopped: bool,
    /// Of a framed session: the application is to close, before anything else.
    closing: bool,
    overflow: Overflow,
    sender: Place,
    counts: EventCounters,
}

/// Whether more changes have come than may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    No,
    /// Nothing more is noted. The reactor does not know yet.
    Noted,
    /// It knows.
    Told,
}

/// Where the sender of a framed session is.
#[derive(Debug)]
enum Place {
    /// The session is an original one.
    None,
    Here(Sender),
    /// Somebody writes.
    Out {
        /// The socket has become writable since, so that what is stuck need not be.
        is_writable: bool,
    },
}

/// The callback channel of a framed session.
#[derive(Debug)]
struct Sender {
    connection: Arc<Connection>,
    /// What the kernel has not taken yet.
    waiting: Vec<u8>,
    /// Stands for that.
    _charge: Option<Charge>,
    /// Until the socket is writable.
    is_write_blocked: bool,
}

/// A change that waits.
#[derive(Debug)]
struct Change {
    version: Version,
    watches: MatchedBy,
    _charge: Charge,
}

impl Subscriber {
    /// That of an original session of `user` at `address`. Nothing has changed yet.
    pub(crate) fn v1(address: Address, user: Arc<UserQuota>, counts: EventCounters) -> Self {
        Self::new(address, user, counts, Place::None)
    }

    /// That of a framed session, with its callback channel.
    pub(crate) fn v2(
        address: Address,
        user: Arc<UserQuota>,
        counts: EventCounters,
        channel: Arc<Connection>,
    ) -> Self {
        let sender = Sender {
            connection: channel,
            waiting: Vec::new(),
            _charge: None,
            is_write_blocked: false,
        };
        Self::new(address, user, counts, Place::Here(sender))
    }

    fn new(address: Address, user: Arc<UserQuota>, counts: EventCounters, sender: Place) -> Self {
        let pending = Pending {
            order: VecDeque::new(),
            keys: HashMap::new(),
            scheduled: false,
            stopped: false,
            closing: false,
            overflow: Overflow::No,
            sender,
            counts,
        };
        Self { address, user, pending: Mutex::new(pending) }
    }

    /// `key` has this version now. To be called under the lock of the group, in memory only.
    pub(crate) fn enqueue(&self, key: &Key, version: Version, watches: MatchedBy) {
        let pending = &mut *self.pending.lock();
        if pending.stopped || pending.overflow != Overflow::No {
            return;
        }
        match pending.keys.entry(Arc::clone(key)) {
            // One that takes its changes is not to suffer from others of its user that do not.
            Entry::Vacant(_) if pending.order.len() >= FEW && !self.user.check_backlog_quota() => {
                pending.overflow = Overflow::Noted;
            }
            Entry::Vacant(place) => {
                let charge = Charge::event(&self.user, key.len());
                place.insert(Change { version, watches, _charge: charge });
                pending.order.push_back(Arc::clone(key));
                pending.counts.enqueued(false);
            }
            Entry::Occupied(waiting) => {
                let change = waiting.into_mut();
                change.version = version;
                change.watches = change.watches.union(watches);
                pending.counts.enqueued(true);
            }
        }
    }

    /// What was noted may be told. To be called with no lock held.
    pub(crate) fn flush(&self) {
        if !self.is_v2() || self.is_over_quota() {
            self.schedule();
            return;
        }
        match self.write(false) {
            // Its reactor is to wait for room.
            Ok(true) => self.schedule(),
            Ok(false) => {}
            // Its reactor will see it, too; until then nothing gathers.
            Err(_) => self.close(),
        }
    }

    /// Has its own reactor tell what was noted, for when there are too many to be told by whoever
    /// has made the change. To be called with no lock held.
    pub(crate) fn schedule(&self) {
        let scheduled = {
            let mut pending = self.pending.lock();
            // Of this it is told whatever it knows already: it may be waiting for a socket that is never writable
            // again.
            let overflows = pending.overflow == Overflow::Noted;
            if overflows {
                pending.overflow = Overflow::Told;
            }
            let scheduled = mem::replace(&mut pending.scheduled, true) && !overflows;
            pending.stopped || scheduled
        };
        if !scheduled {
            self.address.mailbox.send(Message::EventsPending(self.address.session));
        }
    }

    /// Its reactor has heard of it.
    pub(crate) fn clear_scheduled(&self) {
        self.pending.lock().scheduled = false;
    }

    /// The application is to close. Call it with no lock held.
    pub(crate) fn request_close(&self) {
        self.address.mailbox.send(Message::Close(self.address.session));
    }

    /// Of an original session: the next key to tell. After `None` the reactor is told again when there is one.
    pub(crate) fn next_key(&self) -> Option<Key> {
        let mut pending = self.pending.lock();
        let next = pending.next();
        if next.is_none() {
            pending.scheduled = false;
        }
        next.map(|(key, _)| key)
    }

    /// Of a framed session: sends what waits, unless somebody else is at it. `is_writable`: the socket has room again.
    /// Returns whether it has no more room now.
    ///
    /// # Errors
    /// The application has gone.
    pub(crate) fn write(&self, is_writable: bool) -> io::Result<bool> {
        let Some(mut sender) = self.take_sender(is_writable) else { return Ok(false) };
        let mut batch = mem::take(&mut sender.waiting);
        for turn in 0.. {
            let written = write_now(&sender.connection.stream, &batch).inspect_err(|_| {
                // Also where the reason is another one, both sides shall see the end of it.
                let _ = sender.connection.stream.shutdown(Shutdown::Both);
            })?;
            batch.drain(..written);
            sender.is_write_blocked = !batch.is_empty();
            let pending = &mut *self.pending.lock();
            if pending.stopped {
                break;
            }
            let is_writable = matches!(pending.sender, Place::Out { is_writable: true });
            pending.sender = Place::Out { is_writable: false };
            let more =
                if sender.is_write_blocked { is_writable } else { pending.encode(&mut batch) };
            if !more || turn == BATCHES {
                // The reactor is to try, whatever the last write has come to.
                sender.is_write_blocked &= !more;
                if batch.is_empty() && batch.capacity() > KEPT {
                    batch = Vec::new();
                }
                sender._charge =
                    (!batch.is_empty()).then(|| Charge::buffer(&self.user, batch.len()));
                sender.waiting = batch;
                let is_write_blocked = sender.is_write_blocked;
                pending.sender = Place::Here(sender);
                if more {
                    break;
                }
                pending.scheduled = false;
                return Ok(is_write_blocked);
            }
        }
        self.schedule();
        Ok(false)
    }

    /// Of a framed session: tells the application to close, before what waits.
    ///
    /// # Errors
    /// The application has gone.
    pub(crate) fn send_close(&self) -> io::Result<()> {
        self.pending.lock().closing = true;
        self.write(false).map(drop)
    }

    /// Whether more changes have come than may wait: the session is to end.
    pub(crate) fn is_over_quota(&self) -> bool {
        self.pending.lock().overflow != Overflow::No
    }

    /// Of a framed session: whether something waits until the socket is writable. Its reactor has to watch for that.
    pub(crate) fn is_write_blocked(&self) -> bool {
        matches!(&self.pending.lock().sender, Place::Here(sender) if sender.is_write_blocked)
    }

    fn is_v2(&self) -> bool {
        !matches!(self.pending.lock().sender, Place::None)
    }

    /// The sender, if there is reason to write, and nobody else is at it.
    fn take_sender(&self, is_writable: bool) -> Option<Sender> {
        let pending = &mut *self.pending.lock();
        match &mut pending.sender {
            Place::Here(sender) if sender.is_write_blocked && !is_writable => None,
            Place::Here(_) => {
                match mem::replace(&mut pending.sender, Place::Out { is_writable: false }) {
                    Place::Here(sender) => Some(sender),
                    _ => None,
                }
            }
            Place::Out { is_writable: since } => {
                *since |= is_writable;
                None
            }
            Place::None => None,
        }
    }

    /// From now on nothing is kept.
    pub(crate) fn close(&self) {
        let mut pending = self.pending.lock();
        pending.stopped = true;
        let keys = mem::take(&mut pending.keys);
        let order = mem::take(&mut pending.order);
        let sender = match mem::replace(&mut pending.sender, Place::None) {
            Place::Here(sender) => Some(sender),
            _ => None,
        };
        drop(pending);
        // The last one to hold the channel closes it: not under the lock.
        drop((keys, order, sender));
    }

    /// How many bytes of changes wait that the application does not take.
    #[cfg(fuzzing)]
    pub(crate) fn waiting(&self) -> usize {
        match &self.pending.lock().sender {
            Place::Here(sender) => sender.waiting.len(),
            _ => 0,
        }
    }
}

impl Pending {
    fn next(&mut self) -> Option<(Key, Change)> {
        let key = self.order.pop_front()?;
        let change = self.keys.remove(&key)?;
        self.counts.sent();
        if self.keys.is_empty() && self.keys.capacity() > KEPT_CHANGES {
            (self.keys, self.order) = (HashMap::new(), VecDeque::new());
        }
        Some((key, change))
    }

    /// Moves what waits into `batch`; `false`: there was nothing.
    fn encode(&mut self, batch: &mut Vec<u8>) -> bool {
        if mem::take(&mut self.closing) {
            ServerEvent::Close.encode(batch);
        }
        while batch.len() < BATCH
            && let Some((key, change)) = self.next()
        {
            let Change { version, watches, .. } = change;
            ServerEvent::Changed { key: &key, version, matched_by: watches }.encode(batch);
        }
        !batch.is_empty()
    }
}
