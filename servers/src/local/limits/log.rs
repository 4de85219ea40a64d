//! The log lines that one user can cause, limited so that they cannot fill a disk.

use std::fmt;
use std::time::Instant;

use parking_lot::Mutex;

use crate::local::limits::limit::{ConnectionLimits, LIMITS, Limit, Limits};
use crate::log_limiter::LogLimiter;

/// The maximum number of lines per minute about the closed sessions of one user.
const MAX_LINES: u32 = 20;

/// A permit for one log line about a closed session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogPermit {
    /// More lines may follow.
    More,
    /// Further lines are suppressed for the rest of the minute.
    Last,
}

/// Limits the log lines about one user.
#[derive(Debug, Default)]
pub(super) struct UserLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The lines about each limit that was reached.
    refusals: [LogLimiter; LIMITS],
    /// Resets `lines` once a minute.
    minute: LogLimiter,
    /// The lines about closed sessions in this minute.
    lines: u32,
}

impl UserLog {
    /// Returns a permit for a line about a closed session, or `None` when the user has caused
    /// [`MAX_LINES`] of them within the last minute.
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

    /// Logs a refusal because of `limit`, at most once a minute for each limit. `what` is the
    /// refused operation.
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
                "{what}: its user has {user} connections (--max-connections-per-user, capped at \
                 three quarters of what the limit of open files allows)"
            ),
            Limit::ProcessConnections => tracing::warn!(
                uid,
                "{what}: the process has {process} connections, half of what its user may have \
                 (--max-connections-per-user, capped at three quarters of what the limit of open \
                 files allows)"
            ),
            Limit::Pairs => {
                tracing::warn!(uid, "{what}: its user has {pairs} pairs (--max-pairs-per-user)");
            }
            Limit::Bytes => tracing::warn!(
                uid,
                "{what}: its user would exceed {bytes} bytes (--max-bytes-per-user)"
            ),
            Limit::FailedLogins => {
                tracing::warn!(uid, "{what}: its user has sent too many wrong secrets");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_of_a_user_are_limited() {
        let log = UserLog::default();
        let lines: Vec<_> = (0..1000).filter_map(|_| log.permit()).collect();
        assert_eq!(lines.len(), MAX_LINES as usize);
        assert_eq!(lines.iter().position(|line| *line == LogPermit::Last), Some(lines.len() - 1));
    }
}
