//! Accepts connections from a listening socket that does not block.
//!
//! A connection that is reset before it is accepted is skipped. When the system lacks descriptors
//! or memory, accepting pauses: no event reports when they are available again.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};

use crate::log_limiter::LogLimiter;

/// How long accepting pauses when the system has no descriptor or memory for a connection.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections, and pauses after a shortage. One acceptor may serve several listeners: a
/// shortage concerns all of them.
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// What is served, for the log: "applications".
    clients: &'static str,
    paused_until: Option<Instant>,
    log: LogLimiter,
}

impl Acceptor {
    /// An acceptor of connections of these clients, a plural for the log.
    pub(crate) fn new(clients: &'static str) -> Self {
        Self { clients, paused_until: None, log: LogLimiter::default() }
    }

    /// The next connection. `None` if none waits, or after a shortage until
    /// [`resume`](Self::resume).
    pub(crate) fn accept(&mut self, listener: &UnixListener) -> Option<UnixStream> {
        while self.paused_until.is_none() {
            match listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return None,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        let now = Instant::now();
                        self.paused_until = Some(now + ACCEPT_PAUSE);
                        if self.log.allow(now) {
                            tracing::warn!(
                                "connections of {} cannot be accepted for now: {error}",
                                self.clients
                            );
                        }
                    }
                },
            }
        }
        None
    }

    /// When the pause ends.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Ends a pause that is over at `now`. If so, returns `true`, and connections may wait.
    pub(crate) fn resume(&mut self, now: Instant) -> bool {
        self.paused_until.take_if(|until| *until <= now).is_some()
    }
}
