//! The console dialogues of the three programs, line for line, with pipes and on a terminal; their
//! `--help`; and their messages when they cannot start.

#![forbid(unsafe_code)]

use std::fs;
use std::net::UdpSocket;
use std::ops::Deref;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use kvs_testkit::{
    AT_ONCE, AuthServer, Channel, Console, Driver, InteractiveApp, LocalServer, Ports, Process,
    Program, Protocol, RawLocalServer, Sockets, TestEnv, bin, on_both_protocols, private_dir,
};
use nix::sys::signal::Signal;

const CONSOLES: [Console; 3] =
    [Console::Pipes, Console::Terminal { echo: false }, Console::Terminal { echo: true }];

/// A process whose output is compared line by line: typed lines come first when the terminal echoes
/// them, and the response must follow exactly.
struct Dialogue<P> {
    process: P,
    echo: bool,
}

impl<P: Deref<Target = Process>> Dialogue<P> {
    fn new(process: P, console: Console) -> Self {
        Self { process, echo: console == Console::Terminal { echo: true } }
    }

    fn types(&self, line: &str) {
        self.process.send(line);
        if self.echo {
            self.process.expect_next(&[line]);
        }
    }

    fn answers(&self, lines: &[&str]) {
        self.process.expect_next(lines);
    }

    /// Types each line on the left; the lines on its right must follow.
    fn goes(&self, turns: &[(&str, &[&str])]) {
        for (typed, answers) in turns {
            self.types(typed);
            self.answers(answers);
        }
    }

    /// Asserts that the process prints nothing more and exits successfully.
    fn ends(&self) {
        let status = self.process.expect_end();
        assert_eq!(status.code(), Some(0), "{}", self.process.report());
    }
}

/// The rest of `line` after `prefix`.
fn after<'a>(line: &'a str, prefix: &str) -> &'a str {
    line.strip_prefix(prefix).unwrap_or_else(|| panic!("`{prefix}…` awaited, {line:?} seen"))
}

fn is_secret(text: &str) -> bool {
    text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Seconds since 1970, in UTC.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    i64::try_from(since.as_secs()).expect("it is not that late")
}

/// A moment as the console prints it, in a zone `offset` seconds east of UTC.
fn printed_time(utc: i64, offset: i64) -> String {
    let (days, second) = ((utc + offset).div_euclid(86400), (utc + offset).rem_euclid(86400));
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][days.rem_euclid(7) as usize];
    // Civil calendar from days since 1 March of year 0, in eras of 400 years.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday} {day:02}-{month:02}-{year:04} {hour:02}:{minute:02}:{second:02}")
}

#[test]
fn calendar_of_this_test_is_right() {
    assert_eq!(printed_time(0, 0), "Thu 01-01-1970 00:00:00");
    assert_eq!(printed_time(1_795_328_768, 0), "Sun 22-11-2026 06:26:08");
    assert_eq!(printed_time(1_709_164_800, -3600), "Wed 28-02-2024 23:00:00");
    assert_eq!(printed_time(1_709_164_800, 86400), "Fri 01-03-2024 00:00:00");
}

/// Whether `text` is the printed time of a moment between the two.
fn is_time_between(text: &str, earliest: i64, latest: i64, offset: i64) -> bool {
    (earliest..=latest).any(|moment| printed_time(moment, offset) == text)
}

/// The seconds in a line such as `Connected time interval: 8.415734`.
fn interval(line: &str) -> f64 {
    let seconds = after(line, "Connected time interval: ");
    let (whole, fraction) = seconds.split_once('.').expect("a decimal point");
    assert!(
        fraction.len() == 6 && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
    );
    seconds.parse().expect("a number")
}

// KVS-LocalServer.

