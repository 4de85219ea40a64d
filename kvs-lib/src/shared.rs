//! What a connection and its callback thread both use: the main channel of either kind of session, the watch list, and
//! how all of it is closed.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvs_proto::v1::client::{Operation, OperationResult};
use kvs_proto::v2::Malformed;
use kvs_proto::v2::request::{self, Request};
use kvs_proto::v2::response::Status;

use crate::callbacks::{Callbacks, Watch, Watched};
use crate::channel::Deadline;
use crate::disconnect::DisconnectReason;
use crate::error::Error;
use crate::fair_mutex::{FairMutex, FairMutexGuard};
use crate::fork;
use crate::multiplexer::{Failure, Multiplexer, Reply, Requests};
use crate::original;
use crate::panic_points::panic_point;
#[cfg(feature = "course")]
use crate::sys::Sockets;

/// What the connection and its callback thread both use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) generation: u32,
    /// As they were when the connection was made.
    #[cfg(feature = "course")]
    pub(crate) sockets: Sockets,
    pub(crate) timeout: Duration,
    /// Nobody may begin an operation any more. Set before the main channel is waited for, so that whoever
    /// closes waits for one operation at the most.
    pub(crate) closed: AtomicBool,
    /// The program has closed it.
    pub(crate) closed_by_us: AtomicBool,
    /// The callback channel has ended without a word, so the server is gone: the next call says so.
    pub(crate) broken: AtomicBool,
    pub(crate) main: Main,
    pub(crate) callbacks: Callbacks,
    /// Who changes the watch list together with the server's. (In an original session one operation excludes the
    /// other anyway.)
    pub(crate) watching: FairMutex<()>,
}

/// The main channel.
#[derive(Debug)]
pub(crate) enum Main {
    Original(FairMutex<original::Main>),
    Framed {
        multiplexer: Multiplexer,
        /// The longest value that the server takes.
        max_value: usize,
    },
}

