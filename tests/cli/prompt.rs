//! The prompt on a pseudo-terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kvs_testkit::{Console, Process, Program, bin};

use crate::{CliEnv, GROUP};

const UP: &[u8] = b"\x1b[A";
const TAB: &[u8] = b"\t";
const CTRL_C: &[u8] = b"\x03";

impl CliEnv {
    /// Starts the prompt on a new terminal, with these additional variables.
    fn prompt<'a>(&self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Process {
        self.on_terminal([], variables)
    }

    /// Starts `kvs` with these arguments on a new terminal.
    fn on_terminal<'a, 'b>(
        &self,
        args: impl IntoIterator<Item = &'b str>,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Process {
        // The question for the secret goes to the controlling terminal.
        let program = Program::new("setsid").args(["--ctty", "--wait"]).arg(bin("kvs")).args(args);
        let program = program.console(Console::Terminal { echo: true });
        let own = self.variables().into_iter();
        let program = own.fold(program, |program, (name, value)| program.env(name, value));
        variables
            .into_iter()
            .fold(program, |program, (name, value)| program.env(name, value))
            .spawn()
    }

    fn history(&self) -> String {
        fs::read_to_string(self.home.path().join("state/kvs/history"))
            .expect("the prompt saves its history")
    }
}

/// Types a line after the prompt has appeared, and waits until the line is on the screen.
fn type_line(prompt: &Process, line: &str) {
    prompt.expect_partial_line("> ");
    prompt.send_bytes(format!("{line}\r").as_bytes());
    prompt.expect_line_where(&format!("the typed {line:?}"), |shown| shown.contains(line));
}

/// Waits for a line with this end. A line that is printed while another is typed begins with the
/// typed text.
fn expect_line_end(prompt: &Process, end: &str) {
    prompt.expect_line_where(&format!("…{end:?}"), |line| line.ends_with(end));
}

/// Discards the line that contains `typed` with Ctrl-C, and waits until it is discarded.
fn discard_line(prompt: &Process, typed: &str) {
    prompt.expect_partial_line(typed);
    prompt.send_bytes(CTRL_C);
    prompt.expect_line_where("the end of that line", |line| line.contains(typed));
}

fn quit(prompt: &Process) {
    prompt.expect_partial_line("> ");
    prompt.end_input();
    assert_eq!(prompt.wait_exit().code(), Some(0), "{}", prompt.report());
}

#[test]
fn prompt_continues_after_errors() {
    let env = CliEnv::start();
    let prompt = env.prompt([]);
    prompt.expect_partial_line("weather> ");
    type_line(&prompt, "put k 'two words'");
    type_line(&prompt, "get k");
    expect_line_end(&prompt, "two words");
    for (line, error) in [
        ("get nope", "kvs: there is no key \"nope\" in the group \"weather\""),
        ("bogus", "kvs: unrecognized subcommand 'bogus'"),
        ("get 'open", "kvs: a quote is not closed"),
        ("unwatch", "kvs: there is no watch to end"),
        ("watch k --exec true", "kvs: at the prompt a watch has neither --exec nor --count"),
    ] {
        type_line(&prompt, line);
        prompt.expect_log(error, |seen| seen.starts_with(error));
    }
    type_line(&prompt, "");
    // Ctrl-C discards the line.
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"delete k");
    discard_line(&prompt, "delete k");
    type_line(&prompt, "get k --json");
    prompt.expect_line_where("the value", |line| line.contains("\"value\":\"two words\""));
    type_line(&prompt, "help");
    expect_line_end(
        &prompt,
        "connect  Change to another group, after asking for its secret (prompt only)",
    );
    type_line(&prompt, "help put");
    expect_line_end(&prompt, "Usage: put [OPTIONS] <KEY> [VALUE]");
    type_line(&prompt, "quit");
    assert_eq!(prompt.wait_exit().code(), Some(0));
}

