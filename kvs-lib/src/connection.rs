//! The safe API: [`Connection`] and its [`Builder`].
//!
//! The caller's thread does the request itself, when it has the main channel to itself; the callback
//! channel has a thread of its own ([`crate::callbacks`]). The state machines of
//! [`kvs_proto::app::client`] say what to send and what to expect; here the steps are played on the
//! sockets, and a failed step becomes an [`Error`].

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvs_proto::app::client::{
    Channel as On, Exchange, Login, LoginResult, LoginStep, Operation, Outcome, Step,
};
use kvs_proto::{INT_LEN, MAX_TEXT, Text};

use crate::callbacks::{self, Callback, Callbacks};
use crate::channel::{Channel, Deadline, End, Ends};
use crate::error::{Error, Invalid};
use crate::fair_mutex::{FairMutex, FairMutexGuard};
use crate::fork;
use crate::panic_points::panic_point;

/// Where the local server listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/tmp/server_sock";

/// How long a call may take unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to open a [`Connection`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    socket: PathBuf,
    callback_socket: Option<PathBuf>,
    timeout: Duration,
}

impl Default for Builder {
    /// [`DEFAULT_SOCKET`] and [`DEFAULT_TIMEOUT`], whatever the environment says.
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), callback_socket: None, timeout: DEFAULT_TIMEOUT }
    }
}

impl Builder {
    /// The defaults, or what the environment says instead: `KVS_SOCKET`, `KVS_CALLBACK_SOCKET` (paths)
    /// and `KVS_TIMEOUT_MS` (a number of milliseconds, at least 1).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a `KVS_TIMEOUT_MS` that is no such number.
    pub fn from_env() -> Result<Self, Error> {
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let mut builder = Self::default();
        if let Some(path) = set("KVS_SOCKET") {
            builder = builder.socket(path);
        }
        if let Some(path) = set("KVS_CALLBACK_SOCKET") {
            builder = builder.callback_socket(path);
        }
        if let Some(millis) = set("KVS_TIMEOUT_MS") {
            let millis = millis.to_str().and_then(|text| text.parse::<u64>().ok());
            // What is no number is as wrong as 0.
            builder = builder.timeout(Duration::from_millis(millis.unwrap_or(0)));
            if !builder.has_legal_timeout() {
                return Err(Error::Invalid { what: "KVS_TIMEOUT_MS", why: Invalid::Timeout });
            }
        }
        Ok(builder)
    }

