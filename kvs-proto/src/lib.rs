//! The wire protocols of kvs.
//!
//! - [`v1`] and [`v2`]: application ↔ local server, over UNIX stream sockets. The login of `v1`
//!   negotiates which of the two a session uses.
//! - [`link`]: local server ↔ authentication server, over UDP.
//! - `control` (feature `control`): administrator ↔ local server, lines of JSON.
//!
//! `docs/PROTOCOL.md` specifies each protocol byte by byte. Each is implemented here in both roles.
//!
//! Every protocol is a pure state machine: bytes go in, events and bytes come out. This crate has
//! no sockets, clocks, threads or global state, so a test can replay any conversation, legal or
//! hostile. No input makes it panic. Its state stays within a few hundred bytes, except for the
//! received part of a frame that is incomplete.

#![forbid(unsafe_code)]

#[cfg(feature = "control")]
pub mod control;
pub mod default_paths;
mod escape;
mod integer;
pub mod link;
mod protocol;
mod text;
pub mod v1;
pub mod v2;

pub use escape::{Escaped, needs_escaping};
pub use integer::{INT_LEN, Int};
pub use protocol::Protocol;
pub use text::{MAX_TEXT, Text, TextError};
