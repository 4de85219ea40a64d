//! Turns changes of watched keys into events.
//!
//! In protocol v2 the stream watches prefixes, for single keys too, because a watch of a prefix
//! outlives the deletion of a key and needs no existing key. Protocol v1 watches existing keys.
//! The value of a changed key is read when the key is taken out of the queue. A change whose value
//! was reported already, as its version shows, is skipped.

use std::collections::HashMap;
use std::sync::Arc;

use kvs::{Protocol, Version};

use crate::connector::GroupConnection;
use crate::error::Error;
use crate::watch::event::{KeyEvent, KeyEventKind};
use crate::watch::filter::WatchFilter;
use crate::watch::queue::{ChangeQueue, WatchEnd};

/// Reports the changes of the keys that a filter selects.
#[derive(Debug)]
pub(crate) struct EventStream<'a> {
    group: &'a GroupConnection,
    queue: Arc<ChangeQueue>,
    filter: WatchFilter,
    /// The latest reported version of each key that exists.
    reported: HashMap<Vec<u8>, Version>,
}

impl<'a> EventStream<'a> {
    /// Registers the watch. No change after the return is missed.
    pub(crate) fn start(group: &'a GroupConnection, filter: WatchFilter) -> Result<Self, Error> {
        let queue = Arc::new(ChangeQueue::default());
        let connection = &group.connection;
        let to_error = |error| group.error(error);
        let on_disconnect = Arc::clone(&queue);
        connection
            .on_disconnect(move |_| on_disconnect.close(WatchEnd::Disconnected))
            .map_err(to_error)?;
        if connection.protocol() == Protocol::V2 {
            for prefix in filter.covering_prefixes() {
                let (queue, filter) = (Arc::clone(&queue), filter.clone());
                let callback = move |change: &kvs::KeyChange<'_>| {
                    if filter.matches(change.key) {
                        queue.push(change.key, change.version);
                    }
                };
                connection.watch_prefix(prefix, callback).map_err(to_error)?;
            }
        } else {
            if !filter.prefixes.is_empty() {
                return Err(to_error(kvs::Error::Unsupported));
            }
            for key in &filter.keys {
                let queue = Arc::clone(&queue);
                let watched = connection
                    .watch_changes(key, move |change| queue.push(change.key, change.version));
                watched.map_err(|error| match error {
                    kvs::Error::NoSuchKey => {
                        Error::WatchMissingKey { key: key.clone(), group: group.group.clone() }
                    }
                    error => to_error(error),
                })?;
            }
        }
        Ok(Self { group, queue, filter, reported: HashMap::new() })
    }

    pub(crate) fn queue(&self) -> Arc<ChangeQueue> {
        Arc::clone(&self.queue)
    }

    /// Reports the existing values. Queued changes that these values include are skipped later.
    pub(crate) fn report_initial(
        &mut self,
        mut report: impl FnMut(KeyEvent) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for key in self.filter.keys.clone() {
            self.report_initial_key(&key, &mut report)?;
        }
        for prefix in &self.filter.prefixes.clone() {
            let group = self.group;
            for key in group.connection.keys(prefix) {
                let key = key.map_err(|error| group.error(error))?;
                self.report_initial_key(&key, &mut report)?;
            }
        }
        Ok(())
    }

    fn report_initial_key(
        &mut self,
        key: &[u8],
        report: &mut impl FnMut(KeyEvent) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.reported.contains_key(key) {
            return Ok(());
        }
        let Some((value, version)) = self.group.get(key)? else { return Ok(()) };
        self.reported.insert(key.to_vec(), version);
        let kind = KeyEventKind::Value { value, version, initial: true };
        report(KeyEvent { key: key.to_vec(), kind })
    }

    /// Waits for the next event. Returns `None` when the user has ended the watch.
    pub(crate) fn next(&mut self) -> Result<Option<KeyEvent>, Error> {
        loop {
            let (key, version) = match self.queue.pop() {
                Ok(change) => change,
                Err(WatchEnd::Unwatched) => return Ok(None),
                Err(WatchEnd::Disconnected) => return Err(self.group.disconnected()),
            };
            let found = match self.group.get(&key) {
                // The get may fail just before the queue is closed. Both have one cause, and this
                // error names it.
                Err(_) if !self.group.connection.is_open() => {
                    return Err(self.group.disconnected());
                }
                found => found?,
            };
            match found {
                Some((_, found)) if found != 0 && self.reported.get(&key) >= Some(&found) => {}
                Some((value, found)) => {
                    if found != 0 {
                        self.reported.insert(key.clone(), found);
                    }
                    let kind = KeyEventKind::Value { value, version: found, initial: false };
                    return Ok(Some(KeyEvent { key, kind }));
                }
                // The key was put and has been deleted since; the deletion is queued separately.
                None if version != 0 => {}
                None => {
                    self.reported.remove(&key);
                    return Ok(Some(KeyEvent { key, kind: KeyEventKind::Deleted }));
                }
            }
        }
    }
}
