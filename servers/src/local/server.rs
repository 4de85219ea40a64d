//! The local server from its start to its end: resources, threads, and the order of shutdown.

use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvs_proto::v2::request::FrameLimits;

use crate::console::{Input, Output};
use crate::directory::{self, Directory, Unavailable};
use crate::local::admin::administration::{Administration, close_applications};
use crate::local::admin::console::AdminConsole;
use crate::local::admin::control::ControlSocket;
use crate::local::config::Config;
use crate::local::error::Error;
use crate::local::group::registry::Groups;
use crate::local::limits::quota::Quotas;
use crate::local::link::auth_link::AuthLink;
use crate::local::link::worker::{LinkContext, LinkOptions, LinkWorker};
use crate::local::metrics::counters::Counters;
use crate::local::metrics::http::{DESCRIPTORS, HttpListener, HttpThread};
use crate::local::metrics::snapshot::ServerInfo;
use crate::local::net::context::Context;
use crate::local::net::dispatcher::Listeners;
use crate::local::net::listener::{Listener, Mode};
use crate::local::net::mailbox::{Mailbox, Message};
use crate::local::net::reactor::Reactor;
use crate::local::net::socket_activation::ActivatedSockets;
use crate::local::session::TIME_SLICE;
use crate::shutdown::{Reason, Shutdown, shut_down_on_failure};
use crate::startup;
use crate::supervisor::Supervisor;

/// The most threads that serve applications. A machine with few processors has fewer: half of them
/// are left to the applications, which run on the same machine.
const MAX_REACTORS: usize = 4;

/// How long the deletion of all groups at the authentication server may take at shutdown.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long printing the last lines may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A local server that has bound its sockets and found its authentication server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    shutdown: Shutdown,
    supervisor: Supervisor,
    output: Output,
    main: Listener,
    callback: Listener,
    control: Option<Listener>,
    groups: Arc<Groups>,
    auth: AuthLink,
    auth_worker: LinkWorker,
    port: u16,
    counts: Counters,
    metrics: Option<HttpListener>,
}

impl Server {
    /// Binds the sockets, or uses the activated ones, and connects to the authentication server. An
    /// error leaves nothing behind.
    ///
    /// # Errors
    /// [`Error`] names the resource that is not available, and the reason.
    pub fn bind(
        config: Config,
        mut activated: ActivatedSockets,
        supervisor: &Supervisor,
        shutdown: &Shutdown,
        output: &Output,
    ) -> Result<Self, Error> {
        config.check()?;
        let metrics = config.metrics.map(HttpListener::bind).transpose()?;
        let counts = metrics.as_ref().map(|_| Counters::new(reactors()));
        let counts = counts.unwrap_or_default();
        let mode = config.socket_mode;
        let main = Listener::new(&config.socket, mode, &mut activated)?;
        let callback = Listener::new(&config.callback_socket, mode, &mut activated)?;
        let control = config
            .control_socket
            .as_deref()
            .map(|path| Listener::new(path, Some(Mode::OWNER_ONLY), &mut activated));
        let control = control.transpose()?;
        activated.expect_none_left(&config.paths())?;
        let groups = Arc::new(Groups::default());
        let options = LinkOptions {
            server: config.auth.clone(),
            identity: identity(&config.socket).map_err(Error::io("the current directory"))?,
            exit_on_loss: config.exit_on_auth_loss,
            counters: counts.of_link(),
        };
        let (auth, auth_worker, port) = LinkWorker::connect(
            options,
            &LinkContext { groups: &groups, supervisor, shutdown, output },
        )?;
        Ok(Self {
            config,
            shutdown: shutdown.clone(),
            supervisor: supervisor.clone(),
            output: output.clone(),
            main,
            callback,
            control,
            groups,
            auth,
            auth_worker,
            port,
            counts,
            metrics,
        })
    }

    /// Serves applications, and the administrator's commands from `input`, until the shutdown is
    /// requested. Then closes all applications, deletes the groups, and removes the paths.
    ///
    /// # Errors
    /// A thread cannot be started, or [`Error::AuthLost`], or [`Error::Broken`].
    pub fn run(mut self, input: Input<impl BufRead + Send + 'static>) -> Result<(), Error> {
        let quotas = Arc::new(self.quotas());
        let reactors = self.start_reactors(&quotas)?;
        let metrics = self.start_metrics(quotas)?;
        let worker = self.auth_worker;
        let shutdown = self.shutdown.clone();
        let auth_thread = thread::Builder::new()
            .name("auth-link".into())
            .spawn(move || shut_down_on_failure(&shutdown, || worker.run()))
            .map_err(Error::io("a thread for the authentication server"))?;
        self.output.say(format_args!("Port Number: {}", self.port));
        let administration = Arc::new(Administration::new(
            Arc::clone(&self.groups),
            Arc::new(self.auth.clone()),
            self.shutdown.clone(),
        ));
        let mut control = self
            .control
            .map(|listener| ControlSocket::start(listener, Arc::clone(&administration)))
            .transpose()
            .map_err(Error::io("a thread for the control socket"))?;
        let commands = AdminConsole { administration, output: self.output.clone() };
        // The thread may wait for a line forever, so the shutdown does not wait for it.
        thread::Builder::new()
            .name("console-input".into())
            .spawn(move || commands.run(input))
            .map_err(Error::io("a thread for the console"))?;
        self.supervisor.ready();

        let reason = self.shutdown.wait();
        tracing::info!("quitting: {reason}");
        self.supervisor.stopping(reason);
        // Connections of the control socket stay open until the server exits: their end informs an
        // administrator who requested the shutdown that it is complete.
        if let Some(control) = &mut control {
            control.stop_accepting();
        }
        for (mailbox, _) in &reactors {
            mailbox.send(Message::CloseAll);
        }
        for group in self.groups.all() {
            close_applications(&group);
        }
        if matches!(reason, Reason::AuthLost | Reason::Broken) {
            self.auth.stop();
        } else {
            delete_groups(&self.groups, &self.auth);
            self.auth.disconnect();
        }
        for (mailbox, _) in &reactors {
            mailbox.send(Message::Stop);
        }
        for (_, thread) in reactors {
            join(thread);
        }
        join(auth_thread);
        if let Some(metrics) = metrics {
            metrics.stop();
        }
        drop((self.main, self.callback));
        self.output.say("Exiting Local Server...");
        self.output.flush(FLUSH_TIMEOUT);
        drop(control);
        match reason {
            Reason::AuthLost => Err(Error::AuthLost(self.config.auth)),
            Reason::Broken => Err(Error::Broken),
            _ => Ok(()),
        }
    }

