//! Bytes and connections: listeners, sockets, the reactors that own the sessions, and how other
//! threads reach a reactor.

pub(crate) mod listener;
pub(crate) mod mailbox;
pub(crate) mod pairing;
pub(crate) mod reactor;
pub(crate) mod socket;
pub(crate) mod socket_activation;
