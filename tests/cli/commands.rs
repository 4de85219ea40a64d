//! Each command, as text and as JSON.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use kvs_testkit::bin;
use serde_json::json;

use crate::{GROUP, World};

#[test]
fn what_is_put_is_got_and_deleted() {
    let world = World::start();
    world.run(["put", "temperature", "21.5"]).says("");
    world.run(["get", "temperature"]).says("21.5");
    world.run(["put", "temperature", "-3"]).says("");
    world.run(["get", "temperature"]).says("-3");
    world.run(["put", "--", "-k", "-v"]).says("");
    world.run(["get", "--", "-k"]).says("-v");
    world.run(["put", "empty", ""]).says("");
    world.run(["get", "empty"]).says("");
    world.run(["delete", "temperature", "empty", "--", "-k"]).says("");
    world.run(["keys"]).says("");
    assert_eq!(world.run(["get", "temperature"]).code, Some(1));
}

#[test]
fn a_value_from_standard_input_is_stored_byte_by_byte() {
    let world = World::start();
    let every: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    for value in [&every[..], b"", b"\n", b"a\n\n", b"\0", b"\xff\r\n"] {
        for args in [&["put", "k"][..], &["put", "k", "-"]] {
            world.run_with(args, value, []).says("");
            world.run(["get", "k"]).says(value);
            world.run(["delete", "k"]).says("");
        }
    }
}

#[test]
fn keys_are_bytes_too() {
    let world = World::start();
    let key = OsStr::from_bytes(b"k\xff\n");
    world.run_with([OsStr::new("put"), key, OsStr::new("v")], b"", []).says("");
    assert_eq!(world.connect().get(key.as_bytes()).unwrap().as_deref(), Some(&b"v"[..]));
    world.run_with([OsStr::new("get"), key], b"", []).says("v");
    world.run(["keys"]).says(b"k\xff\n\n");
    world.run(["keys", "-0"]).says(b"k\xff\n\0");
    assert_eq!(world.run(["keys", "--json"]).objects(), [json!({"key_base64": "a/8K"})]);
}

#[test]
fn keys_are_listed_with_their_prefix_page_by_page() {
    let world = World::start();
    let app = world.connect();
    let all: BTreeSet<String> = (0..25_000).map(|n| format!("key-{n}")).collect();
    for keys in all.iter().collect::<Vec<_>>().chunks(10_000) {
        app.put_many(keys.iter().map(|key| (key, "v"))).unwrap();
    }
    app.put("other", "v").unwrap();
    let listed = |args: &[&str]| -> Vec<String> {
        let ran = world.run(args.iter().copied());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.text().lines().map(str::to_owned).collect()
    };
    let keys = listed(&["keys", "key-"]);
    assert_eq!(keys.len(), all.len());
    assert_eq!(keys.into_iter().collect::<BTreeSet<_>>(), all);
    assert_eq!(listed(&["keys"]).len(), all.len() + 1);
    assert_eq!(listed(&["keys", "ot"]), ["other"]);
    assert!(listed(&["keys", "nothing"]).is_empty());
}

