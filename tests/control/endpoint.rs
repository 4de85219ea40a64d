//! The path and the permissions of the control socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use kvs_testkit::{
    AuthServer, Console, LocalServer, Process, ProcessOutput, Program, Sockets, TestEnv,
    are_installed, bin, is_root, private_dir,
};
use serde_json::json;

use crate::{assert_error, control_path, json_of, kvs_admin, kvs_admin_at};

#[test]
fn control_socket_is_at_the_configured_path() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let elsewhere = dir.path().join("elsewhere");
    let text = |path: &Path| path.to_str().expect("test paths are UTF-8").to_owned();

    let server = LocalServer::builder(auth.addr()).arg("--control-socket").arg(&elsewhere).start();
    assert!(!control_path(&server).exists());
    for (name, value) in [
        ("KVS_CONTROL_SOCKET", text(&elsewhere)),
        // kvs admin derives the path from that of --socket.
        ("KVS_SOCKET", text(&dir.path().join("sock"))),
    ] {
        if name == "KVS_SOCKET" {
            fs::rename(&elsewhere, dir.path().join("sock_control")).expect("it is there");
        }
        let status = Program::new(bin("kvs")).args(["admin", "status", "--json"]).env(name, value);
        let status = status.console(Console::NoInput).spawn().finish();
        assert_eq!(json_of(&status), json!({ "groups": [] }), "{name}");
    }
    server.quit();

    for off in [true, false] {
        let server = LocalServer::builder(auth.addr());
        let server = match off {
            true => server.env("KVS_CONTROL_SOCKET", ""),
            false => server.arg("--control-socket").arg(""),
        };
        let server = server.start();
        let names =
            fs::read_dir(server.socket().parent().expect("in a directory")).expect("it is there");
        assert_eq!(names.count(), 2, "no control socket");
        server.quit();
    }

    let same = dir.path().join("same");
    let server =
        LocalServer::builder(auth.addr()).socket(&same).arg("--control-socket").arg(&same).spawn();
    let end = server.finish();
    assert_eq!(end.status.code(), Some(2));
    let last = end.stderr.last().expect("a sentence");
    assert!(last.contains("--socket and --control-socket must differ"), "{last}");
}

#[test]
fn typed_socket_overrides_the_environment() {
    let auth = AuthServer::start();
    let (one, other) = (LocalServer::start(&auth), LocalServer::start(&auth));
    let socket = one.socket().to_str().expect("test paths are UTF-8");
    let elsewhere = control_path(&other);
    for arguments in [
        &["admin", "create", "g1", "--socket", socket][..],
        &["--socket", socket, "admin", "create", "g2"],
    ] {
        let program =
            Program::new(bin("kvs")).args(arguments).env("KVS_CONTROL_SOCKET", &elsewhere);
        let finished = program.console(Console::NoInput).spawn().finish();
        assert!(finished.status.success(), "{finished:?}");
    }
    assert!(one.group_info("g1").is_ok() && one.group_info("g2").is_ok());
    // Without the option, the environment variable applies.
    let program = Program::new(bin("kvs")).args(["admin", "create", "g3"]);
    let program = program.env("KVS_CONTROL_SOCKET", &elsewhere).env("KVS_SOCKET", socket);
    assert!(program.console(Console::NoInput).spawn().finish().status.success());
    assert!(other.group_info("g3").is_ok());
    let misplaced = Program::new(bin("kvs")).args(["admin", "--secret-file", "x", "create", "g4"]);
    let misplaced = misplaced.console(Console::NoInput).spawn().finish();
    assert_error(&misplaced, 2, &["goes after kvs admin create"]);
}