    fn start_reactors(&mut self, quotas: &Arc<Quotas>) -> Result<Vec<ReactorThread>, Error> {
        let prepared = (0..reactors())
            .map(|_| Reactor::prepare())
            .collect::<io::Result<Vec<_>>>()
            .map_err(Error::io("epoll"))?;
        let mailboxes: Vec<_> = prepared.iter().map(|(_, mailbox)| Arc::clone(mailbox)).collect();
        let mut threads = Vec::new();
        for (number, (poll, mailbox)) in prepared.into_iter().enumerate() {
            let context = Context {
                groups: Arc::clone(&self.groups),
                directory: Arc::new(self.auth.clone()),
                mailbox: Arc::clone(&mailbox),
                acceptor: Arc::clone(&mailboxes[0]),
                login_timeout: self.config.login_timeout,
                limits: FrameLimits { max_value: self.config.max_value },
                time_slice: TIME_SLICE,
                metrics: self.counts.of_reactor(number),
            };
            let mut reactor = Reactor::new(poll, context);
            if let (0, Some(main), Some(callback)) =
                (number, self.main.take(), self.callback.take())
            {
                let are_activated = self.main.is_activated() && self.callback.is_activated();
                let listeners = Listeners { main, callback, are_activated };
                reactor
                    .admit(listeners, Arc::clone(quotas), mailboxes.clone())
                    .map_err(Error::io("epoll for the sockets"))?;
            }
            let shutdown = self.shutdown.clone();
            let thread = thread::Builder::new()
                .name(format!("reactor-{number}"))
                .spawn(move || shut_down_on_failure(&shutdown, || reactor.run()))
                .map_err(Error::io("a thread for the applications"))?;
            threads.push((mailbox, thread));
        }
        Ok(threads)
    }

    fn start_metrics(&mut self, quotas: Arc<Quotas>) -> Result<Option<HttpThread>, Error> {
        let Some(listener) = self.metrics.take() else { return Ok(None) };
        let about = ServerInfo {
            socket: self.config.socket.clone(),
            auth: self.config.auth.clone(),
            max_value: self.config.max_value,
        };
        listener
            .serve(about, self.counts.clone(), Arc::clone(&self.groups), quotas)
            .map(Some)
            .map_err(Error::io("a thread for metrics"))
    }

    fn quotas(&self) -> Quotas {
        let own = if self.config.metrics.is_some() { DESCRIPTORS } else { 0 };
        let descriptors = startup::descriptor_limit().saturating_sub(own);
        let quotas = Quotas::new(self.config.limits, descriptors);
        let (wanted, most) = (self.config.limits.connections, quotas.connections());
        if most < wanted {
            tracing::info!(
                "each user may have {most} connections instead of {wanted}: the limit of open \
                 files is {descriptors}, and one user gets at most three quarters of it"
            );
        }
        quotas
    }
}

/// The number of threads that serve applications.
fn reactors() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, MAX_REACTORS)
}

/// Deletes all groups at the authentication server, until it stops answering or the timeout
/// expires. It removes the remaining groups when a local server starts again on the same socket.
fn delete_groups(groups: &Groups, directory: &dyn Directory) {
    let deadline = Instant::now() + DELETE_TIMEOUT;
    let mut is_lost = false;
    for group in groups.all() {
        if is_lost || Instant::now() > deadline {
            tracing::warn!(
                group = ?group.name(),
                "group remains registered; its deletion was not attempted"
            );
        } else if let Err(error) = directory::wait(|done| directory.delete(group.name(), done)) {
            tracing::warn!(group = ?group.name(), "group remains registered: {error}");
            is_lost = !matches!(error, Unavailable::TooLossy(_));
        }
    }
}

type ReactorThread = (Arc<Mailbox>, JoinHandle<io::Result<()>>);

fn join(thread: JoinHandle<io::Result<()>>) {
    let name = thread.thread().name().unwrap_or("thread").to_string();
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("thread {name} failed: {error}"),
        Err(_) => tracing::error!("thread {name} panicked"),
    }
}

/// Identifies this server across restarts, and distinguishes it from all other servers, also from
/// those of other machines that share its address.
fn identity(socket: &Path) -> io::Result<Vec<u8>> {
    let mut identity = std::path::absolute(socket)?.into_os_string().into_encoded_bytes();
    for machine in ["/etc/machine-id", "/proc/sys/kernel/hostname"] {
        identity.push(0);
        // Without such a file the path alone is the identity.
        identity.extend(std::fs::read(machine).unwrap_or_default());
    }
    Ok(identity)
}
