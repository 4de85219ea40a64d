//! Administration without the console: the control socket of a local server, and `kvs admin`.

#![forbid(unsafe_code)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kvs_proto::control::{
    AdminErrorKind as Kind, AdminRequest, AdminResponse, Bytes, GroupStatus, MAX_REQUEST_LEN,
    WatchedItem,
};
use kvs_testkit::{
    AT_ONCE, AuthServer, Console, DEADLINE, Driver, LocalServer, Process, ProcessOutput, Program,
    RawV2App, Sockets, are_installed, bin, is_root, private_dir, until,
};
use serde_json::{Value, json};

/// The default path of the control socket.
fn control_path(server: &LocalServer) -> PathBuf {
    let mut path = server.socket().as_os_str().to_owned();
    path.push("_control");
    path.into()
}

/// Runs `kvs admin` for this server; its standard output is a pipe.
fn kvs_admin(server: &LocalServer, args: &[&str]) -> ProcessOutput {
    kvs_admin_at(&control_path(server), args)
}

fn kvs_admin_at(control: &Path, args: &[&str]) -> ProcessOutput {
    program(control, args).console(Console::NoInput).spawn().finish()
}

fn program(control: &Path, args: &[&str]) -> Program {
    Program::new(bin("kvs")).arg("admin").args(args).arg("--control-socket").arg(control)
}

/// Asserts that the command succeeded and printed only these lines.
#[track_caller]
fn assert_prints(finished: &ProcessOutput, lines: &[&str]) {
    assert_eq!((finished.status.code(), &*finished.stderr), (Some(0), &[][..]), "{finished:?}");
    assert_eq!(finished.stdout, lines);
}

/// Asserts that the command failed with this exit code and one message that has all these words.
#[track_caller]
fn assert_error(finished: &ProcessOutput, code: i32, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(code), "{finished:?}");
    assert_eq!(finished.stdout, [""; 0]);
    let [message] = &*finished.stderr else { panic!("one message: {finished:?}") };
    assert!(message.starts_with("kvs: "), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// A client of the control protocol.
struct AdminClient(BufReader<UnixStream>);

impl AdminClient {
    fn connect(server: &LocalServer) -> Self {
        let stream =
            UnixStream::connect(control_path(server)).expect("the control socket is there");
        stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the server listens");
    }

    fn receive(&mut self) -> AdminResponse {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("the server answers in time");
        AdminResponse::decode(&line).expect("answers are in the protocol")
    }

    fn request(&mut self, request: &AdminRequest) -> AdminResponse {
        self.send(&request.encode());
        self.receive()
    }

    /// Whether the server closes the connection without sending more.
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn group(name: &str) -> Bytes {
    Bytes(name.as_bytes().to_vec())
}

fn kind(answer: AdminResponse) -> Kind {
    match answer {
        AdminResponse::Error { kind, message } => {
            assert!(!message.is_empty());
            kind
        }
        other => panic!("an error is awaited, not {other:?}"),
    }
}

fn json_of(finished: &ProcessOutput) -> Value {
    let [line] = &*finished.stdout else { panic!("one line: {finished:?}") };
    serde_json::from_str(line).expect("it is JSON")
}

#[test]
fn kvs_admin_does_what_the_console_does() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);

    let created = kvs_admin(&server, &["create", "weather"]);
    let [secret] = &*created.stdout else { panic!("the secret alone: {created:?}") };
    assert_prints(&created, &[secret]);
    let info = server.group_info("weather").expect("it is one group for both");
    assert_eq!((&info.secret, info.pairs), (secret, 0));

    let on_console = server.create_group("console");
    let app = Driver::connected(&server, "console", &on_console);
    app.store("key", "value");
    assert_eq!(app.call("register_callback key"), 1);
    let expected = [
        "group:   console".to_string(),
        format!("secret:  {on_console}"),
        "pairs:   1".to_string(),
    ];
    assert_prints(
        &kvs_admin(&server, &["info", "console"]),
        &expected.each_ref().map(String::as_str),
    );

    let status = kvs_admin(&server, &["status"]);
    let (first, second) =
        ("weather: 0 pairs, 0 connected, 0 closed", "console: 1 pair, 1 connected, 0 closed");
    assert_eq!(status.stdout[..3], [first, "", second], "{status:?}");
    assert!(status.stdout[4].ends_with("  key"), "{status:?}");
    assert_eq!(kvs_admin(&server, &["status", "console"]).stdout[0], second);

    assert_prints(&kvs_admin(&server, &["delete", "weather", "console"]), &[]);
    assert_eq!(server.ask("Show group info", "weather"), "Group id not found!");
    assert!(app.get("key").is_err(), "its applications are disconnected");
    assert_eq!(server.lines_of("Show application status"), [""; 0]);

    let quit = kvs_admin(&server, &["quit"]);
    assert_prints(&quit, &[]);
    server.expect_line("Exiting Local Server...");
    assert!(server.wait_exit().success());
    assert!(!control_path(&server).exists() && !server.socket().exists());
}

