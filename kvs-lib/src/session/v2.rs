//! A session of protocol v2: the requests of all threads share one channel.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use kvs_proto::v2::request::{EntriesBuilder, MAX_ENTRIES, Request, WatchTarget};
use kvs_proto::v2::response::{self, Status};
use kvs_proto::v2::{NO_VERSION, PUT_MANY_OVERHEAD, Version};

use super::results::{Swap, Versioned};
use super::state::SessionState;
use crate::arguments::{check_key, check_prefix, check_value};
use crate::callbacks::callback::WatchCallback;
use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::disconnect::DisconnectReason;
use crate::error::{Error, Invalid};
use crate::fair_mutex::{FairMutex, FairMutexGuard};
use crate::multiplexer::{Multiplexer, OwnedResponse, RequestBatch};

#[derive(Debug)]
pub(crate) struct SessionV2 {
    pub(crate) state: SessionState,
    multiplexer: Multiplexer,
    /// The longest value that the server accepts, in bytes.
    max_value: usize,
    /// Held while a watch is changed both here and at the server.
    watch_lock: FairMutex<()>,
}

impl SessionV2 {
    /// For a channel on which the login is complete and the server's welcome was read.
    pub(crate) fn new(main: ClientChannel, max_value: usize, state: SessionState) -> Self {
        Self {
            state,
            multiplexer: Multiplexer::new(main),
            max_value,
            watch_lock: FairMutex::new(()),
        }
    }

