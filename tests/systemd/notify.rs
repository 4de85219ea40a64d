//! The readiness and status messages to the supervisor (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use kvs_testkit::{
    AuthServer, Channel, DEADLINE, LocalServer, LocalServerBuilder, QUIET_PERIOD, RawLocalServer,
    Sockets, private_dir,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// A supervisor that receives the messages of a server.
struct Supervisor {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let dir = private_dir();
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("the directory is ours");
        Self { socket, dir }
    }

    /// The value of `NOTIFY_SOCKET`.
    fn address(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    fn starts(&self, server: LocalServerBuilder) -> LocalServerBuilder {
        server.env("NOTIFY_SOCKET", &self.address())
    }

    fn message_within(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).expect("it is not zero");
        let mut buffer = [0; 4096];
        let count = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
    }

    fn expect(&self, message: &str) {
        assert_eq!(self.message_within(DEADLINE).as_deref(), Some(format!("{message}\n").as_str()));
    }

    /// Asserts that no message is pending.
    fn expect_no_more(&self) {
        assert_eq!(self.message_within(Duration::from_millis(1)), None);
    }
}

fn connected(auth: &AuthServer, port: u16) -> String {
    format!("STATUS=Serving; connected to the authentication server {}, port {port}", auth.addr())
}

#[test]
fn local_server_reports_readiness_and_link_state() {
    let supervisor = Supervisor::new();
    let mut auth = AuthServer::start();
    let addr = auth.addr();
    let server = supervisor.starts(LocalServer::builder(auth.addr())).spawn();
    supervisor.expect(&format!("STATUS=Looking for the authentication server {addr}"));
    let first = addr.port() + 1;
    supervisor.expect(&connected(&auth, first));
    supervisor.expect("READY=1");
    // The first attempt must succeed.
    let mut client = Channel::connect("main", server.socket()).expect("the server listens");
    Channel::connect("callback", server.callback_socket()).expect("there, too");
    client.expect_int(1);

    auth.kill();
    assert!(server.ask("Create group", "g").starts_with("Group not created: "));
    supervisor.expect(&format!(
        "STATUS=The authentication server {addr} does not answer: no new logins and no group \
         commands until it does"
    ));
    auth.restart();
    supervisor.expect(&connected(&auth, first));
    supervisor.expect_no_more();

    server.signal(Signal::SIGTERM);
    supervisor.expect("STOPPING=1\nSTATUS=Quitting: SIGTERM");
    assert!(server.wait_exit().success());
    supervisor.expect_no_more();
}

#[test]
fn local_server_is_not_ready_before_the_auth_server() {
    let supervisor = Supervisor::new();
    let auth = AuthServer::start();
    auth.stop();
    let _server = supervisor.starts(LocalServer::builder(auth.addr())).spawn();
    supervisor.expect(&format!("STATUS=Looking for the authentication server {}", auth.addr()));
    assert_eq!(supervisor.message_within(QUIET_PERIOD), None);
    auth.signal(Signal::SIGCONT);
    supervisor.expect(&connected(&auth, auth.addr().port() + 1));
    supervisor.expect("READY=1");
}

#[test]
fn local_server_without_auth_server_fails_unready() {
    let supervisor = Supervisor::new();
    let auth = AuthServer::start();
    auth.kill();
    let server = supervisor.starts(LocalServer::builder(auth.addr())).spawn();
    assert_eq!(server.wait_exit().code(), Some(1));
    supervisor.expect(&format!("STATUS=Looking for the authentication server {}", auth.addr()));
    supervisor.expect_no_more();
}

#[test]
fn auth_server_reports_readiness() {
    let supervisor = Supervisor::new();
    let auth = AuthServer::builder().env("NOTIFY_SOCKET", &supervisor.address()).start();
    supervisor.expect(&format!("STATUS=Listening on {}", auth.addr()));
    supervisor.expect("READY=1");
    RawLocalServer::connect(auth.addr());
    auth.send("Quit");
    supervisor.expect("STOPPING=1\nSTATUS=Quitting: Quit on the console");
    assert!(auth.wait_exit().success());
    supervisor.expect_no_more();
}

#[test]
fn auth_server_that_ends_alone_reports_stopping() {
    let supervisor = Supervisor::new();
    let auth = AuthServer::builder().arg("--keep-local-servers");
    let auth = auth.env("NOTIFY_SOCKET", &supervisor.address()).start();
    supervisor.expect(&format!("STATUS=Listening on {}", auth.addr()));
    supervisor.expect("READY=1");
    auth.signal(Signal::SIGTERM);
    supervisor.expect("STOPPING=1\nSTATUS=Quitting: SIGTERM");
    assert!(auth.wait_exit().success());
    supervisor.expect_no_more();
}

#[test]
fn missing_supervisor_is_harmless() {
    let auth = AuthServer::builder().env("NOTIFY_SOCKET", "/nowhere/notify").start();
    let server = LocalServer::builder(auth.addr()).env("NOTIFY_SOCKET", "neither/a/path").start();
    let secret = server.create_group("g");
    server.raw_app("g", &secret).put("k", "v");
    server.quit();
}