#[test]
fn history_is_kept_between_prompts() {
    let env = CliEnv::start();
    let prompt = env.prompt([]);
    type_line(&prompt, "put k v");
    type_line(&prompt, " put secretly v");
    quit(&prompt);
    let prompt = env.prompt([]);
    prompt.expect_partial_line("weather> ");
    prompt.send_bytes(UP);
    discard_line(&prompt, "put k v");
    quit(&prompt);
    assert_eq!(env.history(), "#V2\nput k v\n");
    for (path, mode) in [("state/kvs", 0o700), ("state/kvs/history", 0o600)] {
        let metadata = fs::metadata(env.home.path().join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn tab_completes_commands_and_keys() {
    let env = CliEnv::start();
    let app = env.connect();
    app.put_many([
        ("temperature", "21.5"),
        ("two words", "v"),
        ("pressure:a", "v"),
        ("pressure:b", "v"),
    ])
    .unwrap();
    let prompt = env.prompt([]);
    prompt.expect_partial_line("weather> ");
    prompt.send_bytes(b"ge");
    prompt.send_bytes(TAB);
    prompt.expect_partial_line("get ");
    prompt.send_bytes(b"tem");
    prompt.send_bytes(TAB);
    prompt.expect_partial_line("get temperature ");
    prompt.send_bytes(b"\r");
    expect_line_end(&prompt, "21.5");
    // A key with a space is quoted; several candidates are completed to their common prefix.
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"get tw");
    prompt.send_bytes(TAB);
    discard_line(&prompt, "get 'two words' ");
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"watch temperature p");
    prompt.send_bytes(TAB);
    discard_line(&prompt, "watch temperature pressure:");
    quit(&prompt);
}

#[test]
fn watch_reports_above_the_edited_line() {
    let env = CliEnv::start();
    let app = env.connect();
    let prompt = env.prompt([]);
    type_line(&prompt, "watch k --prefix p:");
    prompt.expect_log("the start of the watch", |line| line.contains("watching \"k\""));
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"get k");
    prompt.expect_partial_line("get k");
    app.put("k", "1").unwrap();
    expect_line_end(&prompt, "k = 1");
    // The edited line is unchanged.
    prompt.expect_partial_line("get k");
    app.put("p:1", vec![b'v'; 1000]).unwrap();
    prompt.expect_line_where("a long value, cut", |line| line.ends_with("v\u{2026} (1000 bytes)"));
    app.delete("k").unwrap();
    expect_line_end(&prompt, "k deleted");
    app.put("k", "2").unwrap();
    expect_line_end(&prompt, "k = 2");
    prompt.send_bytes(b"\r");
    prompt.expect_line("2");
    type_line(&prompt, "unwatch");
    type_line(&prompt, "put k 3");
    type_line(&prompt, "get k");
    prompt.expect_line("3");
    quit(&prompt);
    let finished = prompt.finish();
    assert!(finished.stdout.iter().all(|line| !line.contains("k = 3")), "{:?}", finished.stdout);
}

#[test]
fn secret_prompt_has_no_echo_and_no_history() {
    let env = CliEnv::start();
    let prompt = env.prompt([("KVS_SECRET_FILE", "")]);
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(b"guess\r");
    prompt.expect_log("the refusal", |line| line.contains("rejected the secret"));
    prompt.expect_partial_line("weather (not connected)> ");
    // Ctrl-C cancels the question, and the typed text is not shown.
    type_line(&prompt, "get k");
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(b"guess");
    prompt.send_bytes(CTRL_C);
    prompt.expect_log("the cancellation", |line| line == "kvs: interrupted");
    // The next command asks again.
    type_line(&prompt, "put k v");
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(format!("{}\r", env.secret()).as_bytes());
    prompt.expect_partial_line("weather> ");
    // A secret typed by mistake is not in the history.
    type_line(&prompt, &format!("get {}", env.secret()));
    prompt.expect_log("no such key", |line| line.contains("there is no key"));
    type_line(&prompt, "connect weather mistake");
    prompt.expect_log("too many words", |line| line.contains("unexpected argument"));
    type_line(&prompt, "get k");
    prompt.expect_line("v");
    quit(&prompt);
    assert_eq!(env.history(), "#V2\nget k\nput k v\nget k\n");
    let screen = prompt.finish().stdout.join("\n");
    assert!(!screen.contains("guess"), "{screen}");
}