    pub(crate) fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        check_key(key).map_err(|error| self.state.invalid(error))
    }

    pub(crate) fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        check_value(value, self.max_value).map_err(|error| self.state.invalid(error))
    }

    /// Stores a value: in any case, or if the key has the version `expected`.
    pub(crate) fn put(
        &self,
        key: &[u8],
        value: &[u8],
        expected: Option<Version>,
    ) -> Result<Swap, Error> {
        self.check_key(key)?;
        self.check_value(value)?;
        let reply = self.call(&Request::Put { key, value, expected })?;
        Ok(match reply.status {
            Status::Conflict => Swap::Conflict(reply.version),
            _ => Swap::Done(reply.version),
        })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Versioned>, Error> {
        self.check_key(key)?;
        let reply = self.call(&Request::Get(key)).map_err(Error::for_value_request)?;
        Ok(match reply.status {
            Status::Ok => Some(Versioned { value: reply.body, version: reply.version }),
            _ => None,
        })
    }

    /// Deletes a pair: in any case, or if the key has the version `expected`. `None`: there is no
    /// such key.
    pub(crate) fn delete(
        &self,
        key: &[u8],
        expected: Option<Version>,
    ) -> Result<Option<Swap>, Error> {
        self.check_key(key)?;
        let request = Request::Delete { key, expected };
        let reply =
            self.call_and_unwatch(&request, WatchTarget::Key(key), self.state.deadline())?;
        Ok(match reply.status {
            Status::Conflict => Some(Swap::Conflict(reply.version)),
            Status::NoSuchKey => None,
            _ => Some(Swap::Done(NO_VERSION)),
        })
    }

    pub(crate) fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Version, Error> {
        let mut entries = EntriesBuilder::default();
        let max = self.max_value + PUT_MANY_OVERHEAD;
        let mut len = 0usize;
        let invalid = |why| self.state.invalid(Error::Invalid { what: "list of pairs", why });
        for (n, (key, value)) in pairs.into_iter().enumerate() {
            let (key, value) = (key.as_ref(), value.as_ref());
            self.check_key(key)?;
            self.check_value(value)?;
            if n == MAX_ENTRIES {
                return Err(invalid(Invalid::TooMany { max: MAX_ENTRIES }));
            }
            len += EntriesBuilder::entry_len(key, value);
            // Entries beyond the limit are only counted, for the error message.
            if len <= max {
                entries.push(key, value);
            }
        }
        if len > max {
            return Err(invalid(Invalid::TooLong { len, max }));
        }
        if entries.is_empty() {
            return Err(invalid(Invalid::Empty));
        }
        Ok(self.call(&Request::PutMany(entries.entries()))?.version)
    }

    pub(crate) fn keys_page(
        &self,
        prefix: &[u8],
        cursor: u64,
        limit: u32,
    ) -> Result<(Vec<Vec<u8>>, u64), Error> {
        check_prefix(prefix).map_err(|error| self.state.invalid(error))?;
        let reply = self.call(&Request::Keys { prefix, cursor, limit })?;
        let keys = response::decode_keys(&reply.body).map_err(|malformed| {
            self.state.set_disconnect_reason(DisconnectReason::ProtocolViolation);
            // The caller gets this error, not one of closing the sockets.
            let _ = self.close_channels(true);
            Error::BadFrame(malformed)
        })?;
        Ok((keys.into_iter().map(<[u8]>::to_vec).collect(), reply.version))
    }

    /// Watches a key or a prefix. The callback is set before the server receives the request.
    pub(crate) fn watch(
        &self,
        target: WatchTarget<'_>,
        callback: WatchCallback,
    ) -> Result<(), Error> {
        self.check_target(target)?;
        let deadline = self.state.deadline();
        let dispatcher = &self.state.dispatcher;
        let lock = self.lock_watches(deadline)?;
        let replaced = dispatcher.set_pending_watch(target, callback);
        let result = match self.call_until(&Request::Watch(target), deadline) {
            Ok(reply) if reply.status == Status::NoSuchKey => Err(Error::NoSuchKey),
            result => result,
        };
        let unused = match (&result, replaced) {
            (Ok(reply), None) => {
                // Events of earlier changes may still arrive, because of an earlier watch.
                dispatcher.confirm_watch(target, reply.version);
                None
            }
            (Ok(_), replaced) => replaced,
            (Err(_), Some(replaced)) => dispatcher.set_watch(target, replaced),
            (Err(_), None) => dispatcher.remove_watch(target),
        };
        drop(lock);
        // Its callback may own values whose `Drop` calls the library: so it is dropped after the
        // lock is free.
        drop(unused);
        result.map(drop)
    }

    /// Removes a watch; `false` if there is none.
    pub(crate) fn unwatch(
        &self,
        target: WatchTarget<'_>,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        self.check_target(target)?;
        let reply = self.call_and_unwatch(&Request::Unwatch(target), target, deadline)?;
        Ok(reply.status == Status::Ok)
    }

    /// Sends several requests at once. There are as many replies, which may be refusals.
    pub(crate) fn call_all(
        &self,
        requests: RequestBatch,
        deadline: Deadline,
    ) -> Result<Vec<OwnedResponse>, Error> {
        self.state.check_open()?;
        let called = catch_unwind(AssertUnwindSafe(|| {
            self.state.check_not_broken()?;
            self.multiplexer.call(requests, deadline).map_err(Error::from)
        }));
        match called {
            Ok(Ok(replies)) => Ok(replies),
            Ok(Err(error)) => {
                if error.closes() {
                    self.state.set_disconnect_reason(DisconnectReason::from_call_error(&error));
                    // The caller gets the error of the call, not one of closing the sockets.
                    let _ = self.close_channels(true);
                }
                Err(error)
            }
            Err(panic) => {
                self.state.set_disconnect_reason(DisconnectReason::Internal);
                let _ = self.close_channels(true);
                resume_unwind(panic)
            }
        }
    }

    /// Waits until no call is in progress, sends the server a close request and closes both
    /// channels.
    pub(crate) fn disconnect(&self, deadline: Deadline) -> Result<(), Error> {
        self.state.begin_close();
        if !self.multiplexer.drain(deadline) {
            return Err(Error::Busy);
        }
        if self.multiplexer.is_closed() {
            return Err(Error::NotConnected);
        }
        let sent = catch_unwind(AssertUnwindSafe(|| {
            self.state.check_not_broken()?;
            self.multiplexer.send(&Request::Close, deadline).map_err(Error::from)
        }));
        let closed = self.close_channels(false);
        sent.unwrap_or_else(|panic| resume_unwind(panic)).and(closed)
    }

    /// Shuts the main channel down without closing it.
    pub(crate) fn shut_down(&self) {
        self.multiplexer.shut_down();
    }

    fn check_target(&self, target: WatchTarget<'_>) -> Result<(), Error> {
        let checked = match target {
            WatchTarget::Key(key) => check_key(key),
            WatchTarget::Prefix(prefix) => check_prefix(prefix),
        };
        checked.map_err(|error| self.state.invalid(error))
    }

    fn call(&self, request: &Request<'_>) -> Result<OwnedResponse, Error> {
        self.call_until(request, self.state.deadline())
    }

    fn call_until(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<OwnedResponse, Error> {
        let mut requests = RequestBatch::default();
        requests.push(request);
        let mut replies = self.call_all(requests, deadline)?;
        // A call returns as many replies as it has requests: one.
        check_not_refused(replies.pop().ok_or(Error::NotConnected)?)
    }

    /// Sends a request that ends the watch on `target`, and removes the callback if the server did
    /// so.
    fn call_and_unwatch(
        &self,
        request: &Request<'_>,
        target: WatchTarget<'_>,
        deadline: Deadline,
    ) -> Result<OwnedResponse, Error> {
        let dispatcher = &self.state.dispatcher;
        if !dispatcher.has_watch(target) {
            return self.call_until(request, deadline);
        }
        let lock = self.lock_watches(deadline)?;
        let reply = self.call_until(request, deadline);
        // `NoSuchKey`: another client deleted the key, which ended the watch.
        let is_ended = reply
            .as_ref()
            .is_ok_and(|reply| matches!(reply.status, Status::Ok | Status::NoSuchKey));
        let removed = if is_ended { dispatcher.remove_watch(target) } else { None };
        drop(lock);
        drop(removed);
        reply
    }

    fn lock_watches(&self, deadline: Deadline) -> Result<FairMutexGuard<'_, ()>, Error> {
        self.watch_lock.lock(deadline).map_err(|_| Error::Busy)
    }

    fn close_channels(&self, failed: bool) -> Result<(), Error> {
        self.state.begin_close();
        let main_closed = self.multiplexer.close(failed);
        let callback_closed = self.state.dispatcher.close();
        main_closed.and(callback_closed)
    }
}

/// Turns a refusal into an error.
pub(crate) fn check_not_refused(reply: OwnedResponse) -> Result<OwnedResponse, Error> {
    match reply.status {
        Status::Ok | Status::NoSuchKey | Status::Conflict => Ok(reply),
        Status::TooLarge => Err(Error::TooLarge),
        Status::Limit => Err(Error::LimitReached),
        Status::Unknown | Status::Welcome => Err(Error::Unsupported),
    }
}
