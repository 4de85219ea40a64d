//! Each command, as text and as JSON; commands from standard input.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use kvs_testkit::bin;
use serde_json::json;

use crate::{CliEnv, GROUP};

#[test]
fn put_get_delete_round_trip() {
    let env = CliEnv::start();
    env.run(["put", "temperature", "21.5"]).assert_prints("");
    env.run(["get", "temperature"]).assert_prints("21.5");
    env.run(["put", "temperature", "-3"]).assert_prints("");
    env.run(["get", "temperature"]).assert_prints("-3");
    env.run(["put", "--", "-k", "-v"]).assert_prints("");
    env.run(["get", "--", "-k"]).assert_prints("-v");
    env.run(["put", "empty", ""]).assert_prints("");
    env.run(["get", "empty"]).assert_prints("");
    env.run(["delete", "temperature", "empty", "--", "-k"]).assert_prints("");
    env.run(["keys"]).assert_prints("");
    assert_eq!(env.run(["get", "temperature"]).code, Some(1));
}

#[test]
fn stdin_value_is_stored_unchanged() {
    let env = CliEnv::start();
    let all_bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    for value in [&all_bytes[..], b"", b"\n", b"a\n\n", b"\0", b"\xff\r\n"] {
        for args in [&["put", "k"][..], &["put", "k", "-"]] {
            env.run_with(args, value, []).assert_prints("");
            env.run(["get", "k"]).assert_prints(value);
            env.run(["delete", "k"]).assert_prints("");
        }
    }
}

#[test]
fn keys_are_arbitrary_bytes() {
    let env = CliEnv::start();
    let key = OsStr::from_bytes(b"k\xff\n");
    env.run_with([OsStr::new("put"), key, OsStr::new("v")], b"", []).assert_prints("");
    assert_eq!(env.connect().get(key.as_bytes()).unwrap().as_deref(), Some(&b"v"[..]));
    env.run_with([OsStr::new("get"), key], b"", []).assert_prints("v");
    env.run(["keys"]).assert_prints(b"k\xff\n\n");
    env.run(["keys", "-0"]).assert_prints(b"k\xff\n\0");
    assert_eq!(env.run(["keys", "--json"]).json(), [json!({"key_base64": "a/8K"})]);
}

#[test]
fn keys_lists_all_pages_of_a_prefix() {
    let env = CliEnv::start();
    let app = env.connect();
    let all: BTreeSet<String> = (0..25_000).map(|n| format!("key-{n}")).collect();
    for keys in all.iter().collect::<Vec<_>>().chunks(10_000) {
        app.put_many(keys.iter().map(|key| (key, "v"))).unwrap();
    }
    app.put("other", "v").unwrap();
    let listed = |args: &[&str]| -> Vec<String> {
        let output = env.run(args.iter().copied());
        assert_eq!(output.code, Some(0), "{output:?}");
        output.text().lines().map(str::to_owned).collect()
    };
    let keys = listed(&["keys", "key-"]);
    assert_eq!(keys.len(), all.len());
    assert_eq!(keys.into_iter().collect::<BTreeSet<_>>(), all);
    assert_eq!(listed(&["keys"]).len(), all.len() + 1);
    assert_eq!(listed(&["keys", "ot"]), ["other"]);
    assert!(listed(&["keys", "nothing"]).is_empty());
}

