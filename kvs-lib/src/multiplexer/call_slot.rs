//! Where the thread of one call waits for its replies.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvs_proto::v2::Malformed;

use super::batch::OwnedResponse;
use crate::error::Error;

/// All replies of one call, or how it failed.
pub(super) type CallResult = Result<Vec<OwnedResponse>, CallFailure>;

/// How a call failed. Every failure is one of the whole connection.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// Not all requests could be sent.
    Sending(io::Error),
    /// All requests were sent, but not all responses were received.
    Receiving(io::Error),
    /// The server sent something that the protocol does not allow.
    Malformed(Malformed),
    /// Another thread closed the connection, or it was closed before the call.
    Closed,
}

impl From<CallFailure> for Error {
    fn from(failure: CallFailure) -> Self {
        match failure {
            CallFailure::Sending(error) => Self::SendCode(error),
            CallFailure::Receiving(error) => Self::ReceiveResponse(error),
            CallFailure::Malformed(why) => Self::BadFrame(why),
            CallFailure::Closed => Self::NotConnected,
        }
    }
}

/// Receives the result of one call. Shared by the calling thread and the thread that reads.
#[derive(Debug, Default)]
pub(super) struct CallSlot {
    result: Mutex<Option<CallResult>>,
    /// Used with the lock of the multiplexer's state.
    woken: Condvar,
    /// Whether the calling thread waits for `woken`. Read and written under that lock only.
    is_waiting: AtomicBool,
}

impl CallSlot {
    /// Stores the result and wakes the calling thread.
    pub(super) fn complete(&self, result: CallResult) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.wake();
    }

    /// Takes the result, if it is there.
    pub(super) fn take(&self) -> Option<CallResult> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Wakes the calling thread. Without a waiting thread this saves the system call.
    pub(super) fn wake(&self) {
        if self.is_waiting() {
            self.woken.notify_one();
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    /// Releases `state` and waits to be woken, at most for `timeout`.
    pub(super) fn wait<'a, T>(
        &self,
        state: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        self.is_waiting.store(true, Ordering::Relaxed);
        let (state, _) =
            self.woken.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
        self.is_waiting.store(false, Ordering::Relaxed);
        state
    }
}
