//! The thread of the link: carries out jobs one after the other, reconnects, and reports that the
//! link is lost.
//!
//! It never takes the lock of a group while it waits, and it calls completions without any lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use kvs_proto::Text;
use kvs_proto::link::original::{GroupRequest, GroupResponse};
use mio::{Poll, Waker};

use super::auth_link::AuthLink;
use super::connection::{ConnectError, LinkConnection, WAKER};
use super::exchange::{ExchangeError, Exchanged, SILENCE_TIMEOUT, exchange};
use super::jobs::{Job, JobQueue};
use super::registration::{MAX_CONFIRMATIONS, register_all};
use crate::console::Output;
use crate::directory::{Completion, Unavailable};
use crate::local::group::registry::Groups;
use crate::local::metrics::link::LinkCounters;
use crate::shutdown::{Reason, Shutdown};
use crate::startup::is_shortage;
use crate::supervisor::Supervisor;

/// How long the start waits for the authentication server.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// The first and the longest interval between automatic attempts to reconnect.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How the link behaves.
#[derive(Debug, Clone)]
pub(crate) struct LinkOptions {
    /// The authentication server, `HOST:PORT`. Looked up again before each automatic reconnection.
    pub(crate) server: String,
    /// Selects the close port; the same each time this local server is started.
    pub(crate) identity: Vec<u8>,
    /// Shut down when the link is lost.
    pub(crate) exit_on_loss: bool,
    /// The counters of the link.
    pub(crate) counters: LinkCounters,
}

/// The parts of the server that the link uses.
#[derive(Debug)]
pub(crate) struct LinkContext<'a> {
    /// The groups that are registered again after a reconnection.
    pub(crate) groups: &'a Arc<Groups>,
    /// Is notified when the link is lost and when it is up again.
    pub(crate) supervisor: &'a Supervisor,
    /// Is requested when the authentication server quits.
    pub(crate) shutdown: &'a Shutdown,
    /// Where the administrator is notified.
    pub(crate) output: &'a Output,
}

/// The thread's side of the link.
pub(crate) struct LinkWorker {
    /// The address of the authentication server as the administrator configured it.
    server: Arc<str>,
    exit_on_loss: bool,
    counters: LinkCounters,
    groups: Arc<Groups>,
    supervisor: Supervisor,
    shutdown: Shutdown,
    output: Output,
    queue: Arc<JobQueue>,
    connection: LinkConnection,
    /// The administrator has been notified that the link is lost.
    is_loss_reported: bool,
    retry: Option<Retry>,
    /// Groups whose creation was given up, with their secrets: the authentication server may have
    /// stored them. This server does not have them, so if they are stored, they are deleted.
    unconfirmed: HashMap<Text, Text>,
}

/// The next automatic attempt to reconnect or to delete an unconfirmed group.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    /// The interval after this attempt.
    backoff: Duration,
}

impl Retry {
    fn after(backoff: Duration) -> Self {
        Self { at: Instant::now() + backoff, backoff: (backoff * 2).min(MAX_BACKOFF) }
    }
}

impl fmt::Debug for LinkWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkWorker").field("server", &self.server).finish_non_exhaustive()
    }
}

