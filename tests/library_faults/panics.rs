//! A bug in the library.
//!
//! This test builds the library with panics at named points (`kvs-lib/src/panic_points.rs`) in a
//! target directory of its own. In each row one point panics the first, the second, … time that it
//! is passed, until the application's call no longer passes it. A call in which the library panics
//! returns -15, its connection is closed, no lock stays held, and the process lives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kvs_testkit::{
    Driver, Protocol, ScriptedServer, Sockets, TestEnv, lib_dir, on_both_protocols, project_dir,
    tool,
};

use crate::AppUnderTest;
use crate::v2::close_by_server;

/// The target directory of the library with panics.
fn panicking_library() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let target = lib_dir().parent().expect("that of the profile").join("panic-points");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        tool(
            Command::new(cargo)
                .current_dir(project_dir())
                .args(["rustc", "--quiet", "--offline", "--release", "-p", "kvs-lib", "--lib"])
                .args(["--crate-type", "cdylib", "--target-dir"])
                .arg(&target)
                .args(["--", "--cfg", "kvs_panic_points"]),
        );
        target.join("release")
    })
}

fn app(server: &impl Sockets, protocol: Protocol) -> AppUnderTest {
    AppUnderTest::spawn(
        Driver::program()
            .served_by(server)
            .protocol(protocol)
            .env("LD_LIBRARY_PATH", panicking_library())
            // No row waits for a timeout.
            .env("KVS_TIMEOUT_MS", "60000")
            .env("RUST_BACKTRACE", "0"),
    )
}

/// Sets the point that panics and the pass at which it does. Returns whether the previous point has
/// panicked.
fn panic_at(driver: &Driver, point: &str, nth: usize) -> bool {
    driver.call(&format!("panic_at {} {nth}", point.replace(' ', "_"))) == 1
}

fn has_panicked(driver: &Driver) -> bool {
    panic_at(driver, "none", 1)
}

const LOGIN: &str = "establish_connection g SECRET";
const CALLS: [&str; 5] =
    ["put_value k w", "get_value k", "delete_value k", "register_callback k", "close_connection"];

/// The call, the point, and how many times the call passes it.
type Row = (&'static str, &'static str, usize);

const OPENING: [Row; 6] = [
    (LOGIN, "establishing", 1),
    (LOGIN, "endpoints bound", 1),
    (LOGIN, "login step", 8),
    (LOGIN, "connection made", 1),
    (LOGIN, "thread started", 1),
    (LOGIN, "established", 1),
];

const V1_ROWS: [Row; 7] = [
    // These points hold the lock of the main channel.
    (CALLS[0], "exchange step", 6),
    (CALLS[1], "exchange step", 6),
    (CALLS[2], "exchange step", 5),
    (CALLS[3], "exchange step", 5),
    (CALLS[4], "exchange step", 2),
    (CALLS[4], "callback channel shut down", 1),
    // These points block the registration of callbacks.
    ("register_callback missing", "exchange step", 5),
];

const V2_ROWS: [Row; 22] = [
    (CALLS[0], "requests queued", 1),
    (CALLS[0], "sending", 1),
    (CALLS[0], "requests sent", 1),
    // These points block other reading threads.
    (CALLS[0], "reading", 1),
    (CALLS[1], "requests queued", 1),
    (CALLS[1], "sending", 1),
    (CALLS[1], "requests sent", 1),
    (CALLS[1], "reading", 1),
    (CALLS[2], "requests queued", 1),
    (CALLS[2], "sending", 1),
    (CALLS[2], "requests sent", 1),
    (CALLS[2], "reading", 1),
    (CALLS[3], "requests queued", 1),
    (CALLS[3], "sending", 1),
    (CALLS[3], "requests sent", 1),
    (CALLS[3], "reading", 1),
    (CALLS[4], "sending", 1),
    (CALLS[4], "callback channel shut down", 1),
    ("register_callback missing", "requests queued", 1),
    ("register_callback missing", "sending", 1),
    ("register_callback missing", "requests sent", 1),
    ("register_callback missing", "reading", 1),
];

