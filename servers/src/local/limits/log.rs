//! The log lines that one user can cause, limited so that they cannot fill a disk.

use std::fmt;
use std::time::Instant;

use parking_lot::Mutex;

use crate::local::limits::limit::{ConnectionLimits, LIMITS, Limit, Limits};
use crate::log_limiter::LogLimiter;

/// The most lines a minute about the closed sessions of one user.
const MAX_LINES: u32 = 20;

/// Allows one more line about a closed session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogPermit {
    /// More lines may follow.
    More,
    /// This is the last one for a while.
    Last,
}

/// What was logged about one user.
#[derive(Debug, Default)]
pub(super) struct UserLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The lines about each limit that was reached.
    refusals: [LogLimiter; LIMITS],
    /// Starts `lines` anew.
    minute: LogLimiter,
    lines: u32,
}

impl UserLog {
    /// Asks for a line about a closed session; `None`: there were enough in this minute.
    pub(super) fn permit(&self) -> Option<LogPermit> {
        let state = &mut *self.0.lock();
        if state.minute.allow(Instant::now()) {
            state.lines = 0;
        }
        state.lines = state.lines.saturating_add(1);
        match state.lines {
            ..MAX_LINES => Some(LogPermit::More),
            MAX_LINES => Some(LogPermit::Last),
            _ => None,
        }
    }

    /// Logs that something was refused, unless the same limit was logged a short time ago.
    pub(super) fn refusal(
        &self,
        uid: u32,
        limit: Limit,
        limits: Limits,
        connections: ConnectionLimits,
        what: fmt::Arguments<'_>,
    ) {
        let allowed = self.0.lock().refusals[limit as usize].allow(Instant::now());
        if !allowed {
            return;
        }
        let Limits { pairs, bytes, .. } = limits;
        let ConnectionLimits { user, process } = connections;
        match limit {
            Limit::Connections => tracing::warn!(
                uid,
                "{what}: its user has {user} (--max-connections-per-user, or three quarters of \
                 what the limit of open files allows)"
            ),
            Limit::ProcessConnections => tracing::warn!(
                uid,
                "{what}: it has {process}, half of what its user may have \
                 (--max-connections-per-user, or three quarters of what the limit of open files \
                 allows)"
            ),
            Limit::Pairs => {
                tracing::warn!(uid, "{what}: its user has {pairs} pairs (--max-pairs-per-user)");
            }
            Limit::Bytes => tracing::warn!(
                uid,
                "{what}: its user has stored nearly {bytes} bytes (--max-bytes-per-user)"
            ),
            Limit::FailedLogins => {
                tracing::warn!(uid, "{what}: its user sends too many wrong secrets");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_does_not_fill_the_log() {
        let log = UserLog::default();
        let lines: Vec<_> = (0..1000).filter_map(|_| log.permit()).collect();
        assert_eq!(lines.len(), MAX_LINES as usize);
        assert_eq!(lines.iter().position(|line| *line == LogPermit::Last), Some(lines.len() - 1));
    }
}
