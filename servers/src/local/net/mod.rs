//! Connections and the threads that serve them.
//!
//! From the bottom up: `connection` and `socket` (streams and what waits to be written to them),
//! `mailbox` (messages to a reactor), `listener` and `socket_activation` (paths that are served),
//! `acceptor` (accept loop), `pairing` and `dispatcher` (which connections become sessions),
//! `context` (what sessions use of the server), `reactor` (the threads). The sessions themselves
//! stand between `context` and `reactor`, in [`session`](super::session).

pub(crate) mod acceptor;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod dispatcher;
pub(crate) mod listener;
pub(crate) mod mailbox;
pub(crate) mod pairing;
pub(crate) mod reactor;
pub(crate) mod socket;
pub(crate) mod socket_activation;
