//! Socket activation: sockets that the supervisor binds and passes to the local server.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use kvs_testkit::{
    AuthServer, Channel, DEADLINE, Driver, LocalServer, Program, Sockets, are_installed,
    private_dir,
};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use tempfile::TempDir;

/// `KVS_ERROR_NOT_FOUND`.
const NOT_FOUND: i32 = -7;

/// Two listening sockets, which outlive the servers that receive them.
struct Holder {
    main: UnixListener,
    callback: UnixListener,
    paths: [PathBuf; 2],
    dir: TempDir,
}

impl Holder {
    fn new() -> Self {
        let dir = private_dir();
        let paths = ["sock", "sock_cb"].map(|name| dir.path().join(name));
        let [main, callback] =
            [0, 1].map(|n: usize| UnixListener::bind(&paths[n]).expect("the directory is ours"));
        Self { main, callback, paths, dir }
    }

    fn starts(&self, auth: &AuthServer) -> LocalServer {
        // The order of the sockets is not specified.
        let both = [&self.callback, &self.main].map(duplicate);
        LocalServer::builder(auth.addr())
            .socket(self.socket())
            .socket_activation(both.into())
            .start()
    }

    /// Waits until a connection is in the backlog of the main socket.
    fn wait_for_client(&self) {
        let mut fds = [PollFd::new(self.main.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(DEADLINE).expect("it is short");
        assert_eq!(poll(&mut fds, limit), Ok(1), "a client comes");
    }

    /// An application that has connected both channels and waits for its greeting, and more
    /// applications behind it.
    fn queued(&self) -> [Channel; 2] {
        let dir = self.dir.path();
        [
            Channel::connect_as("main", self.socket(), dir, "queued"),
            Channel::connect_as("callback", self.callback_socket(), dir, "queued"),
        ]
    }
}

impl Sockets for Holder {
    fn socket(&self) -> &Path {
        &self.paths[0]
    }

    fn callback_socket(&self) -> &Path {
        &self.paths[1]
    }
}

fn duplicate(socket: &UnixListener) -> OwnedFd {
    socket.try_clone().expect("a descriptor can be duplicated").into()
}

/// Completes the login, and asserts that the application is served.
fn expect_served([mut main, mut callback]: [Channel; 2], server: &LocalServer) {
    let secret = server.create_group("g");
    main.begin_login("g", &secret);
    callback.expect_int(1);
    main.expect_int(1);
}

#[test]
fn systemd_socket_activation_starts_the_server() {
    if !are_installed(&["systemd-analyze"], "socket activation by systemd") {
        return;
    }
    let auth = AuthServer::start();
    let dir = private_dir();
    let (path, callback_path) = (dir.path().join("sock"), dir.path().join("sock_cb"));
    let systemd =
        Program::new("systemd-socket-activate").arg("-l").arg(&path).arg("-l").arg(&callback_path);
    let server = LocalServer::builder(auth.addr()).started_by(systemd).socket(&path).spawn();
    for _ in 0..2 {
        server.expect_log("both sockets", |line| line.contains("Listening on "));
    }
    let first = Driver::start(&server);
    // Without a group, the refusal shows that the server was started.
    assert_eq!(first.establish("g", "xxxxx"), NOT_FOUND);
    let secret = server.create_group("g");
    assert_eq!(first.establish("g", &secret), 0);
    first.store("k", "v");
    assert_eq!(Driver::connected(&server, "g", &secret).get("k").as_deref(), Ok("v"));
    assert_eq!(first.call("register_callback k"), 1);
    first.store("k", "w");
    first.expect_change("k");
    server.quit();
    assert!(path.exists() && callback_path.exists(), "they are systemd's");
}

#[test]
fn clients_between_two_servers_wait_for_the_next() {
    let auth = AuthServer::start();
    let holder = Holder::new();
    for end in [LocalServer::quit, |server: &LocalServer| server.kill()] {
        let server = holder.starts(&auth);
        let secret = server.create_group("g");
        Driver::connected(&server, "g", &secret).store("k", "v");
        end(&server);
        assert!(
            holder.socket().exists() && holder.callback_socket().exists(),
            "they are the holder's"
        );

        let driver = Driver::start(&holder);
        let call = "establish_connection nowhere xxxxx";
        driver.begin(call);
        holder.wait_for_client();
        let queued = holder.queued();
        let server = holder.starts(&auth);
        assert_eq!(driver.returned(call), NOT_FOUND);
        expect_served(queued, &server);
        server.quit();
    }
}

#[test]
fn clients_during_quit_wait_for_the_next_server() {
    let auth = AuthServer::start();
    let holder = Holder::new();
    let server = holder.starts(&auth);
    let secret = server.create_group("g");
    // The application ignores the request to close, so the server takes a while to quit. The
    // accepting thread serves the first application.
    let mut slow = server.raw_app("g", &secret);
    server.signal(Signal::SIGTERM);
    slow.callback.int();
    let queued = holder.queued();
    assert!(server.exit_status().is_none(), "it still quits");
    server.wait_exit();
    drop(slow);
    let next = holder.starts(&auth);
    expect_served(queued, &next);
}

#[test]
fn activation_sockets_are_kept_and_not_inherited() {
    let auth = AuthServer::start();
    let holder = Holder::new();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    fs::set_permissions(holder.socket(), PermissionsExt::from_mode(0o604)).expect("it is ours");
    let both = [&holder.main, &holder.callback].map(duplicate);
    let server = LocalServer::builder(auth.addr())
        .socket(holder.socket())
        .args(["--socket-mode", "660"])
        .socket_activation(both.into())
        .start();
    assert_eq!(mode(holder.socket()), 0o604);
    server.expect_log("that the mode is not changed", |line| {
        line.contains("--socket-mode has no effect")
    });
    for number in [3, 4] {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", server.pid()));
        let info = info.expect("it has it");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("a line");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
        assert!(flags & close_on_exec() != 0, "descriptor {number} is not inherited: {info}");
    }
    server.quit();
    assert_eq!(mode(holder.socket()), 0o604);
}

/// The close-on-exec flag in `/proc`.
fn close_on_exec() -> u32 {
    OFlag::O_CLOEXEC.bits().cast_unsigned()
}

#[test]
fn socket_without_activation_is_bound() {
    let auth = AuthServer::start();
    let holder = Holder::new();
    fs::remove_file(holder.callback_socket()).expect("it is there");
    let server = LocalServer::builder(auth.addr())
        .socket(holder.socket())
        .socket_activation(vec![duplicate(&holder.main)])
        .start();
    let secret = server.create_group("g");
    server.raw_app("g", &secret).put("k", "v");
    server.quit();
    assert!(holder.socket().exists() && !holder.callback_socket().exists());
}

#[test]
fn activation_sockets_of_another_process_are_ignored() {
    let auth = AuthServer::start();
    let server =
        LocalServer::builder(auth.addr()).env("LISTEN_FDS", "2").env("LISTEN_PID", "1").start();
    let secret = server.create_group("g");
    server.raw_app("g", &secret).put("k", "v");
    server.quit();
    assert!(!server.socket().exists());
}

/// Asserts that a server that receives these descriptors does not start, and that its message
/// contains these words.
fn expect_refusal(descriptor: impl Into<OwnedFd>, sentences: &[&str]) {
    // The server fails before it contacts the authentication server.
    let auth = AuthServer::start();
    let holder = Holder::new();
    let all = vec![duplicate(&holder.main), duplicate(&holder.callback), descriptor.into()];
    let server =
        LocalServer::builder(auth.addr()).socket(holder.socket()).socket_activation(all).spawn();
    let finished = server.finish();
    assert_eq!(finished.status.code(), Some(1), "{}", server.report());
    let said = finished.stderr.last().expect("an error");
    for sentence in sentences {
        assert!(said.contains(sentence), "{sentence:?} in {said:?}");
    }
    assert!(holder.socket().exists() && holder.callback_socket().exists());
}

#[test]
fn unusable_activation_socket_fails_the_start() {
    let dir = private_dir();
    let path = dir.path().join("other");
    let named = path.to_str().expect("it is UTF-8");
    let other = UnixListener::bind(&path).expect("the directory is ours");
    expect_refusal(
        other,
        &[named, "passed by the service manager", "--socket is /", "--callback-socket is /"],
    );

    let name = format!("kvs-handed-over-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("it is short");
    let abstract_socket = UnixListener::bind_addr(&address).expect("the name is free");
    expect_refusal(abstract_socket, &[&format!("descriptor 5 (@{name})"), "without a path"]);

    let path = dir.path().join("datagrams");
    let datagrams = UnixDatagram::bind(&path).expect("the directory is ours");
    let named = path.to_str().expect("it is UTF-8");
    expect_refusal(datagrams, &[named, "a datagram or packet socket", "ListenStream="]);

    let path = dir.path().join("silent");
    let silent = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .expect("there is a descriptor");
    bind(silent.as_raw_fd(), &UnixAddr::new(&path).expect("it is short")).expect("it is ours");
    expect_refusal(silent, &[path.to_str().expect("it is UTF-8"), "is not listening"]);

    let (one, _other) = UnixStream::pair().expect("there are descriptors");
    expect_refusal(one, &["descriptor 5 (without an address)", "is not listening"]);

    let network = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = network.local_addr().expect("it is bound").to_string();
    expect_refusal(network, &[&address, "is a network socket"]);

    let file = File::open("/dev/null").expect("it is everywhere");
    expect_refusal(file, &["descriptor 5 was passed", "is not a socket"]);
}
