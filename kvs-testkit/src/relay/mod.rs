//! A network between the two servers that drops, duplicates, delays and reorders datagrams: exactly
//! those that a test names, or random ones ([`RandomFaults`](delivery::RandomFaults)).
//!
//! The relay stands in front of an authentication server. It forwards datagrams for its port number
//! `n` to the real port number `n`, and replaces the port in a response to `Connect` by its own.
//! Each socket of a local server has a socket of the relay on the other side, as behind a router
//! that translates addresses: the authentication server tells local servers apart, and sees the
//! same address for the same socket. The authentication server may be killed and restarted behind
//! the relay.
//!
//! One thread forwards everything. It sleeps until a datagram arrives or a delay expires.

use std::net::SocketAddrV4;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use crate::auth_server::AuthServer;
use crate::ports::Ports;
use crate::wait::DEADLINE;
use delivery::Delivery;
use forwarder::{Forwarder, Shared};

pub(crate) mod delivery;
mod forwarder;

/// A relay in front of an authentication server. It ends when dropped.
#[derive(Debug)]
pub struct Relay {
    ports: Ports,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay in front of `auth`, whose ports must be a reserved block. Datagrams of both
    /// directions together are numbered from 0 in order of arrival; `delivery` decides on each.
    ///
    /// # Panics
    /// If the relay cannot be started.
    pub fn start(
        auth: &AuthServer,
        delivery: impl Fn(usize) -> Delivery + Send + Sync + 'static,
    ) -> Self {
        let ports = Ports::reserve();
        let forwarder = Forwarder::new(&ports, auth.addr(), Box::new(delivery));
        let shared = forwarder.shared();
        let thread = thread::spawn(move || forwarder.run());
        Self { ports, shared, thread: Some(thread) }
    }

    /// The address that stands for the authentication server.
    pub fn addr(&self) -> SocketAddrV4 {
        self.ports.addr(0)
    }

    /// The number of received datagrams.
    pub fn count(&self) -> usize {
        self.shared.lock().count
    }

    /// The number of datagrams that were not delivered normally.
    pub fn affected(&self) -> usize {
        self.shared.lock().hit
    }

    /// Waits until all delayed datagrams have been delivered.
    ///
    /// # Panics
    /// If some are never delivered.
    pub fn settle(&self) {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .settled
            .wait_timeout_while(state, DEADLINE, |state| state.under_way > 0)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(state.under_way == 0, "datagrams are under way for ever");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        if self.shared.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}
