//! The end of a group or a server closes the connections of its applications and no others: no
//! process hangs, whatever an application is doing, every application can connect again, and no
//! file remains.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::mpsc;

use kvs_testkit::{
    AT_ONCE, AuthServer, DEADLINE, Driver, InteractiveApp, LocalServer, RawLocalServer, RawV1App,
    Sockets, TestEnv, application_paths, connect,
};
use nix::sys::signal::Signal;

/// One application of each kind in the group `g`.
struct Applications {
    /// The interactive program.
    interactive: InteractiveApp,
    /// A C program that makes no call at the moment.
    idle: Driver,
    /// A C program whose callback blocks until the test releases it.
    blocked: Driver,
    /// A connection of this process.
    wrapper: kvs::Connection,
    /// A connection of this process whose callback blocks until `release` is dropped.
    blocked_wrapper: kvs::Connection,
    release: mpsc::Sender<()>,
    /// An application that has received the flag of an event and does not send its ready flag.
    silent: RawV1App,
}

impl Applications {
    fn connected(server: &LocalServer, secret: &str) -> Self {
        let interactive = InteractiveApp::connected(server, "g", secret);
        let idle = Driver::connected(server, "g", secret);
        idle.store("k", "v1");

        let blocked = Driver::connected(server, "g", secret);
        assert_eq!(blocked.call("register_blocked_callback k"), 1);
        let wrapper = connect(server, "g", secret).expect("the server knows the group");
        let blocked_wrapper = connect(server, "g", secret).expect("the server knows the group");
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let (called, calls) = mpsc::channel();
        blocked_wrapper
            .watch("k", move |_| {
                // The receiver is gone when the test has failed.
                let _ = called.send(());
                let _ = released.lock().expect("no callback panics").recv();
            })
            .expect("the key exists");
        let mut silent = server.raw_app("g", secret);
        assert!(silent.register("k"));

        assert_eq!(idle.put("k", "v2"), 1);
        blocked.expect_log("its callback", |line| line == "blocked k");
        calls.recv_timeout(DEADLINE).expect("the callback is called");
        silent.callback.expect_int(1);
        Self { interactive, idle, blocked, wrapper, blocked_wrapper, release, silent }
    }

    /// Asserts that the server has closed all connections.
    fn expect_closed(&mut self) {
        self.silent.main.expect_end();
        self.silent.callback.expect_end();

        let ended = self.interactive.finish();
        let last = [
            "App: Closing connection due to deletion of group or closed server",
            "Exiting the app...",
        ];
        assert_eq!(ended.stdout[ended.stdout.len() - 2..], last, "{}", self.interactive.report());
        assert!(ended.status.success(), "{}", ended.status);

        let (code, _) = self.idle.call_within(AT_ONCE, "put_value k v3");
        assert_eq!(code, -2, "the library has received the close flag\n{}", self.idle.report());
        let code = self.wrapper.put("k", "v3").map_err(|error| error.code());
        assert_eq!(code, Err(-2), "the library has received the close flag");

        // The callback thread, which would receive the close flag, is blocked: the next call
        // detects the close.
        let (code, _) = self.blocked.call_within(AT_ONCE, "put_value k v3");
        assert!([-2, -3, -4].contains(&code), "put_value returned {code}");
        assert_eq!(self.blocked.put("k", "v3"), -2);
        let code = self.blocked_wrapper.put("k", "v3").map_err(|error| error.code());
        assert!([Err(-2), Err(-3), Err(-4)].contains(&code), "put returned {code:?}");
        let code = self.blocked_wrapper.put("k", "v3").map_err(|error| error.code());
        assert_eq!(code, Err(-2));

        for pid in [self.interactive.pid(), self.idle.pid(), self.blocked.pid()] {
            for path in application_paths(pid) {
                assert!(!path.exists(), "{} was left behind", path.display());
            }
        }
    }

    /// Asserts that every application can join the group `name` of this server, which uses the
    /// sockets of the previous one, and works there; then ends all of them.
    fn expect_connected_again(self, server: &LocalServer, name: &str) {
        let secret = server.create_group(name);
        assert_eq!(self.idle.establish(name, &secret), 0);
        // The callback of the old connection has not returned yet.
        assert_eq!(self.blocked.establish(name, &secret), 0);
        let wrapper = connect(server, name, &secret).expect("the server knows the group");
        self.idle.store("k", "v4");
        assert_eq!(self.blocked.get("k").as_deref(), Ok("v4"));
        assert_eq!(wrapper.get("k").expect("it is connected").as_deref(), Some(&b"v4"[..]));

        drop(self.release);
        self.blocked.call("release");
        self.blocked.expect_log("the end of its old callback", |line| line == "released k");
        assert_eq!(self.blocked.call("register_callback k"), 1);
        assert_eq!(self.idle.put("k", "v5"), 1);
        self.blocked.expect_change("k");

        wrapper.close().expect("it is connected");
        for app in [self.idle, self.blocked] {
            assert_eq!(app.call("close_connection"), 1);
            app.end_input();
            assert!(app.wait_exit().success());
        }
    }
}