on_both_protocols! {
    fn panic_in_a_call_returns_a_code_and_releases_locks(protocol: Protocol) {
        let env = TestEnv::start();
        let app = app(&env.server, protocol);
        let driver = &app.driver;
        let login = LOGIN.replace("SECRET", env.secret());
        let table: &[Row] = match protocol {
            Protocol::V1 => &V1_ROWS,
            Protocol::V2 => &V2_ROWS,
        };
        for (call, point, count) in OPENING.iter().chain(table).copied() {
            for nth in 1..=count + 1 {
                let name = format!("{call}: a panic at `{point}`, no. {nth}");
                println!("{name}");
                app.expect_no_growth(&name, || {
                    if call != LOGIN {
                        assert_eq!(driver.call(&login), 0, "{name}");
                        driver.store("k", "v");
                    }
                    panic_at(driver, point, nth);
                    let code = driver.call(&call.replace("SECRET", env.secret()));
                    assert_eq!(has_panicked(driver), nth <= count, "{name}: so many times");
                    if nth <= count {
                        assert_eq!(code, -15, "{name}");
                    } else if call != CALLS[4] {
                        assert!(code >= 0 || code == -7, "{name}: without a panic: {code}");
                        assert_eq!(driver.call(CALLS[4]), 1, "{name}");
                    }
                    app.expect_unconnected(&name);
                    app.expect_nothing_left(&name);
                    assert_eq!(driver.call(&login), 0, "{name}: the next connection");
                    driver.store("k", "v");
                    assert_eq!(driver.call(CALLS[4]), 1, "{name}: the next connection");
                    app.expect_nothing_left(&name);
                });
            }
        }
    }
}

/// A point on the library's thread, how many times it is passed until the callback for the first
/// change is called, and how many of these are before any change.
const LISTENING_V1: [(&str, usize, usize); 3] =
    [("listening", 1, 1), ("listen step", 3, 1), ("event received", 1, 0)];
const LISTENING_V2: [(&str, usize, usize); 3] =
    [("listening", 1, 1), ("listen step", 1, 1), ("event received", 1, 0)];

on_both_protocols! {
    fn panic_on_the_callback_thread_closes_the_connection(protocol: Protocol) {
        let env = TestEnv::start();
        let other = Driver::connected(&env.server, "g", env.secret());
        other.store("k", "before");
        let app = app(&env.server, protocol);
        let driver = &app.driver;
        let login = LOGIN.replace("SECRET", env.secret());
        let table = match protocol {
            Protocol::V1 => LISTENING_V1,
            Protocol::V2 => LISTENING_V2,
        };
        for (point, count, at_once) in table {
            // One more pass, which follows the callback.
            for nth in 1..=count + 1 {
                let name = format!("library thread: a panic at `{point}`, no. {nth}");
                println!("{name}");
                app.expect_no_growth(&name, || {
                    panic_at(driver, point, nth);
                    assert_eq!(driver.call(&login), 0, "{name}");
                    if nth > at_once {
                        assert_eq!(driver.call("register_callback k"), 1, "{name}");
                        assert_eq!(other.put("k", "after"), 1, "{name}");
                    }
                    if nth > count {
                        driver.expect_change("k");
                        if point == "event received" {
                            assert_eq!(other.put("k", "after"), 1, "{name}");
                        }
                    }
                    // The library closes the connection, and its thread ends.
                    assert_eq!(driver.call("await_threads 1"), 1, "{name}");
                    assert!(has_panicked(driver), "{name}");
                    assert_eq!(driver.call("get_value k"), -3, "{name}");
                    app.expect_unconnected(&name);
                    app.expect_nothing_left(&name);
                });
            }
        }
    }
}

on_both_protocols! {
    fn panic_during_a_forced_close_still_closes(protocol: Protocol) {
        let server = ScriptedServer::start();
        let app = app(&server, protocol);
        let driver = &app.driver;
        let login = "establish_connection g abcde";
        // The code of the next call depends on whether the library has already detected the loss.
        let step = match protocol {
            Protocol::V1 => ("exchange step", 2, -2),
            Protocol::V2 => ("sending", 1, -2),
        };
        for (point, count, code) in
            [("closed by server", 1, -3), step, ("callback channel shut down", 1, -2)]
        {
            for nth in 1..=count {
                let name = format!("forced close: a panic at `{point}`, no. {nth}");
                println!("{name}");
                app.expect_no_growth(&name, || {
                    driver.begin(login);
                    let (mut main, mut callback) = server.login_with(protocol, "g", "abcde");
                    assert_eq!(driver.returned(login), 0, "{name}");
                    panic_at(driver, point, nth);
                    callback.send(&close_by_server(protocol));
                    assert_eq!(driver.call("await_threads 1"), 1, "{name}");
                    assert!(has_panicked(driver), "{name}");
                    assert_eq!(driver.call("get_value k"), code, "{name}");
                    main.rest();
                    callback.expect_end();
                    app.expect_unconnected(&name);
                    app.expect_nothing_left(&name);
                });
            }
        }
    }
}

#[test]
fn other_builds_have_no_panic_points() {
    let has_points = |path: &Path| {
        let bytes =
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        ["kvs_panic_at", "panic point", "exchange step"]
            .map(|trace| bytes.windows(trace.len()).any(|part| part == trace.as_bytes()))
    };
    assert_eq!(has_points(&panicking_library().join("libkvs.so")), [true; 3]);
    for name in ["libkvs.so", "libkvs.a"] {
        assert_eq!(has_points(&lib_dir().join(name)), [false; 3], "{name}");
    }
}
