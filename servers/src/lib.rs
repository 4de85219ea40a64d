//! The two servers of kvs as a library; the programs in `bin/` parse options and start them.
//!
//! [`local`] serves the applications of one machine, [`auth`] keeps the secrets of all groups. They
//! share [`console`] (the administrator's commands), [`shutdown`] (requests to shut down),
//! [`supervisor`] (systemd), [`logging`] and [`startup`] (options, limits, exit code), and the
//! `Directory` trait: the groups that exist, and their secrets.

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
