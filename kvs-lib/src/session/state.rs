//! The part of a session that both protocols share.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::callbacks::dispatcher::CallbackDispatcher;
use crate::callbacks::event_reader::EventReader;
use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::disconnect::DisconnectReason;
use crate::error::Error;
use crate::generation::generation;
#[cfg(feature = "course")]
use crate::sys::ConnectionSockets;

#[derive(Debug)]
pub(crate) struct SessionState {
    /// The fork generation in which the session began.
    generation: u32,
    /// As they were when the session began.
    #[cfg(feature = "course")]
    pub(crate) sockets: ConnectionSockets,
    pub(crate) timeout: Duration,
    /// No operation may begin. Set before a thread waits for the main channel in order to close it,
    /// so that it waits for one operation at most.
    is_closed: AtomicBool,
    /// The program closed the session, rather than the server or a failure.
    is_closed_by_program: AtomicBool,
    /// The callback channel is lost, so the server is gone: the next call reports it.
    is_broken: AtomicBool,
    pub(crate) dispatcher: CallbackDispatcher,
}

impl SessionState {
    pub(crate) fn new(
        #[cfg(feature = "course")] sockets: ConnectionSockets,
        callback: ClientChannel,
        events: EventReader,
        timeout: Duration,
    ) -> Self {
        Self {
            generation: generation(),
            #[cfg(feature = "course")]
            sockets,
            timeout,
            is_closed: AtomicBool::new(false),
            is_closed_by_program: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            dispatcher: CallbackDispatcher::new(callback, events),
        }
    }

    /// The deadline of a call that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    /// Whether this process inherited the session by `fork`. Then nothing else of it may be used.
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation != generation()
    }

    /// Whether the session is closed, by either side.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed_by_program(&self) -> bool {
        self.is_closed_by_program.load(Ordering::Acquire)
    }

    /// Whether the session is open, as far as this side knows.
    pub(crate) fn is_open(&self) -> bool {
        self.check_open().is_ok() && !self.is_broken.load(Ordering::Acquire)
    }

    /// The check with which every operation begins.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match self.is_inherited() || self.is_closed() {
            true => Err(Error::NotConnected),
            false => Ok(()),
        }
    }

    /// Fails if the server is gone. An operation must not wait for such a server, not even until it
    /// has read the last value.
    pub(crate) fn check_not_broken(&self) -> Result<(), Error> {
        match self.is_broken.load(Ordering::Acquire) {
            true => Err(Error::SendCode(ErrorKind::BrokenPipe.into())),
            false => Ok(()),
        }
    }

    /// The error for an invalid argument. [`Error::NotConnected`] takes precedence.
    pub(crate) fn invalid(&self, error: Error) -> Error {
        if self.is_open() { error } else { Error::NotConnected }
    }

    /// Begins to close the session; returns whether that has begun before.
    pub(crate) fn begin_close(&self) -> bool {
        self.is_closed.swap(true, Ordering::AcqRel)
    }

    /// Records that the program closes the session, unless it is closed.
    pub(crate) fn mark_closed_by_program(&self) {
        if !self.is_closed() {
            self.is_closed_by_program.store(true, Ordering::Release);
        }
    }

    /// Records that the server is gone.
    pub(crate) fn mark_broken(&self) {
        self.is_broken.store(true, Ordering::Release);
    }

    /// Records why a call closes the session.
    pub(crate) fn set_disconnect_reason(&self, reason: DisconnectReason) {
        self.dispatcher.set_disconnect_reason(reason);
    }
}