impl Shared {
    /// Whether this is a forked child, in which nothing of `self` may be touched.
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation != fork::generation()
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.is_inherited() || self.closed.load(Ordering::Acquire) {
            return Err(Error::NotConnected);
        }
        Ok(())
    }

    /// Whether it was the program that has closed the connection.
    pub(crate) fn is_closed_by_us(&self) -> bool {
        self.closed_by_us.load(Ordering::Acquire)
    }

    /// In an original session: one operation.
    pub(crate) fn call_original(
        &self,
        main: &FairMutex<original::Main>,
        operation: Operation,
    ) -> Result<OperationResult, Error> {
        self.with_original(main, |main, deadline| main.play(operation, deadline))
    }

    /// In an original session: deletes a pair. The callback leaves the list before another operation can begin, as that
    /// may register a new one.
    pub(crate) fn delete_original(
        &self,
        main: &FairMutex<original::Main>,
        operation: Operation,
        watched: &Watched,
    ) -> Result<OperationResult, Error> {
        let mut removed = None;
        let result = self.with_original(main, |main, deadline| {
            let outcome = main.play(operation, deadline)?;
            if outcome != OperationResult::NoSuchKey {
                removed = self.callbacks.remove(watched);
            }
            Ok(outcome)
        });
        // It may own what it pleases, whose `Drop` may call us: so not before the lock is free.
        drop(removed);
        result
    }

    /// In an original session: watches a key. The callback is in the list before the server hears of it, as a change may
    /// follow at once.
    pub(crate) fn watch_original(
        &self,
        main: &FairMutex<original::Main>,
        operation: Operation,
        watched: &Watched,
        watch: Watch,
    ) -> Result<(), Error> {
        let mut unused = None;
        let result = self.with_original(main, |main, deadline| {
            let before = self.callbacks.set(watched, watch);
            let result = main.play(operation, deadline);
            unused = match (&result, before) {
                (Ok(OperationResult::Done | OperationResult::Value(_)), before) => before,
                (_, Some(before)) => self.callbacks.set(watched, before),
                (_, None) => self.callbacks.remove(watched),
            };
            result
        });
        drop(unused);
        match result? {
            OperationResult::NoSuchKey => Err(Error::NoSuchKey),
            OperationResult::Done | OperationResult::Value(_) => Ok(()),
        }
    }

    /// In an original session: has the main channel to itself for an operation, and closes the connection if that is what
    /// the operation has come to.
    fn with_original<R>(
        &self,
        main: &FairMutex<original::Main>,
        operate: impl FnOnce(&mut original::Main, Deadline) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let deadline = Deadline::after(self.timeout);
        let main = main.lock(deadline).map_err(|_| Error::Busy)?;
        self.check_open()?;
        let (main, result) = self.or_tear_down(main, |main| {
            self.check_unbroken()?;
            operate(main, deadline)
        });
        if let Err(error) = &result
            && error.closes()
        {
            self.callbacks.set_disconnect_reason(DisconnectReason::of_call(error));
            // What the caller is told is why the connection broke, not how its pieces were closed.
            let _ = self.tear_down_original(main);
        }
        result
    }

    /// A panic, which goes on to the caller, leaves an operation half done: nothing that comes on this
    /// connection could be trusted any more, so it is closed.
    fn or_tear_down<'a, R>(
        &self,
        mut main: FairMutexGuard<'a, original::Main>,
        operate: impl FnOnce(&mut original::Main) -> R,
    ) -> (FairMutexGuard<'a, original::Main>, R) {
        match catch_unwind(AssertUnwindSafe(|| operate(&mut main))) {
            Ok(result) => (main, result),
            Err(panic) => {
                self.callbacks.set_disconnect_reason(DisconnectReason::Internal);
                let _ = self.tear_down_original(main);
                resume_unwind(panic)
            }
        }
    }

    /// In a framed session: one request.
    pub(crate) fn call_framed(
        &self,
        multiplexer: &Multiplexer,
        request: &Request<'_>,
    ) -> Result<Reply, Error> {
        self.call_framed_until(multiplexer, request, Deadline::after(self.timeout))
    }

    fn call_framed_until(
        &self,
        multiplexer: &Multiplexer,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Reply, Error> {
        let mut requests = Requests::default();
        requests.push(request);
        let mut replies = self.call_all(multiplexer, requests, deadline)?;
        let reply = replies.pop().ok_or(Error::NotConnected)?;
        check(reply)
    }

    /// In a framed session: several requests at once. The replies are as many, and may be refusals.
    pub(crate) fn call_all(
        &self,
        multiplexer: &Multiplexer,
        requests: Requests,
        deadline: Deadline,
    ) -> Result<Vec<Reply>, Error> {
        self.check_open()?;
        let called = catch_unwind(AssertUnwindSafe(|| {
            self.check_unbroken()?;
            multiplexer.call(requests, deadline).map_err(Error::from)
        }));
        match called {
            Ok(Ok(replies)) => Ok(replies),
            Ok(Err(error)) => {
                if error.closes() {
                    self.callbacks.set_disconnect_reason(DisconnectReason::of_call(&error));
                    // See above.
                    let _ = self.tear_down_framed(multiplexer, true);
                }
                Err(error)
            }
            Err(panic) => {
                self.callbacks.set_disconnect_reason(DisconnectReason::Internal);
                let _ = self.tear_down_framed(multiplexer, true);
                resume_unwind(panic)
            }
        }
    }

    /// In a framed session: what the server has sent cannot be, and the connection is closed.
    pub(crate) fn malformed(&self, multiplexer: &Multiplexer, why: Malformed) -> Error {
        self.callbacks.set_disconnect_reason(DisconnectReason::ProtocolViolation);
        // See above.
        let _ = self.tear_down_framed(multiplexer, true);
        Error::BadFrame(why)
    }

    /// In a framed session: watches something. The callback is in the list before the server hears of it.
    pub(crate) fn watch_framed(
        &self,
        multiplexer: &Multiplexer,
        watched: &Watched,
        watch: Watch,
    ) -> Result<(), Error> {
        let deadline = Deadline::after(self.timeout);
        let one_at_a_time = self.one_at_a_time(deadline)?;
        let before = self.callbacks.set_pending(watched, watch);
        let request = Request::Watch(watched.into());
        let result = self.call_framed_until(multiplexer, &request, deadline);
        let result = match result {
            Ok(reply) if reply.status == Status::NoSuchKey => Err(Error::NoSuchKey),
            result => result,
        };
        let unused = match (&result, before) {
            (Ok(reply), None) => {
                // Changes that were made before may still be on their way, from an earlier watch.
                self.callbacks.set_since(watched, reply.version);
                None
            }
            (Ok(_), before) => before,
            (Err(_), Some(before)) => self.callbacks.set(watched, before),
            (Err(_), None) => self.callbacks.remove(watched),
        };
        drop(one_at_a_time);
        // It may own what it pleases, whose `Drop` may call us: so not before the lock is free.
        drop(unused);
        result.map(drop)
    }

    /// In a framed session: does what takes a callback out of the list, if it comes to that.
    pub(crate) fn unwatch_framed(
        &self,
        multiplexer: &Multiplexer,
        watched: &Watched,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Reply, Error> {
        if !self.callbacks.has(watched) {
            return self.call_framed_until(multiplexer, request, deadline);
        }
        let one_at_a_time = self.one_at_a_time(deadline)?;
        let reply = self.call_framed_until(multiplexer, request, deadline);
        // Another application may have deleted the key, and thereby ended the watch.
        let done = reply
            .as_ref()
            .is_ok_and(|reply| matches!(reply.status, Status::Ok | Status::NoSuchKey));
        let removed = if done { self.callbacks.remove(watched) } else { None };
        drop(one_at_a_time);
        drop(removed);
        reply
    }

    fn one_at_a_time(&self, deadline: Deadline) -> Result<FairMutexGuard<'_, ()>, Error> {
        self.watching.lock(deadline).map_err(|_| Error::Busy)
    }

    /// Of a server that has gone nothing is awaited, not even that it reads the last value.
    fn check_unbroken(&self) -> Result<(), Error> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::SendCode(ErrorKind::BrokenPipe.into()));
        }
        Ok(())
    }

    /// The program closes the connection.
    pub(crate) fn close(&self, deadline: Deadline) -> Result<(), Error> {
        if self.is_inherited() {
            return Err(Error::NotConnected);
        }
        // Whoever closes first has closed it.
        if !self.closed.load(Ordering::Acquire) {
            self.closed_by_us.store(true, Ordering::Release);
        }
        self.say_goodbye(deadline)
    }

    fn say_goodbye(&self, deadline: Deadline) -> Result<(), Error> {
        let was_closed = self.closed.swap(true, Ordering::AcqRel);
        match &self.main {
            Main::Original(main) => {
                let main = main.lock(deadline).map_err(|_| Error::Busy)?;
                if main.channel.is_none() {
                    debug_assert!(was_closed);
                    return Err(Error::NotConnected);
                }
                let (main, told) = self.or_tear_down(main, |main| {
                    self.check_unbroken()?;
                    main.play(Operation::Close, deadline)
                });
                let closed = self.tear_down_original(main);
                told.map(drop).and(closed)
            }
            Main::Framed { multiplexer, .. } => {
                // Those who wait for answers get them first.
                if !multiplexer.wait_until_idle(deadline) {
                    return Err(Error::Busy);
                }
                if multiplexer.is_closed() {
                    return Err(Error::NotConnected);
                }
                let told = catch_unwind(AssertUnwindSafe(|| {
                    self.check_unbroken()?;
                    multiplexer.say(&Request::Close, deadline).map_err(Error::from)
                }));
                let closed = self.tear_down_framed(multiplexer, false);
                told.unwrap_or_else(|panic| resume_unwind(panic)).and(closed)
            }
        }
    }

    /// Closes both channels of an original session.
    fn tear_down_original(
        &self,
        mut main: FairMutexGuard<'_, original::Main>,
    ) -> Result<(), Error> {
        self.closed.store(true, Ordering::Release);
        let main_closed = main.channel.take().map_or(Ok(()), |channel| channel.close());
        // The callback thread may be waiting for it.
        drop(main);
        let callback_closed = self.callbacks.close();
        main_closed.and(callback_closed)
    }

    /// Closes both channels of a framed session.
    fn tear_down_framed(&self, multiplexer: &Multiplexer, failed: bool) -> Result<(), Error> {
        self.closed.store(true, Ordering::Release);
        let main_closed = multiplexer.close(failed);
        let callback_closed = self.callbacks.close();
        main_closed.and(callback_closed)
    }

    /// The server has asked for it, on the callback channel. Runs on the callback thread.
    pub(crate) fn closed_by_server(&self) {
        panic_point!("closed by server");
        self.callbacks.set_closed_by_server();
        if let Err(Error::Busy) = self.say_goodbye(Deadline::after(self.timeout)) {
            // An operation is under way that has used up its time: it is failing right now.
            let _ = self.say_goodbye(Deadline::after(self.timeout));
        }
        // Whatever the main channel has come to, the callback channel is finished.
        let _ = self.callbacks.close();
    }

    /// The callback channel has ended without a word, so the server is gone or lost its mind. The main
    /// channel is only shut down: the next call says that it could not send.
    pub(crate) fn callbacks_lost(&self, reason: DisconnectReason) {
        self.callbacks.set_disconnect_reason(reason);
        if self.closed.load(Ordering::Acquire) {
            // Whoever closes the connection closes this channel as well, and tells how that went.
            self.callbacks.wait_until_closed();
            return;
        }
        self.broken.store(true, Ordering::Release);
        match &self.main {
            Main::Original(main) => {
                if let Ok(main) = main.lock(Deadline::after(self.timeout))
                    && let Some(channel) = &main.channel
                {
                    channel.shut_down();
                }
            }
            Main::Framed { multiplexer, .. } => multiplexer.shut_down(),
        }
        // Closed already, or closed with an error that nobody waits for.
        let _ = self.callbacks.close();
    }
}

/// Whether a request was refused.
pub(crate) fn check(reply: Reply) -> Result<Reply, Error> {
    match reply.status {
        Status::Ok | Status::NoSuchKey | Status::Conflict => Ok(reply),
        Status::TooLarge => Err(Error::TooLarge),
        Status::Limit => Err(Error::LimitReached),
        Status::Unknown | Status::Welcome => Err(Error::Unsupported),
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Sending(error) => Self::SendCode(error),
            Failure::Receiving(error) => Self::ReceiveAnswer(error),
            Failure::Malformed(why) => Self::BadFrame(why),
            Failure::Closed => Self::NotConnected,
        }
    }
}

impl<'a> From<&'a Watched> for request::WatchTarget<'a> {
    fn from(watched: &'a Watched) -> Self {
        match watched {
            Watched::Key(key) => Self::Key(key),
            Watched::Prefix(prefix) => Self::Prefix(prefix),
        }
    }
}
