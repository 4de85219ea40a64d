//! The whole local server without its threads, its clock and its authentication server, for the
//! fuzzer (`--cfg fuzzing`) and for unit tests.
//!
//! Reactors, sessions, pairing, groups and tables are the real ones, on real sockets. The caller
//! drives every step: [`SteppedServer::poll`] runs one iteration of a reactor,
//! [`SteppedServer::complete_lookup`] completes a lookup of a secret, and
//! [`SteppedServer::pass_time`] expires the deadlines. So a test can play any order of events, and
//! replay it.

use std::collections::VecDeque;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use kvs_proto::Text;
use mio::Events;
use mio::net::UnixListener as MioListener;
use parking_lot::Mutex;

use crate::directory::{Completion, Directory, Unavailable};
use crate::local::group::registry::Groups;
use crate::local::limits::limit::Limits;
use crate::local::limits::quota::Quotas;
use crate::local::metrics::counters::Metrics;
use crate::local::net::context::Context;
use crate::local::net::dispatcher::Listeners;
use crate::local::net::mailbox::{Mailbox, Message};
use crate::local::net::reactor::Reactor;

/// Longer than any timeout.
const LATER: Duration = Duration::from_secs(24 * 60 * 60);

/// Expires only in [`SteppedServer::pass_time`].
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest value: short enough for scripts to reach the limit.
pub const MAX_VALUE: usize = 10_000;

/// Enough for more connections than any script opens.
const DESCRIPTORS: u64 = 10_000;

/// A directory whose secrets the fuzzer supplies: it queues the lookups.
#[derive(Default)]
struct QueuedDirectory {
    lookups: Mutex<VecDeque<(Text, Completion<Option<Text>>)>>,
}

impl fmt::Debug for QueuedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueuedDirectory")
    }
}

impl QueuedDirectory {
    /// Removes the oldest lookup and returns it with its completion.
    fn next_lookup(&self) -> Option<(Text, Completion<Option<Text>>)> {
        self.lookups.lock().pop_front()
    }
}

impl Directory for QueuedDirectory {
    fn secret(&self, name: Text, done: Completion<Option<Text>>) {
        self.lookups.lock().push_back((name, done));
    }

    fn create(&self, _: Text, _: Text, done: Completion<bool>) {
        done(Err(Unavailable::Ended));
    }

    fn delete(&self, _: Text, done: Completion<()>) {
        done(Err(Unavailable::Ended));
    }
}

/// A local server whose reactors run only when the caller polls them.
#[derive(Debug)]
pub struct SteppedServer {
    reactors: Vec<(Reactor, Arc<Mailbox>)>,
    groups: Arc<Groups>,
    directory: Arc<QueuedDirectory>,
    events: Events,
    /// The time at which every poll happens, however long the caller takes.
    now: Instant,
}