#[test]
fn connect_changes_the_group() {
    let env = CliEnv::start();
    let other = env.server.create_group("other");
    let prompt = env.prompt([]);
    type_line(&prompt, "connect other");
    prompt.expect_partial_line("Secret of the group \"other\": ");
    prompt.send_bytes(b"guess\r");
    prompt.expect_log("the refusal", |line| line.contains("rejected the secret"));
    // The prompt keeps the current group.
    prompt.expect_partial_line("weather> ");
    type_line(&prompt, "watch k");
    prompt.expect_log("the start of the watch", |line| line.contains("watching"));
    type_line(&prompt, "connect other");
    prompt.expect_partial_line("Secret of the group \"other\": ");
    prompt.send_bytes(format!("{other}\r").as_bytes());
    prompt.expect_log("the end of the watch", |line| {
        line.contains("the watches of the previous group")
    });
    prompt.expect_partial_line("other> ");
    type_line(&prompt, "put k v");
    quit(&prompt);
    assert_eq!(env.connect().get("k").unwrap(), None);
    assert_eq!(env.server.group_info("other").unwrap().pairs, 1);
    assert!(!prompt.finish().stdout.join("\n").contains(&other));
}

#[test]
fn lost_connection_is_reported_and_reopened() {
    let env = CliEnv::start();
    let prompt = env.prompt([("KVS_SECRET_FILE", ""), ("KVS_SECRET", env.secret())]);
    prompt.expect_partial_line("weather> ");
    env.server.delete_group(GROUP);
    prompt.expect_line_where("the end of the connection", |line| {
        line.contains("was closed") && line.ends_with("the next command reconnects")
    });
    type_line(&prompt, "put k v");
    prompt.expect_log("the missing group", |line| line.contains("has no group \"weather\""));
    prompt.expect_partial_line("weather (not connected)> ");
    // The group is created again, with another secret.
    let renewed = env.server.create_group(GROUP);
    type_line(&prompt, "put k v");
    prompt.expect_log("the refusal", |line| line.contains("rejected the secret"));
    type_line(&prompt, "put k v");
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(format!("{renewed}\r").as_bytes());
    prompt.expect_partial_line("weather> ");
    type_line(&prompt, "get k");
    prompt.expect_line("v");
    quit(&prompt);
}

#[test]
fn command_on_terminal_prompts_and_adds_line_feed() {
    let env = CliEnv::start();
    let app = env.connect();
    app.put("k", "v").unwrap();
    app.put("k\x1b[31m", "v").unwrap();
    let get = env.on_terminal(["get", "k"], [("KVS_SECRET_FILE", "")]);
    get.expect_partial_line("Secret of the group \"weather\": ");
    get.send_bytes(format!("{}\r", env.secret()).as_bytes());
    get.expect_line("v");
    assert_eq!(get.wait_exit().code(), Some(0));
    assert!(!get.finish().stdout.join("\n").contains(env.secret()));
    let get = env.on_terminal(["get", "k"], [("KVS_SECRET_FILE", "")]);
    get.expect_partial_line("Secret of the group \"weather\": ");
    get.send_bytes(CTRL_C);
    assert_eq!(get.wait_exit().code(), Some(130));
    // A key cannot send control sequences to the terminal.
    let keys = env.on_terminal(["keys", "k\x1b"], []);
    keys.expect_line("k\\x1b[31m");
    assert_eq!(keys.wait_exit().code(), Some(0));
}
