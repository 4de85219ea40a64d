//! The safe API: [`Connection`].
//!
//! The caller's thread does the request itself. What it does with either kind of session is in [`crate::shared`]; here
//! arguments are checked and results are put into words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvs_proto::Protocol;
use kvs_proto::v1::client::{Operation, OperationResult};
use kvs_proto::v2::request::{EntriesBuilder, MAX_ENTRIES, Request};
use kvs_proto::v2::response::{self, Status};
use kvs_proto::v2::{MAX_KEY, MAX_PAGE, NO_VERSION, PUT_MANY_OVERHEAD, Version};

use crate::builder::{Builder, text, value};
use crate::callbacks::{self, Callback, Callbacks, Change, Ear, Farewell, Watch, Watched};
use crate::channel::{Channel, Deadline};
use crate::disconnect::DisconnectReason;
use crate::error::{Error, Invalid};
use crate::fair_mutex::FairMutex;
use crate::fork;
use crate::multiplexer::{Multiplexer, Reply, Requests};
use crate::original;
use crate::panic_points::panic_point;
use crate::shared::{self, Main, Shared};
#[cfg(feature = "course")]
use crate::sys::Sockets;

/// What the login has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Original,
    Framed { max_value: usize },
}

/// Membership in one group. Closed when it is dropped.
///
/// All methods may be called by any number of threads at once, and from callbacks.
///
/// Which protocol the session speaks ([`protocol`](Self::protocol)) depends on the server. With
/// protocol v1, keys and values are limited to 99 bytes without NUL, a put is not acknowledged, and
/// the methods that say so return [`Error::Unsupported`].
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

/// A value, and which of its key's it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// Greater than those of all values that were stored in the group before.
    pub version: Version,
}

/// What has come of a [`Connection::compare_and_swap`] or a [`Connection::compare_and_delete`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The value is stored, and has this version; 0: the pair is deleted.
    Done(Version),
    /// Nothing was changed: the key has this version, or 0: there is no such key.
    Conflict(Version),
}

/// What one operation of a [`Pipeline`] has come to.
#[derive(Debug)]
pub enum Answer {
    /// Put: stored, with this version.
    Done(Version),
    /// Get: the value.
    Value(Versioned),
    /// Get: there is no such key.
    NoSuchKey,
    /// It was refused; the others are not affected.
    Refused(Error),
}

