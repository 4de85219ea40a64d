//! A session of protocol v1: one operation at a time.
//!
//! The operations of all threads are serialised on the main channel, in the order of the calls.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use kvs_proto::v1::client::{Operation, OperationResult};
use kvs_proto::v2::request::WatchTarget;
use kvs_proto::v2::{NO_VERSION, Version};

use super::state::SessionState;
use super::v1_channel::V1Channel;
use crate::arguments::{text, text_or_empty};
use crate::callbacks::callback::WatchCallback;
use crate::callbacks::watches::RegisteredWatch;
use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::disconnect::DisconnectReason;
use crate::error::Error;
use crate::fair_mutex::{FairMutex, FairMutexGuard};

#[derive(Debug)]
pub(crate) struct SessionV1 {
    pub(crate) state: SessionState,
    /// `None` once the session is closed.
    main: FairMutex<Option<V1Channel>>,
}

type MainGuard<'a> = FairMutexGuard<'a, Option<V1Channel>>;

impl SessionV1 {
    /// For a channel on which the login is complete.
    pub(crate) fn new(main: ClientChannel, state: SessionState) -> Self {
        Self { state, main: FairMutex::new(Some(V1Channel::new(main))) }
    }

    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<Version, Error> {
        let key = self.text(key)?;
        let value = text_or_empty("value", value).map_err(|error| self.state.invalid(error))?;
        self.call(Operation::Put { key, value })?;
        Ok(NO_VERSION)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.call(Operation::Get(self.text(key)?))? {
            OperationResult::Value(value) => Ok(Some(value)),
            OperationResult::NoSuchKey | OperationResult::Done => Ok(None),
        }
    }

    /// Deletes a pair; `false` if there is none. The watch is removed before another operation can
    /// begin, because that may register a new one.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let operation = Operation::Delete(self.text(key)?);
        let mut removed = None;
        let result = self.with_main(|main, deadline| {
            let result = main.run(operation, deadline)?;
            if result != OperationResult::NoSuchKey {
                removed = self.state.dispatcher.remove_watch(WatchTarget::Key(key));
            }
            Ok(result != OperationResult::NoSuchKey)
        });
        // Its callback may own values whose `Drop` calls the library: so it is dropped after the
        // channel is free.
        drop(removed);
        result
    }

    /// Watches a key. The callback is set before the server receives the request, because a change
    /// may follow at once.
    pub(crate) fn watch(
        &self,
        target: WatchTarget<'_>,
        callback: WatchCallback,
    ) -> Result<(), Error> {
        let operation = Operation::Watch(self.text(self.watched_key(target)?)?);
        let dispatcher = &self.state.dispatcher;
        let mut unused = None;
        let result = self.with_main(|main, deadline| {
            let watch = RegisteredWatch { callback, since: Some(NO_VERSION) };
            let replaced = dispatcher.set_watch(target, watch);
            let result = main.run(operation, deadline);
            unused = match (&result, replaced) {
                (Ok(OperationResult::Done | OperationResult::Value(_)), replaced) => replaced,
                (_, Some(replaced)) => dispatcher.set_watch(target, replaced),
                (_, None) => dispatcher.remove_watch(target),
            };
            result
        });
        // Dropped after the channel is free, as in `delete`.
        drop(unused);
        match result? {
            OperationResult::NoSuchKey => Err(Error::NoSuchKey),
            OperationResult::Done | OperationResult::Value(_) => Ok(()),
        }
    }

    /// Removes a watch; `false` if there is none. The protocol has no message for it: the server
    /// goes on to report changes, which are ignored.
    pub(crate) fn unwatch(&self, target: WatchTarget<'_>) -> Result<bool, Error> {
        self.text(self.watched_key(target)?)?;
        Ok(self.state.dispatcher.remove_watch(target).is_some())
    }

    /// Sends the server a close message and closes both channels.
    pub(crate) fn disconnect(&self, deadline: Deadline) -> Result<(), Error> {
        let was_closed = self.state.begin_close();
        let main = self.main.lock(deadline).map_err(|_| Error::Busy)?;
        if main.is_none() {
            debug_assert!(was_closed);
            return Err(Error::NotConnected);
        }
        let (main, sent) = self.or_close_on_panic(main, |main| {
            self.state.check_not_broken()?;
            main.run(Operation::Close, deadline)
        });
        let closed = self.close_channels(main);
        sent.map(drop).and(closed)
    }

    /// Shuts the main channel down without closing it.
    pub(crate) fn shut_down(&self) {
        if let Ok(main) = self.main.lock(self.state.deadline())
            && let Some(main) = &*main
        {
            main.shut_down();
        }
    }

    fn text(&self, key: &[u8]) -> Result<kvs_proto::Text, Error> {
        text("key", key).map_err(|error| self.state.invalid(error))
    }

    /// The key of a watch. The protocol has no watches on prefixes.
    fn watched_key<'a>(&self, target: WatchTarget<'a>) -> Result<&'a [u8], Error> {
        match target {
            WatchTarget::Key(key) => Ok(key),
            WatchTarget::Prefix(_) => Err(self.state.invalid(Error::Unsupported)),
        }
    }

    fn call(&self, operation: Operation) -> Result<OperationResult, Error> {
        self.with_main(|main, deadline| main.run(operation, deadline))
    }

    /// Runs `operate` while no other thread uses the main channel, and closes the session if it
    /// fails with an error that closes.
    fn with_main<R>(
        &self,
        operate: impl FnOnce(&mut V1Channel, Deadline) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let deadline = self.state.deadline();
        let main = self.main.lock(deadline).map_err(|_| Error::Busy)?;
        self.state.check_open()?;
        let (main, result) = self.or_close_on_panic(main, |main| {
            self.state.check_not_broken()?;
            operate(main, deadline)
        });
        if let Err(error) = &result
            && error.closes()
        {
            self.state.set_disconnect_reason(DisconnectReason::from_call_error(error));
            // The caller gets the error of the operation, not one of closing the sockets.
            let _ = self.close_channels(main);
        }
        result
    }

    /// Runs `operate` on the channel. A panic, which goes on to the caller, leaves an operation
    /// half done: what arrives on the channel afterwards cannot be trusted, so the session is
    /// closed.
    fn or_close_on_panic<'a, R>(
        &self,
        mut main: MainGuard<'a>,
        operate: impl FnOnce(&mut V1Channel) -> Result<R, Error>,
    ) -> (MainGuard<'a>, Result<R, Error>) {
        let result = catch_unwind(AssertUnwindSafe(|| match &mut *main {
            Some(channel) => operate(channel),
            None => Err(Error::NotConnected),
        }));
        match result {
            Ok(result) => (main, result),
            Err(panic) => {
                self.state.set_disconnect_reason(DisconnectReason::Internal);
                let _ = self.close_channels(main);
                resume_unwind(panic)
            }
        }
    }

    fn close_channels(&self, mut main: MainGuard<'_>) -> Result<(), Error> {
        self.state.begin_close();
        let main_closed = main.take().map_or(Ok(()), V1Channel::close);
        // The callback thread may wait for the main channel.
        drop(main);
        let callback_closed = self.state.dispatcher.close();
        main_closed.and(callback_closed)
    }
}