#[test]
fn json_has_the_same_information() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let created = json_of(&kvs_admin(&server, &["create", "g", "--json"]));
    let secret = created["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(created, json!({ "group": "g", "secret": secret }));
    let info = json_of(&kvs_admin(&server, &["--json", "info", "g"]));
    assert_eq!(info, json!({ "group": "g", "secret": secret, "pairs": 0 }));

    let app = Driver::connected(&server, "g", &secret);
    app.store("k", "v");
    assert_eq!(app.call("register_callback k"), 1);
    let status = json_of(&kvs_admin(&server, &["status", "--json"]));
    let expected = &status["groups"][0]["applications"][0];
    assert_eq!(expected["pid"], app.pid());
    assert_eq!(expected["watches"], json!([{ "key": "k" }]));
    assert_eq!((&expected["watch_count"], &expected["closed_at"]), (&json!(1), &Value::Null));

    let missing = kvs_admin(&server, &["info", "none", "--json"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(missing.stdout, [""; 0]);
    let [failure] = &*missing.stderr else { panic!("one line: {missing:?}") };
    let failure: Value = serde_json::from_str(failure).expect("it is JSON");
    assert_eq!((&failure["error"], &failure["exit_code"]), (&json!("no_such_group"), &json!(1)));
    let deleted = kvs_admin(&server, &["delete", "none", "g", "--json"]);
    assert_eq!(deleted.status.code(), Some(1), "one of two is not there: {deleted:?}");
    assert!(deleted.stdout.iter().any(|line| line == r#"{"deleted":["g"]}"#), "{deleted:?}");
    assert_eq!(json_of(&kvs_admin(&server, &["quit", "--json"])), json!({ "quit": true }));
    assert!(server.wait_exit().success());
}

#[test]
fn every_error_has_exit_code_and_message() {
    let mut auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    server.create_group("g");
    let long = "x".repeat(100);
    for (args, code, words) in [
        (&["create", "g"][..], 5, &["group g exists already"][..]),
        (&["create", ""], 2, &["invalid group id: it is empty"]),
        (&["create", &long], 2, &["100 bytes", "too long"]),
        (&["delete", "none"], 1, &["no group none"]),
        (&["info", "none"], 1, &["no group none"]),
        (&["status", "none"], 1, &["no group none"]),
        (&["status", &long], 2, &["too long"]),
    ] {
        assert_error(&kvs_admin(&server, args), code, words);
    }
    for args in [&["crate", "g"][..], &["create"], &["delete"], &["create", "a", "b"]] {
        assert_eq!(kvs_admin(&server, args).status.code(), Some(2), "{args:?}");
    }
    let elsewhere = server.socket().with_file_name("nothing");
    assert_error(&kvs_admin_at(&elsewhere, &["status"]), 3, &["nothing", "no server"]);

    auth.kill();
    let words = &["does not answer"];
    for args in [&["create", "half"][..], &["delete", "g"], &["info", "g"]] {
        assert_error(&kvs_admin(&server, args), 6, words);
    }
    assert_eq!(
        kvs_admin(&server, &["status", "g"]).status.code(),
        Some(0),
        "status needs no authentication server"
    );
    assert_error(&kvs_admin(&server, &["status", "half"]), 1, &["no group half"]);
    auth.restart();
    until("the local server has connected again", || {
        kvs_admin(&server, &["info", "g"]).status.success().then_some(())
    });
    assert_error(&kvs_admin(&server, &["info", "half"]), 1, &["no group half"]);
    assert_eq!(
        kvs_admin(&server, &["create", "half"]).status.code(),
        Some(0),
        "it was not half created"
    );
}

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
    let auth = AuthServer::start();
    let builder = LocalServer::builder(auth.addr()).umask("000").args(["--socket-mode", "666"]);
    let server = builder.start();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!((mode(server.socket()), mode(&control_path(&server))), (0o666, 0o600));
}

/// Runs `kvs admin` as the user `nobody`, which only root can do.
fn as_nobody(control: &Path, args: &[&str]) -> ProcessOutput {
    // That user cannot read the build directory.
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
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let control = control_path(&server);
    let dir = control.parent().expect("in a directory");
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("it is ours");
    let refused = as_nobody(&control, &["create", "g"]);
    assert_error(&refused, 4, &["only root and the user root", "try sudo"]);
    fs::set_permissions(&control, Permissions::from_mode(0o666)).expect("it is ours");
    for _ in 0..3 {
        let refused = as_nobody(&control, &["create", "g"]);
        assert_error(&refused, 4, &["only root and the user of the server", "try sudo"]);
    }
    let log = server.log_lines();
    let expected = log.iter().filter(|line| line.contains("refused on the control socket"));
    assert_eq!(expected.count(), 1, "logged once: {log:?}");
    assert_eq!(server.ask("Show group info", "g"), "Group id not found!");
    assert_eq!(kvs_admin(&server, &["create", "g"]).status.code(), Some(0), "others are served");
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

#[test]
fn secret_file_is_new_and_private() {
    let mut auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let dir = private_dir();
    let file = dir.path().join("secret");
    let path = file.to_str().expect("test paths are UTF-8");
    let create = |group: &str| {
        let program = program(&control_path(&server), &["create", group, "--secret-file", path]);
        program.umask("000").console(Console::NoInput).spawn().finish()
    };
    assert_prints(&create("g"), &[]);
    let info = server.group_info("g").expect("it was created");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), format!("{}\n", info.secret));
    assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600);

    fs::remove_file(&file).expect("it is ours");

    // A link is not followed.
    std::os::unix::fs::symlink(dir.path().join("victim"), &file).expect("the name is free");
    assert_error(&create("h"), 4, &[path, "it is a symbolic link", "nothing was created"]);
    assert!(!dir.path().join("victim").exists());
    fs::remove_file(&file).expect("it is ours");

    assert_error(&create("g"), 5, &["group g exists"]);
    assert!(!file.exists(), "the file is removed, because no group was created");
    auth.kill();
    assert_error(&create("h"), 6, &["does not answer"]);
    assert!(!file.exists(), "the file is removed, because no group was created");
    auth.restart();
    let nowhere = dir.path().join("no/such/directory");
    let nowhere = nowhere.to_str().expect("test paths are UTF-8");
    assert_error(
        &kvs_admin(&server, &["create", "h", "--secret-file", nowhere]),
        7,
        &["cannot use the secret file"],
    );
    assert_error(&kvs_admin(&server, &["info", "h"]), 1, &["no group h"]);
}

#[test]
fn group_is_recreated_with_the_secret_of_a_file() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let dir = private_dir();
    let file = dir.path().join("secret");
    let path = file.to_str().expect("test paths are UTF-8");
    let create = |group: &str| kvs_admin(&server, &["create", group, "--secret-file", path]);
    assert_prints(&create("g"), &[]);
    let content = fs::read_to_string(&file).expect("it is there");
    server.delete_group("g");

    assert_prints(&create("g"), &[]);
    assert_eq!(server.group_info("g").expect("it was created").secret, content.trim_end());
    assert_eq!(fs::read_to_string(&file).expect("it is there"), content);
    let app = Driver::connected(&server, "g", content.trim_end());
    app.store("k", "v");

    fs::write(&file, "1234567\nnot this\n").expect("it is ours");
    assert_prints(&create("h"), &[]);
    assert_eq!(server.group_info("h").expect("it was created").secret, "1234567");
    for (content, code, word) in [
        ("12345678", 2, "at most 7 are allowed"),
        ("a\0b", 2, "invalid secret"),
        ("\nsecret\n", 2, "first line of the secret file"),
    ] {
        fs::write(&file, content).expect("it is ours");
        assert_error(&create("i"), code, &[word]);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), content);
    }
    assert_eq!(server.ask("Show group info", "i"), "Group id not found!");
    // An interrupted creation leaves an empty file behind.
    fs::write(&file, "").expect("it is ours");
    assert_prints(&create("i"), &[]);
    let secret = server.group_info("i").expect("it was created").secret;
    assert_eq!(fs::read_to_string(&file).expect("it is there"), format!("{secret}\n"));
}

