//! The callback channel: its thread, and what it runs.
//!
//! One thread per connection reads the channel and runs the callbacks, one after the other. It has all
//! signals blocked and cancellation disabled. It holds no lock while a callback runs, so a callback may
//! call everything, [`close`](crate::Connection::close) included, and may take as long as it likes: the
//! server merges what it misses.
//!
//! A C callback may even end the thread (`pthread_exit`); another one then takes its place. So C callbacks
//! are not called here but by [`crate::thread`], between two calls of [`listen`].

use std::collections::HashMap;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io, mem};

use kvs_proto::Text;
use kvs_proto::app::CHANGED_KEY_LEN;
use kvs_proto::app::client::{ListenStep, Listener, News};

use crate::channel::{Channel, Deadline};
use crate::connection::Shared;
use crate::error::Error;
use crate::panic_points::panic_point;
use crate::thread;

/// A callback of a C program.
pub(crate) type CFunction = unsafe extern "C-unwind" fn(*mut c_char);

/// A callback of a Rust program.
pub(crate) type Closure = dyn Fn(&[u8]) + Send + Sync;

/// What is called when a key changes.
#[derive(Clone)]
pub(crate) enum Callback {
    Closure(Arc<Closure>),
    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    Function(CFunction),
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closure(_) => "Closure",
            Self::Function(_) => "Function",
        })
    }
}

