//! The changes that one application has still to be told.
//!
//! Any reactor may add one, only the application's own takes them out, when its callback channel is ready
//! for the next. A key that changes again while it waits keeps its place: it is told once, and the
//! application then reads the last value. So a key waits at most once for each time that it was watched, however
//! slow the application is, and the last change of a key is never lost. What waits is charged to the
//! application's user: a key that was deleted meanwhile waits on although it is watched no more, and who
//! reads nothing could gather as many of them as it likes.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use kvs_proto::Text;
use parking_lot::Mutex;

use super::mailbox::{Address, Message};
use super::quota::{Charge, User};

/// One application as those see it who change what it watches.
#[derive(Debug)]
pub(crate) struct Watcher {
    address: Address,
    user: Arc<User>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    order: VecDeque<Text>,
    keys: HashMap<Text, Charge>,
    /// The reactor knows that there is something, and will ask until there is nothing.
    announced: bool,
    /// There is no callback channel any more.
    stopped: bool,
}

impl Watcher {
    /// Nothing has changed yet for the session of `user` at `address`.
    pub(crate) fn new(address: Address, user: Arc<User>) -> Self {
        Self { address, user, pending: Mutex::default() }
    }

    /// `key` has changed. Call it with no lock held.
    pub(crate) fn changed(&self, key: Text) {
        let announce = {
            let mut pending = self.pending.lock();
            if pending.stopped {
                return;
            }
            let Pending { order, keys, .. } = &mut *pending;
            if let Entry::Vacant(place) = keys.entry(key) {
                place.insert(Charge::change(&self.user));
                order.push_back(key);
            }
            !std::mem::replace(&mut pending.announced, true)
        };
        if announce {
            self.address.mailbox.send(Message::Changes(self.address.session));
        }
    }

    /// The application is to close. Call it with no lock held.
    pub(crate) fn close(&self) {
        self.address.mailbox.send(Message::Close(self.address.session));
    }

    /// The next key to tell. After `None` the reactor is told again when there is one.
    pub(crate) fn next(&self) -> Option<Text> {
        let mut pending = self.pending.lock();
        let key = pending.order.pop_front();
        match &key {
            Some(key) => {
                pending.keys.remove(key);
            }
            None => pending.announced = false,
        }
        key
    }

    /// From now on nothing is kept.
    pub(crate) fn stop(&self) {
        *self.pending.lock() = Pending { stopped: true, ..Pending::default() };
    }
}