#[test]
fn secret_file_that_others_can_write_is_rejected() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let dir = private_dir();
    let create = |path: &Path| {
        kvs_admin(&server, &["create", "g", "--secret-file", path.to_str().expect("ours")])
    };
    let file = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        fs::write(&path, "known\n").expect("the directory is ours");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        path
    };
    assert_error(
        &create(&file("writable", 0o620)),
        4,
        &["users other than its owner can write it"],
    );
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(file("right", 0o600), &link).expect("the name is free");
    assert_error(&create(&link), 4, &["it is a symbolic link"]);
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the name is free");
    assert_error(&create(&pipe), 4, &["it is not a regular file"]);
    if is_root("a file of another user") {
        let theirs = file("theirs", 0o600);
        std::os::unix::fs::chown(&theirs, Some(65534), None).expect("root may");
        assert_error(&create(&theirs), 4, &["it belongs to another user"]);
    }
    assert_eq!(server.ask("Show group info", "g"), "Group id not found!");
    assert_prints(&create(&dir.path().join("right")), &[]);
    assert_eq!(server.group_info("g").expect("it was created").secret, "known");
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
    // Without the option, the environment counts.
    let program = Program::new(bin("kvs")).args(["admin", "create", "g3"]);
    let program = program.env("KVS_CONTROL_SOCKET", &elsewhere).env("KVS_SOCKET", socket);
    assert!(program.console(Console::NoInput).spawn().finish().status.success());
    assert!(other.group_info("g3").is_ok());
    let misplaced = Program::new(bin("kvs")).args(["admin", "--secret-file", "x", "create", "g4"]);
    let misplaced = misplaced.console(Console::NoInput).spawn().finish();
    assert_error(&misplaced, 2, &["goes after kvs admin create"]);
}