#[test]
fn closed_stdout_is_no_error() {
    let env = CliEnv::start();
    env.connect().put_many((0..5000).map(|n| (format!("key-{n}"), "v"))).unwrap();
    for args in [&["keys"][..], &["keys", "--json"], &["get", "key-1"], &["status"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(bin("kvs"));
        command.args(args).envs(env.variables()).stdin(Stdio::null()).stdout(writer);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{args:?}");
    }
}

#[test]
fn json_has_value_and_version() {
    let env = CliEnv::start();
    let put = env.run(["put", "k", "\u{e4}\n\"", "--json"]).json();
    let version = put[0]["version"].as_u64().unwrap();
    assert_eq!(put, [json!({"key": "k", "version": version})]);
    let got = json!({"key": "k", "value": "\u{e4}\n\"", "version": version});
    assert_eq!(env.run(["--json", "get", "k"]).json(), [got]);
    let put = env.run_with(["put", "k", "--json"], b"\xff\0", []).json();
    let next = put[0]["version"].as_u64().unwrap();
    assert!(next > version);
    let got = json!({"key": "k", "value_base64": "/wA=", "version": next});
    assert_eq!(env.run(["get", "k", "--json"]).json(), [got]);
    assert_eq!(env.run(["keys", "--json"]).json(), [json!({"key": "k"})]);
    let deleted = json!({"key": "k", "deleted": true});
    assert_eq!(env.run(["delete", "k", "--json"]).json(), [deleted]);
}

#[test]
fn if_version_lets_only_the_first_writer_succeed() {
    let env = CliEnv::start();
    let version = |args: &[&str]| {
        let objects = env.run(args.iter().copied().chain(["--json"])).json();
        objects[0]["version"].as_u64().unwrap().to_string()
    };
    let first = version(&["put", "k", "one", "--if-version", "0"]);
    let conflict = |output: crate::CliOutput, version: &str| {
        output
            .assert_fails(5, &format!("the key \"k\" has version {version}: nothing was changed"));
    };
    conflict(env.run(["put", "k", "two", "--if-version", "0"]), &first);
    env.run(["get", "k"]).assert_prints("one");
    let second = version(&["put", "k", "two", "--if-version", &first]);
    conflict(env.run(["put", "k", "three", "--if-version", &first]), &second);
    conflict(env.run(["delete", "k", "--if-version", &first]), &second);
    env.run(["get", "k"]).assert_prints("two");
    env.run(["delete", "k", "--if-version", &second]).assert_prints("");
    let gone = env.run(["delete", "k", "--if-version", &second]);
    gone.assert_fails(5, "the key \"k\" does not exist: nothing was changed");
}

#[test]
fn delete_continues_after_missing_keys() {
    let env = CliEnv::start();
    for key in ["a", "b"] {
        env.run(["put", key, "v"]).assert_prints("");
    }
    let output = env.run(["delete", "a", "nope", "b"]);
    output.assert_fails(1, "there is no key \"nope\" in the group \"weather\"");
    env.run(["keys"]).assert_prints("");
}

#[test]
fn status_reports_server_protocol_and_key_count() {
    let env = CliEnv::start();
    env.connect().put_many((0..123).map(|n| (n.to_string(), "v"))).unwrap();
    let status = env.run(["status", "--json"]).json();
    let round_trip = status[0]["round_trip_us"].clone();
    assert!(round_trip.as_f64().is_some_and(|time| time > 0.0));
    let server = env.variables()[0].1.clone();
    let expected = json!({
        "server": server,
        "group": GROUP,
        "session": "framed",
        "keys": 123,
        "round_trip_us": round_trip
    });
    assert_eq!(status, [expected]);
    let text = env.run(["status"]).text();
    for part in ["server:      ", &server, "keys:        123\n", "protocol:    v2\n", " \u{b5}s\n"]
    {
        assert!(text.contains(part), "{text}");
    }
    let original = env.run_with(["status", "--json"], b"", [("KVS_PROTOCOL", "original")]).json();
    assert_eq!((&original[0]["session"], &original[0]["keys"]), (&json!("original"), &json!(null)));
}

#[test]
fn v1_puts_gets_and_deletes() {
    let env = CliEnv::start();
    let run = |args: &[&str]| env.run_with(args, b"", [("KVS_PROTOCOL", "original")]);
    run(&["put", "k", "v"]).assert_prints("");
    run(&["get", "k"]).assert_prints("v");
    assert_eq!(run(&["get", "k", "--json"]).json(), [json!({"key": "k", "value": "v"})]);
    run(&["delete", "k"]).assert_prints("");
    assert_eq!(run(&["get", "k"]).code, Some(1));
}

#[test]
fn script_runs_commands_of_stdin() {
    let env = CliEnv::start();
    let script = b"put a 'two words'\n\n# a comment\nget a\nput b \"\"\nget b\nkeys a\n";
    env.run_with([""; 0], script, []).assert_prints("two words\n\na\n");
    // Each failure is reported, the other commands run, and the last failure sets the exit code.
    let script =
        b"get nope\nput a 1 --if-version 0\nget a\nbogus\nput c\nget 'open\nget zzz\nget a";
    let output = env.run_with([""; 0], script, []);
    assert_eq!((output.code, &*output.text()), (Some(1), "two words\ntwo words\n"), "{output:?}");
    for sentence in [
        "kvs: there is no key \"nope\"",
        "kvs: the key \"a\" has version ",
        "kvs: unrecognized subcommand 'bogus'",
        "kvs: the value is missing",
        "kvs: a quote is not closed",
        "kvs: there is no key \"zzz\"",
    ] {
        assert!(output.stderr.contains(sentence), "{sentence}: {output:?}");
    }
    // Nothing runs after `quit`.
    let output = env.run_with(["--json"], b"get a\nquit\nget nope\n", []);
    assert_eq!(output.json()[0]["value"], json!("two words"));
    // A command of the prompt is rejected.
    assert_eq!(env.run_with([""; 0], b"unwatch\n", []).code, Some(2));
    // After the connection is lost, the next command reconnects.
    let lines = env.kvs([]).spawn();
    lines.send("get a");
    lines.expect_next(&["two words"]);
    env.server.delete_group(GROUP);
    lines.send("get a");
    lines.expect_log("the lost connection", |line| line.starts_with("kvs: "));
    lines.end_input();
    assert!(matches!(lines.wait_exit().code(), Some(3 | 4)));
}

#[test]
fn help_is_complete_and_needs_no_server() {
    let env = CliEnv::start();
    let help = |args: &[&str]| {
        let output = env.run_with(args, b"", [("KVS_SOCKET", "/nonexistent"), ("KVS_GROUP", "")]);
        assert_eq!((output.code, &*output.stderr), (Some(0), ""), "{args:?}");
        output.text()
    };
    let long = help(&["--help"]);
    for part in [
        "get ",
        "put ",
        "delete ",
        "keys ",
        "watch ",
        "status ",
        "completions ",
        "Exit codes:",
        "KVS_SECRET_FILE",
        "value_base64",
    ] {
        assert!(long.contains(part), "{part} in {long}");
    }
    assert!(!long.contains(env.secret()) && !long.contains("secret-600"));
    assert!(help(&["watch", "--help"]).contains("--exec"));
    assert!(help(&["help", "put"]).contains("--if-version"));
    assert_eq!(help(&["--version"]), format!("kvs {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(help(&["completions", shell]).contains("if-version"), "{shell}");
    }
}

#[test]
fn option_overrides_its_variable() {
    let env = CliEnv::start();
    env.run(["put", "k", "v"]).assert_prints("");
    let socket = env.variables()[0].1.clone();
    let output = env.run_with(
        ["--socket", &socket, "get", "k", "--group", GROUP],
        b"",
        // KVS_CALLBACK_SOCKET belongs to the server of KVS_SOCKET.
        [
            ("KVS_SOCKET", "/nonexistent"),
            ("KVS_CALLBACK_SOCKET", "/nonexistent"),
            ("KVS_GROUP", "nope"),
        ],
    );
    output.assert_prints("v");
    let callback = format!("{socket}_cb");
    env.run_with(
        ["get", "k", "--callback-socket", &callback],
        b"",
        [("KVS_CALLBACK_SOCKET", "/nonexistent")],
    )
    .assert_prints("v");
    // An empty variable counts as unset.
    env.run_with(
        ["get", "k"],
        b"",
        [("KVS_TIMEOUT_MS", ""), ("KVS_CALLBACK_SOCKET", ""), ("KVS_SECRET", "")],
    )
    .assert_prints("v");
}
