//! Changes as they happen, and the commands that are run for them.

use std::fs;
use std::path::Path;

use kvs_testkit::{Program, Sockets};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use crate::{GROUP, World, objects};

#[test]
fn each_change_is_a_line_from_before_the_key_exists_to_after_its_end() {
    let world = World::start();
    let app = world.connect();
    let watch = world.watch(["k", "-p", "p:"]);
    // A key that only begins like the watched one is another.
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
fn json_tells_the_event_and_the_version() {
    let world = World::start();
    let app = world.connect();
    app.put("k", "0").unwrap();
    let watch = world.program(["watch", "k", "--initial", "--json"]).spawn();
    let began = watch.expect_log("that it watches", |_| true);
    assert_eq!(objects(&began), [json!({"event": "watching", "group": GROUP})]);
    let version = || app.get_versioned("k").unwrap().unwrap().version;
    let first = json!({"event": "initial", "key": "k", "value": "0", "version": version()});
    assert_eq!(objects(&watch.next_line()), [first]);
    app.put("k", b"\xff").unwrap();
    let second =
        json!({"event": "changed", "key": "k", "value_base64": "/w==", "version": version()});
    assert_eq!(objects(&watch.next_line()), [second]);
    app.delete("k").unwrap();
    assert_eq!(objects(&watch.next_line()), [json!({"event": "deleted", "key": "k"})]);
}

#[test]
fn it_ends_after_as_many_changes_as_told() {
    let world = World::start();
    let app = world.connect();
    app.put("k", "0").unwrap();
    let watch = world.watch(["k", "--count", "2", "--initial"]);
    // What there is at the beginning does not count.
    watch.expect_next(&["k = 0"]);
    for value in ["1", "2"] {
        app.put("k", value).unwrap();
        watch.expect_next(&[&format!("k = {value}")]);
    }
    assert_eq!(watch.expect_end().code(), Some(0));
}

#[test]
fn quiet_says_nothing_but_changes() {
    let world = World::start();
    let app = world.connect();
    app.put("k", "0").unwrap();
    let watch = world.program(["watch", "k", "--quiet", "--initial", "--count", "1"]).spawn();
    watch.expect_next(&["k = 0"]);
    app.put("k", "1").unwrap();
    watch.expect_next(&["k = 1"]);
    assert_eq!(watch.expect_end().code(), Some(0));
    assert!(watch.log_lines().is_empty(), "{:?}", watch.log_lines());
}

#[test]
fn the_end_of_the_server_or_the_group_ends_it() {
    let world = World::start();
    let ends = |end: &dyn Fn()| {
        let watch = world.watch(["k"]);
        end();
        let finished = watch.finish();
        assert_eq!(finished.status.code(), Some(3));
        let expected = format!(
            "kvs: the connection to the server at {} was closed: the server has quit or was killed, \
             or the group \"weather\" was deleted",
            world.server.socket().display()
        );
        assert_eq!(finished.stderr.last(), Some(&expected));
    };
    // Its own connection ends with the group.
    ends(&|| world.server.delete_group(GROUP));
    let world = World::start();
    let watch = world.watch(["k", "--exec", "cat"]);
    world.server.kill();
    assert_eq!(watch.finish().status.code(), Some(3));
}

#[test]
fn an_original_session_watches_keys_that_exist() {
    let world = World::start();
    let app = world.connect();
    let program =
        |args: &[&str]| world.program(args.iter().copied()).env("KVS_PROTOCOL", "original");
    let refused = program(&["watch", "k"]).spawn().finish();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr[0].contains("can only watch existing keys"), "{:?}", refused.stderr);
    let refused = program(&["watch", "-p", "k"]).spawn().finish();
    assert_eq!(refused.status.code(), Some(6));
    app.put("k", "0").unwrap();
    let watch = program(&["watch", "k", "--count", "2"]).spawn();
    watch.expect_log("that it watches", |line| line.contains("watching"));
    for value in ["1", "2"] {
        app.put("k", value).unwrap();
        watch.expect_next(&[&format!("k = {value}")]);
    }
    assert_eq!(watch.expect_end().code(), Some(0));
}

/// Something that a command waits at, until the test lets one pass.
fn gate(path: &Path) {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("the directory is ours");
}

fn let_one_pass(path: &Path) {
    fs::write(path, "go\n").expect("a command waits at it");
}