    /// The path of the local server's main socket.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = path.into();
        self
    }

    /// The path of the local server's callback socket; that of the main socket followed by `_cb` unless
    /// set.
    pub fn callback_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.callback_socket = Some(path.into());
        self
    }

    /// The longest time that any call may take, from 1 ms to about 24 days.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Joins `group`.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], [`Error::WrongSecret`]; [`Error::Connect`] when no local server listens at
    /// the path; [`Error::Invalid`] for names that cannot be. All others say which step of the login
    /// failed. Nothing is left open after an error.
    pub fn open(
        &self,
        group: impl AsRef<[u8]>,
        secret: impl AsRef<[u8]>,
    ) -> Result<Connection, Error> {
        if !self.has_legal_timeout() {
            return Err(Error::Invalid { what: "time-out", why: Invalid::Timeout });
        }
        self.open_until(group.as_ref(), secret.as_ref(), Deadline::after(self.timeout))
    }

    /// [`open`](Self::open) in what is left of the time-out, which must be legal.
    pub(crate) fn open_until(
        &self,
        group: &[u8],
        secret: &[u8],
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        let group = text("group name", group)?;
        let secret = text("secret", secret)?;
        fork::watch().map_err(Error::System)?;
        let (main, callback) = self.log_in(Login::new(group, secret), deadline)?;
        Connection::start(main, callback, self.timeout)
    }

    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn timeout_value(&self) -> Duration {
        self.timeout
    }

    fn has_legal_timeout(&self) -> bool {
        (1..=i32::MAX as u128).contains(&self.timeout.as_millis())
    }

    fn log_in(&self, login: Login, deadline: Deadline) -> Result<(Channel, Channel), Error> {
        let Ends { main, callback: callback_end, number: _until_both_are_connected } =
            Ends::bind()?;
        panic_point!("ends bound");
        let main = main.connect(&self.socket, deadline, |_| false)?;
        let mut callback = None;
        let result = self.play_login(login, &main, callback_end, &mut callback, deadline);
        match (result, callback) {
            (Ok(()), Some(callback)) => Ok((main, callback)),
            (result, callback) => {
                // A program that another thread is starting may hold copies for a moment, and the server
                // must not take this login for alive when the next one comes.
                callback.iter().chain([&main]).for_each(Channel::shut_down);
                Err(result.err().unwrap_or(Error::NotConnected))
            }
        }
    }

    fn play_login(
        &self,
        mut login: Login,
        main: &Channel,
        callback_end: End,
        callback: &mut Option<Channel>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let mut callback_end = Some(callback_end);
        loop {
            panic_point!("login step");
            match login.next() {
                LoginStep::Receive(on, expected) => {
                    let mut bytes = [0; INT_LEN];
                    match (on, &*callback) {
                        // A server that closes the main channel will not greet on the other.
                        (On::Callback, Some(callback)) => {
                            callback.receive_while_open(&mut bytes, main, deadline)
                        }
                        (On::Main, _) | (On::Callback, None) => {
                            main.receive(&mut bytes, Some(deadline))
                        }
                    }
                    .map_err(|error| Error::receiving(expected, error))?;
                    login.received(bytes)?;
                }
                LoginStep::Send(text) => {
                    main.send(text.as_bytes(), deadline).map_err(Error::SendText)?;
                    login.sent();
                }
                LoginStep::ConnectCallback => {
                    if let Some(end) = callback_end.take() {
                        *callback = Some(self.connect_callback(main, end, deadline)?);
                    }
                    login.connected();
                }
                LoginStep::Done(LoginResult::NoSuchGroup) => return Err(Error::NoSuchGroup),
                LoginStep::Done(LoginResult::WrongSecret) => return Err(Error::WrongSecret),
                LoginStep::Done(LoginResult::LoggedIn) => return Ok(()),
            }
        }
    }

    /// The original server binds its callback socket anew for every application, at some point of the
    /// login: until it is there, the path is missing or refuses.
    fn connect_callback(
        &self,
        main: &Channel,
        end: End,
        deadline: Deadline,
    ) -> Result<Channel, Error> {
        const LONGEST_PAUSE: Duration = Duration::from_millis(50);
        let path = match &self.callback_socket {
            Some(path) => path.clone(),
            None => with_suffix(&self.socket, "_cb"),
        };
        let mut pause = Duration::from_millis(1);
        end.connect(&path, deadline, |error| {
            // A server that has hung up will not bind it any more. At the end of the time, what is told
            // is why it could not be reached, not that the time is over.
            if !is_not_there_yet(error)
                || deadline.left().is_none_or(|left| left <= pause)
                || main.hangs_up_within(pause).unwrap_or(true)
            {
                return false;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            true
        })
    }
}

fn is_not_there_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// A text that must not be empty.
fn text(what: &'static str, bytes: &[u8]) -> Result<Text, Error> {
    if bytes.is_empty() {
        return Err(Error::Invalid { what, why: Invalid::Empty });
    }
    value(what, bytes)
}

/// A text that may be empty.
fn value(what: &'static str, bytes: &[u8]) -> Result<Text, Error> {
    Text::new(bytes).map_err(|error| Error::Invalid { what, why: error.into() })
}

/// Membership in one group. Closed when it is dropped.
///
/// All methods may be called by any number of threads at once, and from callbacks.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

/// What the connection and its callback thread both use.
#[derive(Debug)]
pub(crate) struct Shared {
    generation: u32,
    pub(crate) timeout: Duration,
    /// Nobody may begin an operation any more. Set before the main channel is waited for, so that whoever
    /// closes waits for one operation at the most.
    closed: AtomicBool,
    /// The callback channel has ended without a word, so the server is gone: the next call says so.
    broken: AtomicBool,
    main: FairMutex<Main>,
    pub(crate) callbacks: Callbacks,
}

