//! Permits for connections.

use std::sync::Arc;

use crate::local::limits::connections::Channel;
use crate::local::limits::limit::Limit;
use crate::local::limits::quota::{Quotas, UserQuota};

/// A permit for one connection. It counts for its user and its process until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    user: Arc<UserQuota>,
    pid: i32,
    channel: Channel,
}

impl ConnectionPermit {
    /// Acquires a permit for a connection of process `pid`, which runs as user `uid`.
    ///
    /// # Errors
    /// The limit that forbids it; the refusal was logged.
    pub(crate) fn acquire(
        quotas: &Quotas,
        uid: u32,
        pid: i32,
        channel: Channel,
    ) -> Result<Self, Limit> {
        let user = quotas.user(uid);
        match user.add_connection(pid, channel) {
            Ok(()) => Ok(Self { user, pid, channel }),
            Err(limit) => {
                user.log_refusal(limit, format_args!("connection of process {pid} refused"));
                Err(limit)
            }
        }
    }

    /// The user of the connection.
    pub(crate) fn user(&self) -> &Arc<UserQuota> {
        &self.user
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.user.connections.remove(self.pid, self.channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::limits::limit::Limits;

    #[test]
    fn permit_counts_for_user_and_process_until_it_is_dropped() {
        let limits = Limits { connections: 4, ..Limits::default() };
        let quotas = Quotas::new(limits, 1000);
        let acquire = |uid, pid, channel| ConnectionPermit::acquire(&quotas, uid, pid, channel);
        let first: Vec<_> = (0..2).map(|_| acquire(1, 10, Channel::Main).unwrap()).collect();
        assert_eq!(acquire(1, 10, Channel::Main).unwrap_err(), Limit::ProcessConnections);
        // The callback connection of an application does not count twice.
        let _callbacks: Vec<_> =
            (0..2).map(|_| acquire(1, 10, Channel::Callback).unwrap()).collect();
        let _second: Vec<_> = (0..2).map(|_| acquire(1, 11, Channel::Main).unwrap()).collect();
        assert_eq!(acquire(1, 12, Channel::Main).unwrap_err(), Limit::Connections);
        acquire(2, 13, Channel::Main).expect("others have their own");
        drop(first);
        acquire(1, 10, Channel::Main).expect("two permits were dropped");
        assert_eq!(quotas.user(1).connections.processes(), 2, "processes without any are removed");
    }

    #[test]
    fn users_that_hold_nothing_are_forgotten() {
        let quotas = Quotas::new(Limits::default(), 1000);
        let _permit = ConnectionPermit::acquire(&quotas, 7, 1, Channel::Main).unwrap();
        for uid in 1000..100_000 {
            drop(ConnectionPermit::acquire(&quotas, uid, 1, Channel::Main).unwrap());
        }
        let (users, is_remembered) = quotas.remembered(7);
        assert!(users <= 64 && is_remembered);
    }
}