/// Asserts that the server exits as after its own `Quit`.
fn expect_quit(server: &LocalServer) {
    server.expect_line("Exiting Local Server...");
    let status = server.wait_exit();
    assert_eq!(status.code(), Some(0), "{status}\n{}", server.report());
    assert_removed(server.socket());
    assert_removed(server.callback_socket());
}

fn assert_removed(path: &Path) {
    assert!(path.symlink_metadata().is_err(), "{} was left behind", path.display());
}

/// Starts a server with the sockets of the previous one.
fn start_again(server: &LocalServer, auth: &AuthServer) -> LocalServer {
    LocalServer::builder(auth.addr()).socket(server.socket()).start()
}

#[test]
fn deleting_a_group_closes_its_applications_and_no_others() {
    let env = TestEnv::start();
    let other_secret = env.server.create_group("other");
    let other = Driver::connected(&env.server, "other", &other_secret);
    let mut applications = Applications::connected(&env.server, env.secret());

    env.server.delete_group("g");
    applications.expect_closed();
    assert_eq!(other.put("k", "v"), 1, "the other group is not affected");
    assert!(!RawLocalServer::connect(env.auth.addr()).find_group("g"), "its name is free");

    applications.expect_connected_again(&env.server, "g");
    assert_eq!(other.get("k").as_deref(), Ok("v"));
}

/// Ends the local server in one of three ways.
fn local_server_quits(end: impl Fn(&LocalServer)) {
    let env = TestEnv::start();
    env.server.create_group("empty");
    let mut applications = Applications::connected(&env.server, env.secret());
    let observer = RawLocalServer::connect(env.auth.addr());
    assert!(observer.find_group("g") && observer.find_group("empty"));

    end(&env.server);
    expect_quit(&env.server);
    applications.expect_closed();
    assert!(!observer.find_group("g"), "deleted at the authentication server");
    assert!(!observer.find_group("empty"), "deleted at the authentication server");
    env.auth.expect_line("Connection closed");

    applications.expect_connected_again(&start_again(&env.server, &env.auth), "g");
}

#[test]
fn quit_of_the_local_server_closes_everything() {
    local_server_quits(|server| server.send("Quit"));
}

#[test]
fn sigterm_of_the_local_server_is_quit() {
    local_server_quits(|server| server.signal(Signal::SIGTERM));
}

#[test]
fn sigint_of_the_local_server_is_quit() {
    local_server_quits(|server| server.signal(Signal::SIGINT));
}

/// Ends the authentication server in one of three ways.
fn authentication_server_quits(end: impl Fn(&AuthServer)) {
    let mut env = TestEnv::without_group();
    let second = LocalServer::start(&env.auth);
    let secret = env.server.create_group("g");
    let second_secret = second.create_group("second");
    let mut applications = Applications::connected(&env.server, &secret);
    let elsewhere = Driver::connected(&second, "second", &second_secret);

    end(&env.auth);
    expect_quit(&env.server);
    expect_quit(&second);
    env.auth.expect_line("Exiting Authentification Server...");
    let status = env.auth.wait_exit();
    assert_eq!(status.code(), Some(0), "{status}\n{}", env.auth.report());
    applications.expect_closed();
    assert_eq!(elsewhere.put("k", "v"), -2);

    env.auth.restart();
    applications.expect_connected_again(&start_again(&env.server, &env.auth), "g");
}

#[test]
fn quit_of_the_authentication_server_closes_everything() {
    authentication_server_quits(|auth| auth.send("Quit"));
}

#[test]
fn sigterm_of_the_authentication_server_is_quit() {
    authentication_server_quits(|auth| auth.signal(Signal::SIGTERM));
}

#[test]
fn sigint_of_the_authentication_server_is_quit() {
    authentication_server_quits(|auth| auth.signal(Signal::SIGINT));
}

#[test]
fn auth_server_quits_although_a_local_server_is_silent() {
    let auth = AuthServer::start();
    let silent = RawLocalServer::connect(auth.addr());
    assert!(silent.new_group("g", "abcde"));
    auth.send("Quit");
    let mut flag = [0; 8];
    let (count, from) =
        silent.close.recv_from(&mut flag).expect("the authentication server sends the close flag");
    assert_eq!(flag[..count], (-10i32).to_ne_bytes());
    assert_eq!(from.port(), silent.port + 1);
    auth.expect_line("Exiting Authentification Server...");
    assert_eq!(auth.wait_exit().code(), Some(0));
}

#[test]
fn servers_without_groups_or_applications_quit() {
    let env = TestEnv::without_group();
    env.server.send("Quit");
    expect_quit(&env.server);
    env.auth.send("Quit");
    env.auth.expect_line("Exiting Authentification Server...");
    assert_eq!(env.auth.wait_exit().code(), Some(0));
}
