//! The callback channel: its thread, and what it runs.
//!
//! One thread per connection reads the channel and runs the callbacks, one after the other. It has all
//! signals blocked and cancellation disabled. It holds no lock while a callback runs, so a callback may
//! call everything, [`close`](crate::Connection::close) included, and may take as long as it likes: the
//! server merges what it misses.
//!
//! A C callback may even end the thread (`pthread_exit`); another one then takes its place. So C callbacks
//! are not called here but by [`crate::thread`], between two calls of [`listen`]. What remains to be called for the
//! same change survives the thread ([`Current`]).
//!
//! Which callback is to be called is looked up at the last moment, so none begins after it was taken out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_void};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io, mem};

use kvs_proto::v1::CHANGED_KEY_LEN;
use kvs_proto::v1::client::{CallbackEvent as OriginalNews, CallbackListener, CallbackStep};
use kvs_proto::v2::event::{MatchedBy, ServerEvent};
use kvs_proto::v2::{Decoded, FrameDecoder, MAX_KEY, NO_VERSION, Version};
use nix::sys::pthread::{Pthread, pthread_self};

use crate::channel::{Channel, Deadline};
use crate::disconnect::DisconnectReason;
use crate::error::Error;
use crate::panic_points::panic_point;
use crate::shared::Shared;
use crate::sys::User;
use crate::thread;

/// What is received at once at most in a framed session.
const READ: usize = 16 * 1024;

/// A change of a key that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The version that it has now; 0 when it was deleted (which watches of prefixes are told, and a watch of the key only
    /// when it was put just before), and always 0 in a session of the original protocol, which has no versions.
    pub version: Version,
}

/// A callback of a C program that knows one connection only.
pub(crate) type CFunction = unsafe extern "C-unwind" fn(*mut c_char);

/// A callback of a C program that gets what it was registered with.
pub(crate) type CWatcher = unsafe extern "C-unwind" fn(*const c_void, usize, Version, *mut c_void);

/// What a C program wants called at the end of a connection.
pub(crate) type CFarewell = unsafe extern "C-unwind" fn(*mut c_void, c_int);

/// A callback of a Rust program.
pub(crate) type Closure = dyn Fn(&Change<'_>) + Send + Sync;

/// What is called when a key changes.
#[derive(Clone)]
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) enum Callback {
    Closure(Arc<Closure>),
    Function(CFunction),
    Watcher(CWatcher, User),
}

/// What is called when the connection has ended.
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) enum Farewell {
    Closure(Box<dyn FnOnce(DisconnectReason) + Send>),
    Function(CFarewell, User),
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closure(_) => "Closure",
            Self::Function(_) => "Function",
            Self::Watcher(..) => "Watcher",
        })
    }
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closure(_) => "Closure",
            Self::Function(..) => "Function",
        })
    }
}

/// A C function to be called, with what it is to be given. The key is valid until [`listen`] is called again, or
/// another thread has taken over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CCall {
    Function(CFunction, *mut c_char),
    Watcher { function: CWatcher, key: *const c_void, len: usize, version: Version, user: User },
    Farewell(CFarewell, User, DisconnectReason),
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Watched {
    Key(Box<[u8]>),
    Prefix(Box<[u8]>),
}

/// A callback in the list.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    pub(crate) callback: Callback,
    /// Changes up to this version were made before there was a watch. `None`: the server has still to say it.
    pub(crate) since: Option<Version>,
}

/// The watch list of a connection, and the state of its callback thread.
#[derive(Debug)]
pub(crate) struct Callbacks {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    keys: HashMap<Box<[u8]>, Watch>,
    prefixes: BTreeMap<Box<[u8]>, Watch>,
    farewell: Option<Farewell>,
    /// Why the connection ended, as soon as that is known.
    disconnect_reason: Option<DisconnectReason>,
    thread: ThreadState,
    /// What is being called, and by which thread: the callback for what is watched, or at the end of the connection.
    running: Option<(Option<Watched>, Pthread)>,
    /// The change that is being told.
    current: Option<Current>,
    /// The key of that change, for a C function. It stays here in case the function ends the thread.
    lent: Vec<u8>,
    /// `None` as soon as somebody closes it.
    channel: Option<Arc<Channel>>,
    /// The socket is closed.
    closed: bool,
    /// `None` while the thread uses it.
    ear: Option<Ear>,
    /// How many wait for any of this to change. (To wake nobody is a system call, too.)
    waiting: usize,
}

