//! A C application that makes single calls of the library for a test (`tests/c/driver.c`).

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::compile::compile_c;
use crate::process::Process;
use crate::program::Program;
use crate::sockets::Sockets;
use crate::wait::DEADLINE;

/// A C application that makes the calls that the test names, one at a time.
#[derive(Debug)]
pub struct Driver {
    process: Process,
}

impl Driver {
    /// Starts one for this server, without a connection.
    pub fn start(server: &impl Sockets) -> Self {
        Self::spawn(Self::program().served_by(server))
    }

    /// The program, without the paths of a server. Compiled once for all tests of a file.
    pub fn program() -> Program {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        Program::new(PROGRAM.get_or_init(|| compile_c("tests/c/driver.c")))
    }

    /// Starts `program`, which comes from [`program`](Self::program).
    pub fn spawn(program: Program) -> Self {
        Self { process: program.spawn() }
    }

    /// Starts one for this server and logs it in.
    ///
    /// # Panics
    /// If the login fails.
    pub fn connected(server: &impl Sockets, group: &str, secret: &str) -> Self {
        let driver = Self::start(server);
        assert_eq!(driver.establish(group, secret), 0, "establish_connection");
        driver
    }

    /// Makes a call, written as the function and its arguments with single spaces (omitted
    /// arguments are NULL); returns its code.
    ///
    /// # Panics
    /// If it does not return.
    pub fn call(&self, call: &str) -> i32 {
        self.call_within(DEADLINE, call).0
    }

    /// Makes a call that must return within `limit`; returns its code and what it wrote to `*value`
    /// (`-`: NULL).
    ///
    /// # Panics
    /// If it does not return in time.
    pub fn call_within(&self, limit: Duration, call: &str) -> (i32, String) {
        self.begin(call);
        self.returned_within(limit, call)
    }

    /// Begins a call that cannot return before the test has done something.
    pub fn begin(&self, call: &str) {
        self.send(call);
    }

    /// The code of the call that was [begun](Self::begin).
    ///
    /// # Panics
    /// If it does not return.
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

    /// Calls `establish_connection`; returns its code.
    pub fn establish(&self, group: &str, secret: &str) -> i32 {
        self.call(&format!("establish_connection {group} {secret}"))
    }

    /// Calls `put_value`; returns its code.
    pub fn put(&self, key: &str, value: &str) -> i32 {
        self.call(&format!("put_value {key} {value}"))
    }

    /// Stores a value and reads it back. (`put_value` returns when the value has been sent; the
    /// response to a later call shows that it has been stored.)
    ///
    /// # Panics
    /// If either call fails.
    pub fn store(&self, key: &str, value: &str) {
        assert_eq!(self.put(key, value), 1, "put_value {key} {value}\n{}", self.report());
        assert_eq!(self.get(key).as_deref(), Ok(value), "get_value {key}\n{}", self.report());
    }

    /// Calls `get_value`.
    ///
    /// # Errors
    /// The code, if it is negative.
    pub fn get(&self, key: &str) -> Result<String, i32> {
        let (code, value) = self.call_within(DEADLINE, &format!("get_value {key}"));
        if code == 1 { Ok(value) } else { Err(code) }
    }

    /// The library's message for a code.
    pub fn strerror(&self, code: i32) -> String {
        self.call_within(DEADLINE, &format!("kvs_strerror {code}")).1
    }

    /// Waits until its callback has been called for `key` once more.
    ///
    /// # Panics
    /// If the callback is not called.
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
