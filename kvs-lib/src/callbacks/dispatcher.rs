//! The state of callback delivery: the watches of a connection, the change being reported, and the
//! state of the callback thread.
//!
//! Every other thread of the program reaches the callback thread through this state. Its lock is
//! never held while a callback runs, nor while a value of the program is dropped: the `Drop` of
//! such a value may call the library.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvs_proto::v2::event::MatchedBy;
use kvs_proto::v2::request::WatchTarget;
use kvs_proto::v2::{NO_VERSION, Version};
use nix::sys::pthread::{Pthread, pthread_self};

use super::callback::{DisconnectHandler, WatchCallback};
use super::event_reader::{EventReader, ReceivedEvent};
use super::watches::{OwnedTarget, RegisteredWatch, Watches};
use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::disconnect::DisconnectReason;
use crate::error::Error;
use crate::panic_points::panic_point;

#[derive(Debug)]
pub(crate) struct CallbackDispatcher {
    state: Mutex<DispatcherState>,
    changed: Condvar,
    /// Locked by the callback thread while it waits for an event.
    events: Mutex<EventReader>,
}

#[derive(Debug)]
struct DispatcherState {
    watches: Watches,
    disconnect_handler: Option<DisconnectHandler>,
    /// Why the connection ended, once that is known.
    disconnect_reason: Option<DisconnectReason>,
    thread: ThreadState,
    /// The callback that runs, and the thread that runs it.
    running: Option<(RunningCallback, Pthread)>,
    /// The change that is being reported.
    current: Option<CurrentChange>,
    /// The key of that change, for a C function. It is kept here because the function may end the
    /// thread.
    lent_key: Vec<u8>,
    /// `None` once a thread has begun to close it.
    channel: Option<Arc<ClientChannel>>,
    /// The socket is closed.
    is_closed: bool,
    /// The number of threads that wait for a change of this state. Without any, no wake-up is sent.
    waiting: usize,
}

/// A change, and the watches that are still to be notified of it.
#[derive(Debug)]
struct CurrentChange {
    key: Arc<[u8]>,
    version: Version,
    remaining: VecDeque<OwnedTarget>,
}

#[derive(Debug, PartialEq, Eq)]
enum RunningCallback {
    Watch(OwnedTarget),
    Disconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThreadState {
    /// Uses the channel.
    Receiving,
    /// Runs callbacks, possibly forever. Does not use the channel.
    Calling,
    /// Has ended, or was not started.
    Ended,
}

impl CallbackDispatcher {
    pub(crate) fn new(channel: ClientChannel, events: EventReader) -> Self {
        Self {
            state: Mutex::new(DispatcherState {
                watches: Watches::default(),
                disconnect_handler: None,
                disconnect_reason: None,
                thread: ThreadState::Ended,
                running: None,
                current: None,
                lent_key: Vec::new(),
                channel: Some(Arc::new(channel)),
                is_closed: false,
                waiting: 0,
            }),
            changed: Condvar::new(),
            events: Mutex::new(events),
        }
    }

    /// Sets the callback for `target` and returns the watch that it replaces.
    pub(crate) fn set_watch(
        &self,
        target: WatchTarget<'_>,
        watch: RegisteredWatch,
    ) -> Option<RegisteredWatch> {
        self.lock().watches.insert(target, watch)
    }

    /// Sets a callback whose watch request is being sent. It continues the watch that it replaces,
    /// without a gap; without one, it is pending until [`confirm_watch`](Self::confirm_watch).
    pub(crate) fn set_pending_watch(
        &self,
        target: WatchTarget<'_>,
        callback: WatchCallback,
    ) -> Option<RegisteredWatch> {
        let mut state = self.lock();
        let since = state.watches.get(target).and_then(|replaced| replaced.since);
        state.watches.insert(target, RegisteredWatch { callback, since })
    }

