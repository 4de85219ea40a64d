//! The safe API: [`Connection`].
//!
//! What an operation does in either protocol is in [`crate::session`]. Opening a connection is in
//! [`crate::builder`].

use std::sync::Arc;
use std::time::Duration;

use kvs_proto::Protocol;
use kvs_proto::v2::request::WatchTarget;
use kvs_proto::v2::{MAX_PAGE, NO_VERSION, Version};

use crate::callbacks::callback::{DisconnectHandler, KeyChange, WatchCallback};
use crate::callbacks::event_loop;
use crate::disconnect::DisconnectReason;
use crate::error::Error;
use crate::fork;
use crate::login::EstablishedSession;
use crate::panic_points::panic_point;
use crate::pipeline::Pipeline;
use crate::session::ClientSession;
use crate::session::results::{Swap, Versioned};
#[cfg(feature = "course")]
use crate::sys::ConnectionSockets;

/// A client's membership in one group. Dropping it closes it.
///
/// All methods may be called by any number of threads at once, and from callbacks.
///
/// The [protocol](Self::protocol) of the session depends on the server. Protocol v1 limits keys and
/// values to 99 bytes without NUL and does not acknowledge a put; methods that need protocol v2 say
/// so and return [`Error::Unsupported`].
#[derive(Debug)]
pub struct Connection {
    session: Arc<ClientSession>,
}

impl Connection {
    /// Starts the session of a login.
    pub(crate) fn start(logged_in: EstablishedSession, timeout: Duration) -> Result<Self, Error> {
        let connection = Self { session: Arc::new(ClientSession::new(logged_in, timeout)) };
        panic_point!("connection made");
        // Without a thread the connection is dropped, which closes it.
        event_loop::start(&connection.session).map_err(Error::System)?;
        panic_point!("thread started");
        Ok(connection)
    }

    /// Whether the connection is open, as far as this side knows: neither side has closed it, and
    /// it was not lost.
    pub fn is_open(&self) -> bool {
        self.session.state().is_open()
    }

    /// The protocol of this session. It never changes.
    pub fn protocol(&self) -> Protocol {
        self.session.protocol()
    }

    #[cfg(feature = "course")]
    pub(crate) fn sockets(&self) -> ConnectionSockets {
        self.session.state().sockets
    }

    /// Whether every call fails with [`Error::NotConnected`]. A lost connection is closed only by
    /// the next call, which reports how it failed.
    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn is_closed(&self) -> bool {
        self.session.state().check_open().is_err()
    }

    /// The error for an invalid argument. [`Error::NotConnected`] takes precedence.
    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn invalid(&self, error: Error) -> Error {
        self.session.state().invalid(error)
    }