#[test]
fn dialogue_of_the_local_server_about_groups() {
    for console in CONSOLES {
        let auth = AuthServer::start();
        let server = LocalServer::builder(auth.addr()).console(console).spawn();
        let dialogue = Dialogue::new(server, console);
        let server = &dialogue.process;
        let port: u16 = after(&server.next_line(), "Port Number: ").parse().expect("a port number");
        assert_eq!(port, auth.addr().port() + 1);

        let long = "x".repeat(99);
        dialogue.goes(&[
            // Without groups the status has no lines.
            ("Show application status", &[]),
            ("Create group", &["Insert group id:"]),
        ]);
        dialogue.types("g1");
        let created = server.next_line();
        let secret = after(&created, "Group created with secret ").strip_suffix('!');
        let secret = secret.filter(|secret| is_secret(secret)).expect("a secret");
        let secret_line = format!("Secret: {secret}");
        dialogue.goes(&[
            ("Create group", &["Insert group id:"]),
            ("g1", &["Group id already exists"]),
            ("Show group info", &["Insert group id:"]),
            ("g1", &["Name: g1", &secret_line, "Number of key-value pairs: 0"]),
            ("Show group info", &["Insert group id:"]),
            ("g", &["Group id not found!"]),
            ("Delete group", &["Insert group id:"]),
            ("g12", &["Group id doesn't exist"]),
            ("Show application status", &["g1:"]),
            ("Create group", &["Insert group id:"]),
        ]);
        // The longest name, and one with every kind of legal byte.
        dialogue.types(&long);
        assert!(server.next_line().starts_with("Group created with secret "));
        dialogue.goes(&[("Create group", &["Insert group id:"])]);
        dialogue.types("two words: é");
        assert!(server.next_line().starts_with("Group created with secret "));
        for (name, answer) in [
            ("", "Invalid group id: it is empty"),
            (
                &*format!("{long}x"),
                "Invalid group id: 100 bytes are too long: at most 99 are allowed",
            ),
        ] {
            for command in ["Create group", "Show group info", "Delete group"] {
                dialogue.goes(&[(command, &["Insert group id:"]), (name, &[answer])]);
            }
        }
        dialogue.goes(&[
            ("quit", &["Unknown Command"]),
            ("", &["Unknown Command"]),
            (" Quit", &["Unknown Command"]),
            ("Quit now", &["Unknown Command"]),
            ("create group", &["Unknown Command"]),
            ("Create group g2", &["Unknown Command"]),
            ("Show", &["Unknown Command"]),
            ("Delete group", &["Insert group id:"]),
            ("two words: é", &["Group deleted!"]),
            ("Delete group", &["Insert group id:"]),
            ("g1", &["Group deleted!"]),
            ("Delete group", &["Insert group id:"]),
            ("g1", &["Group id doesn't exist"]),
            ("Show group info", &["Insert group id:"]),
            ("g1", &["Group id not found!"]),
            // A command is a group id where one is asked for.
            ("Show group info", &["Insert group id:"]),
            ("Quit", &["Group id not found!"]),
            ("Quit", &["Exiting Local Server..."]),
        ]);
        dialogue.ends();
    }
}

#[test]
fn dialogue_of_the_local_server_about_applications() {
    // POSIX counts hours west of Greenwich.
    const ZONE: &str = "TST-05:30";
    const OFFSET: i64 = 5 * 3600 + 1800;
    for console in CONSOLES {
        let auth = AuthServer::start();
        let server = LocalServer::builder(auth.addr()).console(console).env("TZ", ZONE).start();
        let secret = server.create_group("g1");
        server.create_group("empty");
        let begin = now();
        let watching = Driver::connected(&server, "g1", &secret);
        let closing = Driver::connected(&server, "g1", &secret);
        let connected = now();
        for key in ["k2", "k1"] {
            assert_eq!(watching.put(key, "v"), 1);
        }
        assert_eq!(watching.call("register_callback k1"), 1);
        assert_eq!(closing.call("close_connection"), 1);
        server.status_where("one application is closed", |status| status[1].status == "Closed");
        let closed = now();

        let dialogue = Dialogue::new(server, console);
        dialogue.types("Show group info");
        dialogue.answers(&["Insert group id:"]);
        dialogue.types("g1");
        let secret_line = format!("Secret: {secret}");
        dialogue.answers(&["Name: g1", &secret_line, "Number of key-value pairs: 2"]);

        dialogue.types("Show application status");
        let server = &dialogue.process;
        let mut first = server.next_line();
        // The order of the groups is not specified.
        if first == "empty:" {
            first = server.next_line();
        }
        assert_eq!(first, "g1:");
        dialogue.answers(&["App 1", &format!("PID: {}", watching.pid()), "Status: Connected"]);
        let time = server.next_line();
        assert!(
            is_time_between(after(&time, "Connection time: "), begin, connected, OFFSET),
            "{time}"
        );
        dialogue.answers(&["Close Connection time: -"]);
        let so_far = interval(&server.next_line());
        assert!(so_far > 0.0 && so_far < (now() - begin + 1) as f64, "{so_far}");
        dialogue.answers(&["Keys in WatchList for callback function:", "k1"]);

        dialogue.answers(&["App 2", &format!("PID: {}", closing.pid()), "Status: Closed"]);
        let time = server.next_line();
        assert!(
            is_time_between(after(&time, "Connection time: "), begin, connected, OFFSET),
            "{time}"
        );
        let time = server.next_line();
        let time = after(&time, "Close Connection time: ");
        assert!(is_time_between(time, begin, closed, OFFSET), "{time}");
        let in_all = interval(&server.next_line());
        assert!(in_all > 0.0 && in_all < so_far, "{in_all} of {so_far}");
        dialogue.answers(&["Keys in WatchList for callback function:"]);

        // The output ends here, or after the other group.
        let rest: Vec<String> = server.lines_of("Unknown, too");
        assert!(rest.is_empty() || rest == ["empty:"], "{rest:?}");
        server.expect_line("Unknown Command");

        // The interval of a closed application does not grow.
        let later = server.status();
        assert!(later[0].interval > so_far);
        assert_eq!(later[1].interval.to_bits(), in_all.to_bits());

        // No application watches a deleted key any more.
        assert_eq!(watching.call("delete_value k1"), 1);
        assert!(server.status()[0].watched.is_empty());

        dialogue.goes(&[
            ("Delete group", &["Insert group id:"]),
            ("g1", &["Group deleted!"]),
            ("Show application status", &["empty:"]),
            ("Quit", &["Exiting Local Server..."]),
        ]);
        dialogue.ends();
        assert_eq!(watching.put("k2", "v"), -2);
    }
}

