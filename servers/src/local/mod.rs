//! The local server: serves the applications of one machine.
//!
//! [`Server::bind`] takes the paths and finds the authentication server, [`Server::run`] serves until a
//! [`Shutdown`] is requested. Who does what:
//!
//! - `reactor`: the threads that serve; each owns its sessions (`session`, with a `socket` for each
//!   connection). `mailbox`: how others speak to them.
//! - `groups`: pairs, applications, watches; who watches what in `watches` (prefixes by their `fingerprint`); the pairs
//!   themselves in `table`, which has its memory from `slab`, finds them by `index` and charges them to `accounts`.
//!   `watcher`: the changes that one application has still to be told. `leftovers`: what takes long to clear away
//!   when one has gone.
//! - `pairing`: brings the two connections of an application together. `listener`: the paths; `activated`: sockets that
//!   whoever started the server has bound.
//! - `options`: what the program is told. `quota`: what each user may have. `guesses`: how fast secrets can be guessed.
//! - `auth_link`: the thread that asks the authentication server; `asking`: in whose name.
//! - `administration`: what an administrator can have done; `commands` and `status` say it in the words of the
//!   console, `control` in those of the control socket. `metrics`: what is counted, and the pages that show it.
//! - `fuzzing` (only with `--cfg fuzzing`): all of this without threads, for the fuzzer.

mod admin;
#[cfg(fuzzing)]
pub mod fuzzing;
mod group;
mod index;
mod limits;
mod link;
mod metrics;
mod net;
mod options;
mod session;
mod slab;
mod stable_hash;
mod table;

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use admin::console::COMMANDS;
pub use kvs_proto::v2::{DEFAULT_MAX_VALUE, MAX_VALUE};
pub use limits::quota::Limits;
pub use link::ConnectError;
pub use metrics::BindError as MetricsError;
pub use net::listener::{ListenError, Mode};
pub use net::socket_activation::{ActivatedSockets, ActivationError};
pub use options::Options;

use crate::console::{Input, Output};
use crate::directory::{self, Directory, Unavailable};
use crate::shutdown::{Reason, Shutdown, end_with};
use crate::startup;
use crate::supervisor::Supervisor;
use admin::administration::Administration;
use admin::console::Commands;
use admin::control::Control;
use group::registry::Groups;
use kvs_proto::v2::request as wire;
use limits::quota::Quotas;
use link::{AuthLink, Worker};
use net::context::Context;
use net::dispatcher::Listeners;
use net::listener::Listener;
use net::mailbox::{Mailbox, Message};
use net::reactor::Reactor;

/// The most threads that serve applications; fewer on a machine with fewer processors: the applications are on it, too,
/// and half of the processors are for them.
const MOST_REACTORS: usize = 4;

/// How long the authentication server may take to delete the groups of a server that quits.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);

/// How long the last lines may take to be printed.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// What a local server is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The authentication server, `HOST:PORT`.
    pub auth: String,
    /// The path of the main socket.
    pub socket: PathBuf,
    /// The path of the callback socket.
    pub callback_socket: PathBuf,
    /// The path of the control socket, if there is to be one.
    pub control_socket: Option<PathBuf>,
    /// The permissions of the first two paths; without them the umask decides.
    pub socket_mode: Option<Mode>,
    /// What each user may have.
    pub limits: Limits,
    /// The longest value in bytes, [`MAX_VALUE`] at most. (In an original session, 99.)
    pub max_value: usize,
    /// How long a login may take.
    pub login_timeout: Duration,
    /// End when the authentication server is lost.
    pub exit_on_auth_loss: bool,
    /// Where metrics are served, a loopback address; without it nothing is counted.
    pub metrics: Option<SocketAddr>,
}

impl Config {
    /// Whether these options go together.
    ///
    /// # Errors
    /// [`Error`] says which do not.
    pub fn check(&self) -> Result<(), Error> {
        let paths = self.paths();
        for (at, (option, path)) in paths.iter().enumerate() {
            if let Some((other, _)) = paths[..at].iter().find(|(_, other)| other == path) {
                return Err(Error::SamePath { options: [other, option], path: path.to_path_buf() });
            }
        }
        Ok(())
    }

    /// Where it listens, and by which option.
    fn paths(&self) -> Vec<(&'static str, &Path)> {
        let mut paths = vec![
            ("--socket", self.socket.as_path()),
            ("--callback-socket", self.callback_socket.as_path()),
        ];
        paths.extend(self.control_socket.as_deref().map(|path| ("--control-socket", path)));
        paths
    }
}