#[test]
fn terminal_gets_sentences_and_quit_asks_first() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let terminal = |args: &[&str]| {
        program(&control_path(&server), args).console(Console::Terminal { echo: false }).spawn()
    };
    let created = terminal(&["create", "g"]).finish();
    let secret = server.group_info("g").expect("it was created").secret;
    let sentence = "The group g was created. Applications join it with the secret ";
    assert_eq!(created.stdout, [format!("{sentence}{secret}")]);

    for answer in ["", "n", "maybe"] {
        let quit = terminal(&["quit"]);
        quit.send(answer);
        assert!(quit.finish().status.success());
        assert_eq!(server.status(), [], "it still serves");
    }
    let quit = terminal(&["quit"]);
    quit.send("y");
    assert!(quit.finish().status.success());
    assert!(server.wait_exit().success());
    let other = LocalServer::start(&auth);
    let quit = program(&control_path(&other), &["quit", "--yes"]);
    assert!(quit.console(Console::Terminal { echo: false }).spawn().finish().status.success());
    assert!(other.wait_exit().success());
}

#[test]
fn quit_reply_precedes_shutdown() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    server.create_group("g");
    let (mut admin, mut other) = (AdminClient::connect(&server), AdminClient::connect(&server));
    assert_eq!(admin.request(&AdminRequest::Quit {}), AdminResponse::Quitting {});
    // The server either replies or has closed this connection.
    other
        .0
        .get_mut()
        .write_all(&AdminRequest::Create { group: group("late"), secret: None }.encode())
        .ok();
    assert!(admin.is_closed());
    assert!(!server.socket().exists() && !control_path(&server).exists());
    assert!(server.wait_exit().success());
    let again = kvs_admin(&server, &["status"]);
    assert_error(&again, 3, &["no server"]);
}

