//! The connections of one user.
//!
//! They are counted for each of the two sockets separately, as an application has one connection on
//! each; and for each process, too, as on many machines all programs run under one user.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::local::limits::limit::{ConnectionLimits, Limit};

/// One of the two sockets on which applications connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// The socket for requests.
    Main,
    /// The socket for callbacks.
    Callback,
}

/// Connections by [`Channel`].
type Count = [usize; 2];

/// The connections of one user.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    /// Without processes that have none.
    by_process: HashMap<i32, Count>,
}

impl Connections {
    /// Adds a connection of a process.
    pub(super) fn add(
        &self,
        pid: i32,
        channel: Channel,
        limits: ConnectionLimits,
    ) -> Result<(), Limit> {
        let counts = &mut *self.0.lock();
        let of_process = counts.by_process.get(&pid).copied().unwrap_or_default();
        if counts.all[channel as usize] >= limits.user {
            Err(Limit::Connections)
        } else if of_process[channel as usize] >= limits.process {
            Err(Limit::ProcessConnections)
        } else {
            counts.all[channel as usize] += 1;
            counts.by_process.entry(pid).or_default()[channel as usize] += 1;
            Ok(())
        }
    }

    /// Removes a connection of a process.
    pub(super) fn remove(&self, pid: i32, channel: Channel) {
        let counts = &mut *self.0.lock();
        counts.all[channel as usize] -= 1;
        if let Some(of_process) = counts.by_process.get_mut(&pid) {
            of_process[channel as usize] -= 1;
            if *of_process == [0; 2] {
                counts.by_process.remove(&pid);
            }
        }
    }

    /// The number of connections on one socket.
    pub(super) fn count(&self, channel: Channel) -> usize {
        self.0.lock().all[channel as usize]
    }

    /// The number of processes that have connections.
    #[cfg(test)]
    pub(super) fn processes(&self) -> usize {
        self.0.lock().by_process.len()
    }
}