// KVS-AuthServer.

#[test]
fn dialogue_of_the_authentication_server() {
    for console in CONSOLES {
        let dialogue = Dialogue::new(AuthServer::builder().console(console).start(), console);
        let auth = &dialogue.process;
        let local = RawLocalServer::connect(auth.addr());
        let from = local.commands.local_addr().expect("it is bound").port();
        dialogue.answers(&[
            &format!(
                "Authentification server received connection request from (127.0.0.1, {from})"
            ),
            "New Local Server Connected",
        ]);
        dialogue.goes(&[("Unknown", &["Unknown Command"]), ("", &["Unknown Command"])]);
        assert!(local.new_group("g", "abcde"));
        dialogue.answers(&["Group created!"]);
        // Refusals and queries are not printed as events.
        assert!(!local.new_group("g", "edcba"));
        assert!(!local.delete_group("none"));
        assert_eq!(local.get_secret("g").as_deref(), Some("abcde"));
        assert!(local.delete_group("g"));
        dialogue.answers(&["Group deleted!"]);
        local.command("CloseConnection");
        dialogue.answers(&["Connection closed"]);
        dialogue.goes(&[
            ("quit", &["Unknown Command"]),
            ("Quit ", &["Unknown Command"]),
            ("Quit", &["Exiting Authentification Server..."]),
        ]);
        dialogue.ends();
    }
}

#[test]
fn dialogue_of_the_authentication_server_with_a_local_server() {
    for console in CONSOLES {
        let dialogue = Dialogue::new(AuthServer::builder().console(console).start(), console);
        let auth = &dialogue.process;
        let server = LocalServer::start(auth);
        let request = auth.next_line();
        let from = after(
            &request,
            "Authentification server received connection request from (127.0.0.1, ",
        );
        assert!(
            from.strip_suffix(')').is_some_and(|port| port.parse::<u16>().is_ok()),
            "{request}"
        );
        dialogue.answers(&["New Local Server Connected"]);
        server.create_group("one");
        server.create_group("two");
        dialogue.answers(&["Group created!", "Group created!"]);
        server.delete_group("one");
        dialogue.answers(&["Group deleted!"]);
        dialogue.types("Quit");
        dialogue.answers(&[
            "Group deleted!",
            "Connection closed",
            "Exiting Authentification Server...",
        ]);
        dialogue.ends();
        server.expect_next(&["Exiting Local Server..."]);
        assert_eq!(server.wait_exit().code(), Some(0));
    }
}

// Both servers.

#[test]
fn commands_after_quit_are_ignored() {
    for console in [Console::Pipes, Console::Terminal { echo: false }] {
        let auth = AuthServer::builder().console(console).start();
        let server = LocalServer::builder(auth.addr()).console(console).start();
        server.send("Create group\ng\nQuit\nfoo\nCreate group\nh");
        server.expect_next(&["Insert group id:"]);
        after(&server.next_line(), "Group created with secret ");
        server.expect_next(&["Exiting Local Server..."]);
        assert_eq!(server.expect_end().code(), Some(0), "{}", server.report());

        auth.expect_line("New Local Server Connected");
        auth.expect_next(&["Group created!", "Group deleted!", "Connection closed"]);
        auth.send("foo\nQuit\nfoo\nQuit");
        auth.expect_next(&["Unknown Command", "Exiting Authentification Server..."]);
        assert_eq!(auth.expect_end().code(), Some(0), "{}", auth.report());
    }
}

