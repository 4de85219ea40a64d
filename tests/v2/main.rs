//! The promises of `docs/RELIABILITY.md` about the local server, in protocol v2. The tests of the
//! same promises in protocol v1 are `malformed.rs`, `stalled.rs` and `limits.rs` beside this
//! directory; `stopped.rs` tests both.
//!
//! - `malformed.rs`: any bytes that an application may send.
//! - `together.rs`: both protocols in one group, and the deletion of that group.
//! - `stalled.rs`: applications that do not read their events or responses.
//! - `limits.rs`: what one user may use, and what one application can do to others.

#![forbid(unsafe_code)]

mod limits;
mod malformed;
mod stalled;
mod together;
