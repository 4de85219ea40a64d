//! Exit codes and messages; where the secret comes from, and where it never appears.

use std::fs;
use std::process::{Command, Stdio};

use kvs_testkit::{Program, Sockets, bin};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{CliEnv, GROUP, parse_json_lines};

#[test]
fn missing_key_is_reported_with_its_group() {
    let env = CliEnv::start();
    for command in ["get", "delete"] {
        let output = env.run([command, "temperature"]);
        output.assert_fails(1, "there is no key \"temperature\" in the group \"weather\"");
    }
    let output = env.run(["get", "temperature", "--json"]);
    assert_eq!((output.code, output.stdout.len()), (Some(1), 0));
    let error = json!({
        "error": "no_such_key",
        "message": "there is no key \"temperature\" in the group \"weather\"",
        "key": "temperature",
        "exit_code": 1
    });
    assert_eq!(parse_json_lines(&output.stderr), [error]);
}

#[test]
fn missing_server_is_reported_with_its_path() {
    let env = CliEnv::start();
    let path = env.home.path().join("missing");
    let path = path.to_str().unwrap();
    let sentence = format!(
        "no server at {path}: is KVS-LocalServer running? \
         (KVS_SOCKET or --socket names another path)"
    );
    env.run(["get", "k", "--socket", path]).assert_fails(3, &sentence);
    env.server.kill();
    let path = env.server.socket().to_str().unwrap();
    let sentence = format!(
        "no server at {path}: is KVS-LocalServer running? \
         (KVS_SOCKET or --socket names another path)"
    );
    env.run(["status"]).assert_fails(3, &sentence);
}

#[test]
fn stopped_server_causes_a_timeout() {
    let env = CliEnv::start();
    env.server.stop();
    let output = env.run(["get", "k", "--timeout", "200", "--json"]);
    env.server.signal(Signal::SIGCONT);
    assert_eq!(output.code, Some(3), "{output:?}");
    assert_eq!(parse_json_lines(&output.stderr)[0]["error"], json!("timed_out"), "{output:?}");
}

#[test]
fn login_fails_without_authentication_server() {
    let env = CliEnv::start();
    env.auth.kill();
    let output = env.run(["get", "k", "--json"]);
    assert_eq!(output.code, Some(3), "{output:?}");
    assert_eq!(parse_json_lines(&output.stderr)[0]["error"], json!("no_login"), "{output:?}");
}

#[test]
fn refusal_names_its_reason() {
    let env = CliEnv::start();
    let server = env.server.socket().to_str().unwrap();
    let output = env.run_with(["get", "k"], b"", [("KVS_SECRET", "guess")]);
    let sentence = format!(
        "the server at {server} rejected the secret of the group \"weather\": its administrator \
         can print the right one with kvs admin info"
    );
    output.assert_fails(4, &sentence);
    let output = env.run(["get", "k", "--group", "nope"]);
    let sentence = format!(
        "the server at {server} has no group \"nope\": its administrator creates one with \
         kvs admin create"
    );
    output.assert_fails(4, &sentence);
}

#[test]
fn exceeded_limits_are_reported_with_numbers() {
    let env = CliEnv::with_args(["--max-value-bytes", "1000", "--max-pairs-per-user", "2"]);
    let output = env.run_with(["put", "k"], &[b'v'; 1001], []);
    output.assert_fails(
        6,
        "the value does not fit: 1001 bytes are too long: at most 1000 are allowed",
    );
    let key = "k".repeat(65_537);
    let output = env.run(["get", &key]);
    output.assert_fails(
        6,
        "the key does not fit: 65537 bytes are too long: at most 65536 are allowed",
    );
    env.run(["put", "a", "v"]).assert_prints("");
    env.run(["put", "b", "v"]).assert_prints("");
    let output = env.run(["put", "c", "v"]);
    assert_eq!(output.code, Some(6), "{output:?}");
    assert!(output.stderr.contains("has reached its limit of pairs or bytes"), "{output:?}");
    let output = env.run_with(["keys"], b"", [("KVS_PROTOCOL", "original")]);
    assert_eq!(output.code, Some(6), "{output:?}");
    assert!(output.stderr.contains("protocol v1 does not support this"), "{output:?}");
}

#[test]
fn endless_value_is_rejected() {
    let env = CliEnv::start();
    let mut command = Command::new(bin("kvs"));
    command.args(["put", "k"]).envs(env.variables()).stdin(fs::File::open("/dev/zero").unwrap());
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}

#[test]
fn wrong_command_line_is_reported_with_usage() {
    let env = CliEnv::start();
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
        let output = env.run(args.iter().copied());
        assert_eq!((output.code, output.stdout.len()), (Some(2), 0), "{args:?}: {output:?}");
        assert!(output.stderr.starts_with("kvs: "), "{args:?}: {output:?}");
        let output = env.run(args.iter().copied().chain(["--json"]));
        assert_eq!(
            parse_json_lines(&output.stderr)[0]["error"],
            json!("usage"),
            "{args:?}: {output:?}"
        );
    }
    let output = env.run(["get"]);
    assert!(output.stderr.contains("Usage: kvs get [OPTIONS] <KEY>"), "{output:?}");
    let output = env.run_with(["get", "k"], b"", [("KVS_PROTOCOL", "carrier pigeon")]);
    assert_eq!(output.code, Some(2), "{output:?}");
}

