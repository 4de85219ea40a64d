//! The connection that the six functions of a process share.
//!
//! A forked child gets an empty [`Process`] of its own. It never touches that of its parent,
//! because threads that do not exist in the child may hold the locks in it.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::guard;
use crate::builder::{Builder, DEFAULT_TIMEOUT};
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fair_mutex::FairMutex;
use crate::generation::generation;
use crate::panic_points::panic_point;

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());

pub(super) struct Process {
    generation: u32,
    /// The parent's, never used: it keeps the memory of the parent reachable for leak checkers.
    _inherited: Inherited,
    /// One `establish_connection` at a time.
    establishing: FairMutex<()>,
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Inherited(#[allow(dead_code)] *mut Process);

// SAFETY: no code dereferences the pointer; it only lies in memory for leak checkers.
unsafe impl Send for Inherited {}
// SAFETY: likewise: a shared reference gives access to nothing.
unsafe impl Sync for Inherited {}

impl Process {
    /// The state of the calling process.
    pub(super) fn current() -> &'static Self {
        let generation = generation();
        let mut current = PROCESS.load(Ordering::Acquire);
        loop {
            // SAFETY: `current` is NULL or comes from `PROCESS`. Only the exchange below stores
            // pointers there: they come from `Box::into_raw`, are initialised before (Release) this
            // load (Acquire), and are never freed nor borrowed mutably.
            match unsafe { current.as_ref() } {
                Some(process) if process.generation == generation => return process,
                _ => {}
            }
            let new = Box::into_raw(Box::new(Self {
                generation,
                _inherited: Inherited(current),
                establishing: FairMutex::new(()),
                connection: Mutex::new(None),
            }));
            match PROCESS.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: `new` comes from `Box::into_raw` above. It is published now, so it is
                // never freed nor borrowed mutably.
                Ok(_) => return unsafe { &*new },
                Err(other) => {
                    // SAFETY: `new` comes from `Box::into_raw` above and was not published, so no
                    // other thread has it. Only this arm turns it back into a box.
                    drop(unsafe { Box::from_raw(new) });
                    current = other;
                }
            }
        }
    }

    /// Opens the connection, unless there is an open one.
    pub(super) fn establish(
        &self,
        builder: Result<Builder, Error>,
        open: impl FnOnce(&Builder, Deadline) -> Result<Connection, Error>,
    ) -> Result<(), Error> {
        guard::read_environment();
        let timeout = builder.as_ref().map_or(DEFAULT_TIMEOUT, Builder::timeout_value);
        let deadline = Deadline::after(timeout);
        let _guard = self.establishing.lock(deadline).map_err(|_| Error::Busy)?;
        if self.connection().is_ok_and(|connection| connection.is_open()) {
            return Err(Error::AlreadyConnected);
        }
        panic_point!("establishing");
        let connection = Arc::new(open(&builder?, deadline)?);
        panic_point!("established");
        let before = self.lock().replace(connection);
        // A connection that the server has closed, or that broke. Dropped without the lock held.
        drop(before);
        Ok(())
    }

    /// The connection, unless it is closed. A call on it detects whether it has broken meanwhile.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, Error> {
        self.lock().clone().filter(|connection| !connection.is_closed()).ok_or(Error::NotConnected)
    }

    /// Closes the open connection.
    pub(super) fn close(&self) -> Result<(), Error> {
        // This includes a connection that an earlier `close` could not finish in time.
        let connection = self.lock().clone().ok_or(Error::NotConnected)?;
        let result = connection.close();
        if !matches!(result, Err(Error::Busy)) {
            let mut current = self.lock();
            let ours = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &connection));
            let before = if ours { current.take() } else { None };
            drop(current);
            drop(before);
        }
        result
    }

    /// The lock is held for a few instructions only, none of which can panic.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the connection if the server refused the operation at a limit of the user. With protocol
/// v1 the server does that, and programs that use the six functions rely on it: after -5 they
/// connect again.
pub(super) fn or_closed<T>(connection: &Connection, result: Result<T, Error>) -> Result<T, Error> {
    result.map_err(|error| match error {
        Error::LimitReached => {
            // The connection is closed even if this returns an error.
            let _ = connection.close();
            Error::LimitClosed
        }
        other => other,
    })
}
