//! A kernel that refuses system calls.
//!
//! `tests/c/shim.c`, preloaded, makes one system call of the library fail. Each [`Row`] of the
//! table names the call of the application, the system call, the error, and the codes: the first
//! one for the failure of the first such system call in the application's call, and so on. The row
//! is repeated with one failure after the other until a failure is no longer reached, so every
//! place is covered.
//!
//! The servers are real and not affected. Each protocol has a table of its own.

use std::sync::OnceLock;

use kvs_testkit::{
    Driver, Program, Protocol, ScriptedServer, TestEnv, compile_preload, on_both_protocols,
};
use nix::libc::{
    EACCES, EADDRINUSE, EAGAIN, ECONNREFUSED, ECONNRESET, EINTR, EINVAL, EIO, EMFILE, ENFILE,
    ENOBUFS, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, EPIPE, EROFS,
};

use crate::AppUnderTest;
use crate::v2::{close_by_application, close_by_server};

/// A timeout in milliseconds that no row reaches, even on a loaded machine.
const TIMEOUT_MS: &str = "60000";

/// The shim's code for a transfer of one byte.
const SHORT: i32 = -1;

/// Both servers, a group, and a second application.
struct FaultEnv {
    env: TestEnv,
    other: Driver,
}

impl FaultEnv {
    fn start(protocol: Protocol) -> Self {
        let env = TestEnv::with_protocol(protocol);
        let program = Driver::program().served_by(&env.server);
        let other = Driver::spawn(program.env("KVS_TIMEOUT_MS", TIMEOUT_MS));
        assert_eq!(other.establish("g", env.secret()), 0);
        Self { env, other }
    }

    fn program(&self) -> Program {
        static SHIM: OnceLock<std::path::PathBuf> = OnceLock::new();
        let shim = SHIM.get_or_init(|| compile_preload("tests/c/shim.c"));
        let program = self.env.driver_program();
        program.env("KVS_TIMEOUT_MS", TIMEOUT_MS).env("LD_PRELOAD", shim)
    }

    fn app(&self) -> AppUnderTest {
        AppUnderTest::spawn(self.program())
    }

    fn open(&self) -> String {
        OPEN.replace("SECRET", self.env.secret())
    }

    fn establish(&self) -> String {
        format!("establish_connection g {}", self.env.secret())
    }
}

/// Which thread of the application makes the system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Caller = 0,
    LibraryThread = 1,
}

fn fail(driver: &Driver, function: &str, nth: usize, times: i32, error: i32, by: By) {
    driver.call(&format!("fail {function} {nth} {times} {error} {}", by as i32));
}

fn fail_nothing(driver: &Driver) {
    fail(driver, "nothing", 1, 0, 0, By::Caller);
}

/// The state of the application before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Unconnected,
    Connected,
    /// A connection without a timeout on its socket.
    NoSocketTimeout,
    /// A connection with a handle.
    Opened,
}
use Given::{Connected, NoSocketTimeout, Opened, Unconnected};

struct Row {
    given: Given,
    call: &'static str,
    function: &'static str,
    errors: &'static [i32],
    /// The codes for the failure of the first, the second, … of these system calls.
    codes: &'static [i32],
}

const fn row(
    given: Given,
    call: &'static str,
    function: &'static str,
    errors: &'static [i32],
    codes: &'static [i32],
) -> Row {
    Row { given, call, function, errors, codes }
}

const LOGIN: &str = "establish_connection g SECRET";
const OPEN: &str = "kvs_open g SECRET";
const WRONG_LOGIN: &str = "establish_connection g wrong";
const PUT: &str = "put_value k v";
const PUT_NOTHING: &str = "put_value k \"\"";
const GET: &str = "get_value k";
const DELETE: &str = "delete_value k";
const REGISTER: &str = "register_callback k";
const CLOSE: &str = "close_connection";

/// Errors after which a connection cannot be used.
const BROKEN: &[i32] = &[ECONNRESET, EPIPE, ENOMEM, EIO];

