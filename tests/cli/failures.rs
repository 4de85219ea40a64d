//! The exit code and the sentence of each failure; where the secret comes from, and where it never goes.

use std::fs;
use std::process::{Command, Stdio};

use kvs_testkit::{Program, Sockets, bin};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{GROUP, World};

#[test]
fn a_missing_key_is_told_with_its_group() {
    let world = World::start();
    for command in ["get", "delete"] {
        let ran = world.run([command, "temperature"]);
        ran.fails(1, "there is no key \"temperature\" in the group \"weather\"");
    }
    let ran = world.run(["get", "temperature", "--json"]);
    assert_eq!((ran.code, ran.stdout.len()), (Some(1), 0));
    let error = json!({
        "error": "no_such_key",
        "message": "there is no key \"temperature\" in the group \"weather\"",
        "key": "temperature",
        "exit_code": 1
    });
    assert_eq!(crate::objects(&ran.stderr), [error]);
}

#[test]
fn without_a_server_the_path_is_told() {
    let world = World::start();
    let path = world.home.path().join("nobody");
    let path = path.to_str().unwrap();
    let sentence = format!(
        "no server at {path}: is KVS-LocalServer running? (KVS_SOCKET or --socket names another path)"
    );
    world.run(["get", "k", "--socket", path]).fails(3, &sentence);
    world.server.kill();
    let path = world.server.socket().to_str().unwrap();
    let sentence = format!(
        "no server at {path}: is KVS-LocalServer running? (KVS_SOCKET or --socket names another path)"
    );
    world.run(["status"]).fails(3, &sentence);
}

#[test]
fn a_server_that_stands_still_is_not_waited_for_longer_than_told() {
    let world = World::start();
    world.server.stop();
    let ran = world.run(["get", "k", "--timeout", "200", "--json"]);
    world.server.signal(Signal::SIGCONT);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(crate::objects(&ran.stderr)[0]["error"], json!("timed_out"), "{ran:?}");
}

#[test]
fn without_the_authentication_server_nobody_is_let_in() {
    let world = World::start();
    world.auth.kill();
    let ran = world.run(["get", "k", "--json"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(crate::objects(&ran.stderr)[0]["error"], json!("no_login"), "{ran:?}");
}

#[test]
fn a_refusal_says_what_was_wrong() {
    let world = World::start();
    let server = world.server.socket().to_str().unwrap();
    let ran = world.run_with(["get", "k"], b"", [("KVS_SECRET", "guess")]);
    let sentence = format!(
        "the server at {server} rejected the secret of the group \"weather\": its administrator can \
         print the right one with kvs admin info"
    );
    ran.fails(4, &sentence);
    let ran = world.run(["get", "k", "--group", "nope"]);
    let sentence = format!(
        "the server at {server} has no group \"nope\": its administrator creates one with kvs admin \
         create"
    );
    ran.fails(4, &sentence);
}

#[test]
fn what_is_too_much_is_told_in_numbers() {
    let world = World::with(["--max-value-bytes", "1000", "--max-pairs-per-user", "2"]);
    let ran = world.run_with(["put", "k"], &[b'v'; 1001], []);
    ran.fails(6, "the value does not fit: 1001 bytes are too long: at most 1000 are allowed");
    let key = "k".repeat(65_537);
    let ran = world.run(["get", &key]);
    ran.fails(6, "the key does not fit: 65537 bytes are too long: at most 65536 are allowed");
    world.run(["put", "a", "v"]).says("");
    world.run(["put", "b", "v"]).says("");
    let ran = world.run(["put", "c", "v"]);
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.stderr.contains("has reached its limit of pairs or bytes"), "{ran:?}");
    let ran = world.run_with(["keys"], b"", [("KVS_PROTOCOL", "original")]);
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.stderr.contains("protocol v1 does not support this"), "{ran:?}");
}

#[test]
fn an_endless_value_is_not_read_to_its_end() {
    let world = World::start();
    let mut command = Command::new(bin("kvs"));
    command.args(["put", "k"]).envs(world.variables()).stdin(fs::File::open("/dev/zero").unwrap());
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}