#[test]
fn names_and_keys_are_arbitrary_bytes() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let mut admin = AdminClient::connect(&server);
    let name = Bytes(b"\xff\n\"\\\x01 \xe2\x82".to_vec());
    let AdminResponse::Created { group, secret } =
        admin.request(&AdminRequest::Create { group: name.clone(), secret: None })
    else {
        panic!("it is a name like any other");
    };
    assert_eq!(group, name);
    let info = admin.request(&AdminRequest::Info { group: name.clone() });
    assert_eq!(info, AdminResponse::Info { group: name.clone(), secret, pairs: 0 });
    assert!(kvs_admin(&server, &["status"]).stdout[0].contains("\u{fffd}\\n"), "no line is forged");
    assert_eq!(
        admin.request(&AdminRequest::Delete { group: name.clone() }),
        AdminResponse::Deleted { group: name }
    );

    let secret = server.create_group("g");
    let mut app = RawV2App::login(&server, "g", &secret);
    let long = vec![1; 65_536];
    for key in [&b"\xff\x00key"[..], &long] {
        app.put(key, "");
        app.watch(key);
    }
    app.watch_prefix(b"\xfe");
    let AdminResponse::Status { groups, more: false } =
        admin.request(&AdminRequest::Status { group: None })
    else {
        panic!("one line is enough");
    };
    let application = &groups[0].applications[0];
    // The count includes watches that do not fit into the reply.
    let shown = WatchedItem::Key(Bytes(b"\xff\x00key".to_vec()));
    assert_eq!((&*application.watches, application.watch_count), (&[shown][..], 3));
    assert_eq!(groups[0].pairs, 2);
}

#[test]
fn long_status_is_split_and_complete() {
    const GROUPS: usize = 300;
    const APPLICATIONS: usize = 400;
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let mut admin = AdminClient::connect(&server);
    let mut secrets = Vec::new();
    for n in 0..GROUPS {
        match admin
            .request(&AdminRequest::Create { group: group(&format!("group {n}")), secret: None })
        {
            AdminResponse::Created { secret, .. } => {
                secrets.push(String::from_utf8(secret.0).expect("letters"))
            }
            other => panic!("{other:?}"),
        }
    }
    let key = |n: usize, k: usize| format!("{n:0>80}/{k}");
    let apps: Vec<_> = (0..APPLICATIONS)
        .map(|n| {
            let mut app = RawV2App::login(&server, "group 7", &secrets[7]);
            (0..5).for_each(|k| app.watch_prefix(key(n, k)));
            app
        })
        .collect();

    // A client that does not read blocks only itself.
    let mut blocked = AdminClient::connect(&server);
    for _ in 0..20 {
        blocked.send(&AdminRequest::Status { group: None }.encode());
    }

    admin.send(&AdminRequest::Status { group: None }.encode());
    let (mut groups, mut lines): (Vec<GroupStatus>, _) = (Vec::new(), 0);
    loop {
        lines += 1;
        let AdminResponse::Status { groups: part, more } = admin.receive() else {
            panic!("a status")
        };
        groups.extend(part);
        if !more {
            break;
        }
    }
    assert!(lines > 1, "in parts");
    let mut names: Vec<_> = groups.iter().map(|group| group.group.to_string()).collect();
    names.dedup();
    assert_eq!(names, (0..GROUPS).map(|n| format!("group {n}")).collect::<Vec<_>>());
    let applications: Vec<_> = groups.iter().flat_map(|group| &group.applications).collect();
    assert_eq!(applications.len(), APPLICATIONS);
    for (n, application) in applications.iter().enumerate() {
        assert_eq!((application.number, application.watch_count), (n as u64 + 1, 5));
        let watched = (0..5).map(|k| WatchedItem::Prefix(group(&key(n, k))));
        assert_eq!(application.watches, watched.collect::<Vec<_>>());
    }
    let printed = kvs_admin(&server, &["status", "group 7"]);
    assert_eq!(printed.stdout.len(), APPLICATIONS + 2, "a heading, and a line for each");
    drop(apps);
    drop(blocked);
    server.quit();
}