/// The login, which is the same in both protocols up to the offer.
#[rustfmt::skip]
const OPENING: &[Row] = &[
    row(Unconnected, LOGIN, "socket", &[EMFILE, ENFILE, ENOMEM, EACCES], &[-2, -2]),
    row(Unconnected, LOGIN, "bind", &[EACCES, ENOSPC, EROFS, ENOENT], &[-11, -11]),
    row(Unconnected, LOGIN, "bind", &[EADDRINUSE], &[0, 0]),
    row(Unconnected, LOGIN, "statx", &[EACCES, ENOMEM], &[0, 0, 0, 0]),
    // The last `setsockopt` sets the timeout of `recv`; if it fails, the library waits by `poll`.
    row(Unconnected, LOGIN, "setsockopt", &[ENOMEM, EINVAL], &[-12, -12, 0]),
    row(Unconnected, LOGIN, "connect", &[EACCES, EAGAIN, ENOMEM, EPERM], &[-12, -12]),
    row(Unconnected, LOGIN, "connect", &[ECONNREFUSED, ENOENT], &[-12, 0]),
    row(Unconnected, LOGIN, "connect", &[EINTR], &[0, 0]),
    row(Unconnected, LOGIN, "unlink", &[EPERM, EROFS], &[0, 0]),
    row(Unconnected, LOGIN, "send", BROKEN, &[-6, -6]),
    row(Unconnected, LOGIN, "send", &[EINTR, EAGAIN], &[0, 0]),
    row(Unconnected, LOGIN, "pthread_attr_init", &[ENOMEM], &[-15]),
    row(Unconnected, LOGIN, "pthread_create", &[EAGAIN, EPERM], &[-15]),
    row(Unconnected, WRONG_LOGIN, "close", &[EIO, EINTR], &[-9, -9]),
    row(Unconnected, WRONG_LOGIN, "shutdown", &[EIO], &[-9, -9]),
];

#[rustfmt::skip]
const V1_ROWS: &[Row] = &[
    row(Unconnected, LOGIN, "poll", &[ENOMEM, EINVAL], &[-13, -8, -13, -13, -8]),
    row(Unconnected, LOGIN, "poll", &[EINTR], &[0, 0, 0, 0, 0]),
    row(Unconnected, LOGIN, "recv", BROKEN, &[-13, -8, -13, -8]),
    row(Unconnected, LOGIN, "recv", &[EINTR, EAGAIN, SHORT], &[0, 0, 0, 0]),
    row(Connected, PUT, "send", BROKEN, &[-3, -6, -6]),
    row(Connected, PUT, "send", &[EINTR, EAGAIN], &[1, 1, 1]),
    row(Connected, PUT, "poll", &[ENOMEM], &[]),
    row(Connected, PUT, "recv", BROKEN, &[-4, -8]),
    row(Connected, PUT, "recv", &[EINTR, EAGAIN], &[1, 1]),
    row(Connected, PUT_NOTHING, "send", &[EPIPE], &[-3, -6, -3, -6]),
    row(Connected, PUT_NOTHING, "ioctl", &[EINVAL, EIO], &[-3]),
    row(Connected, PUT_NOTHING, "recv", &[ECONNRESET], &[-4, -8, -4, -4]),
    row(Connected, GET, "send", &[EPIPE, ENOBUFS], &[-3, -6]),
    row(Connected, GET, "send", &[EINTR, EAGAIN, SHORT], &[1, 1]),
    row(Connected, GET, "poll", &[ENOMEM], &[]),
    row(Connected, GET, "recv", BROKEN, &[-4, -4]),
    row(Connected, GET, "recv", &[EINTR, EAGAIN, SHORT], &[1, 1]),
    row(Connected, DELETE, "send", BROKEN, &[-3, -6]),
    row(Connected, DELETE, "recv", BROKEN, &[-4, -8]),
    row(Connected, REGISTER, "send", BROKEN, &[-3, -6]),
    row(Connected, REGISTER, "recv", BROKEN, &[-4, -8]),
    row(Connected, CLOSE, "send", &[EPIPE, ENOMEM], &[-3]),
    row(Connected, CLOSE, "send", &[EINTR, EAGAIN], &[1]),
    row(Connected, CLOSE, "shutdown", &[EIO], &[1, 1, 1]),
    row(Connected, CLOSE, "close", &[EIO, EINTR, ENOSPC], &[-1, -1]),
    // Rows without a timeout on the socket.
    row(NoSocketTimeout, PUT, "poll", &[ENOMEM, EINVAL], &[-4, -8]),
    row(NoSocketTimeout, PUT, "poll", &[EINTR], &[1, 1]),
    row(NoSocketTimeout, GET, "poll", &[ENOMEM], &[-4, -4]),
    row(NoSocketTimeout, DELETE, "poll", &[ENOMEM], &[-4, -8]),
    row(NoSocketTimeout, REGISTER, "poll", &[ENOMEM], &[-4, -8]),
];

