//! Changes as they happen, and the commands that `--exec` runs.

use std::fs;
use std::path::Path;

use kvs_testkit::{Program, Sockets};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use crate::{CliEnv, GROUP, parse_json_lines};

#[test]
fn watch_reports_creation_changes_and_deletion() {
    let env = CliEnv::start();
    let app = env.connect();
    let watch = env.watch(["k", "-p", "p:"]);
    // A watch of a key does not match its extensions.
    app.put("kk", "no").unwrap();
    app.put("k", "1").unwrap();
    watch.expect_next(&["k = 1"]);
    app.put("k", "two\nlines").unwrap();
    watch.expect_next(&["k = two\\nlines"]);
    app.delete("k").unwrap();
    watch.expect_next(&["k deleted"]);
    app.put("k", "again").unwrap();
    watch.expect_next(&["k = again"]);
    app.put("p:1", "v").unwrap();
    watch.expect_next(&["p:1 = v"]);
    app.delete("p:1").unwrap();
    watch.expect_next(&["p:1 deleted"]);
}

#[test]
fn json_has_event_and_version() {
    let env = CliEnv::start();
    let app = env.connect();
    app.put("k", "0").unwrap();
    let watch = env.kvs(["watch", "k", "--initial", "--json"]).spawn();
    let began = watch.expect_log("the start of the watch", |_| true);
    assert_eq!(parse_json_lines(&began), [json!({"event": "watching", "group": GROUP})]);
    let version = || app.get_versioned("k").unwrap().unwrap().version;
    let first = json!({"event": "initial", "key": "k", "value": "0", "version": version()});
    assert_eq!(parse_json_lines(&watch.next_line()), [first]);
    app.put("k", b"\xff").unwrap();
    let second =
        json!({"event": "changed", "key": "k", "value_base64": "/w==", "version": version()});
    assert_eq!(parse_json_lines(&watch.next_line()), [second]);
    app.delete("k").unwrap();
    assert_eq!(parse_json_lines(&watch.next_line()), [json!({"event": "deleted", "key": "k"})]);
}

#[test]
fn watch_exits_after_count_changes() {
    let env = CliEnv::start();
    let app = env.connect();
    app.put("k", "0").unwrap();
    let watch = env.watch(["k", "--count", "2", "--initial"]);
    // The initial value does not count.
    watch.expect_next(&["k = 0"]);
    for value in ["1", "2"] {
        app.put("k", value).unwrap();
        watch.expect_next(&[&format!("k = {value}")]);
    }
    assert_eq!(watch.expect_end().code(), Some(0));
}

#[test]
fn quiet_watch_prints_only_changes() {
    let env = CliEnv::start();
    let app = env.connect();
    app.put("k", "0").unwrap();
    let watch = env.kvs(["watch", "k", "--quiet", "--initial", "--count", "1"]).spawn();
    watch.expect_next(&["k = 0"]);
    app.put("k", "1").unwrap();
    watch.expect_next(&["k = 1"]);
    assert_eq!(watch.expect_end().code(), Some(0));
    assert!(watch.log_lines().is_empty(), "{:?}", watch.log_lines());
}

#[test]
fn watch_fails_when_server_or_group_is_gone() {
    let env = CliEnv::start();
    let ends = |end: &dyn Fn()| {
        let watch = env.watch(["k"]);
        end();
        let finished = watch.finish();
        assert_eq!(finished.status.code(), Some(3));
        let expected = format!(
            "kvs: the connection to the server at {} was closed: the server has quit or was \
             killed, or the group \"weather\" was deleted",
            env.server.socket().display()
        );
        assert_eq!(finished.stderr.last(), Some(&expected));
    };
    // Deleting the group closes the connection.
    ends(&|| env.server.delete_group(GROUP));
    let env = CliEnv::start();
    let watch = env.watch(["k", "--exec", "cat"]);
    env.server.kill();
    assert_eq!(watch.finish().status.code(), Some(3));
}

#[test]
fn v1_watches_existing_keys() {
    let env = CliEnv::start();
    let app = env.connect();
    let program = |args: &[&str]| env.kvs(args.iter().copied()).env("KVS_PROTOCOL", "original");
    let refused = program(&["watch", "k"]).spawn().finish();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr[0].contains("can only watch existing keys"), "{:?}", refused.stderr);
    let refused = program(&["watch", "-p", "k"]).spawn().finish();
    assert_eq!(refused.status.code(), Some(6));
    app.put("k", "0").unwrap();
    let watch = program(&["watch", "k", "--count", "2"]).spawn();
    watch.expect_log("the start of the watch", |line| line.contains("watching"));
    for value in ["1", "2"] {
        app.put("k", value).unwrap();
        watch.expect_next(&[&format!("k = {value}")]);
    }
    assert_eq!(watch.expect_end().code(), Some(0));
}