#[test]
fn nobody_who_has_read_enough_is_complained_to() {
    let world = World::start();
    world.connect().put_many((0..5000).map(|n| (format!("key-{n}"), "v"))).unwrap();
    for args in [&["keys"][..], &["keys", "--json"], &["get", "key-1"], &["status"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(bin("kvs"));
        command.args(args).envs(world.variables()).stdin(Stdio::null()).stdout(writer);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{args:?}");
    }
}

#[test]
fn json_has_the_value_and_its_version() {
    let world = World::start();
    let put = world.run(["put", "k", "\u{e4}\n\"", "--json"]).objects();
    let version = put[0]["version"].as_u64().unwrap();
    assert_eq!(put, [json!({"key": "k", "version": version})]);
    let got = json!({"key": "k", "value": "\u{e4}\n\"", "version": version});
    assert_eq!(world.run(["--json", "get", "k"]).objects(), [got]);
    let put = world.run_with(["put", "k", "--json"], b"\xff\0", []).objects();
    let next = put[0]["version"].as_u64().unwrap();
    assert!(next > version);
    let got = json!({"key": "k", "value_base64": "/wA=", "version": next});
    assert_eq!(world.run(["get", "k", "--json"]).objects(), [got]);
    assert_eq!(world.run(["keys", "--json"]).objects(), [json!({"key": "k"})]);
    let deleted = json!({"key": "k", "deleted": true});
    assert_eq!(world.run(["delete", "k", "--json"]).objects(), [deleted]);
}

#[test]
fn with_a_version_only_the_first_of_several_succeeds() {
    let world = World::start();
    let version = |args: &[&str]| {
        let objects = world.run(args.iter().copied().chain(["--json"])).objects();
        objects[0]["version"].as_u64().unwrap().to_string()
    };
    let first = version(&["put", "k", "one", "--if-version", "0"]);
    let conflict = |ran: crate::Ran, version: &str| {
        ran.fails(5, &format!("the key \"k\" has version {version}: nothing was changed"));
    };
    conflict(world.run(["put", "k", "two", "--if-version", "0"]), &first);
    world.run(["get", "k"]).says("one");
    let second = version(&["put", "k", "two", "--if-version", &first]);
    conflict(world.run(["put", "k", "three", "--if-version", &first]), &second);
    conflict(world.run(["delete", "k", "--if-version", &first]), &second);
    world.run(["get", "k"]).says("two");
    world.run(["delete", "k", "--if-version", &second]).says("");
    let gone = world.run(["delete", "k", "--if-version", &second]);
    gone.fails(5, "the key \"k\" does not exist: nothing was changed");
}

#[test]
fn keys_that_exist_are_deleted_whatever_the_others_do() {
    let world = World::start();
    for key in ["a", "b"] {
        world.run(["put", key, "v"]).says("");
    }
    let ran = world.run(["delete", "a", "nope", "b"]);
    ran.fails(1, "there is no key \"nope\" in the group \"weather\"");
    world.run(["keys"]).says("");
}

#[test]
fn status_tells_the_server_the_session_and_how_many_keys() {
    let world = World::start();
    world.connect().put_many((0..123).map(|n| (n.to_string(), "v"))).unwrap();
    let status = world.run(["status", "--json"]).objects();
    let round_trip = status[0]["round_trip_us"].clone();
    assert!(round_trip.as_f64().is_some_and(|time| time > 0.0));
    let server = world.variables()[0].1.clone();
    let expected = json!({
        "server": server, "group": GROUP, "session": "framed", "keys": 123, "round_trip_us": round_trip
    });
    assert_eq!(status, [expected]);
    let text = world.run(["status"]).text();
    for part in ["server:      ", &server, "keys:        123\n", "protocol:    v2\n", " \u{b5}s\n"]
    {
        assert!(text.contains(part), "{text}");
    }
    let original =
        world.run_with(["status", "--json"], b"", [("KVS_PROTOCOL", "original")]).objects();
    assert_eq!((&original[0]["session"], &original[0]["keys"]), (&json!("original"), &json!(null)));
}

#[test]
fn an_original_session_puts_gets_and_deletes() {
    let world = World::start();
    let run = |args: &[&str]| world.run_with(args, b"", [("KVS_PROTOCOL", "original")]);
    run(&["put", "k", "v"]).says("");
    run(&["get", "k"]).says("v");
    assert_eq!(run(&["get", "k", "--json"]).objects(), [json!({"key": "k", "value": "v"})]);
    run(&["delete", "k"]).says("");
    assert_eq!(run(&["get", "k"]).code, Some(1));
}

#[test]
fn commands_come_from_standard_input() {
    let world = World::start();
    let script = b"put a 'two words'\n\n# a comment\nget a\nput b \"\"\nget b\nkeys a\n";
    world.run_with([""; 0], script, []).says("two words\n\na\n");
    // Each failure is told, the others are done, and the last one is the exit code.
    let script =
        b"get nope\nput a 1 --if-version 0\nget a\nbogus\nput c\nget 'open\nget zzz\nget a";
    let ran = world.run_with([""; 0], script, []);
    assert_eq!((ran.code, &*ran.text()), (Some(1), "two words\ntwo words\n"), "{ran:?}");
    for sentence in [
        "kvs: there is no key \"nope\"",
        "kvs: the key \"a\" has version ",
        "kvs: unrecognized subcommand 'bogus'",
        "kvs: the value is missing",
        "kvs: a quote is not closed",
        "kvs: there is no key \"zzz\"",
    ] {
        assert!(ran.stderr.contains(sentence), "{sentence}: {ran:?}");
    }
    // After `quit` nothing is done.
    let ran = world.run_with(["--json"], b"get a\nquit\nget nope\n", []);
    assert_eq!(ran.objects()[0]["value"], json!("two words"));
    // What needs the prompt says so.
    assert_eq!(world.run_with([""; 0], b"unwatch\n", []).code, Some(2));
    // A lost connection is opened anew.
    let lines = world.program([]).spawn();
    lines.send("get a");
    lines.expect_next(&["two words"]);
    world.server.delete_group(GROUP);
    lines.send("get a");
    lines.expect_log("the lost connection", |line| line.starts_with("kvs: "));
    lines.end_input();
    assert!(matches!(lines.wait_exit().code(), Some(3 | 4)));
}

#[test]
fn help_names_every_command_and_exit_code_and_needs_no_server() {
    let world = World::start();
    let help = |args: &[&str]| {
        let ran = world.run_with(args, b"", [("KVS_SOCKET", "/nonexistent"), ("KVS_GROUP", "")]);
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{args:?}");
        ran.text()
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
    assert!(!long.contains(&world.secret) && !long.contains("secret-600"));
    assert!(help(&["watch", "--help"]).contains("--exec"));
    assert!(help(&["help", "put"]).contains("--if-version"));
    assert_eq!(help(&["--version"]), format!("kvs {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(help(&["completions", shell]).contains("if-version"), "{shell}");
    }
}

#[test]
fn an_option_goes_before_its_variable() {
    let world = World::start();
    world.run(["put", "k", "v"]).says("");
    let socket = world.variables()[0].1.clone();
    let ran = world.run_with(
        ["--socket", &socket, "get", "k", "--group", GROUP],
        b"",
        // The callback socket of the environment belongs to the server of the environment.
        [
            ("KVS_SOCKET", "/nonexistent"),
            ("KVS_CALLBACK_SOCKET", "/nonexistent"),
            ("KVS_GROUP", "nope"),
        ],
    );
    ran.says("v");
    let callback = format!("{socket}_cb");
    world
        .run_with(
            ["get", "k", "--callback-socket", &callback],
            b"",
            [("KVS_CALLBACK_SOCKET", "/nonexistent")],
        )
        .says("v");
    // What is empty counts as unset.
    world
        .run_with(
            ["get", "k"],
            b"",
            [("KVS_TIMEOUT_MS", ""), ("KVS_CALLBACK_SOCKET", ""), ("KVS_SECRET", "")],
        )
        .says("v");
}
