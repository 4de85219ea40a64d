//! The local server: serves the groups and pairs of one machine to its applications.
//!
//! [`Server::bind`] takes the sockets and finds the authentication server; [`Server::run`] serves
//! until a shutdown is requested. The rooms, from the bottom up:
//!
//! - `limits`: the quotas of users, usage, permits, and the login throttle.
//! - `net`: connections, sockets, mailboxes, and the reactors, the threads that own the sessions.
//! - `group`: members, subscriptions and pending events of a group, and its table.
//! - `session`: one application, from its login to its end, in protocol v1 or v2.
//! - `link`: the authentication server, as this server reaches it.
//! - `admin`: the administrators' commands, on the console and the control socket.
//! - `metrics`: the counters and the pages that show them.
//! - `server`, `config`, `error`, `options`: start, shutdown, and what an administrator configures.
//! - `fuzzing`: the same server without threads and clock, for tests and the fuzzer.
//!
//! Imports point one way: no module imports another that imports it, directly or not.

mod admin;
mod config;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod group;
mod limits;
mod link;
mod metrics;
mod net;
mod options;
mod server;
mod session;
mod stable_hash;

pub use admin::console::COMMANDS;
pub use config::Config;
pub use error::Error;
pub use kvs_proto::v2::{DEFAULT_MAX_VALUE, MAX_VALUE};
pub use limits::limit::Limits;
pub use link::connection::ConnectError;
pub use metrics::http::MetricsError;
pub use net::listener::{ListenError, Mode};
pub use net::socket_activation::{ActivatedSockets, ActivationError};
pub use options::Options;
pub use server::Server;
