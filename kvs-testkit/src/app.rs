//! C programs that are linked with the library: the interactive one of `c-examples`, and one that makes
//! single calls for a test.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::{Console, DEADLINE, LocalServer, Process, Program, Session, Sockets, compile_c};

/// The two paths to which the library binds the sockets of process `pid` while it connects.
pub fn application_paths(pid: i32) -> [PathBuf; 2] {
    [format!("/tmp/app_socket_{pid}").into(), format!("/tmp/app_socket_cb_{pid}").into()]
}

/// The interactive application, `c-examples/app.c`, compiled by the test and running.
#[derive(Debug)]
pub struct App {
    process: Process,
}

impl App {
    /// Starts one for this server. It connects when [`establish`](Self::establish) says so.
    pub fn start(server: &LocalServer) -> Self {
        Self::start_on(server, Console::Pipes)
    }

    /// Starts one for this server, with this in front of it.
    pub fn start_on(server: &LocalServer, console: Console) -> Self {
        Self::start_speaking(Session::Framed, server, console)
    }

    /// The same, in this kind of session.
    pub fn start_speaking(session: Session, server: &LocalServer, console: Console) -> Self {
        let program = Program::new(Self::program()).served_by(server).speaking(session);
        Self { process: program.console(console).spawn() }
    }

    /// Starts one and connects it.
    ///
    /// # Panics
    /// When it cannot connect.
    pub fn connected(server: &LocalServer, group: &str, secret: &str) -> Self {
        let app = Self::start(server);
        app.establish(group, secret);
        app
    }

    /// The compiled program. It is compiled once for all tests of a file.
    pub fn program() -> &'static Path {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        PROGRAM.get_or_init(|| compile_c("c-examples/app.c"))
    }

    /// Types a command and answers its prompts, up to the answer's first line.
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

    /// `establish_connection`, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn establish(&self, group: &str, secret: &str) {
        self.send("establish_connection");
        self.expect_line("Insert group id:");
        self.send(group);
        self.expect_line("Insert secret:");
        self.send(secret);
        self.expect_line_where("`App PID: …`", |line| line == format!("App PID: {}", self.pid()));
    }

    /// `put_value`; whether it succeeded.
    pub fn put(&self, key: &str, value: &str) -> bool {
        self.succeeded("put_value", &[("Insert key:", key), ("Insert value:", value)])
    }

    /// `register_callback`; whether it succeeded.
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

impl Deref for App {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

/// An application in C that makes the calls which the test asks for, one by one (`tests/c/driver.c`).
#[derive(Debug)]
pub struct Driver {
    process: Process,
}

impl Driver {
    /// Starts one for this server, not connected.
    pub fn start(server: &impl Sockets) -> Self {
        Self::spawn(Self::program().served_by(server))
    }

    /// The program, still to be told where the server is. It is compiled once for all tests of a file.
    pub fn program() -> Program {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        Program::new(PROGRAM.get_or_init(|| compile_c("tests/c/driver.c")))
    }

    /// Starts one as `program` says, which comes from [`program`](Self::program).
    pub fn spawn(program: Program) -> Self {
        Self { process: program.spawn() }
    }

    /// Starts one and connects it.
    ///
    /// # Panics
    /// When it cannot connect.
    pub fn connected(server: &LocalServer, group: &str, secret: &str) -> Self {
        let driver = Self::start(server);
        assert_eq!(driver.establish(group, secret), 0, "establish_connection");
        driver
    }

    /// Makes a call, written as the function and its arguments with single spaces (arguments that are
    /// left out are NULL); what it returned.
    ///
    /// # Panics
    /// When it does not return.
    pub fn call(&self, call: &str) -> i32 {
        self.call_within(DEADLINE, call).0
    }

    /// Like [`call`](Self::call), and the text that came with it: what it wrote to `*value` (`-`: NULL).
    /// Returns within `limit`.
    ///
    /// # Panics
    /// When it does not return in time.
    pub fn call_within(&self, limit: Duration, call: &str) -> (i32, String) {
        self.begin(call);
        self.returned_within(limit, call)
    }

    /// Begins a call that needs something from the test before it can return.
    pub fn begin(&self, call: &str) {
        self.send(call);
    }

    /// What the call returned that was [begun](Self::begin).
    ///
    /// # Panics
    /// When it does not return.
    pub fn returned(&self, call: &str) -> i32 {
        self.returned_within(DEADLINE, call).0
    }

    fn returned_within(&self, limit: Duration, call: &str) -> (i32, String) {
        let (function, _) = call.split_once(' ').unwrap_or((call, ""));
        let answer = self.expect_line_within(limit, &format!("the return of {call}"), |line| {
            line.split(' ').next() == Some(function)
        });
        let mut words = answer.splitn(3, ' ').skip(1);
        let code = words.next().and_then(|code| code.parse().ok());
        let code = code.unwrap_or_else(|| panic!("{call} returned {answer:?}"));
        (code, words.next().unwrap_or_default().to_owned())
    }

    /// `establish_connection`; its code.
    pub fn establish(&self, group: &str, secret: &str) -> i32 {
        self.call(&format!("establish_connection {group} {secret}"))
    }

    /// `put_value`; its code.
    pub fn put(&self, key: &str, value: &str) -> i32 {
        self.call(&format!("put_value {key} {value}"))
    }

    /// Stores a value, so that every application finds it from now on. (`put_value` returns when the
    /// value has been sent; the answer to a later call shows that it has been stored.)
    ///
    /// # Panics
    /// When it cannot.
    pub fn store(&self, key: &str, value: &str) {
        assert_eq!(self.put(key, value), 1, "put_value {key} {value}\n{}", self.report());
        assert_eq!(self.get(key).as_deref(), Ok(value), "get_value {key}\n{}", self.report());
    }

    /// `get_value`; the value, or its code.
    ///
    /// # Errors
    /// The code, when it is negative.
    pub fn get(&self, key: &str) -> Result<String, i32> {
        let (code, value) = self.call_within(DEADLINE, &format!("get_value {key}"));
        if code == 1 { Ok(value) } else { Err(code) }
    }

    /// What the library says about a code.
    pub fn strerror(&self, code: i32) -> String {
        self.call_within(DEADLINE, &format!("kvs_strerror {code}")).1
    }

    /// Waits until its callback has been called for `key` once more.
    ///
    /// # Panics
    /// When it is not called.
    pub fn expect_change(&self, key: &str) {
        let line = format!("changed {key}");
        self.expect_log(&format!("`{line}`"), |seen| seen == line);
    }
}

impl Deref for Driver {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}