impl LinkWorker {
    /// Connects for the first time. Returns the handle, the thread's side, and the command port.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(crate) fn connect(
        options: LinkOptions,
        context: &LinkContext<'_>,
    ) -> Result<(AuthLink, Self, u16), ConnectError> {
        let poll = Poll::new()?;
        let queue = Arc::new(JobQueue::new(Waker::new(poll.registry(), WAKER)?));
        let LinkOptions { server, identity, exit_on_loss, counters } = options;
        let mut worker = Self {
            server: server.as_str().into(),
            exit_on_loss,
            counters,
            groups: Arc::clone(context.groups),
            supervisor: context.supervisor.clone(),
            shutdown: context.shutdown.clone(),
            output: context.output.clone(),
            queue: Arc::clone(&queue),
            connection: LinkConnection::new(server, identity, context.shutdown.clone(), poll),
            is_loss_reported: false,
            retry: None,
            unconfirmed: HashMap::new(),
        };
        worker
            .supervisor
            .status(format_args!("Looking for the authentication server {}", worker.server));
        worker.connection.look_up()?;
        let port = worker.connection.connect(START_TIMEOUT)?;
        worker.report_connected(port);
        worker.counters.connected();
        Ok((AuthLink::new(queue), worker, port))
    }

    /// Carries out jobs until one ends the thread.
    ///
    /// # Errors
    /// When `poll` fails, which it does only if the server itself is broken.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut jobs = VecDeque::new();
        loop {
            jobs.extend(self.queue.take());
            if self.connection.is_leaving() {
                self.schedule_retry();
            }
            match jobs.pop_front() {
                None => {
                    let retry = self.retry;
                    self.connection.wait(
                        retry.map(|retry| retry.at.saturating_duration_since(Instant::now())),
                    )?;
                    self.retry_if_expired();
                }
                Some(Job::Disconnect) => {
                    self.disconnect();
                    return Ok(());
                }
                Some(Job::Stop) => return Ok(()),
                Some(job) => {
                    if !self.carry_out(job) {
                        // The requests that were queued meanwhile have waited long enough.
                        let silent = Unavailable::Silent(Arc::clone(&self.server));
                        let (requests, rest): (Vec<_>, _) =
                            jobs.into_iter().partition(Job::is_request);
                        jobs = rest.into();
                        for job in requests {
                            job.fail(silent.clone());
                        }
                    }
                }
            }
        }
    }

    /// Carries out one job; `false` when the link is lost.
    fn carry_out(&mut self, job: Job) -> bool {
        match job {
            Job::Secret(name, done) => self.complete(done, |worker| worker.secret(name)),
            Job::Create { name, secret, done } => {
                self.complete(done, |worker| worker.create(name, secret))
            }
            Job::Delete(name, done) => self.complete(done, |worker| worker.delete(name)),
            Job::Disconnect | Job::Stop => true,
        }
    }

    fn complete<T>(
        &mut self,
        done: Completion<T>,
        work: impl FnOnce(&mut Self) -> Result<T, Unavailable>,
    ) -> bool {
        let result = work(self);
        let is_up = !matches!(result, Err(Unavailable::Silent(_)));
        done(result);
        is_up
    }

    fn secret(&mut self, name: Text) -> Result<Option<Text>, Unavailable> {
        let secret = self.stored_secret(name)?;
        if secret.is_some() || self.groups.open_group(&name).is_none() {
            return Ok(secret);
        }
        // It does not know a group of this server: it has restarted, and its port may by now belong
        // to another local server.
        tracing::warn!(
            group = ?name,
            "the authentication server does not know a group of this server: reconnecting"
        );
        if let Err(error) = self.reconnect() {
            return Err(self.lost(error));
        }
        self.stored_secret(name)
    }

    fn create(&mut self, name: Text, secret: Text) -> Result<bool, Unavailable> {
        self.delete_unconfirmed();
        // A "yes" may be a repeated copy, a secret cannot.
        if self.request(GroupRequest::Find(name))?.response == GroupResponse::Yes
            && self.stored_secret(name)?.is_some()
        {
            return Ok(false);
        }
        self.unconfirmed.insert(name, secret);
        let stored = self.store(name, secret);
        if stored.is_ok() {
            self.unconfirmed.remove(&name);
        } else {
            self.schedule_retry();
        }
        stored
    }

    fn store(&mut self, name: Text, secret: Text) -> Result<bool, Unavailable> {
        for _ in 0..MAX_CONFIRMATIONS {
            let exchanged = self.request(GroupRequest::New { name, secret })?;
            match exchanged.response {
                // An earlier copy of the request may have stored the group.
                GroupResponse::No => match self.stored_secret(name)? {
                    Some(stored) => return Ok(exchanged.is_repeated && stored == secret),
                    None => return Err(Unavailable::Refused(Arc::clone(&self.server))),
                },
                GroupResponse::Yes | GroupResponse::Secret(_)
                    if self.connection.pacing.is_trusted() =>
                {
                    return Ok(true);
                }
                GroupResponse::Yes | GroupResponse::Secret(_) => match self.stored_secret(name)? {
                    Some(stored) => return Ok(stored == secret),
                    None => continue,
                },
            }
        }
        Err(self.too_lossy())
    }

    fn delete(&mut self, name: Text) -> Result<(), Unavailable> {
        for _ in 0..MAX_CONFIRMATIONS {
            // "No such group" is a success, too: an earlier copy of the request may have deleted
            // the group, or the authentication server has restarted.
            self.request(GroupRequest::Delete(name))?;
            if self.connection.pacing.is_trusted()
                || self.request(GroupRequest::Find(name))?.response == GroupResponse::No
            {
                return Ok(());
            }
            // This "yes" may be a repeated copy, or the new group of another local server.
            let ours = self.groups.find(&name).map(|group| group.secret());
            if self.stored_secret(name)?.is_none_or(|stored| Some(stored) != ours) {
                return Ok(());
            }
        }
        Err(self.too_lossy())
    }

    /// Deletes the groups whose creation was given up, if they were stored after all.
    fn delete_unconfirmed(&mut self) {
        if !self.connection.is_open() {
            return;
        }
        for (name, secret) in mem::take(&mut self.unconfirmed) {
            let is_anothers = match self.exchange(GroupRequest::Secret(name)) {
                Ok(exchanged) => {
                    matches!(exchanged.response, GroupResponse::Secret(stored) if stored != secret)
                }
                Err(_) => false,
            };
            // "No" is also the response for a group that this link has inherited and not claimed.
            if !is_anothers && self.exchange(GroupRequest::Delete(name)).is_err() {
                self.unconfirmed.insert(name, secret);
            }
        }
    }

    fn stored_secret(&mut self, name: Text) -> Result<Option<Text>, Unavailable> {
        match self.request(GroupRequest::Secret(name))?.response {
            GroupResponse::Secret(secret) => Ok(Some(secret)),
            GroupResponse::Yes | GroupResponse::No => Ok(None),
        }
    }

    fn exchange(&mut self, request: GroupRequest) -> Result<Exchanged, ExchangeError> {
        exchange(&mut self.connection, &self.counters, request)
    }

    /// One exchange, which reconnects if there is no connection or no response.
    fn request(&mut self, request: GroupRequest) -> Result<Exchanged, Unavailable> {
        let mut is_repeated = false;
        if self.connection.is_open() {
            match self.exchange(request) {
                Ok(exchanged) => return Ok(exchanged),
                Err(ExchangeError::Loss) => return Err(self.too_lossy()),
                Err(ExchangeError::Shortage(error)) => return Err(self.shortage(error)),
                Err(ExchangeError::Silence) => is_repeated = true,
            }
        }
        if let Err(error) = self.reconnect() {
            return Err(self.lost(error));
        }
        match self.exchange(request) {
            Ok(exchanged) => {
                Ok(Exchanged { is_repeated: exchanged.is_repeated || is_repeated, ..exchanged })
            }
            Err(ExchangeError::Loss | ExchangeError::Silence) => Err(self.too_lossy()),
            Err(ExchangeError::Shortage(error)) => Err(self.shortage(error)),
        }
    }

    fn too_lossy(&self) -> Unavailable {
        tracing::warn!("the network to the authentication server loses too many datagrams");
        Unavailable::TooLossy(Arc::clone(&self.server))
    }

    fn shortage(&self, error: io::Error) -> Unavailable {
        tracing::warn!("cannot send to the authentication server {}: {error}", self.server);
        Unavailable::Shortage { server: Arc::clone(&self.server), error: Arc::new(error) }
    }

    /// Reports that the link is lost, unless it is this machine that lacks something.
    fn lost(&mut self, error: ConnectError) -> Unavailable {
        self.schedule_retry();
        let error = match error {
            ConnectError::Io(error) if is_shortage(&error) => return self.shortage(error),
            other => other,
        };
        if !self.is_loss_reported {
            self.is_loss_reported = true;
            self.output.say(format_args!(
                "Authentication server {} does not answer: no new logins and no group commands \
                 until it does. Connected applications keep working.",
                self.server
            ));
            tracing::warn!("{error}");
            self.supervisor.status(format_args!(
                "The authentication server {} does not answer: no new logins and no group commands \
                 until it does",
                self.server
            ));
            if self.exit_on_loss {
                self.shutdown.request(Reason::AuthLost);
            }
        }
        Unavailable::Silent(Arc::clone(&self.server))
    }

    fn report_connected(&self, port: u16) {
        let server = &self.server;
        self.supervisor.status(format_args!(
            "Serving; connected to the authentication server {server}, port {port}"
        ));
    }

    /// Schedules an automatic attempt, unless there is one already.
    fn schedule_retry(&mut self) {
        if self.retry.is_none() {
            self.retry = Some(Retry::after(MIN_BACKOFF));
        }
    }

    fn retry_if_expired(&mut self) {
        let Some(retry) = self.retry else { return };
        if retry.at > Instant::now() {
            return;
        }
        self.connection.drop_if_leaving();
        if self.connection.is_open() {
            // The link is up, so the attempt is for unconfirmed groups.
            self.delete_unconfirmed();
            self.retry = (!self.unconfirmed.is_empty()).then(|| Retry::after(retry.backoff));
            return;
        }
        // The authentication server may have moved. No job waits for this attempt, so a slow lookup
        // delays only the jobs that arrive meanwhile.
        if let Err(error) = self.connection.look_up() {
            tracing::debug!("{error}");
        }
        if self.reconnect().is_err() {
            self.retry = Some(Retry::after(retry.backoff));
        }
    }

    /// Connects again and registers all groups.
    fn reconnect(&mut self) -> Result<(), ConnectError> {
        let result = self.connect_and_register();
        self.counters.reconnected(result.is_ok());
        result
    }

    fn connect_and_register(&mut self) -> Result<(), ConnectError> {
        let port = self.connection.connect(SILENCE_TIMEOUT)?;
        tracing::info!("connected to the authentication server again, port {port}");
        let registered =
            register_all(&mut self.connection, &self.counters, &self.groups, &self.output);
        if registered.is_err() {
            // The link is up only when all groups are registered.
            self.connection.drop_ports();
            return Err(self.connection.no_answer(None));
        }
        self.delete_unconfirmed();
        self.retry = None;
        if !self.unconfirmed.is_empty() {
            self.schedule_retry();
        }
        self.report_connected(port);
        if mem::take(&mut self.is_loss_reported) {
            self.output.say(format_args!(
                "Authentication server {} answers again: logins and group commands work.",
                self.server
            ));
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        if !self.connection.is_open() && !self.unconfirmed.is_empty() {
            // This is the last chance to delete groups that may have been stored. If there is still
            // no response, they stay until a local server with this identity connects.
            let _ = self.reconnect();
        }
        self.delete_unconfirmed();
        self.connection.disconnect();
    }
}

impl Drop for LinkWorker {
    /// Completes all jobs, also those that are pushed later, with [`Unavailable::Ended`].
    fn drop(&mut self) {
        self.queue.close();
    }
}