#[test]
fn names_and_keys_cannot_forge_a_line() {
    let env = TestEnv::without_group();
    let group = "g\u{1b}[2Jé";
    let secret = env.server.create_group(group);
    let mut app = env.server.raw_app(group, &secret);
    for key in ["k\nApp 2\nPID: 1", "\u{1b}[31mred\r", "\u{7f}\t"] {
        app.put(key, "v");
        assert!(app.register(key));
    }
    let lines = env.server.lines_of("Show application status");
    assert_eq!(lines[..2], [r"g\u{1b}[2Jé:", "App 1"]);
    let mut keys = lines[8..].to_vec();
    keys.sort();
    assert_eq!(keys, [r"\u{1b}[31mred\r", r"\u{7f}\t", r"k\nApp 2\nPID: 1"]);
    let info = env.server.group_info(group).expect("it exists");
    assert_eq!((info.name.as_str(), info.pairs), (r"g\u{1b}[2Jé", 3));
}

// The interactive application.

on_both_protocols! {
    fn dialogue_of_the_interactive_program(protocol: Protocol) {
        dialogue_of_the_application(protocol);
    }
}

fn dialogue_of_the_application(protocol: Protocol) {
    for console in CONSOLES {
        let env = TestEnv::builder().group("g1").start();
        let other = Driver::connected(&env.server, "g1", env.secret());
        let failure = |code| format!("App: {}", other.strerror(code));
        let [no_connection, no_key, wrong_secret, invalid, connected] =
            [-2, -7, -9, -15, -16].map(failure);

        let app = InteractiveApp::start_with(protocol, &env.server, console);
        let dialogue = Dialogue::new(app, console);
        let app = &dialogue.process;
        let pid = format!("App PID: {}", app.pid());
        // Too long for the original protocol.
        let stored = ["Successful 'put_value'"];
        let refused = [invalid.as_str(), "Error in 'put_value'"];
        let put_long = if protocol == Protocol::V2 { &stored[..] } else { &refused[..] };
        let long = "x".repeat(100);
        dialogue.goes(&[
            ("Unknown", &["Unknown Command"]),
            ("", &["Unknown Command"]),
            // Before it is connected.
            ("put_value", &["Insert key:"]),
            ("k1", &["Insert value:"]),
            ("v1", &[&no_connection, "Error in 'put_value'"]),
            ("get_value", &["Insert key:"]),
            ("k1", &[&no_connection, "Error in 'get_value'"]),
            ("delete_value", &["Insert key:"]),
            ("k1", &[&no_connection, "Error in 'delete_value'"]),
            ("register_callback", &["Insert key:"]),
            ("k1", &[&no_connection, "Error in 'register_callback'"]),
            // A refused login, then a successful one.
            ("establish_connection", &["Insert group id:"]),
            ("none", &["Insert secret:"]),
            (env.secret(), &[&no_key, "Error in 'establish_connection'"]),
            ("establish_connection", &["Insert group id:"]),
            ("g1", &["Insert secret:"]),
            ("wrong", &[&wrong_secret, "Error in 'establish_connection'"]),
            ("establish_connection", &["Insert group id:"]),
            ("g1", &["Insert secret:"]),
            (env.secret(), &["Successful 'establish_connection'", &pid]),
            ("establish_connection", &["Insert group id:"]),
            ("g1", &["Insert secret:"]),
            (env.secret(), &[&connected, "Error in 'establish_connection'"]),
            // Connected.
            ("get_value", &["Insert key:"]),
            ("k1", &[&no_key, "Error in 'get_value'"]),
            ("put_value", &["Insert key:"]),
            ("k1", &["Insert value:"]),
            ("v1", &["Successful 'put_value'"]),
            ("get_value", &["Insert key:"]),
            ("k1", &["Successful 'get_value'", "Value: v1"]),
            ("put_value", &["Insert key:"]),
            ("", &["Insert value:"]),
            ("v", &[&invalid, "Error in 'put_value'"]),
            ("put_value", &["Insert key:"]),
            ("k1", &["Insert value:"]),
            (&long, put_long),
            ("register_callback", &["Insert key:"]),
            ("none", &[&no_key, "Error in 'register_callback'"]),
            ("register_callback", &["Insert key:"]),
            ("k1", &["Successful 'register_callback'"]),
        ]);
        assert_eq!(other.put("k1", "v2"), 1);
        dialogue.answers(&["The key k1 was changed"]);
        dialogue.goes(&[
            ("get_value", &["Insert key:"]),
            ("k1", &["Successful 'get_value'", "Value: v2"]),
            ("delete_value", &["Insert key:"]),
            ("k1", &["Successful 'delete_value'"]),
            ("delete_value", &["Insert key:"]),
            ("k1", &[&no_key, "Error in 'delete_value'"]),
            ("close_connection", &["Successful 'close_connection'", "Exiting the app..."]),
        ]);
        dialogue.ends();
    }
}

