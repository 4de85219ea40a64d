//! A running local server, and the commands of its console.

use std::ffi::OsStr;
use std::fmt::Display;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::auth_server::AuthServer;
use crate::paths::bin;
use crate::process::Process;
use crate::program::Program;
use crate::raw_v1::RawV1App;
use crate::sockets::{Sockets, private_dir};
use crate::terminal::Console;
use crate::wait::DEADLINE;

/// A running `KVS-LocalServer` on socket paths of its own.
#[derive(Debug)]
pub struct LocalServer {
    process: Process,
    socket: PathBuf,
    callback_socket: PathBuf,
    echo: bool,
    port: u16,
    /// The directory of the sockets, unless the test chose their path.
    _dir: Option<TempDir>,
}

/// Options of a [`LocalServer`].
#[derive(Debug)]
pub struct LocalServerBuilder {
    program: Program,
    auth: String,
    socket: Option<PathBuf>,
    callback_socket: Option<PathBuf>,
    echo: bool,
}

/// The output of `Show group info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// `Name:`
    pub name: String,
    /// `Secret:`
    pub secret: String,
    /// `Number of key-value pairs:`
    pub pairs: usize,
}

/// The output of `Show application status` for one application. The times are as printed.
#[derive(Debug, Clone, PartialEq)]
pub struct AppStatus {
    /// The preceding line that ends with a colon.
    pub group: String,
    /// `App N`
    pub number: usize,
    /// `PID:`
    pub pid: i32,
    /// `Connected` or `Closed`.
    pub status: String,
    /// `Connection time:`
    pub connected_at: String,
    /// `Close Connection time:`
    pub closed_at: String,
    /// `Connected time interval:`
    pub interval: f64,
    /// The keys after `Keys in WatchList for callback function:`.
    pub watched: Vec<String>,
}

impl LocalServer {
    /// Starts a server that belongs to `auth` and waits until it serves.
    pub fn start(auth: &AuthServer) -> Self {
        Self::builder(auth.addr()).start()
    }

    /// A server to be configured, for the authentication server at this address: on paths of its
    /// own, with its console on pipes.
    pub fn builder(auth: impl Display) -> LocalServerBuilder {
        LocalServerBuilder {
            program: Program::new(bin("KVS-LocalServer")),
            auth: auth.to_string(),
            socket: None,
            callback_socket: None,
            echo: false,
        }
    }

    /// The port number that it printed on startup.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Types a command and the group id that it asks for; returns the first line of the response.
    /// Skips lines about the authentication server, which may appear at any time.
    pub fn ask(&self, command: &str, group: &str) -> String {
        self.send(command);
        self.expect_line("Insert group id:");
        self.send(group);
        self.expect_line_where(&format!("an answer to {command} {group:?}"), |line| {
            let echoed = self.echo && line == group;
            !echoed && !line.starts_with("Authentication server ")
        })
    }

    /// Creates a group; returns its secret.
    ///
    /// # Panics
    /// If the group is not created.
    pub fn create_group(&self, group: &str) -> String {
        let answer = self.ask("Create group", group);
        match answer
            .strip_prefix("Group created with secret ")
            .and_then(|rest| rest.strip_suffix('!'))
        {
            Some(secret) => secret.to_owned(),
            None => panic!("Create group {group:?}: {answer}\n{}", self.report()),
        }
    }

    /// Deletes a group.
    ///
    /// # Panics
    /// If the group is not deleted.
    pub fn delete_group(&self, group: &str) {
        let answer = self.ask("Delete group", group);
        assert_eq!(answer, "Group deleted!", "Delete group {group:?}\n{}", self.report());
    }

    /// Runs `Show group info`.
    ///
    /// # Errors
    /// The response, if it is not the information.
    pub fn group_info(&self, group: &str) -> Result<GroupInfo, String> {
        let answer = self.ask("Show group info", group);
        let Some(name) = answer.strip_prefix("Name: ") else { return Err(answer) };
        let secret = self.field("Secret");
        let pairs = self.field("Number of key-value pairs");
        Ok(GroupInfo {
            name: name.to_owned(),
            secret,
            pairs: pairs.parse().unwrap_or_else(|_| panic!("{pairs:?} is no number of pairs")),
        })
    }