/// Creates a pipe that blocks each command until [`open_gate`].
fn create_gate(path: &Path) {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("the directory is ours");
}

fn open_gate(path: &Path) {
    fs::write(path, "go\n").expect("a command reads the pipe");
}

#[test]
fn exec_runs_one_command_and_coalesces_changes() {
    let env = CliEnv::start();
    let app = env.connect();
    let path = env.home.path().join("gate");
    create_gate(&path);
    let command = format!("echo \"$KVS_EVENT $KVS_KEY $(cat)\"; read line <{}", path.display());
    let watch = env.watch(["a", "b", "c", "--exec", &command]);
    app.put("a", "0").unwrap();
    watch.expect_next(&["changed a 0"]);
    // The first command is blocked at the gate.
    for value in 1..=500 {
        app.put("a", value.to_string()).unwrap();
        app.put("b", value.to_string()).unwrap();
    }
    app.put("c", "0").unwrap();
    app.delete("c").unwrap();
    // The next commands show that the changes made meanwhile were coalesced per key.
    open_gate(&path);
    watch.expect_next(&["changed a 500"]);
    open_gate(&path);
    watch.expect_next(&["changed b 500"]);
    open_gate(&path);
    watch.expect_next(&["deleted c "]);
    app.put("b", "last").unwrap();
    open_gate(&path);
    watch.expect_next(&["changed b last"]);
    open_gate(&path);
}

#[test]
fn failed_command_is_reported_and_watch_continues() {
    let env = CliEnv::start();
    let app = env.connect();
    let watch =
        env.watch(["k", "--count", "3", "--exec", "read value; echo got $value; exit $value"]);
    for value in ["3", "0", "4"] {
        app.put("k", format!("{value}\n")).unwrap();
        watch.expect_next(&[&format!("got {value}")]);
    }
    let finished = watch.finish();
    assert_eq!(finished.status.code(), Some(0));
    let warnings: Vec<_> = finished.stderr.iter().filter(|line| line.contains("warning")).collect();
    let warning = |code: u8| {
        format!(
            "kvs: warning: the command for the key \"k\" failed: exit status: {code}; \
             the watch continues"
        )
    };
    assert_eq!(warnings, [&warning(3), &warning(4)]);
}

#[test]
fn command_may_ignore_the_value() {
    let env = CliEnv::start();
    let app = env.connect();
    let watch = env.watch(["k", "--count", "1", "--exec", "exec <&-; echo done"]);
    app.put("k", vec![b'v'; 1 << 20]).unwrap();
    watch.expect_next(&["done"]);
    let finished = watch.finish();
    assert_eq!(
        (finished.status.code(), finished.stderr.len()),
        (Some(0), 1),
        "{:?}",
        finished.stderr
    );
}

#[test]
fn command_environment_has_group_and_no_secret() {
    let env = CliEnv::start();
    let app = env.connect();
    let variables = |program: Program| -> Vec<String> {
        let watch = program.spawn();
        watch.expect_log("the start of the watch", |line| line.contains("watching"));
        app.put("k", "v").unwrap();
        let finished = watch.finish();
        assert!(finished.status.success());
        let mut lines = finished.stdout;
        lines.sort();
        assert!(lines.iter().all(|line| !line.contains(env.secret())), "{lines:?}");
        lines
    };
    let args = ["watch", "k", "--count", "1", "--exec", "env | grep ^KVS_"];
    // KVS_SECRET overrides this file.
    let unused = env.secret_file(0o640);
    let program = env.kvs(args).env("KVS_SECRET_FILE", unused).env("KVS_SECRET", env.secret());
    let seen = variables(program);
    let version = app.get_versioned("k").unwrap().unwrap().version;
    let server = env.server.socket().display();
    let expected = [
        "KVS_EVENT=changed".to_owned(),
        format!("KVS_GROUP={GROUP}"),
        "KVS_KEY=k".into(),
        format!("KVS_SOCKET={server}"),
        format!("KVS_VERSION={version}"),
    ];
    assert_eq!(seen, expected);
    // The options of the watch apply to a `kvs` in its command.
    let file = env.secret_file(0o600);
    let args = [
        "watch",
        "k",
        "-g",
        GROUP,
        "--socket",
        env.server.socket().to_str().unwrap(),
        "--secret-file",
    ];
    let command = format!("{} get k", kvs_testkit::bin("kvs").display());
    let args = args.into_iter().chain([file.to_str().unwrap(), "--count", "1", "--exec", &command]);
    // KVS_CALLBACK_SOCKET belongs to another server and is not passed on.
    let program = Program::new(kvs_testkit::bin("kvs")).args(args);
    let seen = variables(program.env("KVS_CALLBACK_SOCKET", "/nowhere_cb"));
    assert_eq!(seen, ["v"]);
}
