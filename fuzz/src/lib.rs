//! What the fuzzer runs: each module plays one input and holds what it sees against a model.
//!
//! The targets in `fuzz_targets/` only hand the bytes over. An input is a script: a byte says what happens
//! next, the bytes after it say with what ([`Input`]). Every input is legal, so the fuzzer's mutations all
//! mean something, and the corpus stays readable. A promise that is broken is a panic.
//!
//! - [`text`]: the string that everything relies on.
//! - [`app_server`]: the server's side of an application, against a second reading of the same bytes
//!   ([`reading`]) that follows `docs/PROTOCOL.md` §3 and nothing else.
//! - [`app_client`]: the application's side, against any server.
//! - [`framed`]: every frame, in both directions, against a second reading of the same bytes.
//! - [`auth_server`], [`auth_client`]: both sides between the servers, against anyone.
//! - [`local_server`]: the whole local server at real sockets, turned by hand, with several hostile
//!   applications and one honest one.

pub mod app_client;
pub mod app_server;
pub mod auth_client;
pub mod auth_server;
pub mod framed;
mod input;
#[cfg(fuzzing)]
pub mod local_server;
#[cfg(fuzzing)]
pub mod memory;
mod reading;
pub mod text;

pub use input::Input;