/// The watch list of a connection, and the state of its callback thread.
#[derive(Debug)]
pub(crate) struct Callbacks {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    watches: HashMap<Text, Callback>,
    thread: ThreadState,
    /// `None` as soon as somebody closes it.
    channel: Option<Arc<Channel>>,
    /// The socket is closed.
    closed: bool,
    listener: Listener,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThreadState {
    /// Uses the channel.
    Listening,
    /// Runs a callback, perhaps for ever; does not use the channel.
    Calling,
    /// Has gone, or never was.
    Ended,
}

impl Callbacks {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            state: Mutex::new(State {
                watches: HashMap::new(),
                thread: ThreadState::Ended,
                channel: Some(Arc::new(channel)),
                closed: false,
                listener: Listener::default(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Callbacks are not run under this lock, so it is never poisoned half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the callback of `key` and returns the one before.
    pub(crate) fn set(&self, key: Text, callback: Callback) -> Option<Callback> {
        self.lock().watches.insert(key, callback)
    }

    /// Forgets the callback of `key`.
    pub(crate) fn remove(&self, key: &Text) -> Option<Callback> {
        self.lock().watches.remove(key)
    }

    /// Ends the channel and closes it, or waits until whoever else does so has done it. Returns when the
    /// thread listens no more; it may still run a callback (this very call may come from one).
    pub(crate) fn close(&self) -> Result<(), Error> {
        let (watches, channel) = {
            let mut state = self.lock();
            (mem::take(&mut state.watches), state.channel.take())
        };
        let Some(channel) = channel else {
            self.wait_until_closed();
            return Ok(());
        };
        channel.shut_down();
        let closed = NoteClosed(self);
        panic_point!("callback channel shut down");
        self.wait_until(|state| state.thread != ThreadState::Listening);
        let result = match Arc::try_unwrap(channel) {
            Ok(channel) => channel.close(),
            // The thread drops its share before it stops listening.
            Err(_) => Ok(()),
        };
        drop(closed);
        // Callbacks may own things whose `Drop` calls us: so last, and not under the lock.
        drop(watches);
        result
    }

    /// Waits until somebody has closed the channel.
    pub(crate) fn wait_until_closed(&self) {
        self.wait_until(|state| state.closed);
    }

    fn wait_until(&self, condition: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !condition(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn callback(&self, key: &Text) -> Option<Callback> {
        self.lock().watches.get(key).cloned()
    }

    /// The thread does not use the channel any more.
    fn set_thread_state(&self, thread: ThreadState) {
        self.lock().thread = thread;
        self.changed.notify_all();
    }

    /// The next change, or the server's wish to close. An error ends the channel.
    fn next_news(&self, channel: &Channel, timeout: Duration) -> io::Result<News> {
        // The listener is taken out: nobody else uses it, and it must survive the thread.
        let mut listener = mem::take(&mut self.lock().listener);
        let mut buffer = [0; CHANGED_KEY_LEN];
        let mut in_change = None;
        loop {
            panic_point!("listen step");
            match listener.next() {
                ListenStep::Receive(len) => {
                    channel.receive(&mut buffer[..len], in_change)?;
                    let news = listener.received(&buffer[..len]).map_err(io::Error::other)?;
                    if let Some(news) = news {
                        self.lock().listener = listener;
                        return Ok(news);
                    }
                }
                ListenStep::Send(bytes) => {
                    // Once a change has been announced, the key must follow.
                    let deadline = Deadline::after(timeout);
                    channel.send(&bytes, deadline)?;
                    in_change = Some(deadline);
                    listener.sent();
                }
            }
        }
    }
}

/// Lets those go on who wait for the channel to be closed, even if whoever closes it panics.
struct NoteClosed<'a>(&'a Callbacks);

impl Drop for NoteClosed<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// Starts the callback thread of a connection.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    shared.callbacks.lock().thread = ThreadState::Listening;
    let result = thread::spawn(Arc::clone(shared));
    if result.is_err() {
        shared.callbacks.set_thread_state(ThreadState::Ended);
    }
    result
}

/// Waits for changes and runs the closures that watch them; returns at the next C function to be
/// called, or when there is nothing more to listen to. Runs on the callback thread.
pub(crate) fn listen(shared: &Shared, key_bytes: &mut [u8; CHANGED_KEY_LEN]) -> Option<CFunction> {
    catch_unwind(AssertUnwindSafe(|| next_function(shared, key_bytes))).unwrap_or_else(|_| {
        // A bug in the library. Changes that nobody hears of must not go unnoticed.
        if !shared.is_inherited() {
            shared.callbacks.set_thread_state(ThreadState::Calling);
            shared.callbacks_lost();
        }
        None
    })
}

fn next_function(shared: &Shared, key_bytes: &mut [u8; CHANGED_KEY_LEN]) -> Option<CFunction> {
    let callbacks = &shared.callbacks;
    loop {
        // A callback has forked and returns in the child, where our locks are anybody's.
        if shared.is_inherited() {
            return None;
        }
        let channel = {
            let mut state = callbacks.lock();
            state.thread = ThreadState::Listening;
            state.channel.clone()
        }?;
        panic_point!("listening");
        let news = callbacks.next_news(&channel, shared.timeout);
        // From here on the channel is not used; whoever closes the connection need not wait.
        drop(channel);
        callbacks.set_thread_state(ThreadState::Calling);
        panic_point!("news");
        let key = match news {
            Ok(News::Changed(key)) => key,
            Ok(News::Close) => {
                shared.closed_by_server();
                continue;
            }
            Err(_) => {
                shared.callbacks_lost();
                continue;
            }
        };
        match callbacks.callback(&key) {
            // Deleted by us just now.
            None => {}
            Some(Callback::Function(function)) => {
                *key_bytes = key.padded();
                return Some(function);
            }
            Some(Callback::Closure(closure)) => {
                // A panic has been reported by the host's panic hook; it ends this callback only.
                let _ = catch_unwind(AssertUnwindSafe(|| closure(key.as_bytes())));
            }
        }
    }
}

/// The thread has nothing more to listen to.
pub(crate) fn thread_ended(shared: Arc<Shared>) {
    if shared.is_inherited() {
        mem::forget(shared);
        return;
    }
    shared.callbacks.set_thread_state(ThreadState::Ended);
}

/// A C function has ended the thread: another one goes on.
pub(crate) fn thread_ended_by_callback(shared: Arc<Shared>) {
    if shared.is_inherited() {
        mem::forget(shared);
        return;
    }
    if start(&shared).is_err() {
        // No other thread is to be had, and changes that nobody hears of must not go unnoticed.
        shared.callbacks_lost();
    }
}
