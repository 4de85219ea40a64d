//! The prompt on a pseudo-terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kvs_testkit::{Console, Process, Program, bin};

use crate::{GROUP, World};

const UP: &[u8] = b"\x1b[A";
const TAB: &[u8] = b"\t";
const CTRL_C: &[u8] = b"\x03";

impl World {
    /// A terminal of its own with the prompt on it. These variables are set besides.
    fn prompt<'a>(&self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Process {
        self.on_terminal([], variables)
    }

    /// A terminal of its own on which the program runs with these arguments.
    fn on_terminal<'a, 'b>(
        &self,
        args: impl IntoIterator<Item = &'b str>,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Process {
        // Secrets are asked for at the terminal that controls the process.
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
            .expect("the prompt keeps one")
    }
}

/// Types a line at the prompt, which must be there, up to the end of that line on the screen.
fn types(prompt: &Process, line: &str) {
    prompt.expect_partial_line("> ");
    prompt.send_bytes(format!("{line}\r").as_bytes());
    prompt.expect_line_where(&format!("the typed {line:?}"), |shown| shown.contains(line));
}

/// Waits for a line that ends like this: what was typed stands before it when it comes while something is typed.
fn shows(prompt: &Process, end: &str) {
    prompt.expect_line_where(&format!("…{end:?}"), |line| line.ends_with(end));
}

/// Throws away the line in which `typed` stands. What follows at once would be thrown away with it.
fn clears(prompt: &Process, typed: &str) {
    prompt.expect_partial_line(typed);
    prompt.send_bytes(CTRL_C);
    prompt.expect_line_where("the end of that line", |line| line.contains(typed));
}

fn quits(prompt: &Process) {
    prompt.expect_partial_line("> ");
    prompt.end_input();
    assert_eq!(prompt.wait_exit().code(), Some(0), "{}", prompt.report());
}

#[test]
fn commands_are_typed_one_after_the_other_and_no_error_ends_it() {
    let world = World::start();
    let prompt = world.prompt([]);
    prompt.expect_partial_line("weather> ");
    types(&prompt, "put k 'two words'");
    types(&prompt, "get k");
    shows(&prompt, "two words");
    for (line, error) in [
        ("get nope", "kvs: there is no key \"nope\" in the group \"weather\""),
        ("bogus", "kvs: unrecognized subcommand 'bogus'"),
        ("get 'open", "kvs: a quote is not closed"),
        ("unwatch", "kvs: there is no watch to end"),
        ("watch k --exec true", "kvs: at the prompt a watch has neither --exec nor --count"),
    ] {
        types(&prompt, line);
        prompt.expect_log(error, |seen| seen.starts_with(error));
    }
    types(&prompt, "");
    // Ctrl-C throws the line away.
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"delete k");
    clears(&prompt, "delete k");
    types(&prompt, "get k --json");
    prompt.expect_line_where("the value", |line| line.contains("\"value\":\"two words\""));
    types(&prompt, "help");
    shows(&prompt, "connect  Change to another group, after asking for its secret (prompt only)");
    types(&prompt, "help put");
    shows(&prompt, "Usage: put [OPTIONS] <KEY> [VALUE]");
    types(&prompt, "quit");
    assert_eq!(prompt.wait_exit().code(), Some(0));
}