#[test]
fn interactive_program_gets_events_of_its_own_changes() {
    let env = TestEnv::builder().group("g1").start();
    let app = InteractiveApp::connected(&env.server, "g1", env.secret());
    assert!(app.put("k1", "v1"));
    assert!(app.register("k1"));
    app.send("put_value");
    app.expect_next(&["Insert key:"]);
    app.send("k1");
    app.expect_next(&["Insert value:"]);
    app.send("v2");
    // The callback runs on another thread: either line may be first.
    let mut lines = [app.next_line(), app.next_line()];
    lines.sort();
    assert_eq!(lines, ["Successful 'put_value'", "The key k1 was changed"]);
}

#[test]
fn dialogue_of_the_interactive_program_at_a_forced_close() {
    for console in CONSOLES {
        let env = TestEnv::builder().group("g1").start();
        let dialogue = Dialogue::new(InteractiveApp::start_on(&env.server, console), console);
        let pid = format!("App PID: {}", dialogue.process.pid());
        dialogue.goes(&[
            ("establish_connection", &["Insert group id:"]),
            ("g1", &["Insert secret:"]),
            (env.secret(), &["Successful 'establish_connection'", &pid]),
        ]);
        env.server.delete_group("g1");
        dialogue.answers(&[
            "App: Closing connection due to deletion of group or closed server",
            "Exiting the app...",
        ]);
        dialogue.ends();
    }
}

// The end of the input.

#[test]
fn end_of_the_input_is_not_quit() {
    for console in [Console::NoInput, Console::Pipes, Console::Terminal { echo: false }] {
        let auth = AuthServer::builder().console(console).start();
        // The helper has a console, on which its group can be created.
        let helper = LocalServer::start(&auth);
        let server_console = if console == Console::NoInput { Console::Pipes } else { console };
        let server = LocalServer::builder(auth.addr()).console(server_console).start();
        let secret = server.create_group("g");
        let deaf = LocalServer::builder(auth.addr()).console(console).start();
        if console != Console::NoInput {
            auth.end_input();
            deaf.end_input();
        }
        server.end_input();

        // A server that took the end of its input for Quit would have exited before these logins
        // are over.
        for _ in 0..10 {
            let app = Driver::connected(&server, "g", &secret);
            assert_eq!(app.put("k", "v"), 1);
        }
        helper.create_group("h");
        assert_eq!(Driver::start(&deaf).establish("g", &secret), -7, "the group of another server");
        // The authentication server ends last, as its end ends the local servers.
        for process in [&*server, &*deaf, &*auth] {
            assert_eq!(process.exit_status(), None, "{}", process.report());
            process.signal(Signal::SIGTERM);
            assert_eq!(process.wait_exit().code(), Some(0), "{}", process.report());
        }
    }
}

#[test]
fn commands_work_after_the_end_of_input_on_a_terminal() {
    let console = Console::Terminal { echo: false };
    let auth = AuthServer::builder().console(console).start();
    let server = LocalServer::builder(auth.addr()).console(console).start();
    let processes: [&Process; 2] = [&auth, &server];
    for process in processes {
        for _ in 0..3 {
            process.end_input();
            process.expect_log("what Ctrl-D does", |line| line.contains("Quit"));
            process.send("foo");
            process.expect_line("Unknown Command");
        }
    }
    server.create_group("g");
    server.quit();
    auth.send("Quit");
    auth.expect_line("Exiting Authentification Server...");
    assert_eq!(auth.wait_exit().code(), Some(0));
}

/// A shell on a terminal of its own with a server in its background, as after `program &`; the
/// server ends with the shell. A typed line brings it to the foreground.
fn in_background(program: &str, args: &[&str]) -> Process {
    let script = r#"set -m; setpriv --pdeathsig KILL "$@" & read -r line; fg"#;
    Program::new("setsid")
        .args(["--ctty", "sh", "-c", script, "sh"])
        .arg(bin(program))
        .args(args)
        .console(Console::Terminal { echo: false })
        .spawn()
}

#[test]
fn background_server_serves_and_reads_commands_in_foreground() {
    let ports = Ports::reserve();
    let address = ports.addr(0).to_string();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let socket = socket.to_str().expect("test paths are UTF-8");
    let not_reading = |process: &Process| {
        process.expect_log("that it does not read", |line| line.contains("in the background"))
    };
    let auth = in_background("KVS-AuthServer", &["--listen", &address]);
    not_reading(&auth);
    let server = in_background("KVS-LocalServer", &["--auth", &address, "--socket", socket]);
    server.expect_line(&format!("Port Number: {}", ports.port(1)));
    not_reading(&server);

    // A stopped server would not respond.
    let app = Driver::spawn(Driver::program().env("KVS_SOCKET", socket));
    let (code, _) = app.call_within(AT_ONCE, "establish_connection g abcde");
    assert_eq!(code, -7, "{}", server.report());

    // The shell reads one line, the server in the foreground all others.
    for (process, answers) in [
        (&server, &["Insert group id:", "Group id not found!", "Exiting Local Server..."][..]),
        (&auth, &["Unknown Command", "Exiting Authentification Server..."]),
    ] {
        process.send("to the foreground");
        process.send("Show group info\nnone\nQuit");
        for answer in answers {
            process.expect_line(answer);
        }
        assert_eq!(process.wait_exit().code(), Some(0), "{}", process.report());
    }
}