    /// Stores `value` under `key`, replacing any previous value, and returns the new version of the
    /// key. Every watch on the key is notified. When this returns, the value is stored.
    ///
    /// A key has 1 to [`MAX_KEY`](crate::MAX_KEY) bytes. The longest value is a setting of the
    /// server, 16 MiB by default and never more than [`MAX_VALUE`](crate::MAX_VALUE).
    ///
    /// Protocol v1 does not acknowledge a put and has no versions: when this returns, the value has
    /// been sent, every later operation of this connection sees it, and the version is
    /// [`NO_VERSION`](crate::NO_VERSION), 0. Keys and values have at most
    /// [`MAX_TEXT`](crate::MAX_TEXT) bytes without NUL.
    ///
    /// # Errors
    /// - [`Error::Invalid`], [`Error::TooLarge`]: the key is empty or too long, or the value is too
    ///   long.
    /// - [`Error::LimitReached`]: the user's limit of pairs or bytes.
    /// - [`Error::NotConnected`]: the connection is closed.
    /// - [`Error::Busy`]: protocol v1 only; other threads used the connection until the timeout.
    /// - An error that [closes](Error::closes) the connection: whether the value was stored is
    ///   unknown. After every other error nothing was changed.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, Error> {
        self.session.put(key.as_ref(), value.as_ref())
    }

    /// Returns the value of `key`; `None` if there is no such key.
    ///
    /// # Errors
    /// As for [`put`](Self::put). [`Error::LimitReached`]: values that programs of this user
    /// requested and do not read fill the user's memory at the server.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.session.get(key.as_ref())
    }

    /// Returns the value of `key` and its version; `None` if there is no such key.
    ///
    /// # Errors
    /// As for [`get`](Self::get), and [`Error::Unsupported`] with protocol v1.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<Versioned>, Error> {
        self.session.v2()?.get(key.as_ref())
    }

    /// Deletes the pair of `key` and all watches on the key; `false` if there is no such key. The
    /// callbacks of these watches do not run, but those for prefixes of the key do.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.session.delete(key.as_ref())
    }

    /// Deletes the pair of `key`, as [`delete`](Self::delete), if the key has the version
    /// `expected`. If there is no such key, the result is a conflict with version 0.
    ///
    /// # Errors
    /// As for [`compare_and_swap`](Self::compare_and_swap).
    pub fn compare_and_delete(
        &self,
        key: impl AsRef<[u8]>,
        expected: Version,
    ) -> Result<Swap, Error> {
        let deleted = self.session.v2()?.delete(key.as_ref(), Some(expected))?;
        Ok(deleted.unwrap_or(Swap::Conflict(NO_VERSION)))
    }

    /// Stores `value` under `key` if the key has the version `expected`; with version 0, if there
    /// is no such key.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] with protocol v1.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expected: Version,
    ) -> Result<Swap, Error> {
        self.session.v2()?.put(key.as_ref(), value.as_ref(), Some(expected))
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

    /// Stores several pairs atomically: no client ever sees some of them without the others, and
    /// after an error none is stored. If a key occurs several times, its last value counts.
    ///
    /// Returns the version of the last pair. The versions of the other pairs are the numbers before
    /// it, in order.
    ///
    /// Limits:
    /// - 1 to 10,000 pairs.
    /// - All keys and values, plus 8 bytes per pair, have at most 65,600 bytes more than the
    ///   longest value of the server.
    /// - If keys or prefixes of the group are watched: the number of pairs, times the number of
    ///   connected clients plus that of different lengths of watched prefixes, is at most 200,000.
    ///   With up to 20 clients that is hardly less than 10,000 pairs.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] with protocol v1.
    pub fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Version, Error> {
        self.session.v2()?.put_many(pairs)
    }

    /// Returns one page of the keys that begin with `prefix` (all keys, if it is empty), and the
    /// cursor of the next page. The cursor of the first page is 0; after the last page the returned
    /// cursor is 0.
    ///
    /// A page has up to `limit` keys, but never more than 10,000, which 0 stands for. It may have
    /// fewer, even none, although more pages follow. Keys are in no particular order.
    ///
    /// A key that exists from the first page to the last is returned exactly once. A key that is
    /// created or deleted meanwhile may be missing.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] with protocol v1.
    pub fn keys_page(
        &self,
        prefix: impl AsRef<[u8]>,
        cursor: u64,
        limit: u32,
    ) -> Result<(Vec<Vec<u8>>, u64), Error> {
        self.session.v2()?.keys_page(prefix.as_ref(), cursor, limit)
    }

    /// Iterates over all keys that begin with `prefix`, page by page as
    /// [`keys_page`](Self::keys_page) returns them. After an error the iterator ends.
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

    /// Calls `callback` with the key whenever a client of the group, this one included, puts `key`,
    /// until the key is deleted. A watch of this connection on the same key is replaced.
    ///
    /// Callbacks run on the library's thread, one after the other, never on the calling thread. A
    /// key that changes again before its callback has run may be reported once; [`get`](Self::get)
    /// then returns the last value or a newer one. A callback that panics is called again for the
    /// next change.
    ///
    /// # Errors
    /// [`Error::NoSuchKey`]: only an existing key can be watched. Otherwise as for
    /// [`put`](Self::put).
    pub fn watch(
        &self,
        key: impl AsRef<[u8]>,
        callback: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.watch_changes(key, move |change| callback(change.key))
    }

    /// As [`watch`](Self::watch), with a callback that also gets the version.
    ///
    /// # Errors
    /// As for [`watch`](Self::watch).
    pub fn watch_changes(
        &self,
        key: impl AsRef<[u8]>,
        callback: impl Fn(&KeyChange<'_>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.watch_with(WatchTarget::Key(key.as_ref()), WatchCallback::Closure(Arc::new(callback)))
    }

    /// Calls `callback` whenever a client of the group puts or deletes a key that begins with
    /// `prefix` (any key, if it is empty), until [`unwatch_prefix`](Self::unwatch_prefix). There
    /// need not be such a key. A watch of this connection on the same prefix is replaced; watches
    /// on keys and on other prefixes are independent of it.
    ///
    /// # Errors
    /// As for [`put`](Self::put), and [`Error::Unsupported`] with protocol v1.
    pub fn watch_prefix(
        &self,
        prefix: impl AsRef<[u8]>,
        callback: impl Fn(&KeyChange<'_>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let callback = WatchCallback::Closure(Arc::new(callback));
        self.watch_with(WatchTarget::Prefix(prefix.as_ref()), callback)
    }

    pub(crate) fn watch_with(
        &self,
        target: WatchTarget<'_>,
        callback: WatchCallback,
    ) -> Result<(), Error> {
        self.session.watch(target, callback)
    }

    /// Removes the watch on `key`; `false` if there is none. When this returns, the callback does
    /// not run, unless this is called from a callback, and will not run again.
    ///
    /// # Errors
    /// As for [`put`](Self::put). [`Error::CallbackRuns`]: the watch is removed, but its callback
    /// did not return within the timeout.
    pub fn unwatch(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.unwatch_with(WatchTarget::Key(key.as_ref()))
    }

    /// Removes the watch on `prefix`, as [`unwatch`](Self::unwatch) does that on a key.
    ///
    /// # Errors
    /// As for [`unwatch`](Self::unwatch), and [`Error::Unsupported`] with protocol v1.
    pub fn unwatch_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.unwatch_with(WatchTarget::Prefix(prefix.as_ref()))
    }

    pub(crate) fn unwatch_with(&self, target: WatchTarget<'_>) -> Result<bool, Error> {
        self.session.unwatch(target)
    }

    /// Sets the callback that reports the end of the connection. It runs once, on the library's
    /// thread, after the last other callback, if the connection ends in any way but by
    /// [`close`](Self::close) or by dropping the `Connection`; all watches are gone by then. The
    /// [`DisconnectReason`] says why the connection ended. A callback set before is replaced.
    ///
    /// # Errors
    /// [`Error::NotConnected`]: the connection has already ended.
    pub fn on_disconnect(
        &self,
        callback: impl FnOnce(DisconnectReason) + Send + 'static,
    ) -> Result<(), Error> {
        self.set_disconnect_handler(DisconnectHandler::Closure(Box::new(callback)))
    }

    pub(crate) fn set_disconnect_handler(&self, handler: DisconnectHandler) -> Result<(), Error> {
        self.session.set_disconnect_handler(handler)
    }

    /// Collects operations to send together: they cost one round trip. They are not atomic: other
    /// clients may see some of them carried out and others not yet.
    ///
    /// # Errors
    /// [`Error::NotConnected`], and [`Error::Unsupported`] with protocol v1.
    pub fn pipeline(&self) -> Result<Pipeline<'_>, Error> {
        Ok(Pipeline::new(self.session.v2()?))
    }

    /// Leaves the group: removes all watches, notifies the server, closes both sockets. Every later
    /// call returns [`Error::NotConnected`].
    ///
    /// No callback starts after this has returned. One that was about to start may still run.
    ///
    /// # Errors
    /// - [`Error::NotConnected`]: the connection was closed already.
    /// - [`Error::SendCode`]: the server could not be notified; [`Error::Close`]: the system
    ///   reported an error. The connection is closed nevertheless.
    /// - [`Error::Busy`]: no further call is admitted, but one that was in progress has not ended.
    ///   Call again to finish.
    pub fn close(&self) -> Result<(), Error> {
        self.session.close(self.session.state().deadline())
    }

    /// As [`close`](Self::close), and waits until no callback runs, unless this is called from one.
    /// [`Error::CallbackRuns`]: a callback did not return within the timeout.
    #[cfg_attr(not(feature = "capi"), allow(dead_code))]
    pub(crate) fn close_and_wait(&self) -> Result<(), Error> {
        let deadline = self.session.state().deadline();
        let closed = self.session.close(deadline);
        if self.session.is_inherited() {
            return closed;
        }
        let dispatcher = self.session.dispatcher();
        // The server may have closed the connection a moment ago.
        dispatcher.clear_disconnect_handler();
        match dispatcher.wait_until_not_running(None, deadline) {
            true => closed,
            false => Err(Error::CallbackRuns),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.session.is_inherited() {
            // Its descriptors are closed, and threads that do not exist here may hold its locks.
            fork::keep_inherited(Arc::clone(&self.session));
            return;
        }
        // An error has no caller to go to. Without this the callback thread would go on.
        let _ = self.session.close(self.session.state().deadline());
    }
}
