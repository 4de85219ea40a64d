//! Servers that close or fall silent in the middle of a login or a call.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use kvs_testkit::{AT_ONCE, Channel, Driver, Program, Protocol, ScriptedServer, compile_c};

use crate::programs::{run, succeeded};

const LOGIN: &str = "establish_connection g abcde";

/// A program that logs in while the test plays the server.
struct Client {
    server: ScriptedServer,
    driver: Driver,
    /// The program's open descriptors while it is not connected.
    descriptors: i32,
}

impl Client {
    fn start() -> Self {
        Self::with(|program| program)
    }

    /// As `start`, with a change to the program.
    fn with(change: impl FnOnce(Program) -> Program) -> Self {
        let server = ScriptedServer::start();
        let driver =
            Driver::spawn(change(Driver::program().served_by(&server).protocol(Protocol::V1)));
        let descriptors = driver.call("descriptors");
        Self { server, driver, descriptors }
    }

    fn log_in(&self) -> (Channel, Channel) {
        self.driver.begin(LOGIN);
        let channels = self.server.login("g", "abcde");
        assert_eq!(self.driver.returned(LOGIN), 0);
        channels
    }

    /// Asserts that the connection is closed without a leak, and that the next login works.
    fn expect_closed(&self, what: &str) {
        assert_eq!(self.driver.put("k", "v"), -2, "{what}");
        assert_eq!(self.driver.call("descriptors"), self.descriptors, "{what}");
        let (mut main, _callback) = self.log_in();
        assert_eq!(self.driver.call("close_connection"), 1, "{what}");
        main.expect_int(4);
        self.driver.end_input();
        succeeded(&self.driver);
    }
}

/// Asserts that a login that the server aborts fails with `code`, and that the next one works.
fn broken_login(code: i32, break_off: impl FnOnce(&ScriptedServer)) {
    let client = Client::start();
    client.driver.begin(LOGIN);
    break_off(&client.server);
    assert_eq!(client.driver.returned(LOGIN), code);
    client.expect_closed(&format!("login, code {code}"));
}

/// Asserts that a call that the server aborts fails with `code` and closes the connection, and that
/// the next login works.
fn broken_call(call: &str, code: i32, break_off: impl FnOnce(Channel) -> Option<Channel>) {
    let client = Client::start();
    let (main, _callback) = client.log_in();
    let kept_open = if code == -3 {
        // The call begins after the server has closed.
        let kept_open = break_off(main);
        client.driver.begin(call);
        kept_open
    } else {
        client.driver.begin(call);
        break_off(main)
    };
    assert_eq!(client.driver.returned(call), code, "{call}");
    client.expect_closed(&format!("{call}, code {code}"));
    drop(kept_open);
}

#[test]
fn aborted_login_fails_with_its_code_and_the_next_works() {
    broken_login(-13, |server| drop(server.accept_main()));
    broken_login(-14, |server| server.accept_main().send_int(0));
    broken_login(-8, |server| {
        let mut main = server.accept_main();
        main.send_int(1);
        main.expect(b"g");
    });
    let up_to_callback = |server: &ScriptedServer| server.accept_login("g", "abcde");
    broken_login(-13, |server| drop(up_to_callback(server).1));
    broken_login(-14, |server| up_to_callback(server).1.send_int(7));
    broken_login(-8, |server| {
        let (main, mut callback) = up_to_callback(server);
        callback.send_int(1);
        drop(main);
    });
}

#[test]
fn aborted_call_fails_with_its_code_without_sigpipe() {
    broken_call("put_value k v", -3, |_| None);
    broken_call("get_value k", -4, |mut main| {
        main.expect_int(1);
        None
    });
    broken_call("put_value k v", -5, |mut main| {
        main.expect_int(0);
        main.send_int(2);
        Some(main)
    });
    broken_call("put_value k v", -6, |mut main| {
        main.expect_int(0);
        // Sending to the server fails from now on, so the program may continue.
        main.stream().shutdown(Shutdown::Read).expect("the socket is connected");
        main.send_int(1);
        Some(main)
    });
    for (call, function) in [("delete_value k", 2), ("register_callback k", 3)] {
        broken_call(call, -8, |mut main| {
            main.expect_int(function);
            main.send_int(1);
            main.expect(b"k");
            None
        });
    }
    broken_call("get_value k", -10, |mut main| {
        main.expect_int(1);
        main.send_int(1);
        main.expect(b"k");
        main.send_int(5);
        main.send(b"abc");
        None
    });
}

#[test]
fn silent_server_costs_one_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let client = Client::with(|program| program.env("KVS_TIMEOUT_MS", "1000"));
    let _channels = client.log_in();
    let begin = Instant::now();
    assert_eq!(client.driver.call("get_value k"), -4);
    let waited = begin.elapsed();
    assert!(waited >= TIMEOUT, "{waited:?}");
    assert!(waited < TIMEOUT + AT_ONCE, "{waited:?}");
    client.expect_closed("after the time-out");
}

#[test]
fn concurrent_logins_at_a_silent_server_cost_one_timeout() {
    let server = ScriptedServer::start();
    let lines = run(Program::new(compile_c("tests/c/silence.c"))
        .served_by(&server)
        .env("KVS_TIMEOUT_MS", "1000")
        .arg("1500"));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "-13", "the server did not greet");
    assert!(
        ["-13", "-15"].contains(&lines[1].as_str()),
        "not greeted, or never its turn: {lines:?}"
    );
}

#[test]
fn broken_callback_channel_raises_no_sigpipe() {
    let client = Client::start();
    let (mut main, mut callback) = client.log_in();
    // The program responds to this flag on a socket without a reader.
    callback.stream().shutdown(Shutdown::Read).expect("the socket is connected");
    callback.send_int(1);
    callback.expect_end();
    drop(callback);
    // The library closes the connection.
    main.expect_end();
    assert_eq!(client.driver.put("k", "v"), -3);
    client.expect_closed("after the callback channel broke");
}