#[test]
fn a_command_gets_the_value_one_at_a_time_and_what_changes_meanwhile_follows_once() {
    let world = World::start();
    let app = world.connect();
    let path = world.home.path().join("gate");
    gate(&path);
    let command = format!("echo \"$KVS_EVENT $KVS_KEY $(cat)\"; read line <{}", path.display());
    let watch = world.watch(["a", "b", "c", "--exec", &command]);
    app.put("a", "0").unwrap();
    watch.expect_next(&["changed a 0"]);
    // It stands at the gate.
    for value in 1..=500 {
        app.put("a", value.to_string()).unwrap();
        app.put("b", value.to_string()).unwrap();
    }
    app.put("c", "0").unwrap();
    app.delete("c").unwrap();
    // All of it has been told when a change of another connection has come after it, which its end shows.
    let_one_pass(&path);
    watch.expect_next(&["changed a 500"]);
    let_one_pass(&path);
    watch.expect_next(&["changed b 500"]);
    let_one_pass(&path);
    watch.expect_next(&["deleted c "]);
    app.put("b", "last").unwrap();
    let_one_pass(&path);
    watch.expect_next(&["changed b last"]);
    let_one_pass(&path);
}

#[test]
fn a_command_that_fails_is_told_and_the_watch_goes_on() {
    let world = World::start();
    let app = world.connect();
    let watch =
        world.watch(["k", "--count", "3", "--exec", "read value; echo got $value; exit $value"]);
    for value in ["3", "0", "4"] {
        app.put("k", format!("{value}\n")).unwrap();
        watch.expect_next(&[&format!("got {value}")]);
    }
    let finished = watch.finish();
    assert_eq!(finished.status.code(), Some(0));
    let told: Vec<_> = finished.stderr.iter().filter(|line| line.contains("warning")).collect();
    assert_eq!(
        told,
        [
            "kvs: warning: the command for the key \"k\" failed: exit status: 3; the watch continues",
            "kvs: warning: the command for the key \"k\" failed: exit status: 4; the watch continues"
        ]
    );
}

#[test]
fn a_command_need_not_read_the_value() {
    let world = World::start();
    let app = world.connect();
    let watch = world.watch(["k", "--count", "1", "--exec", "exec <&-; echo done"]);
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
fn a_command_finds_the_group_and_not_the_secret() {
    let world = World::start();
    let app = world.connect();
    let variables = |program: Program| -> Vec<String> {
        let watch = program.spawn();
        watch.expect_log("that it watches", |line| line.contains("watching"));
        app.put("k", "v").unwrap();
        let finished = watch.finish();
        assert!(finished.status.success());
        let mut lines = finished.stdout;
        lines.sort();
        assert!(lines.iter().all(|line| !line.contains(&world.secret)), "{lines:?}");
        lines
    };
    let args = ["watch", "k", "--count", "1", "--exec", "env | grep ^KVS_"];
    // The secret is the one of KVS_SECRET, so this file is not the one that is used.
    let unused = world.secret_file(0o640);
    let program =
        world.program(args).env("KVS_SECRET_FILE", unused).env("KVS_SECRET", &world.secret);
    let seen = variables(program);
    let version = app.get_versioned("k").unwrap().unwrap().version;
    let server = world.server.socket().display();
    let expected = [
        "KVS_EVENT=changed".to_owned(),
        format!("KVS_GROUP={GROUP}"),
        "KVS_KEY=k".into(),
        format!("KVS_SOCKET={server}"),
        format!("KVS_VERSION={version}"),
    ];
    assert_eq!(seen, expected);
    // What was typed for the watch holds for a `kvs` in its command.
    let file = world.secret_file(0o600);
    let args = [
        "watch",
        "k",
        "-g",
        GROUP,
        "--socket",
        world.server.socket().to_str().unwrap(),
        "--secret-file",
    ];
    let command = format!("{} get k", kvs_testkit::bin("kvs").display());
    let args = args.into_iter().chain([file.to_str().unwrap(), "--count", "1", "--exec", &command]);
    // What belongs to the server of the environment is not mixed with it.
    let program = Program::new(kvs_testkit::bin("kvs")).args(args);
    let seen = variables(program.env("KVS_CALLBACK_SOCKET", "/nowhere_cb"));
    assert_eq!(seen, ["v"]);
}
