//! The link to the authentication server: one thread that asks, and waits for datagrams.
//!
//! Everybody else hands it a job and goes on; the answer comes by a function that must not wait. The
//! exchanges go one after the other, as the authentication server has one conversation at a time with each
//! local server. Each is tried again from a new socket until an answer comes or the patience ends
//! (`kvs_proto::link::original` says why that is safe).
//!
//! The link is *up* or *lost*. It is lost when nothing at all comes back for half a second and a new
//! `Connect` is not answered either. Then the administrator is told, waiting jobs fail at once, and the link
//! tries to connect again: with growing pauses by itself, and at once for each new job. Whenever
//! it has connected again, the groups of this server are registered again with their secrets, as the
//! authentication server may have been restarted with an empty table. That it was restarted is also seen
//! when it does not know a group of ours. Only when it has answered for all of them, the link is up.
//!
//! **Repeated datagrams.** The answer "1" means several things, so one that the network repeats may be taken for
//! the next answer. What is in the socket before anything was sent to deserve it is thrown away. What
//! comes later still cannot be told apart, so wherever the network has shown lately that it loses or repeats
//! datagrams, a "1" that changed something is confirmed by a question whose answer cannot be mistaken:
//! a secret, or -1. The confirmation comes from another socket than the change, so that from then on the
//! authentication server takes no late copy of the change for a new one.
//!
//! **The greeting.** Nothing answers `Connect_2`. It is sent again when the link sees that the network loses
//! datagrams: without it the authentication server could not tell us to quit.
//!
//! While the link is up and nobody asks, the thread sleeps without a timer.

pub(crate) mod single_flight;
mod udp;
mod worker;

use std::sync::Arc;
use std::{fmt, io};

use kvs_proto::Text;
use mio::Waker;
use parking_lot::Mutex;

pub(crate) use worker::Worker;

use crate::directory::{Completion, Directory, Unavailable};
use crate::local::metrics::AuthCounts;

/// Why the link could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("the address of the authentication server {server} cannot be found: {source}")]
    Resolve {
        /// As given.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing came back.
    #[error(
        "the authentication server {server} does not answer{}. Is KVS-AuthServer running there, \
         and does the network let UDP through?",
        last.as_ref().map_or(String::new(), |error| format!(" ({error})"))
    )]
    NoAnswer {
        /// As given.
        server: String,
        /// The last error that the system reported, if any.
        last: Option<io::Error>,
    },
    /// The system refuses sockets or the like.
    #[error("no link to the authentication server: {0}")]
    Io(#[from] io::Error),
}

type Reply<T> = Completion<T>;

/// What the link is asked to do.
enum Job {
    Secret(Text, Reply<Option<Text>>),
    Create {
        name: Text,
        secret: Text,
        reply: Reply<bool>,
    },
    Delete(Text, Reply<()>),
    /// Say goodbye and end the thread.
    Goodbye,
    /// End the thread.
    Stop,
}

impl Job {
    fn fail(self, why: Unavailable) {
        match self {
            Self::Secret(_, reply) => reply(Err(why)),
            Self::Create { reply, .. } => reply(Err(why)),
            Self::Delete(_, reply) => reply(Err(why)),
            Self::Goodbye | Self::Stop => {}
        }
    }
}

/// For all who ask.
#[derive(Clone)]
pub(crate) struct AuthLink {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once the worker has gone.
    jobs: Mutex<Option<Vec<Job>>>,
    waker: Waker,
}

impl fmt::Debug for AuthLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthLink")
    }
}

impl AuthLink {
    /// Says goodbye; the link ends.
    pub(crate) fn goodbye(&self) {
        self.send(Job::Goodbye);
    }

    /// The link ends without a word.
    pub(crate) fn stop(&self) {
        self.send(Job::Stop);
    }

    fn send(&self, job: Job) {
        // With the worker gone, nobody would ever take it.
        let refused = match &mut *self.shared.jobs.lock() {
            Some(jobs) => {
                jobs.push(job);
                None
            }
            None => Some(job),
        };
        if let Some(job) = refused {
            job.fail(Unavailable::Ended);
            return;
        }
        if let Err(error) = self.shared.waker.wake() {
            tracing::error!("the link to the authentication server could not be woken: {error}");
        }
    }
}

impl Directory for AuthLink {
    fn secret(&self, name: Text, done: Completion<Option<Text>>) {
        self.send(Job::Secret(name, done));
    }

    fn create(&self, name: Text, secret: Text, done: Completion<bool>) {
        self.send(Job::Create { name, secret, reply: done });
    }

    fn delete(&self, name: Text, done: Completion<()>) {
        self.send(Job::Delete(name, done));
    }
}

/// How the link behaves.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The authentication server, `HOST:PORT`. Looked up again at each connection.
    pub(crate) server: String,
    /// What stays the same when this local server is restarted; it selects the close port.
    pub(crate) identity: Vec<u8>,
    /// End the server when the authentication server is lost.
    pub(crate) exit_on_loss: bool,
    /// Where the link counts.
    pub(crate) counts: AuthCounts,
}