#[derive(Debug)]
struct Main {
    /// `None` once the connection is closed.
    channel: Option<Channel>,
    /// A value was sent that the server may not have read yet.
    value_under_way: bool,
}

impl Connection {
    /// Joins `group` at the local server that the environment names, or the default one: short for
    /// [`Builder::from_env`] and [`Builder::open`].
    ///
    /// # Errors
    /// Those of the two.
    pub fn open(group: impl AsRef<[u8]>, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        Builder::from_env()?.open(group, secret)
    }

    /// For a connection to another socket, or with another time-out.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn start(main: Channel, callback: Channel, timeout: Duration) -> Result<Self, Error> {
        let main = Main { channel: Some(main), value_under_way: false };
        let shared = Arc::new(Shared {
            generation: fork::generation(),
            timeout,
            closed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            main: FairMutex::new(main),
            callbacks: Callbacks::new(callback),
        });
        let connection = Self { shared };
        panic_point!("connection made");
        // Without its thread the connection is dropped here, and thereby closed.
        callbacks::start(&connection.shared).map_err(Error::System)?;
        panic_point!("thread started");
        Ok(connection)
    }

    /// Whether the connection is open, as far as is known here: neither side has closed it, and the server
    /// has not gone.
    pub fn is_open(&self) -> bool {
        !self.is_closed() && !self.shared.broken.load(Ordering::Acquire)
    }

    /// Whether every call is in vain. (A connection to a server that has gone is closed by the next call,
    /// which tells how it failed.)
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.check_open().is_err()
    }

    /// The argument cannot be sent. That there is nobody to send it to goes first.
    pub(crate) fn invalid(&self, error: Error) -> Error {
        if self.is_open() { error } else { Error::NotConnected }
    }

    fn key(&self, key: &[u8]) -> Result<Text, Error> {
        text("key", key).map_err(|error| self.invalid(error))
    }

    /// Stores `value` under `key`, in place of the value before, if any. Calls the callbacks of all who
    /// watch the key.
    ///
    /// The original protocol has no answer to a put: when this returns, the value has been sent, and every
    /// later operation of this connection sees it.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotConnected`], or one that [closes](Error::closes).
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.shared.check_open()?;
        let key = self.key(key.as_ref())?;
        let value = self::value("value", value.as_ref()).map_err(|error| self.invalid(error))?;
        self.shared.call(Operation::Put { key, value }).map(drop)
    }

    /// The value of `key`; `None` when there is no such key.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.shared.check_open()?;
        let key = self.key(key.as_ref())?;
        match self.shared.call(Operation::Get(key))? {
            Outcome::Value(value) => Ok(Some(value)),
            Outcome::NoSuchKey | Outcome::Done => Ok(None),
        }
    }

    /// Deletes the pair, and all watches on the key. No callback is called. `false` when there was no such
    /// key.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.shared.check_open()?;
        let key = self.key(key.as_ref())?;
        Ok(self.shared.delete(key)? != Outcome::NoSuchKey)
    }

    /// Calls `callback` with the key whenever anybody in the group, this connection included, puts `key`,
    /// until it is deleted. A callback set before for the key is replaced.
    ///
    /// Callbacks run on the library's thread, never on the caller's. A key that changes again before its
    /// callback could run is told once; the value that [`get`](Self::get) then finds is the last one, or
    /// newer. A callback that panics ends for this change only.
    ///
    /// # Errors
    /// [`Error::NoSuchKey`]: a key must exist to be watched. Otherwise as for [`put`](Self::put).
    pub fn watch(
        &self,
        key: impl AsRef<[u8]>,
        callback: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.watch_with(key, Callback::Closure(Arc::new(callback)))
    }

    pub(crate) fn watch_with(
        &self,
        key: impl AsRef<[u8]>,
        callback: Callback,
    ) -> Result<(), Error> {
        self.shared.check_open()?;
        let key = self.key(key.as_ref())?;
        self.shared.watch(key, callback)
    }

    /// Leaves the group: forgets the watches, tells the server, closes both sockets. Every later call
    /// returns [`Error::NotConnected`].
    ///
    /// No callback begins after this has returned, but for one that had been taken up already: it may
    /// still run to its end.
    ///
    /// # Errors
    /// [`Error::NotConnected`]; [`Error::SendCode`] when the server could not be told, [`Error::Close`] when
    /// the system reports one: the connection is closed all the same. [`Error::Busy`]: no further call is
    /// let through, but one that was under way has not ended; call again to finish.
    pub fn close(&self) -> Result<(), Error> {
        self.shared.close()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.shared.is_inherited() {
            // Its descriptors are closed, its locks may be held by threads that do not exist here.
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        // Nobody is left to be told.
        let _ = self.shared.close();
    }
}