    fn field(&self, name: &str) -> String {
        let line = self.next_line();
        match line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")) {
            Some(value) => value.to_owned(),
            None => panic!("`{name}: …` awaited, {line:?} seen\n{}", self.report()),
        }
    }

    /// All lines of the response to a command: those before the response to an unknown command that
    /// follows it. Skips lines about the authentication server, which may appear at any time.
    pub fn lines_of(&self, command: &str) -> Vec<String> {
        self.send(command);
        self.send("end of the answer");
        let mut lines = Vec::new();
        loop {
            let line = self.next_line();
            if line == "Unknown Command" {
                return lines;
            }
            let echoed = self.echo && (line == command || line == "end of the answer");
            if !echoed && !line.starts_with("Authentication server ") {
                lines.push(line);
            }
        }
    }

    /// Runs `Show application status`.
    ///
    /// # Panics
    /// If the output is malformed.
    pub fn status(&self) -> Vec<AppStatus> {
        let lines = self.lines_of("Show application status");
        parse_status(&lines)
            .unwrap_or_else(|| panic!("the status is not as it should be\n{}", self.report()))
    }

    /// Polls the status until it is as `wanted`; returns it.
    ///
    /// # Panics
    /// If the condition does not hold within `limit`.
    pub fn status_within(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&[AppStatus]) -> bool,
    ) -> Vec<AppStatus> {
        let end = Instant::now() + limit;
        loop {
            // Each command waits for its response, so this loop is not faster than the server.
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{what}: not within {limit:?}; the status is {status:#?}"
            );
        }
    }

    /// Polls the status until it is as `wanted`; returns it.
    ///
    /// # Panics
    /// If the condition does not hold within [`DEADLINE`].
    pub fn status_where(
        &self,
        what: &str,
        wanted: impl Fn(&[AppStatus]) -> bool,
    ) -> Vec<AppStatus> {
        self.status_within(DEADLINE, what, wanted)
    }

    /// Logs in a v1 application without the library, from unnamed sockets.
    ///
    /// # Panics
    /// If the login fails.
    pub fn raw_app(&self, group: &str, secret: &str) -> RawV1App {
        RawV1App::login(self, group, secret)
    }

    /// Types `Quit` and waits for the exit of the process.
    ///
    /// # Panics
    /// If the server does not exit with success.
    pub fn quit(&self) {
        self.send("Quit");
        self.expect_line("Exiting Local Server...");
        let status = self.wait_exit();
        assert!(status.success(), "Quit: {status}\n{}", self.report());
    }
}

impl Sockets for LocalServer {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn callback_socket(&self) -> &Path {
        &self.callback_socket
    }
}

/// Parses `Show application status`; `None` if it is malformed.
fn parse_status(lines: &[String]) -> Option<Vec<AppStatus>> {
    let mut apps: Vec<AppStatus> = Vec::new();
    let mut group = None;
    let mut at = 0;
    while at < lines.len() {
        let line = &lines[at];
        if let Some(number) = line.strip_prefix("App ") {
            let field = |n: usize, name: &str| {
                lines.get(at + n)?.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned)
            };
            apps.push(AppStatus {
                group: group.clone()?,
                number: number.parse().ok()?,
                pid: field(1, "PID")?.parse().ok()?,
                status: field(2, "Status")?,
                connected_at: field(3, "Connection time")?,
                closed_at: field(4, "Close Connection time")?,
                interval: field(5, "Connected time interval")?.parse().ok()?,
                watched: Vec::new(),
            });
            if lines.get(at + 6)? != "Keys in WatchList for callback function:" {
                return None;
            }
            at += 7;
        } else if let Some(name) = line.strip_suffix(':') {
            group = Some(name.to_owned());
            at += 1;
        } else {
            apps.last_mut()?.watched.push(line.clone());
            at += 1;
        }
    }
    Some(apps)
}

impl LocalServerBuilder {
    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.program = self.program.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.program = self.program.args(args);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.program = self.program.env(name, value);
        self
    }

    /// Limits the number of its open descriptors.
    pub fn descriptors(mut self, max: u32) -> Self {
        self.program = self.program.descriptors(max);
        self
    }

    /// Sets its umask, in octal.
    pub fn umask(mut self, mask: &str) -> Self {
        self.program = self.program.umask(mask);
        self
    }

    /// Starts it through `starter`, a program whose last arguments are a program and its arguments.
    pub fn started_by(mut self, starter: Program) -> Self {
        self.program = starter.arg(bin("KVS-LocalServer"));
        self
    }

    /// Passes these descriptors as systemd does on socket activation.
    pub fn socket_activation(mut self, descriptors: Vec<OwnedFd>) -> Self {
        self.program = self.program.socket_activation(descriptors);
        self
    }

    /// Selects its standard input and output.
    pub fn console(mut self, console: Console) -> Self {
        self.echo = console == Console::Terminal { echo: true };
        self.program = self.program.console(console);
        self
    }

    /// Sets the path of the main socket, instead of one in a new directory.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Sets the path of the callback socket. By default the server appends `_cb` to the main path.
    pub fn callback_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.callback_socket = Some(path.into());
        self
    }

    /// Starts it without waiting, for servers that are expected to fail.
    pub fn spawn(self) -> LocalServer {
        let (socket, dir) = match self.socket {
            Some(socket) => (socket, None),
            None => {
                let dir = private_dir();
                (dir.path().join("sock"), Some(dir))
            }
        };
        let mut program = self.program.args(["--auth", &self.auth]).arg("--socket").arg(&socket);
        let callback_socket = match self.callback_socket {
            Some(path) => {
                program = program.arg("--callback-socket").arg(&path);
                path
            }
            None => {
                let mut path = socket.clone().into_os_string();
                path.push("_cb");
                path.into()
            }
        };
        let process = program.spawn();
        LocalServer { process, socket, callback_socket, echo: self.echo, port: 0, _dir: dir }
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// If it does not serve.
    pub fn start(self) -> LocalServer {
        let mut server = self.spawn();
        let line =
            server.expect_line_where("`Port Number: N`", |line| line.starts_with("Port Number: "));
        server.port = line["Port Number: ".len()..]
            .parse()
            .unwrap_or_else(|_| panic!("a port number in {line:?}"));
        server
    }
}

impl Deref for LocalServer {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}
