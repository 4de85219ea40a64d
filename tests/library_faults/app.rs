//! The application under test, and the resources that are counted in it.

use std::time::Duration;

use kvs_testkit::{Channel, DEADLINE, Driver, Program, Protocol, ScriptedServer, Sockets};

use crate::v2::close_by_application;
use crate::{v1, v2};

/// A C application, which makes all calls by the C functions.
pub(crate) struct AppUnderTest {
    pub(crate) driver: Driver,
    /// The application's resources before its first connection.
    baseline: Resources,
}

/// Resources that a connection could leak.
#[derive(Debug, PartialEq, Eq)]
struct Resources {
    descriptors: i32,
    threads: i32,
    paths: i32,
}

impl Resources {
    fn of(driver: &Driver) -> Self {
        Self {
            // No thread joins an ending thread, so its end may take a moment.
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
        // Without caches the allocator's count is exact to the byte.
        let tunables = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
        let driver = Driver::spawn(program.env("GLIBC_TUNABLES", tunables));
        let baseline = Resources::of(&driver);
        assert_eq!((baseline.threads, baseline.paths), (1, 0));
        Self { driver, baseline }
    }

    /// Asserts that all calls report that there is no connection.
    pub(crate) fn expect_unconnected(&self, row: &str) {
        for call in ["put_value k v", "get_value k", "delete_value k", "register_callback k"] {
            assert_eq!(self.driver.call(call), -2, "{row}: {call} afterwards");
        }
        assert_eq!(self.driver.call("close_connection"), -2, "{row}: close_connection afterwards");
    }

    /// Asserts that the application has leaked nothing.
    pub(crate) fn expect_nothing_left(&self, row: &str) {
        assert_eq!(Resources::of(&self.driver), self.baseline, "{row}: left behind");
    }

    /// The number of allocated bytes.
    pub(crate) fn memory(&self) -> i32 {
        self.driver.call("memory")
    }

    /// Repeats `round` until the memory does not grow. The first rounds may allocate memory that
    /// stays for the life of the process, such as a thread's stack that the C library caches. A
    /// leak grows in every round.
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

/// An application and its scripted server.
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

    /// Logs in by this call.
    pub(crate) fn log_in_with(&self, timeout: Duration, login: &str) -> (Channel, Channel) {
        self.set_timeout(timeout);
        self.driver().begin(login);
        let channels = self.server.login_with(self.protocol, "g", "abcde");
        assert_eq!(self.driver().returned(login), 0);
        channels
    }

    /// Logs in by the six functions, or with a handle.
    pub(crate) fn log_in_by(&self, timeout: Duration, has_handle: bool) -> (Channel, Channel) {
        let login = if has_handle { "kvs_open g abcde" } else { "establish_connection g abcde" };
        self.log_in_with(timeout, login)
    }

    /// Asserts that the connection is closed without a leak, and that the next one works.
    pub(crate) fn expect_closed(&self, row: &str, has_handle: bool) {
        if has_handle {
            v2::expect_unconnected_handle(self.driver(), row);
        }
        self.app.expect_unconnected(row);
        self.app.expect_nothing_left(row);
        let channels = self.log_in_by(DEADLINE, has_handle);
        self.expect_alive_and_close(row, channels, has_handle);
    }

    /// Asserts that the next call works, and that closing the connection leaks nothing.
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
