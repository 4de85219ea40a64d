//! A program to be started: arguments, environment, console, and what it inherits.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

use crate::output::LineHandler;
use crate::process::Process;
use crate::sockets::Sockets;
use crate::terminal::{Console, open_terminal};

/// A program to be started.
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    console: Console,
    dir: Option<PathBuf>,
    limits: Vec<String>,
    activation_sockets: Vec<OwnedFd>,
    line_handler: Option<LineHandler>,
}

/// The first descriptor of socket activation (sd_listen_fds(3)).
const FIRST_ACTIVATION_FD: i32 = 3;

impl Program {
    /// The program at `path`, or of this name in `PATH`. Its environment is the test's without any
    /// `KVS_…`, and without the library path that cargo sets for tests: it must find the library
    /// itself. `TERM` is `dumb`, so a terminal only shows lines.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            console: Console::default(),
            dir: None,
            limits: Vec::new(),
            activation_sockets: Vec::new(),
            line_handler: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes both socket paths of this server in its environment.
    pub fn served_by(self, server: &impl Sockets) -> Self {
        self.env("KVS_SOCKET", server.socket()).env("KVS_CALLBACK_SOCKET", server.callback_socket())
    }

    /// Selects its standard input and output; pipes by default.
    pub fn console(mut self, console: Console) -> Self {
        self.console = console;
        self
    }

    /// Sets its working directory.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Limits the number of its open descriptors.
    pub fn descriptors(mut self, max: u32) -> Self {
        self.limits.push(format!("ulimit -n {max}"));
        self
    }

    /// Sets its umask, in octal.
    pub fn umask(mut self, mask: &str) -> Self {
        self.limits.push(format!("umask {mask}"));
        self
    }

    /// Passes these descriptors as systemd does on socket activation (sd_listen_fds(3)).
    pub fn socket_activation(mut self, descriptors: Vec<OwnedFd>) -> Self {
        let count = descriptors.len();
        let names = vec!["socket"; count].join(":");
        // `exec` replaces the shell by the program, so there is one process.
        self.limits.push(format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}"));
        self.activation_sockets = descriptors;
        self
    }

    /// Passes each line of its standard output to `handler`, and `None` at the end, instead of
    /// storing the lines: for programs with much output.
    pub fn line_handler(mut self, handler: impl FnMut(Option<&str>) + Send + 'static) -> Self {
        self.line_handler = Some(Box::new(handler));
        self
    }

    /// Starts the program.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(self) -> Process {
        let name =
            self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        let mut command = Command::new(&self.path);
        if !self.limits.is_empty() {
            // `exec` replaces the shell by the program, so there is one process.
            let script = format!("{} && exec \"$0\" \"$@\"", self.limits.join(" && "));
            command = Command::new("sh");
            command.arg("-c").arg(script).arg(&self.path);
        }
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("KVS_") {
                command.env_remove(variable);
            }
        }
        command.env_remove("LD_LIBRARY_PATH").env("TERM", "dumb");
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let numbered = self.activation_sockets.into_iter().zip(FIRST_ACTIVATION_FD..);
        let mappings = numbered.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).expect("each has a number of its own");
        command.stderr(Stdio::piped());
        let mut master = None;
        match self.console {
            Console::Pipes => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
            }
            Console::NoInput => {
                command.stdin(Stdio::null()).stdout(Stdio::piped());
            }
            Console::Terminal { echo } => {
                let (ends, screen) = open_terminal(echo).expect("a pseudo-terminal can be opened");
                command.stdin(ends.stdin).stdout(ends.stdout);
                master = Some(screen.master);
            }
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.path.display()));
        // The command holds the program's end of the terminal: with it the terminal never hangs up.
        drop(command);

        let (input, output) = match master {
            Some(master) => {
                let output = master.try_clone().expect("a descriptor can be duplicated");
                (Some(master), output)
            }
            None => {
                let output = child.stdout.take().expect("standard output is a pipe");
                (
                    child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe))),
                    File::from(OwnedFd::from(output)),
                )
            }
        };
        Process::new(name, self.console, child, input, output, self.line_handler)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("path", &self.path).field("args", &self.args).finish()
    }
}
