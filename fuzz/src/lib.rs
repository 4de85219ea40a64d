//! The fuzz targets: each module replays one input and compares the results with a model.
//!
//! The programs in `fuzz_targets/` only pass the bytes on. An input is a script: one byte selects
//! the next step, and the bytes after it are the arguments ([`Input`]). Every input is valid, so
//! every mutation has an effect, and the corpus stays readable. A broken promise is a panic.
//!
//! - [`text`]: the bounded string.
//! - [`app_server`]: the server's role of protocol v1, against `v1_model`, a second implementation
//!   of `docs/PROTOCOL.md` §3.
//! - [`app_client`]: the application's role of protocol v1, against an arbitrary server.
//! - [`v2`]: all frames of protocol v2 in both directions, against a second implementation.
//! - [`auth_server`], [`auth_client`]: both roles of the link, against arbitrary peers.
//! - [`local_server`]: the whole local server on real sockets, single-stepped, with several hostile
//!   applications and one honest application.

pub mod app_client;
pub mod app_server;
pub mod auth_client;
pub mod auth_server;
#[cfg(fuzzing)]
pub mod counting_allocator;
mod input;
#[cfg(fuzzing)]
pub mod local_server;
pub mod text;
mod v1_model;
pub mod v2;

pub use input::Input;