/// A change, and whom it has still to be told.
#[derive(Debug)]
struct Current {
    key: Arc<[u8]>,
    version: Version,
    due: VecDeque<Watched>,
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

/// What understands the channel.
#[derive(Debug)]
pub(crate) enum Ear {
    Original(CallbackListener),
    Framed {
        cutter: FrameDecoder,
        /// The bytes from `next` to `end` were received and not looked at yet.
        buffer: Box<[u8]>,
        next: usize,
        end: usize,
    },
}

impl Ear {
    /// For an original session.
    pub(crate) fn original() -> Self {
        Self::Original(CallbackListener::default())
    }

    /// For a framed one.
    pub(crate) fn framed() -> Self {
        Self::Framed {
            cutter: FrameDecoder::default(),
            buffer: vec![0; READ].into(),
            next: 0,
            end: 0,
        }
    }
}

/// What the channel says.
#[derive(Debug)]
enum Heard {
    Changed { key: Arc<[u8]>, version: Version, watches: MatchedBy },
    Close,
}

impl Callbacks {
    pub(crate) fn new(channel: Channel, ear: Ear) -> Self {
        Self {
            state: Mutex::new(State {
                keys: HashMap::new(),
                prefixes: BTreeMap::new(),
                farewell: None,
                disconnect_reason: None,
                thread: ThreadState::Ended,
                running: None,
                current: None,
                lent: Vec::new(),
                channel: Some(Arc::new(channel)),
                closed: false,
                ear: Some(ear),
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Callbacks are not run under this lock, so it is never poisoned half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the callback for what is watched and returns the one before.
    pub(crate) fn set(&self, what: &Watched, watch: Watch) -> Option<Watch> {
        let mut state = self.lock();
        match what {
            Watched::Key(key) => state.keys.insert(key.clone(), watch),
            Watched::Prefix(prefix) => state.prefixes.insert(prefix.clone(), watch),
        }
    }

    /// Sets it and returns the one before. If there is one, it is followed without a gap; if not, it is not known yet from
    /// which version on this is a watch.
    pub(crate) fn set_pending(&self, what: &Watched, watch: Watch) -> Option<Watch> {
        let since = self.lock().watch_mut(what).map(|before| before.since);
        self.set(what, Watch { since: since.flatten(), ..watch })
    }

    /// From which version on a watch that was just set is one.
    pub(crate) fn set_since(&self, what: &Watched, since: Version) {
        if let Some(watch) = self.lock().watch_mut(what) {
            watch.since = Some(since);
        }
        self.changed.notify_all();
    }

    /// Forgets the callback.
    pub(crate) fn remove(&self, what: &Watched) -> Option<Watch> {
        let removed = {
            let mut state = self.lock();
            match what {
                Watched::Key(key) => state.keys.remove(key),
                Watched::Prefix(prefix) => state.prefixes.remove(prefix),
            }
        };
        self.changed.notify_all();
        removed
    }

    /// Whether there is a callback.
    pub(crate) fn has(&self, what: &Watched) -> bool {
        self.lock().watch_mut(what).is_some()
    }

    /// Sets what is called at the end of the connection; `false`: it has ended.
    pub(crate) fn set_farewell(&self, farewell: Farewell) -> bool {
        let mut state = self.lock();
        if state.thread == ThreadState::Ended || state.channel.is_none() {
            return false;
        }
        let before = state.farewell.replace(farewell);
        drop(state);
        // It may own what it pleases.
        drop(before);
        true
    }

    /// Records why the connection ended, unless a reason is known already.
    pub(crate) fn set_disconnect_reason(&self, reason: DisconnectReason) {
        self.lock().disconnect_reason.get_or_insert(reason);
    }

    /// Records that the server sent a close notice. It takes precedence over a failed call, which is
    /// only how another thread noticed the same end.
    pub(crate) fn set_closed_by_server(&self) {
        self.lock().disconnect_reason = Some(DisconnectReason::ClosedByServer);
    }

    /// Nothing is to be called at the end of the connection, unless it is being called already.
    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn forget_farewell(&self) {
        let farewell = self.lock().farewell.take();
        // Not under the lock: it may own what it pleases.
        drop(farewell);
    }

    /// Waits until no callback for `what` runs (for `None`: none at all), unless this is the thread that runs it.
    /// `false`: it took too long.
    pub(crate) fn wait_until_not_running(
        &self,
        what: Option<&Watched>,
        deadline: Deadline,
    ) -> bool {
        let mut state = self.lock();
        loop {
            match &state.running {
                Some((running, thread))
                    if what.is_none_or(|what| running.as_ref() == Some(what))
                        && *thread != pthread_self() => {}
                _ => return true,
            }
            let Some(left) = deadline.left() else { return false };
            state.waiting += 1;
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Ends the channel and closes it, or waits until whoever else does so has done it. Returns when the
    /// thread listens no more; it may still run a callback (this very call may come from one).
    pub(crate) fn close(&self) -> Result<(), Error> {
        let (watches, channel) = {
            let mut state = self.lock();
            let watches = (mem::take(&mut state.keys), mem::take(&mut state.prefixes));
            (watches, state.channel.take())
        };
        self.changed.notify_all();
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
            state.waiting += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// The thread does not use the channel any more.
    fn set_thread_state(&self, thread: ThreadState) {
        let mut state = self.lock();
        state.thread = thread;
        self.wake(state);
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let wanted = state.waiting > 0;
        drop(state);
        if wanted {
            self.changed.notify_all();
        }
    }

    /// No callback runs any more.
    fn ran(&self) {
        let mut state = self.lock();
        if state.running.take().is_some() {
            self.wake(state);
        }
    }

    /// Has the change told to all whom it concerns.
    fn begin(&self, key: Arc<[u8]>, version: Version, watches: MatchedBy) {
        let state = &mut *self.lock();
        let mut due = VecDeque::new();
        if watches.key {
            due.push_back(Watched::Key((*key).into()));
        }
        if watches.prefix {
            let prefixes = state.prefixes.keys().filter(|prefix| key.starts_with(prefix));
            due.extend(prefixes.cloned().map(Watched::Prefix));
        }
        state.current = Some(Current { key, version, due });
    }

    /// The next callback for the current change, which counts as running from now on.
    fn next_due(&self) -> Option<(Callback, Arc<[u8]>, Version)> {
        let mut guard = self.lock();
        loop {
            let state = &mut *guard;
            let current = state.current.as_mut()?;
            let Some(what) = current.due.front() else {
                state.current = None;
                return None;
            };
            let watch = match what {
                Watched::Key(key) => state.keys.get(key),
                Watched::Prefix(prefix) => state.prefixes.get(prefix),
            };
            match watch {
                // Another thread is just setting it. Whether this change is meant is known when the server has answered
                // that one, which waits for no longer than a call may take.
                Some(Watch { since: None, .. }) => {
                    guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                Some(Watch { callback, since: Some(since) })
                    if current.version == NO_VERSION || current.version > *since =>
                {
                    let call = (callback.clone(), Arc::clone(&current.key), current.version);
                    state.running = Some((current.due.pop_front(), pthread_self()));
                    return Some(call);
                }
                // Deleted by us just now, or not meant yet.
                _ => drop(current.due.pop_front()),
            }
        }
    }

    /// A copy of the key, followed by NUL, that a C function may use and change.
    fn lend(&self, key: &[u8]) -> *mut u8 {
        let mut state = self.lock();
        state.lent.clear();
        state.lent.extend_from_slice(key);
        state.lent.push(0);
        state.lent.as_mut_ptr()
    }

    /// What is to be called at the end, if it has not been; it counts as running from now on. Whoever closes the
    /// connection says that it is the program (`is_closed_by_us`) before it looks whether something runs.
    fn begin_farewell(
        &self,
        is_closed_by_us: impl FnOnce() -> bool,
    ) -> Option<(Farewell, DisconnectReason)> {
        let mut state = self.lock();
        let farewell = state.farewell.take()?;
        if is_closed_by_us() {
            drop(state);
            drop(farewell);
            return None;
        }
        state.running = Some((None, pthread_self()));
        let reason = state.disconnect_reason.unwrap_or(DisconnectReason::ConnectionLost);
        Some((farewell, reason))
    }

    /// The next change, or the server's wish to close. An error ends the channel.
    fn hear(&self, channel: &Channel, timeout: Duration) -> io::Result<Heard> {
        // It is taken out: nobody else uses it, and it must survive the thread.
        let ear = self.lock().ear.take();
        let mut ear = ear.ok_or(io::ErrorKind::Other)?;
        let heard = ear.hear(channel, timeout);
        self.lock().ear = Some(ear);
        heard
    }
}

impl State {
    fn watch_mut(&mut self, what: &Watched) -> Option<&mut Watch> {
        match what {
            Watched::Key(key) => self.keys.get_mut(key),
            Watched::Prefix(prefix) => self.prefixes.get_mut(prefix),
        }
    }
}

impl Ear {
    fn hear(&mut self, channel: &Channel, timeout: Duration) -> io::Result<Heard> {
        match self {
            Self::Original(listener) => hear_original(listener, channel, timeout),
            Self::Framed { cutter, buffer, next, end } => loop {
                let mut bytes = &buffer[*next..*end];
                let found = cutter
                    .next(&mut bytes, |header, _| header.body_len as usize <= MAX_KEY)
                    .map_err(io::Error::other)?;
                let heard =
                    match found {
                        Decoded::Incomplete => ControlFlow::Continue(()),
                        Decoded::Rejected(_) => return Err(io::ErrorKind::InvalidData.into()),
                        Decoded::Frame(header, body) => ControlFlow::Break(
                            match ServerEvent::decode(&header, body).map_err(io::Error::other)? {
                                ServerEvent::Changed { key, version, matched_by: watches } => {
                                    Heard::Changed { key: key.into(), version, watches }
                                }
                                ServerEvent::Close => Heard::Close,
                            },
                        ),
                    };
                *next = *end - bytes.len();
                if let ControlFlow::Break(heard) = heard {
                    return Ok(heard);
                }
                panic_point!("listen step");
                *end = channel.receive_some(buffer, None)?;
                *next = 0;
            },
        }
    }
}

fn hear_original(
    listener: &mut CallbackListener,
    channel: &Channel,
    timeout: Duration,
) -> io::Result<Heard> {
    let mut buffer = [0; CHANGED_KEY_LEN];
    let mut in_change = None;
    loop {
        panic_point!("listen step");
        match listener.next() {
            CallbackStep::Receive(len) => {
                channel.receive(&mut buffer[..len], in_change)?;
                match listener.received(&buffer[..len]).map_err(io::Error::other)? {
                    None => {}
                    Some(OriginalNews::Close) => return Ok(Heard::Close),
                    Some(OriginalNews::Changed(key)) => {
                        let watches = MatchedBy { key: true, prefix: false };
                        let (key, version) = (key.as_bytes().into(), NO_VERSION);
                        return Ok(Heard::Changed { key, version, watches });
                    }
                }
            }
            CallbackStep::Send(bytes) => {
                // Once a change has been announced, the key must follow.
                let deadline = Deadline::after(timeout);
                channel.send(&bytes, deadline)?;
                in_change = Some(deadline);
                listener.sent();
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
pub(crate) fn listen(shared: &Shared) -> Option<CCall> {
    catch_unwind(AssertUnwindSafe(|| next_call(shared))).unwrap_or_else(|_| {
        // A bug in the library. Changes that nobody hears of must not go unnoticed.
        if !shared.is_inherited() {
            shared.callbacks.set_thread_state(ThreadState::Calling);
            shared.callbacks_lost(DisconnectReason::Internal);
        }
        None
    })
}

fn next_call(shared: &Shared) -> Option<CCall> {
    let callbacks = &shared.callbacks;
    loop {
        // A callback has forked and returns in the child, where our locks are anybody's.
        if shared.is_inherited() {
            return None;
        }
        callbacks.ran();
        while let Some((callback, key, version)) = callbacks.next_due() {
            match callback {
                Callback::Function(function) => {
                    return Some(CCall::Function(function, callbacks.lend(&key).cast()));
                }
                Callback::Watcher(function, user) => {
                    let (len, key) = (key.len(), callbacks.lend(&key).cast_const().cast());
                    return Some(CCall::Watcher { function, key, len, version, user });
                }
                Callback::Closure(closure) => {
                    let change = Change { key: &key, version };
                    // A panic has been reported by the host's panic hook; it ends this callback only.
                    let _ = catch_unwind(AssertUnwindSafe(|| closure(&change)));
                    drop(closure);
                    if shared.is_inherited() {
                        return None;
                    }
                    callbacks.ran();
                }
            }
        }
        let channel = {
            let mut state = callbacks.lock();
            state.thread = ThreadState::Listening;
            state.channel.clone()
        };
        let Some(channel) = channel else {
            callbacks.set_thread_state(ThreadState::Calling);
            return farewell(shared);
        };
        panic_point!("listening");
        let heard = callbacks.hear(&channel, shared.timeout);
        // From here on the channel is not used; whoever closes the connection need not wait.
        drop(channel);
        callbacks.set_thread_state(ThreadState::Calling);
        panic_point!("news");
        match heard {
            Ok(Heard::Changed { key, version, watches }) => callbacks.begin(key, version, watches),
            Ok(Heard::Close) => shared.closed_by_server(),
            Err(error) => shared.callbacks_lost(DisconnectReason::of_io(&error)),
        }
    }
}

/// The connection has ended. If not by us, the program wants to know.
fn farewell(shared: &Shared) -> Option<CCall> {
    let (farewell, reason) = shared.callbacks.begin_farewell(|| shared.is_closed_by_us())?;
    match farewell {
        Farewell::Function(function, user) => Some(CCall::Farewell(function, user, reason)),
        Farewell::Closure(closure) => {
            let _ = catch_unwind(AssertUnwindSafe(|| closure(reason)));
            if !shared.is_inherited() {
                shared.callbacks.ran();
            }
            None
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
        shared.callbacks_lost(DisconnectReason::Internal);
    }
}
