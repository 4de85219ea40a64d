//! The interactive application of `c-examples`.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvs_proto::Protocol;

use crate::compile::compile_c;
use crate::process::Process;
use crate::program::Program;
use crate::sockets::Sockets;
use crate::terminal::Console;

/// A running `c-examples/app.c`.
#[derive(Debug)]
pub struct InteractiveApp {
    process: Process,
}

impl InteractiveApp {
    /// Starts one for this server, which [`establish`](Self::establish) connects.
    pub fn start(server: &impl Sockets) -> Self {
        Self::start_on(server, Console::Pipes)
    }

    /// Starts one for this server with this standard input and output.
    pub fn start_on(server: &impl Sockets, console: Console) -> Self {
        Self::start_with(Protocol::V2, server, console)
    }

    /// Starts one for this server in this protocol, with this standard input and output.
    pub fn start_with(protocol: Protocol, server: &impl Sockets, console: Console) -> Self {
        let program = Program::new(Self::program()).served_by(server).protocol(protocol);
        Self { process: program.console(console).spawn() }
    }

    /// Starts one for this server and logs it in.
    ///
    /// # Panics
    /// If the login fails.
    pub fn connected(server: &impl Sockets, group: &str, secret: &str) -> Self {
        let app = Self::start(server);
        app.establish(group, secret);
        app
    }

    /// The program, compiled once for all tests of a file.
    pub fn program() -> &'static Path {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        PROGRAM.get_or_init(|| compile_c("c-examples/app.c"))
    }

    /// Types a command and the responses to its prompts; returns the first line of the output.
    pub fn ask(&self, command: &str, arguments: &[(&str, &str)]) -> String {
        self.send(command);
        for (prompt, argument) in arguments {
            self.expect_line(prompt);
            self.send(argument);
        }
        self.expect_line_where(&format!("an answer to {command}"), |line| {
            !line.starts_with("The key ")
        })
    }

    /// Logs in with `establish_connection`.
    ///
    /// # Panics
    /// If the login fails.
    pub fn establish(&self, group: &str, secret: &str) {
        self.send("establish_connection");
        self.expect_line("Insert group id:");
        self.send(group);
        self.expect_line("Insert secret:");
        self.send(secret);
        self.expect_line_where("`App PID: …`", |line| line == format!("App PID: {}", self.pid()));
    }

    /// Calls `put_value`; returns whether it succeeded.
    pub fn put(&self, key: &str, value: &str) -> bool {
        self.succeeded("put_value", &[("Insert key:", key), ("Insert value:", value)])
    }

    /// Calls `register_callback`; returns whether it succeeded.
    pub fn register(&self, key: &str) -> bool {
        self.succeeded("register_callback", &[("Insert key:", key)])
    }

    fn succeeded(&self, command: &str, arguments: &[(&str, &str)]) -> bool {
        let answer = self.ask(command, arguments);
        if answer == format!("Successful '{command}'") {
            return true;
        }
        assert!(answer.starts_with("App: "), "answer to {command}: {answer:?}");
        self.expect_line(&format!("Error in '{command}'"));
        false
    }
}

impl Deref for InteractiveApp {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The two paths to which the library binds the sockets of process `pid` while it connects.
pub fn application_paths(pid: i32) -> [PathBuf; 2] {
    [format!("/tmp/app_socket_{pid}").into(), format!("/tmp/app_socket_cb_{pid}").into()]
}