/// Each v2 call is one round trip.
#[rustfmt::skip]
const V2_ROWS: &[Row] = &[
    row(Unconnected, LOGIN, "poll", &[ENOMEM, EINVAL], &[-13, -8, -13, -13, -8, -8]),
    row(Unconnected, LOGIN, "poll", &[EINTR], &[0, 0, 0, 0, 0, 0]),
    row(Unconnected, LOGIN, "recv", BROKEN, &[-13, -8, -13, -8, -8]),
    row(Unconnected, LOGIN, "recv", &[EINTR, EAGAIN, SHORT], &[0, 0, 0, 0, 0]),
    row(Unconnected, OPEN, "recv", &[ECONNRESET], &[-13, -8, -13, -8, -8]),
    row(Connected, PUT, "send", BROKEN, &[-3]),
    row(Connected, PUT, "send", &[EINTR, EAGAIN], &[1]),
    row(Connected, PUT, "ioctl", &[EIO], &[]),
    row(Connected, PUT, "poll", &[ENOMEM], &[]),
    row(Connected, PUT, "recv", BROKEN, &[-8]),
    row(Connected, PUT, "recv", &[EINTR, EAGAIN], &[1]),
    row(Connected, PUT_NOTHING, "send", &[EPIPE], &[-3]),
    row(Connected, PUT_NOTHING, "recv", &[ECONNRESET], &[-8]),
    row(Connected, GET, "send", &[EPIPE, ENOBUFS], &[-3]),
    row(Connected, GET, "send", &[EINTR, EAGAIN], &[1]),
    row(Connected, GET, "poll", &[ENOMEM], &[]),
    row(Connected, GET, "recv", BROKEN, &[-4]),
    row(Connected, GET, "recv", &[EINTR, EAGAIN], &[1]),
    row(Connected, DELETE, "send", BROKEN, &[-3]),
    row(Connected, DELETE, "recv", BROKEN, &[-8]),
    row(Connected, REGISTER, "send", BROKEN, &[-3]),
    row(Connected, REGISTER, "recv", BROKEN, &[-8]),
    row(Connected, CLOSE, "send", &[EPIPE, ENOMEM], &[-3]),
    row(Connected, CLOSE, "send", &[EINTR, EAGAIN, SHORT], &[1]),
    row(Connected, CLOSE, "shutdown", &[EIO], &[1, 1, 1, 1]),
    row(Connected, CLOSE, "close", &[EIO, EINTR, ENOSPC], &[-1, -1]),
    row(NoSocketTimeout, PUT, "poll", &[ENOMEM, EINVAL], &[-8]),
    row(NoSocketTimeout, PUT, "poll", &[EINTR], &[1]),
    row(NoSocketTimeout, GET, "poll", &[ENOMEM], &[-4]),
    // The functions with a handle.
    row(Opened, "kvs_put k v", "send", BROKEN, &[-3]),
    row(Opened, "kvs_put k v", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_put_many k v", "send", BROKEN, &[-3]),
    row(Opened, "kvs_put_many k v", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_get k", "send", BROKEN, &[-3]),
    row(Opened, "kvs_get k", "recv", BROKEN, &[-4]),
    row(Opened, "kvs_delete k", "send", BROKEN, &[-3]),
    row(Opened, "kvs_delete k", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_cas k v", "send", BROKEN, &[-3]),
    row(Opened, "kvs_cas k v", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_cas k v", "recv", &[EINTR, EAGAIN], &[-18]),
    row(Opened, "kvs_keys k", "send", BROKEN, &[-3]),
    row(Opened, "kvs_keys k", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_watch k", "send", BROKEN, &[-3]),
    row(Opened, "kvs_watch k", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_watch_prefix k", "send", BROKEN, &[-3]),
    row(Opened, "kvs_watch_prefix k", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_unwatch k", "send", BROKEN, &[-3]),
    row(Opened, "kvs_unwatch k", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_unwatch_prefix k", "send", BROKEN, &[-3]),
    row(Opened, "kvs_unwatch_prefix k", "recv", BROKEN, &[-8]),
    row(Opened, "kvs_close", "send", &[EPIPE], &[-3]),
    row(Opened, "kvs_close", "shutdown", &[EIO], &[0, 0, 0, 0]),
    row(Opened, "kvs_close", "close", &[EIO], &[-1, -1]),
];

fn rows(protocol: Protocol) -> impl Iterator<Item = &'static Row> {
    OPENING.iter().chain(match protocol {
        Protocol::V1 => V1_ROWS,
        Protocol::V2 => V2_ROWS,
    })
}

impl Row {
    fn name(&self, error: i32, nth: usize) -> String {
        let error = match error {
            SHORT => "one byte only".into(),
            error => std::io::Error::from_raw_os_error(error).to_string(),
        };
        format!("{}: {} no. {nth}: {error}", self.call, self.function)
    }

    fn good_code(&self) -> i32 {
        match self.call {
            LOGIN => 0,
            WRONG_LOGIN => -9,
            // The key has a version already.
            "kvs_cas k v" => -18,
            "kvs_unwatch k" | "kvs_unwatch_prefix k" => -7,
            call if call.starts_with("kvs_") => 0,
            _ => 1,
        }
    }

    /// Whether a path may stay because the kernel refuses to remove it.
    fn may_leave_path(&self) -> bool {
        matches!(self.function, "unlink" | "statx")
    }
}

/// Makes the call while the `nth` of its system calls fails. Returns the code, and whether that
/// system call was reached.
fn try_row(
    fault_env: &FaultEnv,
    app: &AppUnderTest,
    row: &Row,
    error: i32,
    nth: usize,
) -> (i32, bool) {
    let (driver, name) = (&app.driver, row.name(error, nth));
    match row.given {
        Unconnected => {}
        Connected | NoSocketTimeout => {
            if row.given == NoSocketTimeout {
                fail(driver, "setsockopt", 3, 1, ENOMEM, By::Caller);
            }
            assert_eq!(
                driver.call(&fault_env.establish()),
                0,
                "{name}: establish_connection before"
            );
            driver.store("k", "v");
        }
        Opened => {
            assert_eq!(driver.call(&fault_env.open()), 0, "{name}: kvs_open before");
            assert_eq!(driver.call("kvs_put k v"), 0, "{name}: kvs_put before");
        }
    }
    fail(driver, row.function, nth, 1, error, By::Caller);
    let code = driver.call(&row.call.replace("SECRET", fault_env.env.secret()));
    let met = driver.call("failures") == 1;
    fail_nothing(driver);
    let alive = match row.given {
        Unconnected => code == 0,
        Connected | NoSocketTimeout => code == 1 && row.call != CLOSE,
        Opened => [0, -7, -18].contains(&code),
    };
    if row.given == Opened || row.call == OPEN {
        // A handle stays valid until it is closed.
        if row.call != "kvs_close" {
            let put = driver.call("kvs_put another value");
            let close = driver.call("kvs_close");
            let right = match (row.given, alive) {
                (_, true) => (0, 0),
                (Opened, false) => (-2, -2),
                (_, false) => (-15, -15),
            };
            assert_eq!((put, close), right, "{name}: kvs_put and kvs_close afterwards");
        }
    } else if alive {
        driver.store("another", "value");
        assert_eq!(driver.call(CLOSE), 1, "{name}: close_connection");
    }
    app.expect_unconnected(&name);
    if !row.may_leave_path() {
        app.expect_nothing_left(&name);
    }
    assert_eq!(driver.call(&fault_env.establish()), 0, "{name}: the next establish_connection");
    driver.store("another", "value");
    assert_eq!(driver.call(CLOSE), 1, "{name}: the next close_connection");
    app.expect_nothing_left(&name);
    (code, met)
}

/// The codes in the table.
pub(crate) fn codes() -> impl Iterator<Item = i32> {
    let both = rows(Protocol::V1).chain(rows(Protocol::V2));
    both.flat_map(|row| row.codes).copied().filter(|code| *code < 0)
}

on_both_protocols! {
    fn failing_system_call_returns_its_code(protocol: Protocol) {
        let fault_env = FaultEnv::start(protocol);
        let app = fault_env.app();
        let mut failures = 0;
        for row in rows(protocol) {
            for error in row.errors {
                for (nth, code) in (1..).zip(row.codes.iter().map(Some).chain([None])) {
                    let name = row.name(*error, nth);
                    println!("{name}");
                    app.expect_no_growth(&name, || {
                        let (seen, met) = try_row(&fault_env, &app, row, *error, nth);
                        assert_eq!(met, code.is_some(), "{name}: so many system calls");
                        assert_eq!(seen, *code.unwrap_or(&row.good_code()), "{name}");
                        failures += i32::from(met);
                    });
                }
            }
        }
        println!("{failures} failures");
    }
}

on_both_protocols! {
    /// Checks what the library does once in the life of a process.
    fn failed_first_call_can_be_repeated(protocol: Protocol) {
        let fault_env = FaultEnv::start(protocol);
        for function in ["__register_atfork", "pthread_key_create"] {
            let app = fault_env.app();
            fail(&app.driver, function, 1, 1, ENOMEM, By::Caller);
            assert_eq!(app.driver.call(&fault_env.establish()), -15, "{function}");
            assert_eq!(app.driver.call("failures"), 1, "{function}");
            app.expect_unconnected(function);
            app.expect_nothing_left(function);
            for _ in 0..2 {
                assert_eq!(app.driver.call(&fault_env.establish()), 0, "{function}");
                assert_eq!(app.driver.call("calls"), 2, "{function}: only until it has worked");
                assert_eq!(app.driver.call(CLOSE), 1, "{function}");
                app.expect_nothing_left(function);
            }
        }
    }
}

on_both_protocols! {
    fn process_without_descriptors_connects_once_it_has_two(protocol: Protocol) {
        let fault_env = FaultEnv::start(protocol);
        let app = fault_env.app();
        app.expect_no_growth("descriptors", || {
            for (spare, code) in [(0, -2), (1, -2), (2, 0)] {
                app.driver.call(&format!("spare_descriptors {spare}"));
                assert_eq!(app.driver.call(&fault_env.establish()), code, "{spare} descriptors");
                app.driver.call("spare_descriptors -1");
                if code == 0 {
                    app.driver.store("k", "v");
                    assert_eq!(app.driver.call(CLOSE), 1);
                }
                app.expect_nothing_left(&format!("{spare} descriptors"));
            }
        });
    }
}

on_both_protocols! {
    /// The first names that the library tries are occupied; later ones are random.
    fn occupied_socket_names_are_tried_a_bounded_number_of_times(protocol: Protocol) {
        let fault_env = FaultEnv::start(protocol);
        let app = fault_env.app();
        let driver = &app.driver;
        app.expect_no_growth("taken names", || {
            fail(driver, "bind", 1, i32::MAX, EADDRINUSE, By::Caller);
            assert_eq!(driver.call(&fault_env.establish()), -11);
            assert_eq!(driver.call("failures"), 8);
            fail_nothing(driver);
            app.expect_unconnected("taken names");
            app.expect_nothing_left("taken names");
            // The first login consumes the random numbers that are needed once in a process.
            assert_eq!(driver.call(&fault_env.establish()), 0);
            assert_eq!(driver.call(CLOSE), 1);
        });
        let taken: Vec<_> = ["", "_1", "_2", "_3"]
            .iter()
            .map(|suffix| format!("/tmp/app_socket_cb_{}{suffix}", driver.pid()))
            .collect();
        for path in &taken {
            std::fs::write(path, "not a socket").expect("no process has this number");
        }
        let establish = |nth| {
            fail(driver, "getrandom", nth, 1, ENOSYS, By::Caller);
            let code = driver.call(&fault_env.establish());
            assert_eq!(driver.call("calls"), 1, "a name at random is needed");
            fail_nothing(driver);
            code
        };
        let codes = [establish(1), establish(2)];
        let close = driver.call(CLOSE);
        for path in &taken {
            let content = std::fs::read_to_string(path);
            assert_eq!(content.expect("it is still there"), "not a socket");
            std::fs::remove_file(path).expect("it is ours");
        }
        assert_eq!((codes, close), ([-15, 0], 1));
        app.expect_nothing_left("names at random");
    }
}

#[test]
fn unknown_read_state_closes_the_connection() {
    let fault_env = FaultEnv::start(Protocol::V1);
    let app = fault_env.app();
    let driver = &app.driver;
    for call in [PUT, GET, DELETE, REGISTER, CLOSE] {
        app.expect_no_growth(call, || {
            assert_eq!(driver.call(&fault_env.establish()), 0);
            assert_eq!(driver.call(PUT), 1);
            fail(driver, "ioctl", 1, 1, EINVAL, By::Caller);
            assert_eq!(driver.call(call), -3, "{call}");
            assert_eq!(driver.call("failures"), 1, "{call}");
            fail_nothing(driver);
            app.expect_unconnected(call);
            app.expect_nothing_left(call);
        });
    }
}

on_both_protocols! {
    fn thousand_connections_leak_nothing(protocol: Protocol) {
        const COUNT: usize = 1000;
        let fault_env = FaultEnv::start(protocol);
        let app = fault_env.app();
        let driver = &app.driver;
        let connect = |count| {
            for number in 0..count {
                assert_eq!(driver.call(&fault_env.establish()), 0, "{number}");
                assert_eq!(driver.call(PUT), 1, "{number}");
                assert_eq!(driver.call(REGISTER), 1, "{number}");
                assert_eq!(driver.call(CLOSE), 1, "{number}");
            }
            app.expect_nothing_left("many connections");
            app.memory()
        };
        let growth = -connect(5) + connect(COUNT);
        // The C library may cache a second stack when a thread ends late. A leak would be at least
        // 32 bytes each time.
        assert!(growth < COUNT as i32, "{growth} bytes");
    }
}

// --- on the library's thread

/// A system call of the library's thread, which waits for an event, receives it, calls the
/// callback, and waits again: the name, the errors, whether a failure closes the connection, and
/// the number of such calls for one event.
type Listening = (&'static str, &'static [i32], bool, usize);

const LISTENING_V1: &[Listening] = &[
    ("recv", BROKEN, true, 3),
    ("recv", &[EINTR, EAGAIN, SHORT], false, 3),
    // After an announcement the key must follow within the timeout.
    ("poll", &[ENOMEM, EINVAL], true, 1),
    ("poll", &[EINTR], false, 1),
    ("send", BROKEN, true, 1),
    ("send", &[EINTR, EAGAIN, SHORT], false, 1),
];

/// A v2 event arrives whole and needs no response.
const LISTENING_V2: &[Listening] = &[
    ("recv", BROKEN, true, 2),
    ("recv", &[EINTR, EAGAIN, SHORT], false, 2),
    ("poll", &[ENOMEM], true, 0),
    ("send", &[EPIPE], true, 0),
];

on_both_protocols! {
    fn failing_system_call_on_callback_thread_closes_connection(protocol: Protocol) {
        let fault_env = FaultEnv::start(protocol);
        let app = fault_env.app();
        let driver = &app.driver;
        fault_env.other.store("k", "before");
        let change = || assert_eq!(fault_env.other.put("k", "after"), 1);
        let (table, last) = match protocol {
            Protocol::V1 => (LISTENING_V1, 3),
            Protocol::V2 => (LISTENING_V2, 2),
        };
        for (function, errors, lost, count) in table {
            for error in *errors {
                for nth in 1..=*count + usize::from(*lost) {
                    let name = format!("listening: {function} no. {nth}, error {error}");
                    println!("{name}");
                    app.expect_no_growth(&name, || {
                        fail(driver, function, nth, 1, *error, By::LibraryThread);
                        assert_eq!(driver.call(&fault_env.establish()), 0, "{name}");
                        let at_once = *function == "recv" && nth == 1 && *lost;
                        if !at_once {
                            assert_eq!(driver.call(REGISTER), 1, "{name}");
                            change();
                        }
                        if *lost && nth <= *count {
                            if (*function, nth) == ("recv", last) {
                                // The next event must still be reported.
                                driver.expect_change("k");
                            }
                            // The library's thread has closed the connection and ended.
                            assert_eq!(driver.call("await_threads 1"), 1, "{name}");
                            assert_eq!(driver.call("failures"), 1, "{name}");
                            fail_nothing(driver);
                            assert_eq!(driver.call(GET), -3, "{name}");
                        } else {
                            driver.expect_change("k");
                            if !*lost {
                                // Once this event has arrived, the first one is handled completely.
                                change();
                                driver.expect_change("k");
                            }
                            assert_eq!(driver.call("failures"), i32::from(!*lost), "{name}");
                            assert_eq!(driver.call(CLOSE), 1, "{name}");
                        }
                        fail_nothing(driver);
                        app.expect_unconnected(&name);
                        app.expect_nothing_left(&name);
                    });
                }
            }
        }
    }
}

on_both_protocols! {
    fn pthread_exit_without_a_spare_thread_closes_the_connection(protocol: Protocol) {
        let fault_env = FaultEnv::start(protocol);
        let app = fault_env.app();
        let driver = &app.driver;
        fault_env.other.store("k", "before");
        let row = "pthread_create after pthread_exit";
        app.expect_no_growth(row, || {
            assert_eq!(driver.call(&fault_env.establish()), 0);
            assert_eq!(driver.call("register_exiting_callback k"), 1);
            fail(driver, "pthread_create", 1, 1, EAGAIN, By::LibraryThread);
            assert_eq!(fault_env.other.put("k", "after"), 1);
            assert_eq!(driver.call("await_threads 1"), 1);
            assert_eq!(driver.call("failures"), 1);
            fail_nothing(driver);
            assert_eq!(driver.call(GET), -3);
            app.expect_unconnected(row);
            app.expect_nothing_left(row);
        });
    }
}

on_both_protocols! {
    fn failing_system_call_during_forced_close_is_harmless(protocol: Protocol) {
        let server = ScriptedServer::start();
        let fault_env = FaultEnv::start(protocol);
        let app = AppUnderTest::spawn(fault_env.program().served_by(&server));
        let driver = &app.driver;
        let login = "establish_connection g abcde";
        let shutdowns = if protocol == Protocol::V2 { 4 } else { 3 };
        for (function, count) in [("send", 1), ("shutdown", shutdowns), ("close", 2)] {
            for nth in 1..=count + 1 {
                let name = format!("forced close: {function} no. {nth}");
                println!("{name}");
                app.expect_no_growth(&name, || {
                    driver.begin(login);
                    let (mut main, mut callback) = server.login_with(protocol, "g", "abcde");
                    assert_eq!(driver.returned(login), 0);
                    fail(driver, function, nth, 1, EIO, By::LibraryThread);
                    callback.send(&close_by_server(protocol));
                    assert_eq!(driver.call("await_threads 1"), 1, "{name}");
                    assert_eq!(driver.call("failures"), i32::from(nth <= count), "{name}");
                    fail_nothing(driver);
                    if function != "send" || nth > count {
                        main.expect(&close_by_application(protocol));
                    }
                    main.expect_end();
                    callback.expect_end();
                    app.expect_unconnected(&name);
                    app.expect_nothing_left(&name);
                });
            }
        }
    }
}