#[test]
fn what_was_typed_is_there_the_next_time() {
    let world = World::start();
    let prompt = world.prompt([]);
    types(&prompt, "put k v");
    types(&prompt, " put secretly v");
    quits(&prompt);
    let prompt = world.prompt([]);
    prompt.expect_partial_line("weather> ");
    prompt.send_bytes(UP);
    clears(&prompt, "put k v");
    quits(&prompt);
    assert_eq!(world.history(), "#V2\nput k v\n");
    for (path, mode) in [("state/kvs", 0o700), ("state/kvs/history", 0o600)] {
        let metadata = fs::metadata(world.home.path().join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn the_tab_key_completes_commands_and_keys() {
    let world = World::start();
    let app = world.connect();
    app.put_many([
        ("temperature", "21.5"),
        ("two words", "v"),
        ("pressure:a", "v"),
        ("pressure:b", "v"),
    ])
    .unwrap();
    let prompt = world.prompt([]);
    prompt.expect_partial_line("weather> ");
    prompt.send_bytes(b"ge");
    prompt.send_bytes(TAB);
    prompt.expect_partial_line("get ");
    prompt.send_bytes(b"tem");
    prompt.send_bytes(TAB);
    prompt.expect_partial_line("get temperature ");
    prompt.send_bytes(b"\r");
    shows(&prompt, "21.5");
    // What needs quotes gets them; what several keys begin with is completed as far as they agree.
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"get tw");
    prompt.send_bytes(TAB);
    clears(&prompt, "get 'two words' ");
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"watch temperature p");
    prompt.send_bytes(TAB);
    clears(&prompt, "watch temperature pressure:");
    quits(&prompt);
}

#[test]
fn a_watch_reports_above_the_line_that_is_typed() {
    let world = World::start();
    let app = world.connect();
    let prompt = world.prompt([]);
    types(&prompt, "watch k --prefix p:");
    prompt.expect_log("that it watches", |line| line.contains("watching \"k\""));
    prompt.expect_partial_line("> ");
    prompt.send_bytes(b"get k");
    prompt.expect_partial_line("get k");
    app.put("k", "1").unwrap();
    shows(&prompt, "k = 1");
    // The line is still there.
    prompt.expect_partial_line("get k");
    app.put("p:1", vec![b'v'; 1000]).unwrap();
    prompt.expect_line_where("a long value, cut", |line| line.ends_with("v\u{2026} (1000 bytes)"));
    app.delete("k").unwrap();
    shows(&prompt, "k deleted");
    app.put("k", "2").unwrap();
    shows(&prompt, "k = 2");
    prompt.send_bytes(b"\r");
    prompt.expect_line("2");
    types(&prompt, "unwatch");
    types(&prompt, "put k 3");
    types(&prompt, "get k");
    prompt.expect_line("3");
    quits(&prompt);
    let finished = prompt.finish();
    assert!(finished.stdout.iter().all(|line| !line.contains("k = 3")), "{:?}", finished.stdout);
}

#[test]
fn a_secret_is_asked_for_without_echo_and_kept_nowhere() {
    let world = World::start();
    let prompt = world.prompt([("KVS_SECRET_FILE", "")]);
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(b"guess\r");
    prompt.expect_log("the refusal", |line| line.contains("rejected the secret"));
    prompt.expect_partial_line("weather (not connected)> ");
    // It need not be told, and what was typed up to then is not shown either.
    types(&prompt, "get k");
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(b"guess");
    prompt.send_bytes(CTRL_C);
    prompt.expect_log("that it was given up", |line| line == "kvs: interrupted");
    // The next command asks again.
    types(&prompt, "put k v");
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(format!("{}\r", world.secret).as_bytes());
    prompt.expect_partial_line("weather> ");
    // Wherever it is typed by mistake.
    types(&prompt, &format!("get {}", world.secret));
    prompt.expect_log("no such key", |line| line.contains("there is no key"));
    types(&prompt, "connect weather mistake");
    prompt.expect_log("too many words", |line| line.contains("unexpected argument"));
    types(&prompt, "get k");
    prompt.expect_line("v");
    quits(&prompt);
    assert_eq!(world.history(), "#V2\nget k\nput k v\nget k\n");
    let screen = prompt.finish().stdout.join("\n");
    assert!(!screen.contains("guess"), "{screen}");
}

#[test]
fn another_group_is_joined_by_its_secret() {
    let world = World::start();
    let other = world.server.create_group("other");
    let prompt = world.prompt([]);
    types(&prompt, "connect other");
    prompt.expect_partial_line("Secret of the group \"other\": ");
    prompt.send_bytes(b"guess\r");
    prompt.expect_log("the refusal", |line| line.contains("rejected the secret"));
    // Then everything is as it was.
    prompt.expect_partial_line("weather> ");
    types(&prompt, "watch k");
    prompt.expect_log("that it watches", |line| line.contains("watching"));
    types(&prompt, "connect other");
    prompt.expect_partial_line("Secret of the group \"other\": ");
    prompt.send_bytes(format!("{other}\r").as_bytes());
    prompt.expect_log("the end of the watch", |line| {
        line.contains("the watches of the previous group")
    });
    prompt.expect_partial_line("other> ");
    types(&prompt, "put k v");
    quits(&prompt);
    assert_eq!(world.connect().get("k").unwrap(), None);
    assert_eq!(world.server.group_info("other").unwrap().pairs, 1);
    assert!(!prompt.finish().stdout.join("\n").contains(&other));
}

#[test]
fn a_lost_connection_is_told_at_once_and_opened_anew() {
    let world = World::start();
    let prompt = world.prompt([("KVS_SECRET_FILE", ""), ("KVS_SECRET", &*world.secret)]);
    prompt.expect_partial_line("weather> ");
    world.server.delete_group(GROUP);
    prompt.expect_line_where("the end of the connection", |line| {
        line.contains("was closed") && line.ends_with("the next command reconnects")
    });
    types(&prompt, "put k v");
    prompt.expect_log("that there is no group", |line| line.contains("has no group \"weather\""));
    prompt.expect_partial_line("weather (not connected)> ");
    // The group is there again, with another secret.
    let renewed = world.server.create_group(GROUP);
    types(&prompt, "put k v");
    prompt.expect_log("the refusal", |line| line.contains("rejected the secret"));
    types(&prompt, "put k v");
    prompt.expect_partial_line("Secret of the group \"weather\": ");
    prompt.send_bytes(format!("{renewed}\r").as_bytes());
    prompt.expect_partial_line("weather> ");
    types(&prompt, "get k");
    prompt.expect_line("v");
    quits(&prompt);
}

#[test]
fn a_command_on_a_terminal_asks_for_the_secret_and_ends_its_value_with_a_line_feed() {
    let world = World::start();
    let app = world.connect();
    app.put("k", "v").unwrap();
    app.put("k\x1b[31m", "v").unwrap();
    let get = world.on_terminal(["get", "k"], [("KVS_SECRET_FILE", "")]);
    get.expect_partial_line("Secret of the group \"weather\": ");
    get.send_bytes(format!("{}\r", world.secret).as_bytes());
    get.expect_line("v");
    assert_eq!(get.wait_exit().code(), Some(0));
    assert!(!get.finish().stdout.join("\n").contains(&world.secret));
    let get = world.on_terminal(["get", "k"], [("KVS_SECRET_FILE", "")]);
    get.expect_partial_line("Secret of the group \"weather\": ");
    get.send_bytes(CTRL_C);
    assert_eq!(get.wait_exit().code(), Some(130));
    // A key commands no terminal.
    let keys = world.on_terminal(["keys", "k\x1b"], []);
    keys.expect_line("k\\x1b[31m");
    assert_eq!(keys.wait_exit().code(), Some(0));
}