    /// Starts a pending watch: it reports changes with versions greater than `since`.
    pub(crate) fn confirm_watch(&self, target: WatchTarget<'_>, since: Version) {
        if let Some(watch) = self.lock().watches.get_mut(target) {
            watch.since = Some(since);
        }
        self.changed.notify_all();
    }

    /// Removes the watch on `target`. The caller drops it while holding no lock.
    pub(crate) fn remove_watch(&self, target: WatchTarget<'_>) -> Option<RegisteredWatch> {
        let removed = self.lock().watches.remove(target);
        self.changed.notify_all();
        removed
    }

    pub(crate) fn has_watch(&self, target: WatchTarget<'_>) -> bool {
        self.lock().watches.get(target).is_some()
    }

    /// Sets the handler that runs when the connection has ended. `false`: it has ended already.
    pub(crate) fn set_disconnect_handler(&self, handler: DisconnectHandler) -> bool {
        let mut state = self.lock();
        if state.thread == ThreadState::Ended || state.channel.is_none() {
            return false;
        }
        let replaced = state.disconnect_handler.replace(handler);
        drop(state);
        drop(replaced);
        true
    }

    /// Removes the disconnect handler, unless it is running.
    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn clear_disconnect_handler(&self) {
        let removed = self.lock().disconnect_handler.take();
        drop(removed);
    }

    /// Records why the connection ended, unless a reason is known.
    pub(crate) fn set_disconnect_reason(&self, reason: DisconnectReason) {
        self.lock().disconnect_reason.get_or_insert(reason);
    }

    /// Records that the server sent a close notice. It takes precedence over a failed call, in
    /// which another thread noticed the same disconnect.
    pub(crate) fn set_closed_by_server(&self) {
        self.lock().disconnect_reason = Some(DisconnectReason::ClosedByServer);
    }

    /// Waits until the callback for `target` (any callback, if `None`) does not run in another
    /// thread. `false`: the deadline passed first.
    pub(crate) fn wait_until_not_running(
        &self,
        target: Option<WatchTarget<'_>>,
        deadline: Deadline,
    ) -> bool {
        let mut state = self.lock();
        while state.runs_in_another_thread(target) {
            let Some(left) = deadline.remaining() else { return false };
            state.waiting += 1;
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        true
    }

    /// Closes the channel and removes all watches, or waits until another thread has done so. When
    /// this returns, the callback thread receives nothing more; it may still run a callback,
    /// perhaps the one that called this function.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let (watches, channel) = {
            let mut state = self.lock();
            (mem::take(&mut state.watches), state.channel.take())
        };
        self.changed.notify_all();
        let Some(channel) = channel else {
            self.wait_until_closed();
            return Ok(());
        };
        channel.shut_down();
        let closing = MarkClosedOnDrop(self);
        panic_point!("callback channel shut down");
        self.wait_until(|state| state.thread != ThreadState::Receiving);
        let result = match Arc::try_unwrap(channel) {
            Ok(channel) => channel.close(),
            // Not reached: the callback thread drops its reference before it stops receiving.
            Err(_) => Ok(()),
        };
        drop(closing);
        drop(watches);
        result
    }

    /// Waits until the channel is closed.
    pub(crate) fn wait_until_closed(&self) {
        self.wait_until(|state| state.is_closed);
    }

    /// No code that holds this lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, DispatcherState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, condition: impl Fn(&DispatcherState) -> bool) {
        let mut state = self.lock();
        while !condition(&state) {
            state.waiting += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    fn notify_waiting(&self, state: MutexGuard<'_, DispatcherState>) {
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.changed.notify_all();
        }
    }
}

/// For the callback thread.
impl CallbackDispatcher {
    pub(crate) fn set_thread_state(&self, thread: ThreadState) {
        let mut state = self.lock();
        state.thread = thread;
        self.notify_waiting(state);
    }

    /// Enters the state [`Receiving`](ThreadState::Receiving) and returns the channel, unless it is
    /// closed.
    pub(crate) fn begin_receiving(&self) -> Option<Arc<ClientChannel>> {
        let mut state = self.lock();
        state.thread = ThreadState::Receiving;
        state.channel.clone()
    }