/// Why a local server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two sockets, one path.
    #[error("{} and {} must differ, and both are {}", options[0], options[1], path.display())]
    SamePath {
        /// The options that set them.
        options: [&'static str; 2],
        /// The path.
        path: PathBuf,
    },
    /// The address for metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// One of its paths.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What was handed over to it.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The authentication server.
    #[error(transparent)]
    Auth(#[from] ConnectError),
    /// The system.
    #[error("{what} cannot be had: {source}")]
    Io {
        /// What the server needs.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A bug, or a system that refuses everything; the log says more.
    #[error("a thread of the server has failed: ended in good order, with all data lost")]
    Broken,
    /// It ended as it was told to (`--exit-on-auth-loss`), with all data lost.
    #[error("the authentication server {0} does not answer: ended, as --exit-on-auth-loss says")]
    AuthLost(String),
}

impl Error {
    /// For `map_err`.
    pub fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// A local server that has its paths and its authentication server.
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
    auth_worker: Worker,
    port: u16,
    counts: metrics::All,
    metrics: Option<metrics::Listener>,
}

impl Server {
    /// Takes the paths, with the sockets that were handed over for them, then finds the authentication server. After an
    /// error nothing is left behind.
    ///
    /// # Errors
    /// [`Error`] says what cannot be had, and why.
    pub fn bind(
        config: Config,
        mut activated: ActivatedSockets,
        supervisor: &Supervisor,
        shutdown: &Shutdown,
        output: &Output,
    ) -> Result<Self, Error> {
        config.check()?;
        let metrics = config.metrics.map(metrics::Listener::bind).transpose()?;
        let counts = metrics.as_ref().map(|_| metrics::All::new(reactors()));
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
        let options = link::Options {
            server: config.auth.clone(),
            identity: identity(&config.socket).map_err(Error::io("the current directory"))?,
            exit_on_loss: config.exit_on_auth_loss,
            counts: counts.of_auth(),
        };
        let (auth, auth_worker, port) =
            Worker::connect(options, Arc::clone(&groups), supervisor, shutdown, output)?;
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

    /// Serves, with the administrator's commands from `input`, until the shutdown is requested. Then all
    /// applications are closed, the groups deleted, and the paths removed.
    ///
    /// # Errors
    /// When the system does not let it begin, or [`Error::AuthLost`].
    pub fn run(mut self, input: Input<impl BufRead + Send + 'static>) -> Result<(), Error> {
        let quotas = Arc::new(self.quotas());
        let reactors = self.start_reactors(&quotas)?;
        let metrics = self.start_metrics(quotas)?;
        let worker = self.auth_worker;
        let shutdown = self.shutdown.clone();
        let auth_thread = thread::Builder::new()
            .name("auth-link".into())
            .spawn(move || end_with(&shutdown, || worker.run()))
            .map_err(Error::io("a thread for the authentication server"))?;
        self.output.say(format_args!("Port Number: {}", self.port));
        let administration = Arc::new(Administration::new(
            Arc::clone(&self.groups),
            Arc::new(self.auth.clone()),
            self.shutdown.clone(),
        ));
        let mut control = self
            .control
            .map(|listener| Control::start(listener, Arc::clone(&administration)))
            .transpose()
            .map_err(Error::io("a thread for the control socket"))?;
        let commands = Commands { administration, output: self.output.clone() };
        // It may wait for a line for ever, so nobody waits for it.
        thread::Builder::new()
            .name("console-input".into())
            .spawn(move || commands.run(input))
            .map_err(Error::io("a thread for the console"))?;
        self.supervisor.ready();

        let reason = self.shutdown.wait();
        tracing::info!("quitting: {reason}");
        self.supervisor.stopping(reason);
        // Its connections end when all is done: so whoever has said quit over it knows.
        if let Some(control) = &mut control {
            control.accept_no_more();
        }
        for (mailbox, _) in &reactors {
            mailbox.send(Message::CloseAll);
        }
        for group in self.groups.all() {
            admin::administration::close_applications(&group);
        }
        if matches!(reason, Reason::AuthLost | Reason::Broken) {
            self.auth.stop();
        } else {
            delete_groups(&self.groups, &self.auth);
            self.auth.goodbye();
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
        self.output.flush(FLUSH_PATIENCE);
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
                limits: wire::FrameLimits { max_value: self.config.max_value },
                time_slice: session::TIME_SLICE,
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
                .spawn(move || end_with(&shutdown, || reactor.run()))
                .map_err(Error::io("a thread for the applications"))?;
            threads.push((mailbox, thread));
        }
        Ok(threads)
    }

    fn start_metrics(&mut self, quotas: Arc<Quotas>) -> Result<Option<metrics::Serving>, Error> {
        let Some(listener) = self.metrics.take() else { return Ok(None) };
        let about = metrics::About {
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
        let own = if self.config.metrics.is_some() { metrics::DESCRIPTORS } else { 0 };
        let descriptors = startup::descriptor_limit().saturating_sub(own);
        let quotas = Quotas::new(self.config.limits, descriptors);
        let (wanted, most) = (self.config.limits.connections, quotas.connections());
        if most < wanted {
            tracing::info!(
                "each user may have {most} connections instead of {wanted}: the limit of open files \
                 is {descriptors}, and one user gets three quarters of it at most"
            );
        }
        quotas
    }
}

/// How many threads serve applications.
fn reactors() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, MOST_REACTORS)
}

/// Has all groups deleted at the authentication server, as long as it answers and there is time. What
/// remains is forgotten there when a local server starts again in the same place.
fn delete_groups(groups: &Groups, directory: &dyn Directory) {
    let deadline = Instant::now() + DELETE_PATIENCE;
    let mut gone = false;
    for group in groups.all() {
        if gone || Instant::now() > deadline {
            tracing::warn!(group = ?group.name(), "remains registered");
        } else if let Err(error) = directory::wait(|done| directory.delete(group.name(), done)) {
            tracing::warn!(group = ?group.name(), "remains registered: {error}");
            gone = !matches!(error, Unavailable::TooLossy(_));
        }
    }
}

type ReactorThread = (Arc<Mailbox>, JoinHandle<io::Result<()>>);

fn join(thread: JoinHandle<io::Result<()>>) {
    let name = thread.thread().name().unwrap_or("thread").to_string();
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("{name} ended: {error}"),
        Err(_) => tracing::error!("{name} ended by a panic"),
    }
}

/// What stays the same when this server is started again, and is another for every other server: also for those
/// of other machines, which may share one address.
fn identity(socket: &Path) -> io::Result<Vec<u8>> {
    let mut identity = std::path::absolute(socket)?.into_os_string().into_encoded_bytes();
    for of_the_machine in ["/etc/machine-id", "/proc/sys/kernel/hostname"] {
        identity.push(0);
        // Without it, the path has to do.
        identity.extend(std::fs::read(of_the_machine).unwrap_or_default());
    }
    Ok(identity)
}
