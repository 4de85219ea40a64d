//! The authentication server: the secrets of all groups, for the local servers of one or several
//! machines, over UDP (`docs/PROTOCOL.md` §4).
//!
//! | module | what it does |
//! |---|---|
//! | `config`, `options`, `error` | the configuration, and the reasons of failure |
//! | `port` | the ports and the events that `mio` reports for them |
//! | `registry` | the table of groups: the `Directory` of this server |
//! | `links` | one link per local server, and the pair of ports assigned to it |
//! | `service` | applies datagrams to links and groups |
//! | `quit` | asks local servers to close before the server exits |
//! | `reactor` | the one thread: waits for datagrams, reads sockets, keeps deadlines |
//! | `server` | opens the listen port and runs the reactor |
//!
//! One thread does everything. It never waits for a local server; while no datagram arrives and
//! nothing is pending it sleeps without a timeout.
//!
//! The protocol has no login, so every sender of a datagram is trusted as far as the protocol
//! demands. The sender's IP address is checked, so that one machine cannot delete the groups of
//! another, speak for its local servers, or take more than its share of ports and memory. Secrets
//! are never logged.
//!
//! ```no_run
//! use kvs_servers::auth::{Config, Server};
//! use kvs_servers::{console::Output, shutdown::Shutdown};
//!
//! let server = Server::bind(&Config::default())?;
//! server.run(&Shutdown::new(), &Output::new(std::io::stdout())?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod error;
mod links;
mod options;
mod port;
mod quit;
mod reactor;
mod registry;
mod server;
mod service;
mod udp;

pub use config::Config;
pub use error::Error;
pub use options::Options;
pub use server::Server;