#[test]
fn stale_socket_is_replaced_and_live_one_is_not() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let control = dir.path().join("sock_control");
    // A closed socket leaves its path behind.
    drop(UnixListener::bind(&control).expect("the directory is new"));
    let server = LocalServer::builder(auth.addr()).socket(dir.path().join("sock")).start();
    let found = fs::metadata(&control).expect("it is there");
    assert_eq!(found.mode() & 0o777, 0o600);
    assert_eq!(kvs_admin(&server, &["create", "g"]).status.code(), Some(0));
    let second = LocalServer::builder(auth.addr()).arg("--control-socket").arg(&control).spawn();
    assert_eq!(second.finish().status.code(), Some(1), "{}", second.report());
    assert_eq!(
        kvs_admin(&server, &["status", "g"]).status.code(),
        Some(0),
        "the first is left alone"
    );
    server.quit();
    assert!(!control.exists());
}

#[test]
fn control_socket_always_has_mode_0600() {
    let env = TestEnv::builder()
        .no_group()
        .args(["--socket-mode", "666"])
        .configure(|server| server.umask("000"))
        .start();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!((mode(env.server.socket()), mode(&control_path(&env.server))), (0o666, 0o600));
}

/// Runs `kvs admin` as the user `nobody`, which only root can do.
fn as_nobody(control: &Path, args: &[&str]) -> ProcessOutput {
    // The user `nobody` cannot read the build directory.
    let copy = control.with_file_name("kvs");
    fs::copy(bin("kvs"), &copy).expect("there is room for it");
    let nobody = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"];
    let program = Program::new("setpriv").args(nobody).arg(&copy).arg("admin").args(args);
    program.arg("--control-socket").arg(control).console(Console::NoInput).spawn().finish()
}

#[test]
fn other_users_are_refused_by_mode_and_by_server() {
    if !is_root("other_users_are_refused_by_mode_and_by_server") {
        return;
    }
    let env = TestEnv::without_group();
    let control = control_path(&env.server);
    let dir = control.parent().expect("in a directory");
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("it is ours");
    let refused = as_nobody(&control, &["create", "g"]);
    assert_error(&refused, 4, &["only root and the user root", "try sudo"]);
    fs::set_permissions(&control, Permissions::from_mode(0o666)).expect("it is ours");
    for _ in 0..3 {
        let refused = as_nobody(&control, &["create", "g"]);
        assert_error(&refused, 4, &["only root and the server's user", "try sudo"]);
    }
    let log = env.server.log_lines();
    let expected = log.iter().filter(|line| line.contains("refused on the control socket"));
    assert_eq!(expected.count(), 1, "logged once: {log:?}");
    assert_eq!(env.server.ask("Show group info", "g"), "Group id not found!");
    assert_eq!(
        kvs_admin(&env.server, &["create", "g"]).status.code(),
        Some(0),
        "others are served"
    );
}

/// Starts a program of the user `nobody` that listens at `path` and prints what it receives.
fn squatter(path: &Path) -> Process {
    let script = "import os, socket, sys\n\
        os.umask(0)\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.bind(sys.argv[1]); s.listen()\n\
        print('listens', flush=True)\n\
        while True: print('received', s.accept()[0].recv(4096), flush=True)";
    let nobody = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"];
    let squatter = Program::new("setpriv")
        .args(nobody)
        .args(["/usr/bin/python3", "-c", script])
        .arg(path)
        .spawn();
    squatter.expect_line("listens");
    squatter
}

#[test]
fn squatter_of_the_control_socket_receives_nothing() {
    let what = "squatter_of_the_control_socket_receives_nothing";
    if !is_root(what) || !are_installed(&["python3"], what) {
        return;
    }
    let dir = private_dir();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).expect("it is ours");
    let control = dir.path().join("sock_control");
    let squatter = squatter(&control);
    let refused = kvs_admin_at(&control, &["create", "g"]);
    assert_error(&refused, 4, &["the user nobody", "nothing was sent", "sudo -u"]);
    // A link to it, in a directory that only root can write.
    let link = private_dir();
    std::os::unix::fs::symlink(&control, link.path().join("link")).expect("it is ours");
    assert_error(
        &kvs_admin_at(&link.path().join("link"), &["create", "g"]),
        4,
        &["nothing was sent"],
    );
    squatter.expect_line("received b''");
    squatter.expect_line("received b''");
}
