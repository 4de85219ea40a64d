//! The servers: started for a scenario, on sockets in the temporary directory of the run, and ended
//! with it.
//!
//! A server is ready when it prints its line on standard output or error, or when its socket
//! accepts a connection. Each has a process group of its own, so that Ctrl-C reaches only this
//! program, which then ends them by their process IDs, in the `Drop` of [`Process`].

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::error::{Error, IoContext, Result, failed};
use crate::options::Options;
use crate::system::kvs::Address;

/// The timeout for everything that a server does outside of a measurement.
pub(crate) const SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of lines of standard error that an error message repeats.
const MAX_ERROR_LINES: usize = 5;

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<String>,
    errors: Receiver<String>,
    last_errors: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .io_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        let last_errors = Arc::new(Mutex::new(VecDeque::new()));
        let (to_output, output) = channel();
        let (to_errors, errors) = channel();
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, to_output, None);
        }
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, to_errors, Some(Arc::clone(&last_errors)));
        }
        Ok(Self { name: name.to_owned(), child, stdin, output, errors, last_errors })
    }

    /// Its process ID.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its standard error, for an error message.
    fn recent_errors(&self) -> String {
        let lines = self.last_errors.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("\n    {line}")).collect()
    }

    /// Waits for a line of standard output that `wanted` accepts.
    fn line<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.line_of(&self.output, what, wanted)
    }

    fn line_of<T>(
        &self,
        lines: &Receiver<String>,
        what: &str,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + SERVER_TIMEOUT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                }
                Err(_) => {
                    return failed(format!(
                        "{} did not print {what} within {} s{}",
                        self.name,
                        SERVER_TIMEOUT.as_secs(),
                        self.recent_errors()
                    ));
                }
            }
        }
    }

    /// Waits until its socket accepts a connection.
    fn wait_until_listening(&mut self, socket: &Path) -> Result<()> {
        let end = Instant::now() + SERVER_TIMEOUT;
        loop {
            let error = match UnixStream::connect(socket) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return failed(format!("{} ended: {status}{}", self.name, self.recent_errors()));
            }
            if Instant::now() > end {
                return failed(format!("{} does not listen: {error}", self.name));
            }
            // No event reports that a path appears, so it is polled.
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn write_lines(&mut self, lines: &str) -> Result<()> {
        let Some(stdin) = &mut self.stdin else { return failed("no standard input") };
        stdin.write_all(lines.as_bytes()).io_context(|| format!("writing to {}", self.name))
    }

    /// Its resident memory in bytes: `VmRSS`.
    pub(crate) fn resident(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).io_context(|| format!("reading {path}"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = kib.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| Error::Failed(format!("{path} has no VmRSS: has {} ended?", self.name)))
    }

    /// The processor time that it has used, user and system, all threads.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).io_context(|| format!("reading {path}"))?;
        let ticks = || {
            // The second field is the name in parentheses, which may contain spaces; the first
            // after it is number 3, and proc_pid_stat(5) has the times in 14 and 15.
            let (_, rest) = stat.rsplit_once(')')?;
            let mut fields = rest.split_whitespace().skip(11);
            let (user, system) = (fields.next()?, fields.next()?);
            Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
        };
        let ticks =
            ticks().ok_or_else(|| Error::Failed(format!("{path} has an unknown format")))?;
        Ok(Duration::from_secs(ticks) / (rustix::param::clock_ticks_per_second() as u32).max(1))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return };
        // The process is not reaped yet, so the ID is still its own.
        let _ = kill_process(pid, Signal::TERM);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            // std has no wait for a child with a timeout, so it is polled.
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines until the end, on a thread of its own, so that the writer never blocks.
fn collect(
    source: impl Read + Send + 'static,
    lines: Sender<String>,
    last: Option<Arc<Mutex<VecDeque<String>>>>,
) {
    thread::spawn(move || {
        for line in BufReader::new(source).lines() {
            let Ok(line) = line else { return };
            if let Some(last) = &last {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.len() == MAX_ERROR_LINES {
                    last.pop_front();
                }
                last.push_back(line.clone());
            }
            // Without a receiver, the line is still read and dropped.
            let _ = lines.send(line);
        }
    });
}

/// Both servers of kvs.
#[derive(Debug)]
pub(crate) struct KvsServers {
    /// The local server. It is dropped, and so ended, first.
    pub(crate) local: Process,
    _auth: Process,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl KvsServers {
    /// Starts both.
    pub(crate) fn start(options: &Options, dir: &Path) -> Result<Self> {
        let auth = Process::start(
            "KVS-AuthServer",
            Command::new(kvs_program(options, "KVS-AuthServer")?).args(["--listen", "127.0.0.1:0"]),
        )?;
        let address = auth.line_of(&auth.errors, "`listening on …`", |line| {
            line.split_once("listening on ").map(|(_, address)| address.trim().to_owned())
        })?;
        let socket = dir.join("kvs");
        let local = Process::start(
            "KVS-LocalServer",
            Command::new(kvs_program(options, "KVS-LocalServer")?)
                .args(["--auth", &address, "--socket"])
                .arg(&socket),
        )?;
        local.line("`Port Number: …`", |line| line.strip_prefix("Port Number: ").map(drop))?;
        Ok(Self { local, _auth: auth, socket })
    }

    /// Creates a group.
    pub(crate) fn create_group(&mut self, name: &str) -> Result<Address> {
        self.local.write_lines(&format!("Create group\n{name}\n"))?;
        let secret = self.local.line("`Group created with secret …!`", |line| {
            let secret = line.strip_prefix("Group created with secret ")?.strip_suffix('!')?;
            Some(secret.to_owned())
        })?;
        Ok(Address { socket: self.socket.clone(), group: name.to_owned(), secret })
    }
}

/// The path of a program of kvs.
pub(crate) fn kvs_program(options: &Options, name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let places = match &options.servers {
        Some(dir) => vec![dir.clone()],
        None => beside.into_iter().chain([PathBuf::from("target/release")]).collect(),
    };
    let found = places.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    match found.or_else(|| options.servers.is_none().then(|| on_path(Path::new(name))).flatten()) {
        Some(program) => Ok(program),
        None => Err(Error::Unavailable(format!(
            "{name} was not found: build it (make build) and name its directory (--servers DIR)"
        ))),
    }
}

/// The path of a program that is named with its path, or found on PATH.
pub(crate) fn on_path(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A server of one program with one socket.
#[derive(Debug)]
pub(crate) struct Server {
    /// The program.
    pub(crate) process: Process,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl Server {
    /// Starts Redis, which writes nothing to the disk.
    pub(crate) fn redis(options: &Options, dir: &Path) -> Result<Self> {
        let socket = dir.join("redis");
        let mut command = Command::new(&options.redis_server);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--dir").arg(dir).arg("--unixsocket").arg(&socket);
        let mut process = Process::start("redis-server", &mut command)?;
        process.wait_until_listening(&socket)?;
        Ok(Self { process, socket })
    }

    /// Starts memcached.
    pub(crate) fn memcached(options: &Options, dir: &Path) -> Result<Self> {
        let socket = dir.join("memcached");
        let mut command = Command::new(&options.memcached);
        command.args(["-m", "2048", "-c", "4096", "-s"]).arg(&socket);
        if rustix::process::geteuid().is_root() {
            // memcached runs as root only with this option.
            command.args(["-u", "root"]);
        }
        let mut process = Process::start("memcached", &mut command)?;
        process.wait_until_listening(&socket)?;
        Ok(Self { process, socket })
    }
}

/// As many descriptors as the system lets this program and its servers have.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).io_context(|| "raising the limit of open files".into())
}
