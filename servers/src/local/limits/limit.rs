//! What a user may have at most.

/// The descriptors that the server needs for itself; it has about 30 open.
const OWN_DESCRIPTORS: u64 = 48;

/// What each user may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connected applications. One process may have half of them, and a user never more than three
    /// quarters of those for which the server has descriptors.
    pub connections: usize,
    /// Pairs whose value the user has stored.
    pub pairs: u64,
    /// Bytes of the keys and values of those pairs, of subscriptions (512 each), of pending events
    /// (256 each) and of buffers. Events, and buffered responses, are limited apart from the rest.
    pub bytes: u64,
}

impl Default for Limits {
    /// Limits that an honest program does not reach.
    fn default() -> Self {
        Self { connections: 4096, pairs: 10_000_000, bytes: 1 << 30 }
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Connections of one user.
    Connections,
    /// Connections of one process.
    ProcessConnections,
    /// Pairs.
    Pairs,
    /// Bytes.
    Bytes,
    /// Failed logins: the login throttle refused one.
    FailedLogins,
}

/// The number of kinds of [`Limit`].
pub(super) const LIMITS: usize = Limit::FailedLogins as usize + 1;

/// How many connections one user and one process may have on each of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionLimits {
    pub(super) user: usize,
    pub(super) process: usize,
}

impl ConnectionLimits {
    /// Those of a server that may have `descriptors` open, if a user may have `wanted` connections.
    pub(super) fn new(wanted: usize, descriptors: u64) -> Self {
        // Every application takes two.
        let applications = descriptors.saturating_sub(OWN_DESCRIPTORS) / 2;
        let most = usize::try_from(applications / 4 * 3).unwrap_or(usize::MAX);
        let user = wanted.min(most).max(1);
        Self { user, process: user.div_ceil(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_leaves_descriptors_for_others_and_process_for_its_user() {
        let plenty = ConnectionLimits::new(4096, 1_000_000);
        assert_eq!(plenty, ConnectionLimits { user: 4096, process: 2048 });
        assert_eq!(ConnectionLimits::new(4096, u64::MAX), plenty);
        for descriptors in [0, 47, 48, 64, 256, 1024, 4096, 20_000] {
            let limits = ConnectionLimits::new(4096, descriptors);
            assert!(limits.process >= 1 && limits.process <= limits.user.div_ceil(2));
            if descriptors >= 64 {
                let used = limits.user as u64 * 2;
                assert!(used * 4 <= (descriptors - OWN_DESCRIPTORS) * 3, "of {descriptors}");
            }
        }
    }
}