    /// Waits for the next event.
    pub(crate) fn receive(
        &self,
        channel: &ClientChannel,
        timeout: Duration,
    ) -> std::io::Result<ReceivedEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).receive(channel, timeout)
    }

    /// Starts to report a change: [`next_callback`](Self::next_callback) returns the callbacks.
    pub(crate) fn begin_change(&self, key: Arc<[u8]>, version: Version, matched_by: MatchedBy) {
        let state = &mut *self.lock();
        let mut remaining = VecDeque::new();
        if matched_by.key {
            remaining.push_back(OwnedTarget::Key((*key).into()));
        }
        if matched_by.prefix {
            let prefixes = state.watches.prefixes_of(&key);
            remaining.extend(prefixes.map(|prefix| OwnedTarget::Prefix(prefix.into())));
        }
        state.current = Some(CurrentChange { key, version, remaining });
    }

    /// The next callback for the current change, which counts as running from now on.
    pub(crate) fn next_callback(&self) -> Option<(WatchCallback, Arc<[u8]>, Version)> {
        let mut guard = self.lock();
        loop {
            let state = &mut *guard;
            let current = state.current.as_mut()?;
            let Some(target) = current.remaining.front() else {
                state.current = None;
                return None;
            };
            match state.watches.get(target.as_target()) {
                // The watch request of another thread is outstanding. Whether the watch reports
                // this change is known with the response, which takes no longer than a call.
                Some(RegisteredWatch { since: None, .. }) => {
                    guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                Some(RegisteredWatch { callback, since: Some(since) })
                    if current.version == NO_VERSION || current.version > *since =>
                {
                    let call = (callback.clone(), Arc::clone(&current.key), current.version);
                    state.running = current
                        .remaining
                        .pop_front()
                        .map(|target| (RunningCallback::Watch(target), pthread_self()));
                    return Some(call);
                }
                // The watch was removed, or began after this change.
                _ => drop(current.remaining.pop_front()),
            }
        }
    }

    /// A copy of the key, followed by NUL, that a C function may read and write.
    pub(crate) fn lend_key(&self, key: &[u8]) -> *mut u8 {
        let mut state = self.lock();
        state.lent_key.clear();
        state.lent_key.extend_from_slice(key);
        state.lent_key.push(0);
        state.lent_key.as_mut_ptr()
    }

    /// Takes the disconnect handler, which counts as running from now on; `None` if the program
    /// closed the connection. The program sets that flag before it looks for running callbacks.
    pub(crate) fn begin_disconnect_handler(
        &self,
        is_closed_by_program: impl FnOnce() -> bool,
    ) -> Option<(DisconnectHandler, DisconnectReason)> {
        let mut state = self.lock();
        let handler = state.disconnect_handler.take()?;
        if is_closed_by_program() {
            drop(state);
            drop(handler);
            return None;
        }
        state.running = Some((RunningCallback::Disconnect, pthread_self()));
        let reason = state.disconnect_reason.unwrap_or(DisconnectReason::ConnectionLost);
        Some((handler, reason))
    }

    /// Records that no callback runs.
    pub(crate) fn end_callback(&self) {
        let mut state = self.lock();
        if state.running.take().is_some() {
            self.notify_waiting(state);
        }
    }
}

impl DispatcherState {
    fn runs_in_another_thread(&self, target: Option<WatchTarget<'_>>) -> bool {
        let Some((callback, thread)) = &self.running else { return false };
        let matches = target.is_none_or(|target| match callback {
            RunningCallback::Watch(running) => running.as_target() == target,
            RunningCallback::Disconnect => false,
        });
        matches && *thread != pthread_self()
    }
}

/// Records that the channel is closed and wakes the threads that wait for it, also when the closing
/// thread panics.
struct MarkClosedOnDrop<'a>(&'a CallbackDispatcher);

impl Drop for MarkClosedOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}