/// Operations that are sent together, and answered together: see [`Connection::pipeline`].
#[derive(Debug)]
#[must_use]
pub struct Pipeline<'a> {
    connection: &'a Connection,
    requests: Requests,
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Get,
    Other,
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

    pub(crate) fn start(
        main: Channel,
        callback: Channel,
        session: Session,
        timeout: Duration,
    ) -> Result<Self, Error> {
        #[cfg(feature = "course")]
        let sockets = {
            let ([own, server], [own_callback, server_callback]) = (main.ends(), callback.ends());
            Sockets {
                main: main.descriptor(),
                callback: callback.descriptor(),
                addresses: [own, server, own_callback, server_callback],
            }
        };
        let (main, ear) = match session {
            Session::Original => {
                (Main::Original(FairMutex::new(original::Main::new(main))), Ear::original())
            }
            Session::Framed { max_value } => {
                (Main::Framed { multiplexer: Multiplexer::new(main), max_value }, Ear::framed())
            }
        };
        let shared = Arc::new(Shared {
            generation: fork::generation(),
            #[cfg(feature = "course")]
            sockets,
            timeout,
            closed: AtomicBool::new(false),
            closed_by_us: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            main,
            callbacks: Callbacks::new(callback, ear),
            watching: FairMutex::new(()),
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

    /// The protocol of this session. It never changes while the connection is open.
    pub fn protocol(&self) -> Protocol {
        match self.shared.main {
            Main::Original(_) => Protocol::V1,
            Main::Framed { .. } => Protocol::V2,
        }
    }

    #[cfg(feature = "course")]
    pub(crate) fn sockets(&self) -> Sockets {
        self.shared.sockets
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

    /// Checks a key of a framed session.
    fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        let why = match key.len() {
            0 => Invalid::Empty,
            1..=MAX_KEY => return Ok(()),
            len => Invalid::TooLong { len, most: MAX_KEY },
        };
        Err(self.invalid(Error::Invalid { what: "key", why }))
    }

    fn check_value(&self, value: &[u8], most: usize) -> Result<(), Error> {
        if value.len() <= most {
            return Ok(());
        }
        let why = Invalid::TooLong { len: value.len(), most };
        Err(self.invalid(Error::Invalid { what: "value", why }))
    }

    /// The key as an original session carries it.
    fn text(&self, key: &[u8]) -> Result<kvs_proto::Text, Error> {
        text("key", key).map_err(|error| self.invalid(error))
    }

    /// Stores `value` under `key`, replacing any previous value, and returns the new version of the
    /// key. Every watch on the key is notified. When this returns, the value is stored.
    ///
    /// Protocol v1 does not acknowledge a put and has no versions: when this returns, the value has
    /// been sent, every later operation of this connection sees it, and the version is
    /// [`NO_VERSION`](crate::NO_VERSION), 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key or a value over the limit, [`Error::LimitReached`],
    /// [`Error::NotConnected`], or an error that [closes](Error::closes) the connection.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.shared.check_open()?;
        match &self.shared.main {
            Main::Original(main) => {
                let key = self.text(key)?;
                let value = self::value("value", value).map_err(|error| self.invalid(error))?;
                self.shared.call_original(main, Operation::Put { key, value })?;
                Ok(NO_VERSION)
            }
            Main::Framed { .. } => {
                let (Swap::Done(version) | Swap::Conflict(version)) =
                    self.put_framed(key, value, None)?;
                Ok(version)
            }
        }
    }

    fn put_framed(
        &self,
        key: &[u8],
        value: &[u8],
        expected: Option<Version>,
    ) -> Result<Swap, Error> {
        let (multiplexer, max_value) = self.framed()?;
        self.check_key(key)?;
        self.check_value(value, max_value)?;
        let request = Request::Put { key, value, expected };
        let reply = self.shared.call_framed(multiplexer, &request)?;
        Ok(match reply.status {
            Status::Conflict => Swap::Conflict(reply.version),
            _ => Swap::Done(reply.version),
        })
    }

    fn framed(&self) -> Result<(&Multiplexer, usize), Error> {
        self.shared.check_open()?;
        match &self.shared.main {
            Main::Original(_) => Err(self.invalid(Error::Unsupported)),
            Main::Framed { multiplexer, max_value } => Ok((multiplexer, *max_value)),
        }
    }

    /// The value of `key`; `None` when there is no such key.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        let key = key.as_ref();
        self.shared.check_open()?;
        match &self.shared.main {
            Main::Original(main) => {
                let key = self.text(key)?;
                match self.shared.call_original(main, Operation::Get(key))? {
                    OperationResult::Value(value) => Ok(Some(value)),
                    OperationResult::NoSuchKey | OperationResult::Done => Ok(None),
                }
            }
            Main::Framed { .. } => {
                Ok(self.get_versioned(key)?.map(|Versioned { value, .. }| value))
            }
        }
    }

    /// The value of `key` and its version; `None` when there is no such key.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] in an original session.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<Versioned>, Error> {
        let (multiplexer, _) = self.framed()?;
        let key = key.as_ref();
        self.check_key(key)?;
        let reply = self.shared.call_framed(multiplexer, &Request::Get(key));
        let reply = reply.map_err(Error::of_a_value)?;
        Ok(match reply.status {
            Status::Ok => Some(Versioned { value: reply.body, version: reply.version }),
            _ => None,
        })
    }

    /// Deletes the pair, and all watches on the key. No callback is called, but those of watched prefixes. `false` when
    /// there was no such key.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = key.as_ref();
        self.shared.check_open()?;
        match &self.shared.main {
            Main::Original(main) => {
                let watched = Watched::Key(key.into());
                let operation = Operation::Delete(self.text(key)?);
                let outcome = self.shared.delete_original(main, operation, &watched)?;
                Ok(outcome != OperationResult::NoSuchKey)
            }
            Main::Framed { multiplexer, .. } => {
                let reply = self.delete_framed(multiplexer, key, None)?;
                Ok(reply.status == Status::Ok)
            }
        }
    }

    fn delete_framed(
        &self,
        multiplexer: &Multiplexer,
        key: &[u8],
        expected: Option<Version>,
    ) -> Result<Reply, Error> {
        self.check_key(key)?;
        let watched = Watched::Key(key.into());
        let request = Request::Delete { key, expected };
        let deadline = Deadline::after(self.shared.timeout);
        self.shared.unwatch_framed(multiplexer, &watched, &request, deadline)
    }

    /// Deletes the pair, as [`delete`](Self::delete), if the key has the version `expected`. That there is no such key is a
    /// conflict with the version 0.
    ///
    /// # Errors
    /// As for [`compare_and_swap`](Self::compare_and_swap).
    pub fn compare_and_delete(
        &self,
        key: impl AsRef<[u8]>,
        expected: Version,
    ) -> Result<Swap, Error> {
        let (multiplexer, _) = self.framed()?;
        let reply = self.delete_framed(multiplexer, key.as_ref(), Some(expected))?;
        Ok(match reply.status {
            Status::Conflict => Swap::Conflict(reply.version),
            Status::NoSuchKey => Swap::Conflict(NO_VERSION),
            _ => Swap::Done(NO_VERSION),
        })
    }

    /// Stores `value` under `key` if the key has the version `expected`; with 0, if there is no such key.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] in an original session.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expected: Version,
    ) -> Result<Swap, Error> {
        self.put_framed(key.as_ref(), value.as_ref(), Some(expected))
    }

    /// Stores `value` under `key` if there is no such key.
    ///
    /// # Errors
    /// As for [`compare_and_swap`](Self::compare_and_swap).
    pub fn put_if_absent(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Swap, Error> {
        self.compare_and_swap(key, value, NO_VERSION)
    }

    /// Stores several pairs, or with an error none of them: nobody ever sees some of them without the others. Of equal keys
    /// the last counts. Returns the version of the last pair; those of the others are the numbers before it. At most 10,000
    /// pairs; all keys and values together, with 8 bytes for each pair, have at most 65,600 bytes more than the longest value.
    /// If keys or prefixes of the group are watched, there are at most 200,000 pairs divided by the number of the group's
    /// connected applications and of the different lengths of watched prefixes ([`Error::TooLarge`]): with 20 applications or
    /// fewer hardly less than 10,000.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] in an original session.
    pub fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Version, Error> {
        let (multiplexer, max_value) = self.framed()?;
        let mut entries = EntriesBuilder::default();
        let most = max_value + PUT_MANY_OVERHEAD;
        let mut len = 0usize;
        let invalid = |why| self.invalid(Error::Invalid { what: "list of pairs", why });
        for (n, (key, value)) in pairs.into_iter().enumerate() {
            let (key, value) = (key.as_ref(), value.as_ref());
            self.check_key(key)?;
            self.check_value(value, max_value)?;
            if n == MAX_ENTRIES {
                return Err(invalid(Invalid::TooMany { most: MAX_ENTRIES }));
            }
            len += EntriesBuilder::entry_len(key, value);
            // The others are only counted, for the message.
            if len <= most {
                entries.push(key, value);
            }
        }
        if len > most {
            return Err(invalid(Invalid::TooLong { len, most }));
        }
        if entries.is_empty() {
            return Err(invalid(Invalid::Empty));
        }
        let request = Request::PutMany(entries.entries());
        Ok(self.shared.call_framed(multiplexer, &request)?.version)
    }

    /// A page of the keys that begin with `prefix` (all, if it is empty), and where the next page begins: `cursor` is 0 at
    /// first, and when the returned one is 0, that was the last page. A page has `limit` keys (0, or more than
    /// 10,000: 10,000) or fewer, in no order, perhaps none although more pages follow.
    ///
    /// Every key that is there from the first page to the last is told exactly once.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] in an original session.
    pub fn keys_page(
        &self,
        prefix: impl AsRef<[u8]>,
        cursor: u64,
        limit: u32,
    ) -> Result<(Vec<Vec<u8>>, u64), Error> {
        let (multiplexer, _) = self.framed()?;
        let prefix = prefix.as_ref();
        if !prefix.is_empty() {
            self.check_key(prefix)?;
        }
        let request = Request::Keys { prefix, cursor, limit };
        let reply = self.shared.call_framed(multiplexer, &request)?;
        let keys = response::decode_keys(&reply.body)
            .map_err(|malformed| self.shared.malformed(multiplexer, malformed))?;
        Ok((keys.into_iter().map(<[u8]>::to_vec).collect(), reply.version))
    }

    /// All keys that begin with `prefix`, page after page: see [`keys_page`](Self::keys_page). An error is the last item.
    pub fn keys(
        &self,
        prefix: impl AsRef<[u8]>,
    ) -> impl Iterator<Item = Result<Vec<u8>, Error>> + '_ {
        let prefix = prefix.as_ref().to_vec();
        let mut cursor = Some(0);
        let pages = std::iter::from_fn(move || {
            let page = self.keys_page(&prefix, cursor?, MAX_PAGE);
            cursor = page.as_ref().ok().map(|(_, next)| *next).filter(|next| *next != 0);
            Some(page)
        });
        pages.flat_map(|page| match page {
            Ok((keys, _)) => keys.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Calls `callback` with the key whenever anybody in the group, this connection included, puts `key`,
    /// until it is deleted. A callback set before for the key is replaced.
    ///
    /// Callbacks run on the library's thread, never on the caller's. A key that changes again before its
    /// callback could run may be told once; the value that [`get`](Self::get) then finds is the last one, or
    /// newer. A callback that panics ends for this change only.
    ///
    /// # Errors
    /// [`Error::NoSuchKey`]: a key must exist to be watched. Otherwise as for [`put`](Self::put).
    pub fn watch(
        &self,
        key: impl AsRef<[u8]>,
        callback: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.watch_changes(key, move |change| callback(change.key))
    }

    /// As [`watch`](Self::watch), with more than the key for the callback.
    ///
    /// # Errors
    /// As for [`watch`](Self::watch).
    pub fn watch_changes(
        &self,
        key: impl AsRef<[u8]>,
        callback: impl Fn(&Change<'_>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.watch_with(Watched::Key(key.as_ref().into()), Callback::Closure(Arc::new(callback)))
    }

    /// Calls `callback` whenever anybody in the group puts or deletes a key that begins with `prefix` (any key, if
    /// that is empty), until [`unwatch_prefix`](Self::unwatch_prefix). There need not be such a key. A callback set before for
    /// the same prefix is replaced; those for a key or for other prefixes are called, too.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] in an original session.
    pub fn watch_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
        callback: impl Fn(&Change<'_>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let callback = Callback::Closure(Arc::new(callback));
        self.watch_with(Watched::Prefix(prefix.as_ref().into()), callback)
    }

    pub(crate) fn watch_with(&self, watched: Watched, callback: Callback) -> Result<(), Error> {
        self.shared.check_open()?;
        let watch = Watch { callback, since: Some(NO_VERSION) };
        match (&self.shared.main, &watched) {
            (Main::Original(main), Watched::Key(key)) => {
                let operation = Operation::Watch(self.text(key)?);
                self.shared.watch_original(main, operation, &watched, watch)
            }
            (Main::Original(_), Watched::Prefix(_)) => Err(self.invalid(Error::Unsupported)),
            (Main::Framed { multiplexer, .. }, _) => {
                self.check_watched(&watched)?;
                self.shared.watch_framed(multiplexer, &watched, watch)
            }
        }
    }

    fn check_watched(&self, watched: &Watched) -> Result<(), Error> {
        match watched {
            Watched::Prefix(prefix) if prefix.is_empty() => Ok(()),
            Watched::Key(bytes) | Watched::Prefix(bytes) => self.check_key(bytes),
        }
    }

    /// Calls the callback of `key` no more; `false` when there is none. When this returns, it does not run either, unless
    /// this is called from a callback.
    ///
    /// # Errors
    /// As for [`put`](Self::put). [`Error::CallbackRuns`]: it will not be called again, but has not come to its end within the
    /// time-out.
    pub fn unwatch(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.unwatch_with(&Watched::Key(key.as_ref().into()))
    }

    /// Calls the callback of `prefix` no more; as [`unwatch`](Self::unwatch).
    ///
    /// # Errors
    /// As for [`unwatch`](Self::unwatch), and [`Error::Unsupported`] in an original session.
    pub fn unwatch_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.unwatch_with(&Watched::Prefix(prefix.as_ref().into()))
    }

    pub(crate) fn unwatch_with(&self, watched: &Watched) -> Result<bool, Error> {
        self.shared.check_open()?;
        let deadline = Deadline::after(self.shared.timeout);
        let found = match (&self.shared.main, watched) {
            (Main::Original(_), Watched::Prefix(_)) => {
                return Err(self.invalid(Error::Unsupported));
            }
            (Main::Original(_), Watched::Key(key)) => {
                self.text(key)?;
                // The original protocol has no word for it: the server goes on, and nobody listens.
                self.shared.callbacks.remove(watched).is_some()
            }
            (Main::Framed { multiplexer, .. }, _) => {
                self.check_watched(watched)?;
                let request = Request::Unwatch(watched.into());
                let reply = self.shared.unwatch_framed(multiplexer, watched, &request, deadline)?;
                reply.status == Status::Ok
            }
        };
        match self.shared.callbacks.wait_until_not_running(Some(watched), deadline) {
            true => Ok(found),
            false => Err(Error::CallbackRuns),
        }
    }

    /// Sets the callback that reports the end of the connection. It runs once, on the library's
    /// thread, after the last other callback, when the connection ends in any way but by
    /// [`close`](Self::close) or by dropping the `Connection`; all watches are gone by then. The
    /// [`DisconnectReason`] says why the connection ended. A callback set before is replaced.
    ///
    /// # Errors
    /// [`Error::NotConnected`]: the connection has already ended.
    pub fn on_disconnect(
        &self,
        callback: impl FnOnce(DisconnectReason) + Send + 'static,
    ) -> Result<(), Error> {
        self.set_farewell(Farewell::Closure(Box::new(callback)))
    }

    pub(crate) fn set_farewell(&self, farewell: Farewell) -> Result<(), Error> {
        self.shared.check_open()?;
        match self.shared.callbacks.set_farewell(farewell) {
            true => Ok(()),
            false => Err(Error::NotConnected),
        }
    }

    /// Collects operations that are then sent together, and answered together: many of them cost one round trip. Others may
    /// see some of them done and others not yet.
    ///
    /// # Errors
    /// [`Error::NotConnected`], and [`Error::Unsupported`] in an original session.
    pub fn pipeline(&self) -> Result<Pipeline<'_>, Error> {
        self.framed()?;
        Ok(Pipeline { connection: self, requests: Requests::default(), kinds: Vec::new() })
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
        self.shared.close(Deadline::after(self.shared.timeout))
    }

    /// [`close`](Self::close), after which no callback begins, and none runs unless this is called from one.
    /// [`Error::CallbackRuns`]: one has not come to its end.
    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn close_and_wait(&self) -> Result<(), Error> {
        let deadline = Deadline::after(self.shared.timeout);
        let closed = self.shared.close(deadline);
        if self.shared.is_inherited() {
            return closed;
        }
        let callbacks = &self.shared.callbacks;
        // The server may have closed the connection a moment ago.
        callbacks.forget_farewell();
        match callbacks.wait_until_not_running(None, deadline) {
            true => closed,
            false => Err(Error::CallbackRuns),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.shared.is_inherited() {
            // Its descriptors are closed, its locks may be held by threads that do not exist here.
            fork::keep(Arc::clone(&self.shared));
            return;
        }
        // Nobody is left to be told.
        let _ = self.shared.close(Deadline::after(self.shared.timeout));
    }
}

impl Pipeline<'_> {
    /// Adds a [get](Connection::get).
    ///
    /// # Errors
    /// [`Error::Invalid`]: it was not added.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<&mut Self, Error> {
        let key = key.as_ref();
        self.connection.check_key(key)?;
        Ok(self.push(Kind::Get, &Request::Get(key)))
    }

    /// Adds a [put](Connection::put).
    ///
    /// # Errors
    /// [`Error::Invalid`]: it was not added.
    pub fn put(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<&mut Self, Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        let (_, max_value) = self.connection.framed()?;
        self.connection.check_key(key)?;
        self.connection.check_value(value, max_value)?;
        Ok(self.push(Kind::Other, &Request::Put { key, value, expected: None }))
    }

    /// How many operations it has.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&mut self, kind: Kind, request: &Request<'_>) -> &mut Self {
        self.requests.push(request);
        self.kinds.push(kind);
        self
    }

    /// Sends all of them and waits for all answers, which are in the same order.
    ///
    /// # Errors
    /// [`Error::NotConnected`], or one that [closes](Error::closes): then any number of them may have been done.
    pub fn run(self) -> Result<Vec<Answer>, Error> {
        let Self { connection, requests, kinds } = self;
        let (multiplexer, _) = connection.framed()?;
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Deadline::after(connection.shared.timeout);
        let replies = connection.shared.call_all(multiplexer, requests, deadline)?;
        let answer = |(reply, kind)| {
            let reply = match shared::check(reply) {
                Ok(reply) => reply,
                Err(refused) => return Answer::Refused(refused),
            };
            match (reply.status, kind) {
                (Status::Ok, Kind::Get) => {
                    Answer::Value(Versioned { value: reply.body, version: reply.version })
                }
                (Status::Ok, Kind::Other) => Answer::Done(reply.version),
                _ => Answer::NoSuchKey,
            }
        };
        Ok(replies.into_iter().zip(kinds).map(answer).collect())
    }
}