impl Shared {
    /// Whether this is a forked child, in which nothing of `self` may be touched.
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation != fork::generation()
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.is_inherited() || self.closed.load(Ordering::Acquire) {
            return Err(Error::NotConnected);
        }
        Ok(())
    }

    fn call(&self, operation: Operation) -> Result<Outcome, Error> {
        self.with_main(|main, deadline| main.play(operation, deadline))
    }

    /// The callback leaves the list before another operation can begin: it may register a new one.
    fn delete(&self, key: Text) -> Result<Outcome, Error> {
        let mut removed = None;
        let result = self.with_main(|main, deadline| {
            let outcome = main.play(Operation::Delete(key), deadline)?;
            if outcome != Outcome::NoSuchKey {
                removed = self.callbacks.remove(&key);
            }
            Ok(outcome)
        });
        // It may own what it pleases, whose `Drop` may call us: so not before the lock is free.
        drop(removed);
        result
    }

    /// The callback is in the list before the server hears of it: a change may follow at once.
    fn watch(&self, key: Text, callback: Callback) -> Result<(), Error> {
        let mut unused = None;
        let result = self.with_main(|main, deadline| {
            let before = self.callbacks.set(key, callback);
            let result = main.play(Operation::Watch(key), deadline);
            unused = match (&result, before) {
                (Ok(Outcome::Done | Outcome::Value(_)), before) => before,
                (_, Some(before)) => self.callbacks.set(key, before),
                (_, None) => self.callbacks.remove(&key),
            };
            result
        });
        drop(unused);
        match result? {
            Outcome::NoSuchKey => Err(Error::NoSuchKey),
            Outcome::Done | Outcome::Value(_) => Ok(()),
        }
    }

    /// Has the main channel to itself for an operation, and closes the connection if that is what the
    /// operation has come to.
    fn with_main<R>(
        &self,
        operate: impl FnOnce(&mut Main, Deadline) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let deadline = Deadline::after(self.timeout);
        let main = self.lock_main(deadline)?;
        let (main, result) = self.or_tear_down(main, |main| {
            self.check_unbroken()?;
            operate(main, deadline)
        });
        if result.as_ref().is_err_and(Error::closes) {
            // What the caller is told is why the connection broke, not how its pieces were closed.
            let _ = self.tear_down(main);
        }
        result
    }

    /// A panic, which goes on to the caller, leaves an operation half done: nothing that comes on this
    /// connection could be trusted any more, so it is closed.
    fn or_tear_down<'a, R>(
        &self,
        mut main: FairMutexGuard<'a, Main>,
        operate: impl FnOnce(&mut Main) -> R,
    ) -> (FairMutexGuard<'a, Main>, R) {
        match catch_unwind(AssertUnwindSafe(|| operate(&mut main))) {
            Ok(result) => (main, result),
            Err(panic) => {
                let _ = self.tear_down(main);
                resume_unwind(panic)
            }
        }
    }

    /// Of a server that has gone nothing is awaited, not even that it reads the last value.
    fn check_unbroken(&self) -> Result<(), Error> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::SendCode(ErrorKind::BrokenPipe.into()));
        }
        Ok(())
    }

    fn lock_main(&self, deadline: Deadline) -> Result<FairMutexGuard<'_, Main>, Error> {
        let main = self.main.lock(deadline).map_err(|_| Error::Busy)?;
        self.check_open()?;
        Ok(main)
    }

    fn close(&self) -> Result<(), Error> {
        if self.is_inherited() {
            return Err(Error::NotConnected);
        }
        let was_closed = self.closed.swap(true, Ordering::AcqRel);
        let deadline = Deadline::after(self.timeout);
        let main = self.main.lock(deadline).map_err(|_| Error::Busy)?;
        if main.channel.is_none() {
            debug_assert!(was_closed);
            return Err(Error::NotConnected);
        }
        let (main, told) = self.or_tear_down(main, |main| {
            self.check_unbroken()?;
            main.play(Operation::Close, deadline)
        });
        let closed = self.tear_down(main);
        told.map(drop).and(closed)
    }

    /// Closes both channels.
    fn tear_down(&self, mut main: FairMutexGuard<'_, Main>) -> Result<(), Error> {
        self.closed.store(true, Ordering::Release);
        let main_closed = main.channel.take().map_or(Ok(()), Channel::close);
        // The callback thread may be waiting for it.
        drop(main);
        let callback_closed = self.callbacks.close();
        main_closed.and(callback_closed)
    }

    /// The server has asked for it, on the callback channel. Runs on the callback thread.
    pub(crate) fn closed_by_server(&self) {
        panic_point!("closed by server");
        if let Err(Error::Busy) = self.close() {
            // An operation is under way that has used up its time: it is failing right now.
            let _ = self.close();
        }
        // Whatever the main channel has come to, the callback channel is finished.
        let _ = self.callbacks.close();
    }

    /// The callback channel has ended without a word, so the server is gone or lost its mind. The main
    /// channel is only shut down: the next call says that it could not send.
    pub(crate) fn callbacks_lost(&self) {
        if self.closed.load(Ordering::Acquire) {
            // Whoever closes the connection closes this channel as well, and tells how that went.
            self.callbacks.wait_until_closed();
            return;
        }
        self.broken.store(true, Ordering::Release);
        if let Ok(main) = self.main.lock(Deadline::after(self.timeout))
            && let Some(channel) = &main.channel
        {
            channel.shut_down();
        }
        // Closed already, or closed with an error that nobody waits for.
        let _ = self.callbacks.close();
    }
}

