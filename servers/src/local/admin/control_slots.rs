//! The open connections of the control socket: at most [`MAX_CONNECTIONS`].
//!
//! When all slots are taken, a new connection evicts the one that has waited longest for its peer.
//! A connection with an operation under way is never evicted.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

/// The maximum number of open connections.
const MAX_CONNECTIONS: usize = 16;

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct ControlSlots {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    connections: Vec<ControlConnection>,
}

#[derive(Debug)]
struct ControlConnection {
    id: u64,
    stream: Arc<UnixStream>,
    /// When the connection began to wait for its peer; `None` while an operation is under way.
    waiting_since: Option<Instant>,
}

impl ControlSlots {
    /// Acquires a slot, and evicts a connection if none is free. Returns `None` when all
    /// connections have an operation under way.
    pub(super) fn acquire(slots: &Arc<Self>, stream: &Arc<UnixStream>) -> Option<ControlSlot> {
        let mut open = slots.open.lock();
        let mut evicted = None;
        if open.connections.len() >= MAX_CONNECTIONS {
            let waiting = open.connections.iter().enumerate();
            let waiting = waiting.filter_map(|(at, other)| Some((other.waiting_since?, at)));
            let (_, at) = waiting.min()?;
            evicted = Some(open.connections.swap_remove(at));
        }
        open.last_id += 1;
        let id = open.last_id;
        let (stream, waiting_since) = (Arc::clone(stream), Some(Instant::now()));
        open.connections.push(ControlConnection { id, stream, waiting_since });
        drop(open);
        if let Some(evicted) = evicted {
            close(&evicted.stream);
        }
        Some(ControlSlot { slots: Arc::clone(slots), id })
    }

    /// Closes all connections.
    pub(super) fn close_all(&self) {
        let open = std::mem::take(&mut self.open.lock().connections);
        for connection in open {
            close(&connection.stream);
        }
    }

    fn set_waiting(&self, id: u64, waiting_since: Option<Instant>) -> bool {
        let mut open = self.open.lock();
        let connection = open.connections.iter_mut().find(|connection| connection.id == id);
        match connection {
            Some(connection) => {
                connection.waiting_since = waiting_since;
                true
            }
            None => false,
        }
    }
}

/// The slot of one connection. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct ControlSlot {
    slots: Arc<ControlSlots>,
    id: u64,
}

impl ControlSlot {
    /// Marks the connection as waiting for its peer. Returns `false` when it was evicted.
    pub(super) fn wait_for_peer(&self) -> bool {
        self.slots.set_waiting(self.id, Some(Instant::now()))
    }

    /// Marks the connection as busy with an operation. Returns `false` when it was evicted.
    pub(super) fn begin_operation(&self) -> bool {
        self.slots.set_waiting(self.id, None)
    }
}

impl Drop for ControlSlot {
    fn drop(&mut self) {
        self.slots.open.lock().connections.retain(|connection| connection.id != self.id);
    }
}

/// Closes both directions of a connection.
pub(super) fn close(stream: &UnixStream) {
    // The call fails when the peer has closed the connection already.
    let _ = stream.shutdown(Shutdown::Both);
}