// Options.

/// Runs a program that exits without further action.
fn run(program: &str, args: &[&str]) -> kvs_testkit::ProcessOutput {
    Program::new(bin(program)).args(args).console(Console::NoInput).spawn().finish()
}

#[test]
fn help_names_every_option_its_variable_and_its_default() {
    let expected: [(&str, &[&str]); 2] = [
        (
            "KVS-AuthServer",
            &[
                "--listen",
                "KVS_LISTEN",
                "127.0.0.1:58032",
                "-v,",
                "--verbose",
                "KVS_VERBOSE",
                "--help",
                "--version",
            ],
        ),
        (
            "KVS-LocalServer",
            &[
                "--auth",
                "KVS_AUTH",
                "127.0.0.1:58032",
                "--socket",
                "KVS_SOCKET",
                "/tmp/server_sock",
                "--callback-socket",
                "KVS_CALLBACK_SOCKET",
                "--control-socket",
                "KVS_CONTROL_SOCKET",
                "--exit-on-auth-loss",
                "KVS_EXIT_ON_AUTH_LOSS",
                "-v,",
                "--verbose",
                "KVS_VERBOSE",
                "--help",
                "--version",
            ],
        ),
    ];
    for (program, words) in expected {
        let help = run(program, &["--help"]);
        assert_eq!(help.status.code(), Some(0));
        assert_eq!(help.stderr, [""; 0]);
        let text = help.stdout.join("\n");
        for word in words {
            assert!(text.contains(word), "{word} is not in the help of {program}:\n{text}");
        }
    }
}

#[test]
fn version_is_the_name_and_the_version() {
    for program in ["KVS-AuthServer", "KVS-LocalServer"] {
        let version = run(program, &["--version"]);
        assert_eq!(version.status.code(), Some(0));
        assert_eq!(version.stdout, [format!("{program} {}", env!("CARGO_PKG_VERSION"))]);
    }
}

#[test]
fn usage_errors_are_explained_and_exit_with_2() {
    for (program, args, named) in [
        ("KVS-AuthServer", &["--lisen", "127.0.0.1:1"][..], "--lisen"),
        ("KVS-AuthServer", &["--listen"], "--listen"),
        ("KVS-AuthServer", &["--listen", "here"], "here"),
        ("KVS-AuthServer", &["--listen", "127.0.0.1:70000"], "70000"),
        ("KVS-AuthServer", &["58032"], "58032"),
        ("KVS-LocalServer", &["--sokcet", "/tmp/x"], "--sokcet"),
        ("KVS-LocalServer", &["--socket"], "--socket"),
        ("KVS-LocalServer", &["-q"], "-q"),
        ("KVS-LocalServer", &["/tmp/x"], "/tmp/x"),
        ("KVS-LocalServer", &["--auth", "127.0.0.1"], "127.0.0.1"),
        ("KVS-LocalServer", &["--auth", "127.0.0.1:"], "127.0.0.1:"),
        ("KVS-LocalServer", &["--auth", "127.0.0.1:0"], "127.0.0.1:0"),
        ("KVS-LocalServer", &["--auth", "127.0.0.1:70000"], "127.0.0.1:70000"),
        ("KVS-LocalServer", &["--auth", "127.0.0.1:port"], "127.0.0.1:port"),
        ("KVS-LocalServer", &["--auth", ":58032"], ":58032"),
        ("KVS-LocalServer", &["--max-value-bytes", "1G"], "a number of bytes from 99 to 67108864"),
        ("KVS-LocalServer", &["--max-value-bytes", "98"], "a number of bytes from 99 to 67108864"),
    ] {
        let refused = run(program, args);
        let text = refused.stderr.join("\n");
        assert_eq!(refused.status.code(), Some(2), "{program} {args:?}\n{text}");
        assert!(text.contains(named), "{program} {args:?}:\n{text}");
        assert_eq!(refused.stdout, [""; 0], "{program} {args:?}");
    }
}

