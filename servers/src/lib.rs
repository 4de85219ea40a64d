//! The two servers of kvs as a library; the programs in `bin/` only parse and wire.
//!
//! [`local`] serves the applications of one machine, [`auth`] keeps the secrets of all groups. What they
//! share: [`console`] (the administrator's dialogue), [`shutdown`] (who may end a server, and how),
//! [`supervisor`] (who watches over it), [`logging`] and [`startup`] (limits and the exit code).

#![forbid(unsafe_code)]

pub mod auth;
pub mod console;
mod directory;
pub mod local;
mod log_limiter;
pub mod logging;
pub mod shutdown;
pub mod startup;
pub mod supervisor;
mod terminal;
