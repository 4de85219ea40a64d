//! The wire of kvs, and nothing else.
//!
//! Two protocols: [`v1`], between an application and its local server, over UNIX stream sockets, with [`v2`]
//! as the second kind of session on them; and [`link`], between a local server and the authentication server, over UDP. Each is written down byte
//! by byte in `docs/PROTOCOL.md`, and each is here in both roles.
//!
//! With the feature `control` there is a third, ours alone, in `control`: between an administrator and a local server.
//!
//! Everything is a pure state machine: bytes go in, events and bytes come out. There are no sockets,
//! clocks, threads or global state here, so that every conversation, legal or hostile, can be played
//! in a test. Whatever a peer sends, nothing here panics, and no state grows beyond a few hundred
//! bytes, but for a frame that comes in pieces.

#![forbid(unsafe_code)]

#[cfg(feature = "control")]
pub mod control;
pub mod default_paths;
pub mod link;
mod text;
pub mod v1;
pub mod v2;

pub use text::{Escaped, MAX_TEXT, Text, TextError, needs_escaping};

/// The protocol of a session, negotiated in the login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The original protocol: [`v1`].
    #[default]
    V1,
    /// The framed protocol: [`v2`].
    V2,
}

/// An integer as both protocols carry it: four bytes, signed, in the byte order of the host.
pub type Int = i32;

/// The number of bytes of an [`Int`] on the wire.
pub const INT_LEN: usize = size_of::<Int>();