#[test]
fn options_are_read_from_environment_and_command_line_wins() {
    let ports = Ports::reserve();
    let dir = private_dir();
    let address = ports.addr(0).to_string();
    let auth = Program::new(bin("KVS-AuthServer")).env("KVS_LISTEN", &address).spawn();
    auth.expect_log("the address", |line| line.ends_with(&format!("listening on {address}")));

    let path = |name: &str| dir.path().join(name);
    let server = Program::new(bin("KVS-LocalServer"))
        .env("KVS_AUTH", &address)
        .env("KVS_SOCKET", path("wrong"))
        .env("KVS_CALLBACK_SOCKET", path("cb"))
        .env("KVS_VERBOSE", "1")
        .arg("--socket")
        .arg(path("right"))
        .spawn();
    server.expect_line(&format!("Port Number: {}", ports.port(1)));
    assert!(is_socket(&path("right")) && is_socket(&path("cb")));
    assert!(!path("wrong").exists() && !path("right_cb").exists());
    // The library reads the same variables.
    server.send("Create group");
    server.expect_line("Insert group id:");
    server.send("g");
    let created = server.expect_line_where("the secret", |line| line.starts_with("Group created"));
    let secret = after(&created, "Group created with secret ").trim_end_matches('!');
    let app = Program::new(InteractiveApp::program())
        .env("KVS_SOCKET", path("right"))
        .env("KVS_CALLBACK_SOCKET", path("cb"))
        .spawn();
    app.send(&format!("establish_connection\ng\n{secret}\nput_value\nk\nv"));
    app.expect_line("Successful 'put_value'");
    server.expect_log("a line for an operation", |line| line.contains("DEBUG"));
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

#[test]
fn operations_are_logged_on_request_and_secrets_never() {
    let auth = AuthServer::builder().arg("-v").start();
    let quiet = LocalServer::start(&auth);
    let verbose = LocalServer::builder(auth.addr()).arg("-v").start();
    let mut logged = Vec::new();
    let mut secrets = Vec::new();
    for (server, group) in [(&quiet, "quiet"), (&verbose, "verbose")] {
        let secret = server.create_group(group);
        let app = Driver::connected(server, group, &secret);
        for n in 0..20 {
            assert_eq!(app.put(&format!("key{n}"), "v"), 1);
        }
        assert_eq!(app.get("key19").as_deref(), Ok("v"));
        server.group_info(group).expect("it exists");
        server.quit();
        let finished = server.finish();
        logged.push(finished.stderr.iter().filter(|line| line.contains("key")).count());
        secrets.push((secret, finished.stderr));
    }
    assert_eq!(logged[0], 0, "{}", quiet.report());
    assert!(logged[1] >= 20, "{}", verbose.report());
    auth.send("Quit");
    let auth_log = auth.finish().stderr;
    for (secret, log) in &secrets {
        for line in log.iter().chain(&auth_log) {
            assert!(!line.contains(secret.as_str()), "the secret {secret} is in the log: {line}");
        }
    }
}

// Servers that cannot start.

/// Asserts that the program exits with code 1 after one message that contains all these words, and
/// never reports that it serves.
fn expect_cannot_start(program: &str, process: &Process, words: &[&str]) {
    expect_end_at_start(1, program, process, words);
}

/// As [`expect_cannot_start`], with another exit code.
fn expect_end_at_start(code: i32, program: &str, process: &Process, words: &[&str]) {
    let finished = process.finish();
    assert_eq!(finished.status.code(), Some(code), "{}", process.report());
    let last = finished.stderr.last().map(String::as_str).unwrap_or_default();
    assert!(last.starts_with(&format!("{program}: ")), "{}", process.report());
    for word in words {
        assert!(last.contains(word), "{word:?} is not in {last:?}");
    }
    assert_eq!(finished.stdout, [""; 0], "{}", process.report());
}

fn spawn_auth(listen: &str) -> Process {
    Program::new(bin("KVS-AuthServer")).args(["--listen", listen]).spawn()
}

#[test]
fn auth_server_that_cannot_listen_reports_why() {
    let ports = Ports::reserve();
    let other = ports.addr(8);
    let _taken = UdpSocket::bind(other).expect("the port is free");
    let other = other.to_string();
    expect_cannot_start("KVS-AuthServer", &spawn_auth(&other), &[&other, "in use"]);

    // A second server on the same port does not affect the first.
    let address = ports.addr(0).to_string();
    let auth = AuthServer::builder().ports(ports).start();
    expect_cannot_start("KVS-AuthServer", &spawn_auth(&address), &[&address, "in use"]);
    assert!(!RawLocalServer::connect(auth.addr()).find_group("g"));

    // An address for documentation, which no machine has.
    let elsewhere = "203.0.113.1:58032";
    expect_cannot_start("KVS-AuthServer", &spawn_auth(elsewhere), &[elsewhere, "assign"]);
}

#[test]
fn local_server_without_auth_server_reports_it_and_cleans_up() {
    let ports = Ports::reserve();
    let address = ports.addr(0).to_string();
    // A closed port; then a port whose owner does not answer.
    for silent in [None, Some(UdpSocket::bind(ports.addr(0)).expect("the port is free"))] {
        let server = LocalServer::builder(&address).spawn();
        expect_cannot_start("KVS-LocalServer", &server, &[&address]);
        assert!(!server.socket().exists() && !server.callback_socket().exists());
        drop(silent);
    }
}

/// Asserts that the local server does not start with these paths, reports `named`, and leaves the
/// directory unchanged.
fn expect_bad_paths(
    auth: &AuthServer,
    dir: &Path,
    socket: &Path,
    callback: Option<&Path>,
    named: &[&str],
) {
    let listing = |dir| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("the directory is there")
            .map(|entry| {
                let entry = entry.expect("the directory can be read");
                let inode = std::os::unix::fs::DirEntryExt::ino(&entry);
                (entry.file_name(), inode)
            })
            .collect();
        names.sort();
        names
    };
    let before = listing(dir);
    let mut builder = LocalServer::builder(auth.addr()).socket(socket);
    if let Some(callback) = callback {
        builder = builder.callback_socket(callback);
    }
    // Options that exclude each other are usage errors, whatever the system reports for each.
    let code = if callback == Some(socket) { 2 } else { 1 };
    expect_end_at_start(code, "KVS-LocalServer", &builder.spawn(), named);
    assert_eq!(listing(dir), before, "{} with {callback:?}", socket.display());
}