#[test]
fn a_wrong_command_line_is_told_with_the_right_one() {
    let world = World::start();
    for args in [
        &["get"][..],
        &["get", "a", "b"],
        &["bogus"],
        &["get", ""],
        &["delete"],
        &["watch"],
        &["delete", "a", "b", "--if-version", "1"],
        &["delete", "a", "--if-version", "0"],
        &["put", "a", "b", "--if-version", "x"],
        &["get", "k", "--timeout", "0"],
        &["get", "k", "--secret", "s"],
        &["watch", "k", "--count", "0"],
    ] {
        let ran = world.run(args.iter().copied());
        assert_eq!((ran.code, ran.stdout.len()), (Some(2), 0), "{args:?}: {ran:?}");
        assert!(ran.stderr.starts_with("kvs: "), "{args:?}: {ran:?}");
        let ran = world.run(args.iter().copied().chain(["--json"]));
        assert_eq!(crate::objects(&ran.stderr)[0]["error"], json!("usage"), "{args:?}: {ran:?}");
    }
    let ran = world.run(["get"]);
    assert!(ran.stderr.contains("Usage: kvs get [OPTIONS] <KEY>"), "{ran:?}");
    let ran = world.run_with(["get", "k"], b"", [("KVS_PROTOCOL", "carrier pigeon")]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[test]
fn what_is_missing_is_asked_for_in_a_sentence() {
    let world = World::start();
    let ran = world.run_with(["get", "k"], b"", [("KVS_GROUP", "")]);
    ran.fails(2, "no group given: use --group GROUP or KVS_GROUP, or at the prompt: connect GROUP");
    let ran = world.run_with(["get", "k"], b"", [("KVS_SECRET_FILE", "")]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for part in [
        "no secret for the group \"weather\"",
        "KVS_SECRET_FILE",
        "--secret-file FILE",
        "set KVS_SECRET;",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
}

#[test]
fn the_secret_comes_from_a_file_or_the_environment() {
    let world = World::start();
    let wrong = world.home.path().join("wrong");
    fs::write(&wrong, "guess\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    let right = world.secret_file(0o600);
    let right = right.to_str().unwrap();
    let status = |args: &[&str], secret: &str, file: &str| {
        let args = ["put", "k", "v"].iter().chain(args);
        world.run_with(args, b"", [("KVS_SECRET", secret), ("KVS_SECRET_FILE", file)]).code
    };
    assert_eq!(status(&[], &world.secret, ""), Some(0));
    assert_eq!(status(&[], "", right), Some(0));
    assert_eq!(status(&["--secret-file", right], "", ""), Some(0));
    // The secret itself goes before a file, but not before a file that was typed.
    assert_eq!(status(&[], &world.secret, wrong), Some(0));
    assert_eq!(status(&[], "guess", right), Some(4));
    assert_eq!(status(&["--secret-file", right], "guess", wrong), Some(0));
    assert_eq!(status(&["--secret-file", wrong], &world.secret, right), Some(4));
}

#[test]
fn a_file_that_everybody_may_read_is_used_with_a_warning() {
    let world = World::start();
    world.run(["put", "k", "v"]).says("");
    let file = world.secret_file(0o644);
    let file = file.to_str().unwrap();
    let ran = world.run(["get", "k", "--secret-file", file]);
    let warning = format!(
        "kvs: warning: every user of this machine can read the secret file \"{file}\": \
         chmod 600 \"{file}\"\n"
    );
    assert_eq!((ran.code, &*ran.text(), ran.stderr), (Some(0), "v", warning));
    let ran = world.run(["get", "k", "--secret-file", file, "--json"]);
    assert_eq!(crate::objects(&ran.stderr)[0]["warning"], json!("exposed_secret"));
}

#[test]
fn a_file_without_a_secret_is_refused() {
    let world = World::start();
    let path = world.home.path().join("file");
    let file = path.to_str().unwrap();
    let missing = world.run(["get", "k", "--secret-file", file]);
    missing.fails(
        7,
        &format!("cannot read the secret file \"{file}\": No such file or directory (os error 2)"),
    );
    for content in ["", "\n", "\nsecret in the second line\n"] {
        fs::write(&path, content).unwrap();
        let empty = world.run(["get", "k", "--secret-file", file]);
        empty.fails(2, &format!("the first line of the secret file \"{file}\" is empty"));
    }
}

#[test]
fn an_output_that_cannot_be_written_is_told() {
    let world = World::start();
    world.run(["put", "k", "v"]).says("");
    for args in [&["get", "k"][..], &["keys"], &["status", "--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(bin("kvs"));
        command.args(args).envs(world.variables()).stdin(Stdio::null()).stdout(full);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(7), "{args:?}: {stderr}");
        assert!(stderr.contains("No space left on device"), "{args:?}: {stderr}");
    }
}

#[test]
fn nobody_sees_the_secret_in_the_list_of_processes() {
    let world = World::start();
    let watch = |program: Program| {
        let watch = program.spawn();
        watch.expect_log("that it watches", |line| line.contains("watching"));
        let command_line = fs::read(format!("/proc/{}/cmdline", watch.pid())).unwrap();
        let command_line = String::from_utf8_lossy(&command_line).into_owned();
        assert!(
            command_line.contains("watch") && !command_line.contains(&world.secret),
            "{command_line}"
        );
    };
    watch(world.program(["watch", "k"]));
    watch(
        world.program(["watch", "k"]).env("KVS_SECRET_FILE", "").env("KVS_SECRET", &world.secret),
    );
    // There is no option for it.
    let ran = world.run(["get", "k", "--group", GROUP, "--secret", "x"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}
