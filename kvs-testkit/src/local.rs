//! The local server, and its administrator.

use std::fmt::Display;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{AuthServer, Console, DEADLINE, Process, Program, RawApp, Sockets, bin, private_dir};

/// A running `KVS-LocalServer` on socket paths of its own.
#[derive(Debug)]
pub struct LocalServer {
    process: Process,
    socket: PathBuf,
    callback_socket: PathBuf,
    echo: bool,
    port: u16,
    /// The directory of the sockets, unless the test chose one.
    _dir: Option<TempDir>,
}

/// How a [`LocalServer`] is started.
#[derive(Debug)]
pub struct LocalServerBuilder {
    program: Program,
    auth: String,
    socket: Option<PathBuf>,
    callback_socket: Option<PathBuf>,
    echo: bool,
}

/// What `Show group info` says about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// `Name:`
    pub name: String,
    /// `Secret:`
    pub secret: String,
    /// `Number of key-value pairs:`
    pub pairs: usize,
}

/// What `Show application status` says about one application. The times are as printed.
#[derive(Debug, Clone, PartialEq)]
pub struct AppStatus {
    /// The line before it that ends with a colon.
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
    /// Starts one that belongs to `auth` and waits until it serves.
    pub fn start(auth: &AuthServer) -> Self {
        Self::builder(auth.addr()).start()
    }

    /// One that is still to be started, for the authentication server at this address: on paths of its
    /// own, its console over pipes.
    pub fn builder(auth: impl Display) -> LocalServerBuilder {
        LocalServerBuilder {
            program: Program::new(bin("KVS-LocalServer")),
            auth: auth.to_string(),
            socket: None,
            callback_socket: None,
            echo: false,
        }
    }

    /// The port number that it printed at its start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A command to which a group id belongs, up to and including the answer's first line.
    ///
    /// Lines about the authentication server, which may come at any time, are passed over.
    pub fn ask(&self, command: &str, group: &str) -> String {
        self.send(command);
        self.expect_line("Insert group id:");
        self.send(group);
        self.expect_line_where(&format!("an answer to {command} {group:?}"), |line| {
            let echoed = self.echo && line == group;
            !echoed && !line.starts_with("Authentication server ")
        })
    }

    /// Creates a group; its secret.
    ///
    /// # Panics
    /// When it is not created.
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
    /// When it is not deleted.
    pub fn delete_group(&self, group: &str) {
        let answer = self.ask("Delete group", group);
        assert_eq!(answer, "Group deleted!", "Delete group {group:?}\n{}", self.report());
    }

    /// What `Show group info` says.
    ///
    /// # Errors
    /// The answer, when it is not the information.
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

    /// The lines that answer a command, however many: up to the answer of an unknown one after it.
    /// Lines about the authentication server, which may come at any time, are passed over.
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

    /// What `Show application status` says.
    ///
    /// # Panics
    /// When it is not as it should be.
    pub fn status(&self) -> Vec<AppStatus> {
        let lines = self.lines_of("Show application status");
        parse_status(&lines)
            .unwrap_or_else(|| panic!("the status is not as it should be\n{}", self.report()))
    }

    /// Asks for the status until it is as `wanted`; what it was then.
    ///
    /// # Panics
    /// When it does not come to that within `limit`.
    pub fn status_within(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&[AppStatus]) -> bool,
    ) -> Vec<AppStatus> {
        let end = Instant::now() + limit;
        loop {
            // Every question waits for its answer, so this does not run faster than the server.
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

    /// Asks for the status until it is as `wanted`; what it was then.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn status_where(
        &self,
        what: &str,
        wanted: impl Fn(&[AppStatus]) -> bool,
    ) -> Vec<AppStatus> {
        self.status_within(DEADLINE, what, wanted)
    }

    /// An application without the library, logged in.
    ///
    /// # Panics
    /// When the server refuses it.
    pub fn raw_app(&self, group: &str, secret: &str) -> RawApp {
        RawApp::login(&self.socket, &self.callback_socket, group, secret)
    }

    /// `Quit` on the console, up to the end of the process.
    ///
    /// # Panics
    /// When it does not end well.
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

/// `None` when a line is not where it belongs.
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
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
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

    /// The most descriptors that it may have open.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.program = self.program.descriptors(most);
        self
    }

    /// The permissions, in octal, that files which it makes are not to have.
    pub fn umask(mut self, mask: &str) -> Self {
        self.program = self.program.umask(mask);
        self
    }

    /// Has `starter` start it: a program whose last arguments are another program and its arguments.
    pub fn started_by(mut self, starter: Program) -> Self {
        self.program = starter.arg(bin("KVS-LocalServer"));
        self
    }

    /// Hands these descriptors over to it, as systemd does with sockets.
    pub fn hand_over(mut self, descriptors: Vec<OwnedFd>) -> Self {
        self.program = self.program.hand_over(descriptors);
        self
    }

    /// What stands at its standard input and output.
    pub fn console(mut self, console: Console) -> Self {
        self.echo = console == Console::Terminal { echo: true };
        self.program = self.program.console(console);
        self
    }

    /// The path of the main socket, instead of one in a new directory.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The path of the callback socket. Without it the server chooses: the main path and `_cb`.
    pub fn callback_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.callback_socket = Some(path.into());
        self
    }

    /// Starts it without waiting for anything: for servers that shall not come to serve.
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
    /// When it does not come to serve.
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
