//! The one connection that the C functions of a process share.
//!
//! A forked child starts with an empty [`Process`] of its own; the parent's stays where it is and is
//! never touched again, as threads that do not exist in the child may hold its locks.

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
    /// That of the parent, never to be used: kept so that leak checkers find what it holds.
    _inherited: Inherited,
    /// One `establish_connection` at a time.
    establishing: FairMutex<()>,
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Inherited(#[allow(dead_code)] *mut Process);

// SAFETY: no code reads the pointer (only a leak checker finds it in memory), so it does not matter on which
// thread it is.
unsafe impl Send for Inherited {}
// SAFETY: likewise: a shared reference gives access to nothing.
unsafe impl Sync for Inherited {}

impl Process {
    /// That of the calling process.
    pub(super) fn current() -> &'static Self {
        let generation = generation();
        let mut current = PROCESS.load(Ordering::Acquire);
        loop {
            // SAFETY: `current` is NULL or comes from `PROCESS`, where only the exchange below puts pointers: from
            // `Box::into_raw`, complete before (Release) we could read them (Acquire), never freed afterwards
            // and never borrowed mutably.
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
                // SAFETY: it comes from `Box::into_raw` just above; being published, it is never freed, and never
                // borrowed mutably.
                Ok(_) => return unsafe { &*new },
                Err(other) => {
                    // SAFETY: it comes from `Box::into_raw` just above and was not published, so nobody else has
                    // seen it; this arm is the only place that takes it back, and does not use it again.
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
        // One that the server has closed, or that is broken. Dropped here, where the lock is free.
        drop(before);
        Ok(())
    }

    /// The connection, unless it is closed. One that has broken unnoticed is for the next call to find.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, Error> {
        self.lock().clone().filter(|connection| !connection.is_closed()).ok_or(Error::NotConnected)
    }

    /// Closes the open connection.
    pub(super) fn close(&self) -> Result<(), Error> {
        // Also one that a `close` before has marked but not finished, being too late.
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

    /// Held for a few instructions only, none of which can panic.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has come of an operation. One that the server has refused because the user is at its limit closes the connection, as
/// it does in an original session: programs know that after -5 they have to connect again.
pub(super) fn or_closed<T>(connection: &Connection, result: Result<T, Error>) -> Result<T, Error> {
    result.map_err(|error| match error {
        Error::LimitReached => {
            // It is closed whatever that comes to.
            let _ = connection.close();
            Error::LimitClosed
        }
        other => other,
    })
}
