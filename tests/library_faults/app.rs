//! The application on which all faults fall, and what is counted in it.

use std::time::Duration;

use kvs_testkit::{Channel, DEADLINE, Driver, Program, Protocol, ScriptedServer, Sockets};

use crate::v2::close_by_application;
use crate::{v1, v2};

/// One application. Everything goes through the C functions.
pub(crate) struct AppUnderTest {
    pub(crate) driver: Driver,
    /// What it has before its first connection.
    baseline: Resources,
}

/// What a connection may leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Resources {
    descriptors: i32,
    threads: i32,
    paths: i32,
}

impl Resources {
    fn of(driver: &Driver) -> Self {
        Self {
            // One that ends is not awaited by anybody, so it may be a moment late.
            threads: driver.call("await_threads 1"),
            descriptors: driver.call("descriptors"),
            paths: driver.call("paths"),
        }
    }
}

impl AppUnderTest {
    pub(crate) fn start(server: &impl Sockets, protocol: Protocol) -> Self {
        Self::spawn(Driver::program().served_by(server).protocol(protocol))
    }

    pub(crate) fn spawn(program: Program) -> Self {
        // An allocator without caches counts to the byte.
        let tunables = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
        let driver = Driver::spawn(program.env("GLIBC_TUNABLES", tunables));
        let baseline = Resources::of(&driver);
        assert_eq!((baseline.threads, baseline.paths), (1, 0));
        Self { driver, baseline }
    }

    /// It is not connected: all calls say so.
    pub(crate) fn expect_unconnected(&self, row: &str) {
        for call in ["put_value k v", "get_value k", "delete_value k", "register_callback k"] {
            assert_eq!(self.driver.call(call), -2, "{row}: {call} afterwards");
        }
        assert_eq!(self.driver.call("close_connection"), -2, "{row}: close_connection afterwards");
    }

    /// Nothing is left of any connection.
    pub(crate) fn expect_nothing_left(&self, row: &str) {
        assert_eq!(Resources::of(&self.driver), self.baseline, "{row}: left behind");
    }

    /// Bytes that are allocated.
    pub(crate) fn memory(&self) -> i32 {
        self.driver.call("memory")
    }

    /// Does something again and again, until it has once not made the memory grow: the first times
    /// may allocate what stays for the life of the process, such as another thread's stack for the
    /// C library to keep. What leaks does so every time.
    pub(crate) fn expect_no_growth(&self, row: &str, mut round: impl FnMut()) {
        const ROUNDS: usize = 6;
        round();
        let mut growth = Vec::new();
        for _ in 1..ROUNDS {
            let before = self.memory();
            round();
            growth.push(self.memory() - before);
            if growth.last() <= Some(&0) {
                return;
            }
        }
        panic!("{row}: bytes of memory left behind each time: {growth:?}");
    }
}

/// An application and the server that is played for it.
pub(crate) struct ScriptedEnv {
    pub(crate) server: ScriptedServer,
    pub(crate) app: AppUnderTest,
    protocol: Protocol,
}

impl ScriptedEnv {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let server = ScriptedServer::start();
        let app = AppUnderTest::start(&server, protocol);
        Self { server, app, protocol }
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.app.driver
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        self.driver().call(&format!("timeout {}", timeout.as_millis()));
    }

    pub(crate) fn log_in(&self, timeout: Duration) -> (Channel, Channel) {
        self.log_in_with(timeout, "establish_connection g abcde")
    }

    /// By this call.
    pub(crate) fn log_in_with(&self, timeout: Duration, login: &str) -> (Channel, Channel) {
        self.set_timeout(timeout);
        self.driver().begin(login);
        let channels = self.server.login_with(self.protocol, "g", "abcde");
        assert_eq!(self.driver().returned(login), 0);
        channels
    }

    /// By the six functions, or with a handle.
    pub(crate) fn log_in_by(&self, timeout: Duration, has_handle: bool) -> (Channel, Channel) {
        let login = if has_handle { "kvs_open g abcde" } else { "establish_connection g abcde" };
        self.log_in_with(timeout, login)
    }

    /// The connection is closed, nothing of it is left, and the next one works.
    pub(crate) fn expect_closed(&self, row: &str, has_handle: bool) {
        if has_handle {
            v2::expect_unconnected_handle(self.driver(), row);
        }
        self.app.expect_unconnected(row);
        self.app.expect_nothing_left(row);
        let channels = self.log_in_by(DEADLINE, has_handle);
        self.expect_alive_and_close(row, channels, has_handle);
    }

    /// The next call works, and nothing is left after the goodbye.
    pub(crate) fn expect_alive_and_close(
        &self,
        row: &str,
        (mut main, mut callback): (Channel, Channel),
        has_handle: bool,
    ) {
        match self.protocol {
            Protocol::V1 => v1::expect_get(self.driver(), row, &mut main),
            Protocol::V2 => v2::expect_get(self.driver(), row, &mut main, has_handle),
        }
        let (close, code) = if has_handle { ("kvs_close", 0) } else { ("close_connection", 1) };
        assert_eq!(self.driver().call(close), code, "{row}: {close}");
        main.expect(&close_by_application(self.protocol));
        main.expect_end();
        callback.expect_end();
        self.app.expect_nothing_left(row);
    }
}
