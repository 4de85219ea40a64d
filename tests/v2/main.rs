//! What `docs/RELIABILITY.md` promises of the local server, for framed sessions. The tests of the same promises
//! for original sessions are in `malformed.rs`, `stalled.rs` and `limits.rs` beside this directory; `stopped.rs`
//! has both.
//!
//! - `malformed.rs`: whatever bytes an application sends.
//! - `together.rs`: both kinds of session in one group, and the end of that group.
//! - `stalled.rs`: applications that do not take their changes, or their answers.
//! - `limits.rs`: what one user may take, and what one application can do to the others.

#![forbid(unsafe_code)]

mod limits;
mod malformed;
mod stalled;
mod together;