#[test]
fn local_server_with_bad_paths_reports_why_and_cleans_up() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "precious").expect("the directory is new");
    fs::create_dir(path("directory")).expect("the directory is new");

    let missing = path("missing/sock");
    let in_file = path("file/sock");
    let long = path(&"x".repeat(120));
    // No user can create a file there, not even root.
    let unwritable = Path::new("/proc/kvs-test-sock");
    for (bad, why) in [
        (&*missing, Some("No such file")),
        (&in_file, Some("Not a directory")),
        (&path("file"), None),
        (&path("directory"), None),
        (unwritable, None),
        (&long, Some("long")),
    ] {
        let name = bad.to_str().expect("test paths are UTF-8");
        let named: Vec<&str> = std::iter::once(name).chain(why).collect();
        expect_bad_paths(&auth, dir.path(), bad, None, &named);
        expect_bad_paths(&auth, dir.path(), &path("sock"), Some(bad), &named);
    }
    // Short enough for one path, too long for the other.
    let fits = path(&"y".repeat(106 - dir.path().as_os_str().len()));
    expect_bad_paths(&auth, dir.path(), &fits, None, &["_cb", "long"]);
    let same = path("sock");
    let name = same.to_str().expect("test paths are UTF-8");
    expect_bad_paths(&auth, dir.path(), &same, Some(&same), &[name, "must differ"]);
    assert_eq!(fs::read_to_string(path("file")).expect("it is there"), "precious");
}

#[test]
fn second_server_on_a_live_path_does_not_disturb_the_first() {
    let env = TestEnv::start();
    let app = env.driver();
    let dir = env.server.socket().parent().expect("a socket is in a directory");
    let socket = env.server.socket().to_str().expect("test paths are UTF-8");
    let callback = env.server.callback_socket().to_str().expect("test paths are UTF-8");

    expect_bad_paths(&env.auth, dir, env.server.socket(), None, &[socket]);
    expect_bad_paths(
        &env.auth,
        dir,
        &dir.join("other"),
        Some(env.server.callback_socket()),
        &[callback],
    );
    // With a callback path of its own it would still take applications from the first.
    expect_bad_paths(&env.auth, dir, env.server.socket(), Some(&dir.join("other")), &[socket]);

    assert_eq!(app.put("k", "v"), 1);
    assert_eq!(Driver::start(&env.server).establish("g", env.secret()), 0);
    env.server.create_group("h");
    assert_eq!(env.server.status().len(), 2, "the refused ones were no applications");
}

#[test]
fn stale_path_is_replaced() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let other = LocalServer::start(&auth);
    for name in ["sock", "sock_cb"] {
        // A bound socket leaves its path behind when it is closed.
        let path = dir.path().join(name);
        drop(Channel::connect_from("stale", &path, other.socket()).expect("the directory is new"));
        assert!(is_socket(&path));
    }
    let server = LocalServer::builder(auth.addr()).socket(&socket).start();
    let secret = server.create_group("g");
    assert_eq!(Driver::start(&server).establish("g", &secret), 0);
    server.quit();
    assert!(fs::read_dir(dir.path()).expect("the directory is there").next().is_none());
}