impl SteppedServer {
    /// A server with this number of reactors; the first accepts.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(main: UnixListener, callback: UnixListener, reactors: usize) -> io::Result<Self> {
        Self::with_groups(main, callback, reactors, Groups::default())
    }

    /// As [`new`](Self::new), with groups that may have another store.
    pub(crate) fn with_groups(
        main: UnixListener,
        callback: UnixListener,
        reactors: usize,
        groups: Groups,
    ) -> io::Result<Self> {
        main.set_nonblocking(true)?;
        callback.set_nonblocking(true)?;
        let groups = Arc::new(groups);
        let directory = Arc::new(QueuedDirectory::default());
        let prepared = (0..reactors).map(|_| Reactor::prepare()).collect::<io::Result<Vec<_>>>()?;
        let mailboxes: Vec<_> = prepared.iter().map(|(_, mailbox)| Arc::clone(mailbox)).collect();
        let reactors = prepared.into_iter().map(|(poll, mailbox)| {
            mailbox.own();
            let context = Context {
                groups: Arc::clone(&groups),
                directory: Arc::clone(&directory) as Arc<dyn Directory>,
                mailbox: Arc::clone(&mailbox),
                acceptor: Arc::clone(&mailboxes[0]),
                login_timeout: LOGIN_TIMEOUT,
                limits: kvs_proto::v2::request::FrameLimits { max_value: MAX_VALUE },
                // Requests are served as they are read, so that a model can predict them.
                time_slice: Duration::MAX,
                metrics: Metrics::default(),
            };
            (Reactor::new(poll, context), mailbox)
        });
        let mut reactors: Vec<_> = reactors.collect();
        let (main, callback) = (MioListener::from_std(main), MioListener::from_std(callback));
        let quotas = Arc::new(Quotas::new(Limits::default(), DESCRIPTORS));
        let listeners = Listeners { main, callback, are_activated: false };
        reactors[0].0.admit(listeners, quotas, mailboxes)?;
        Ok(Self {
            reactors,
            groups,
            directory,
            events: Events::with_capacity(64),
            now: Instant::now(),
        })
    }

    /// Creates a group.
    pub fn add_group(&self, name: Text, secret: Text) {
        self.groups.add(name, secret);
    }

    /// Deletes a group without waiting for its applications, which are asked to close.
    pub fn delete_group(&self, name: &Text) {
        let Some(group) = self.groups.find(name) else { return };
        for subscriber in group.close() {
            subscriber.request_close();
        }
        self.groups.remove(name);
    }

    /// Lets one reactor poll its sockets and its mailbox. Returns whether it had, or has, anything
    /// to do.
    ///
    /// # Errors
    /// `poll` fails.
    pub fn poll(&mut self, reactor: usize) -> io::Result<bool> {
        let count = self.reactors.len();
        let (reactor, _) = &mut self.reactors[reactor % count];
        let was_busy = reactor.is_busy();
        reactor.poll_once(&mut self.events, Some(Duration::ZERO), || self.now)?;
        Ok(was_busy || !self.events.is_empty() || reactor.is_busy())
    }

    /// Lets all deadlines pass.
    pub fn pass_time(&mut self) {
        for (reactor, _) in &mut self.reactors {
            reactor.expire(Instant::now() + LATER);
        }
    }

    /// Completes the oldest lookup with what `secret_of` returns for the group: its secret,
    /// `Ok(None)` for "no such group", or `Err` when the authentication server does not answer.
    /// Returns `false` when no lookup is pending.
    pub fn complete_lookup(
        &self,
        secret_of: impl FnOnce(&Text) -> Result<Option<Text>, ()>,
    ) -> bool {
        let Some((name, done)) = self.directory.next_lookup() else { return false };
        done(secret_of(&name).map_err(|()| Unavailable::Silent("nowhere".into())));
        true
    }

    /// Asks all applications to close, as a server that quits does.
    pub fn close_all(&self) {
        for (_, mailbox) in &self.reactors {
            mailbox.send(Message::CloseAll);
        }
    }

    /// The number of pairs of a group; `None` if there is no such group.
    pub fn pairs(&self, group: &Text) -> Option<usize> {
        Some(self.groups.find(group)?.pairs())
    }

    /// How many applications are in a group, and how many watches they have on its keys.
    pub fn members(&self, group: &Text) -> Option<(usize, usize)> {
        let group = self.groups.find(group)?;
        let applications = group.client_status();
        let connected = applications.iter().filter(|(_, app)| app.disconnected_at.is_none());
        Some((connected.count(), group.subscription_count()))
    }

    /// The most bytes that wait to be written to one application.
    #[cfg(fuzzing)]
    pub fn max_unsent(&self) -> usize {
        self.reactors.iter().map(|(reactor, _)| reactor.max_unsent()).max().unwrap_or(0)
    }

    /// The value of a key; `None` if the group or the key does not exist.
    pub fn value(&self, group: &Text, key: &[u8]) -> Option<Vec<u8>> {
        self.groups.find(group)?.get(key, |pair| pair.map(|pair| pair.value.as_bytes().to_vec()))
    }
}