impl Main {
    /// An empty value puts no byte on the wire, so the server knows of it only when the next function code
    /// comes. That must not wait until the application happens to call again: a get follows at once.
    fn play(&mut self, operation: Operation, deadline: Deadline) -> Result<Outcome, Error> {
        let outcome = self.play_one(operation, deadline)?;
        match operation {
            Operation::Put { key, value } if value.is_empty() => {
                self.play_one(Operation::Get(key), deadline).map(|_| Outcome::Done)
            }
            _ => Ok(outcome),
        }
    }

    fn play_one(&mut self, operation: Operation, deadline: Deadline) -> Result<Outcome, Error> {
        let channel = self.channel.as_ref().ok_or(Error::NotConnected)?;
        if self.value_under_way {
            channel.wait_until_read(deadline).map_err(Error::SendCode)?;
            self.value_under_way = false;
        }
        let mut exchange = Exchange::new(operation);
        let mut buffer = [0; MAX_TEXT + 1];
        loop {
            panic_point!("exchange step");
            match exchange.next() {
                Step::Send(what, bytes) => {
                    channel.send(bytes, deadline).map_err(|error| Error::sending(what, error))?;
                    exchange.sent();
                }
                Step::Receive(what, len) => {
                    let bytes = &mut buffer[..len];
                    channel
                        .receive(bytes, Some(deadline))
                        .map_err(|error| Error::receiving(what, error))?;
                    exchange.received(bytes)?;
                }
                Step::Done(outcome) => {
                    self.value_under_way = operation.leaves_value();
                    return Ok(outcome);
                }
            }
        }
    }
}