#[test]
fn missing_group_or_secret_is_reported() {
    let env = CliEnv::start();
    let output = env.run_with(["get", "k"], b"", [("KVS_GROUP", "")]);
    output.assert_fails(
        2,
        "no group given: use --group GROUP or KVS_GROUP, or at the prompt: connect GROUP",
    );
    let output = env.run_with(["get", "k"], b"", [("KVS_SECRET_FILE", "")]);
    assert_eq!(output.code, Some(2), "{output:?}");
    for part in [
        "no secret for the group \"weather\"",
        "KVS_SECRET_FILE",
        "--secret-file FILE",
        "set KVS_SECRET;",
    ] {
        assert!(output.stderr.contains(part), "{part}: {output:?}");
    }
}

#[test]
fn secret_comes_from_file_or_environment() {
    let env = CliEnv::start();
    let wrong = env.home.path().join("wrong");
    fs::write(&wrong, "guess\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    let right = env.secret_file(0o600);
    let right = right.to_str().unwrap();
    let status = |args: &[&str], secret: &str, file: &str| {
        let args = ["put", "k", "v"].iter().chain(args);
        env.run_with(args, b"", [("KVS_SECRET", secret), ("KVS_SECRET_FILE", file)]).code
    };
    assert_eq!(status(&[], env.secret(), ""), Some(0));
    assert_eq!(status(&[], "", right), Some(0));
    assert_eq!(status(&["--secret-file", right], "", ""), Some(0));
    // KVS_SECRET overrides KVS_SECRET_FILE, but not --secret-file.
    assert_eq!(status(&[], env.secret(), wrong), Some(0));
    assert_eq!(status(&[], "guess", right), Some(4));
    assert_eq!(status(&["--secret-file", right], "guess", wrong), Some(0));
    assert_eq!(status(&["--secret-file", wrong], env.secret(), right), Some(4));
}

#[test]
fn world_readable_secret_file_causes_a_warning() {
    let env = CliEnv::start();
    env.run(["put", "k", "v"]).assert_prints("");
    let file = env.secret_file(0o644);
    let file = file.to_str().unwrap();
    let output = env.run(["get", "k", "--secret-file", file]);
    let warning = format!(
        "kvs: warning: every user of this machine can read the secret file \"{file}\": \
         chmod 600 \"{file}\"\n"
    );
    assert_eq!((output.code, &*output.text(), output.stderr), (Some(0), "v", warning));
    let output = env.run(["get", "k", "--secret-file", file, "--json"]);
    assert_eq!(parse_json_lines(&output.stderr)[0]["warning"], json!("exposed_secret"));
}

#[test]
fn secret_file_without_secret_is_rejected() {
    let env = CliEnv::start();
    let path = env.home.path().join("file");
    let file = path.to_str().unwrap();
    let missing = env.run(["get", "k", "--secret-file", file]);
    missing.assert_fails(
        7,
        &format!("cannot read the secret file \"{file}\": No such file or directory (os error 2)"),
    );
    for content in ["", "\n", "\nsecret in the second line\n"] {
        fs::write(&path, content).unwrap();
        let empty = env.run(["get", "k", "--secret-file", file]);
        empty.assert_fails(2, &format!("the first line of the secret file \"{file}\" is empty"));
    }
}

#[test]
fn full_disk_is_reported() {
    let env = CliEnv::start();
    env.run(["put", "k", "v"]).assert_prints("");
    for args in [&["get", "k"][..], &["keys"], &["status", "--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(bin("kvs"));
        command.args(args).envs(env.variables()).stdin(Stdio::null()).stdout(full);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(7), "{args:?}: {stderr}");
        assert!(stderr.contains("No space left on device"), "{args:?}: {stderr}");
    }
}

#[test]
fn secret_is_not_in_the_process_list() {
    let env = CliEnv::start();
    let watch = |program: Program| {
        let watch = program.spawn();
        watch.expect_log("the start of the watch", |line| line.contains("watching"));
        let command_line = fs::read(format!("/proc/{}/cmdline", watch.pid())).unwrap();
        let command_line = String::from_utf8_lossy(&command_line).into_owned();
        assert!(
            command_line.contains("watch") && !command_line.contains(env.secret()),
            "{command_line}"
        );
    };
    watch(env.kvs(["watch", "k"]));
    watch(env.kvs(["watch", "k"]).env("KVS_SECRET_FILE", "").env("KVS_SECRET", env.secret()));
    // No option takes the secret.
    let output = env.run(["get", "k", "--group", GROUP, "--secret", "x"]);
    assert_eq!(output.code, Some(2), "{output:?}");
}