#[test]
fn concurrent_creations_and_deletions_are_exclusive() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    for round in 0..100 {
        let name = format!("g{round}");
        let mut admins: Vec<_> = (0..4).map(|_| AdminClient::connect(&server)).collect();
        let created = AtomicUsize::new(0);
        thread::scope(|scope| {
            for admin in &mut admins {
                scope.spawn(|| {
                    match admin.request(&AdminRequest::Create { group: group(&name), secret: None })
                    {
                        AdminResponse::Created { .. } => {
                            created.fetch_add(1, Ordering::Relaxed);
                        }
                        other => assert_eq!(kind(other), Kind::Exists),
                    }
                });
            }
            match &*server.ask("Create group", &name) {
                "Group id already exists" => {}
                answer => {
                    assert!(answer.starts_with("Group created with secret "), "{answer}");
                    created.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert_eq!(created.into_inner(), 1, "round {round}");
    }
    // A late deletion would be counted twice, or would delete a new group.
    let mut admins: Vec<_> = (0..6).map(|_| AdminClient::connect(&server)).collect();
    let (created, deleted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (n, admin) in admins.iter_mut().enumerate() {
            let (created, deleted) = (&created, &deleted);
            scope.spawn(move || {
                for _ in 0..100 {
                    let group = group("contended");
                    let answer = match n % 2 {
                        0 => admin.request(&AdminRequest::Create { group, secret: None }),
                        _ => admin.request(&AdminRequest::Delete { group }),
                    };
                    match answer {
                        AdminResponse::Created { .. } => created.fetch_add(1, Ordering::Relaxed),
                        AdminResponse::Deleted { .. } => deleted.fetch_add(1, Ordering::Relaxed),
                        AdminResponse::Error { kind: Kind::Exists | Kind::NotFound, .. } => 0,
                        other => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    let left = match admins[0].request(&AdminRequest::Info { group: group("contended") }) {
        AdminResponse::Info { .. } => 1,
        other => {
            assert_eq!(kind(other), Kind::NotFound);
            0
        }
    };
    assert_eq!(created.into_inner(), deleted.into_inner() + left);
}

#[test]
fn hostile_clients_do_not_affect_others() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    let app = Driver::connected(&server, "g", &secret);

    let mut admin = AdminClient::connect(&server);
    for garbage in [&b"\n"[..], b"\x00\xff\n", b"[[[[\n", b"{\"version\":1}\n", b"Create group\n"] {
        admin.send(garbage);
        assert_eq!(kind(admin.receive()), Kind::Invalid);
    }
    admin.send(b"{\"version\":2,\"request\":\"quit\"}\n");
    assert_eq!(kind(admin.receive()), Kind::Version);
    let known = kind(admin.request(&AdminRequest::Create { group: group("g"), secret: None }));
    assert_eq!(known, Kind::Exists, "the connection goes on");

    let mut endless = AdminClient::connect(&server);
    endless.send(&vec![b'['; MAX_REQUEST_LEN]);
    assert_eq!(kind(endless.receive()), Kind::Invalid);
    assert!(endless.is_closed());

    let threads = server.threads();
    let mut half = AdminClient::connect(&server);
    half.send(b"{\"version\":1,\"request\":\"cre");
    let mut idle: Vec<_> = (0..100).map(|_| AdminClient::connect(&server)).collect();
    assert_eq!(server.group_info("g").map(|info| info.secret), Ok(secret));
    for _ in 0..3 {
        assert_eq!(kvs_admin(&server, &["status", "g"]).status.code(), Some(0));
    }
    app.store("k", "v");
    assert_eq!(app.call_within(AT_ONCE, "get_value k").1, "v");
    assert!(half.is_closed(), "its connection was needed");
    assert!(idle[0].is_closed());
    until("the threads of closed connections end", || {
        (server.threads() <= threads + 16).then_some(())
    });
    let last = idle.last_mut().expect("there are a hundred");
    assert_eq!(
        kind(last.request(&AdminRequest::Create { group: group("g"), secret: None })),
        Kind::Exists,
        "it is connected"
    );

    // Requests that are cut off anywhere.
    for n in 0..50 {
        let mut admin = AdminClient::connect(&server);
        let line = AdminRequest::Status { group: None }.encode();
        admin.send(&line[..n % line.len()]);
    }
    server.quit();
}

/// Slow: it waits for the timeout.
#[test]
fn incomplete_request_times_out() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let mut half = AdminClient::connect(&server);
    half.send(b"{");
    let drip = half.0.get_ref().try_clone().expect("a descriptor can be duplicated");
    thread::scope(|scope| {
        scope.spawn(|| {
            // Single bytes do not extend the timeout. The pause is part of the attack.
            let mut drip = &drip;
            while drip.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(200));
            }
        });
        assert!(half.is_closed());
    });
    assert_eq!(kvs_admin(&server, &["status"]).status.code(), Some(0));
}
