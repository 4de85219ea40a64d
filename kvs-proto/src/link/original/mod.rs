//! The original protocol of local server and authentication server, over UDP (`docs/PROTOCOL.md`
//! §4).
//!
//! Datagrams have neither sequence numbers nor lengths, so their meaning follows from the datagrams
//! before them. Two rules make the protocol safe when datagrams are lost, repeated or late:
//!
//! - **Server** ([`CommandPort`]): a datagram of 100 bytes that is a known command, padded with
//!   NULs, is always that command, because a name has at most 99 bytes and no NUL. It starts a new
//!   exchange with the sending socket, in place of an incomplete one. All other datagrams are
//!   ignored unless their socket has started an exchange. `NewGroup` stores nothing before its last
//!   message.
//! - **Client** ([`ClientExchange`]): each exchange has its own socket. After a timeout the client
//!   restarts the exchange from a *new* socket, so it cannot take a late response to the old
//!   exchange for a response to the new one.
//!
//! A datagram that is not a response at its point of the exchange is ignored, never an error: any
//! process can send datagrams to a UDP port.
//!
//! The server keeps one exchange per socket, so a command from another socket does not disturb an
//! exchange. This is as safe as a single exchange per link: the original local server uses one
//! socket for everything and has one exchange at a time. A local server of kvs uses a new socket
//! for each attempt and begins its next request only after the end of the last one, which also ends
//! all older exchanges that can change a group ([`CommandPort`]). So no late datagram of an
//! abandoned attempt can change anything.
//!
//! One ambiguity remains: when the network repeats the 1 that responds to a command, a client
//! cannot distinguish the copy from the verdict 1 on the name that follows. Only a secret, or -1,
//! is conclusive. A client on a bad network requests one of these.

mod client;
mod command;
mod datagram;
mod directory;
mod group;
mod server;

#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod test_directory;

pub use client::{ClientExchange, ExchangeProgress};
pub use command::{COMMAND_LEN, LinkCommand};
pub use datagram::{
    CLOSE, RECONNECT, SECRET_LEN, decode_int, encode_int, encode_secret, is_storable_secret,
};
pub use directory::{LinkDirectory, LinkEvent};
pub use group::{GroupRequest, GroupResponse};
pub use server::{CommandPort, MAX_EXCHANGES, MAX_RETIRED};
