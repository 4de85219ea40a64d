//! The link to the authentication server: the [`Directory`](crate::directory::Directory) of the
//! local server, over UDP (`docs/PROTOCOL.md` §4).
//!
//! | module | what it does |
//! |---|---|
//! | `auth_link` | the handle: queues requests, never waits |
//! | `jobs` | the queue between the handles and the thread |
//! | `worker` | the thread: carries out jobs, reconnects, reports that the link is lost |
//! | `registration` | registers all groups again after a reconnection |
//! | `exchange` | one exchange: retries until a response or a timeout |
//! | `connection` | `Connect`, `Connect_2`, the close port, waiting for datagrams |
//! | `pacing` | how long a try may last; whether the network is trusted |
//! | `udp` | a socket with one peer |
//! | `single_flight` | one lookup per group at a time |
//!
//! The exchanges run one after the other, because the authentication server has one conversation at
//! a time with each local server. Each is retried from a new socket until a response arrives or a
//! timeout expires (`kvs_proto::link::original` explains why that is safe).
//!
//! The link is *up* or *lost*. It is lost when no datagram arrives for half a second and a new
//! `Connect` is not answered either. Then the administrator is notified, queued jobs fail at once,
//! and the link reconnects: after a growing backoff, and at once for each new job. After each
//! reconnection the groups of this server are registered again with their secrets, because the
//! authentication server may have restarted with an empty table. A restart also shows when the
//! authentication server does not know a group of this server. The link is up only when all groups
//! are registered.
//!
//! **Repeated datagrams.** The response "1" has several meanings, so a repeated copy of one can be
//! taken for the next response. Datagrams that are in the socket before the request is sent are
//! discarded. Later copies cannot be recognised. So while the network is distrusted, because it has
//! lost or repeated a datagram recently, a "1" that changed something is confirmed by a request
//! whose response is unmistakable: a secret, or -1. The confirmation uses another socket than the
//! change, so that the authentication server ignores late copies of the change from then on.
//!
//! **`Connect_2`** has no response. It is sent again while the network is distrusted: without it
//! the authentication server could not ask this server to quit.
//!
//! While the link is up and has no job, its thread sleeps without a timer.

pub(crate) mod auth_link;
pub(crate) mod connection;
mod exchange;
mod jobs;
mod pacing;
mod registration;
pub(crate) mod single_flight;
mod udp;
pub(crate) mod worker;
