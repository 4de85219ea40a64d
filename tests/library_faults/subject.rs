//! The application on which all faults fall, and what is counted in it.

use kvs_tests::{Driver, Program, Session, Sockets};

/// One application. Everything goes through the C functions.
pub(crate) struct Subject {
    pub(crate) driver: Driver,
    /// What it has before its first connection.
    nothing: Leftovers,
}

/// What a connection may leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Leftovers {
    descriptors: i32,
    threads: i32,
    paths: i32,
}

impl Leftovers {
    fn of(driver: &Driver) -> Self {
        Self {
            // One that ends is not awaited by anybody, so it may be a moment late.
            threads: driver.call("await_threads 1"),
            descriptors: driver.call("descriptors"),
            paths: driver.call("paths"),
        }
    }
}

impl Subject {
    pub(crate) fn start(server: &impl Sockets, session: Session) -> Self {
        Self::spawn(Driver::program().served_by(server).speaking(session))
    }

    pub(crate) fn spawn(program: Program) -> Self {
        // An allocator without caches counts to the byte.
        let tunables = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
        let driver = Driver::spawn(program.env("GLIBC_TUNABLES", tunables));
        let nothing = Leftovers::of(&driver);
        assert_eq!((nothing.threads, nothing.paths), (1, 0));
        Self { driver, nothing }
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
        assert_eq!(Leftovers::of(&self.driver), self.nothing, "{row}: left behind");
    }

    /// Bytes that are allocated.
    pub(crate) fn memory(&self) -> i32 {
        self.driver.call("memory")
    }

    /// Does something again and again, until it has once not made the memory grow: the first times may
    /// allocate what stays for the life of the process, such as another thread's stack for the C library to
    /// keep. What leaks does so every time.
    pub(crate) fn without_growth(&self, row: &str, mut round: impl FnMut()) {
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
