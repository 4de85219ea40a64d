//! The consoles of both servers on a terminal with line editing: what the screen shows, and the
//! state in which a server leaves the terminal.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use kvs_testkit::{AuthServer, DEADLINE, Ports, bin, private_dir, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use tempfile::TempDir;

const COLUMNS: usize = 80;

/// Emulates a terminal, with the control sequences that the line editor sends.
#[derive(Debug, Default)]
struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    bytes: Vec<u8>,
}

impl Screen {
    fn show(bytes: &[u8]) -> Self {
        let mut screen = Self::default();
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\r' => screen.column = 0,
                '\n' => screen.row += 1,
                '\x07' => {}
                '\x1b' => screen.sequence(&mut characters),
                character => screen.put(character),
            }
        }
        screen.bytes = bytes.to_vec();
        screen
    }

    fn sequence(&mut self, characters: &mut std::str::Chars<'_>) {
        assert_eq!(characters.next(), Some('['));
        let mut number = String::new();
        let end = loop {
            match characters.next() {
                Some(character) if character.is_ascii_alphabetic() => break character,
                Some(character) => number.push(character),
                None => return,
            }
        };
        let count = number.parse().unwrap_or(1);
        match end {
            'A' => self.row = self.row.saturating_sub(count),
            'B' => self.row += count,
            'C' => self.column += count,
            'D' => self.column = self.column.saturating_sub(count),
            // A color.
            'm' => {}
            'K' => {
                let column = self.column;
                self.line().truncate(column);
            }
            _ => panic!("unknown control sequence: {number}{end}"),
        }
    }

    fn line(&mut self) -> &mut Vec<char> {
        if self.rows.len() <= self.row {
            self.rows.resize(self.row + 1, Vec::new());
        }
        &mut self.rows[self.row]
    }

    fn put(&mut self, character: char) {
        if self.column == COLUMNS {
            (self.row, self.column) = (self.row + 1, 0);
        }
        let column = self.column;
        let line = self.line();
        if line.len() <= column {
            line.resize(column + 1, ' ');
        }
        line[column] = character;
        self.column += 1;
    }

    fn lines(&self) -> Vec<String> {
        let text = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_string();
        self.rows.iter().map(text).collect()
    }

    /// The line at the cursor.
    fn current(&self) -> String {
        self.lines().get(self.row).cloned().unwrap_or_default()
    }
}

/// A program on a pseudo-terminal.
struct TerminalProgram {
    child: Child,
    master: File,
    shown: Arc<(Mutex<Vec<u8>>, Condvar)>,
    original: Termios,
    /// Keeps the terminal open after the program has exited.
    slave: OwnedFd,
    dir: Option<TempDir>,
}

impl TerminalProgram {
    /// Starts a program whose log does not go to the terminal.
    fn new(command: Command) -> Self {
        Self::with(command, false)
    }

    fn with(mut command: Command, logs: bool) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("there are terminals");
        grantpt(&master).expect("the terminal is ours");
        unlockpt(&master).expect("the terminal is ours");
        let size = Winsize { ws_row: 50, ws_col: COLUMNS as u16, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("it is a terminal");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let slave = open(name, flags, Mode::empty()).expect("it is unlocked");
        let original = tcgetattr(&slave).expect("it is a terminal");
        let end = || slave.try_clone().expect("there are descriptors");
        command.stdin(end()).stdout(end()).stderr(if logs { end().into() } else { Stdio::null() });
        for variable in ["KVS_SOCKET", "KVS_AUTH", "KVS_VERBOSE", "NO_COLOR"] {
            command.env_remove(variable);
        }
        if !command.get_envs().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm");
        }
        let child = command.spawn().expect("it can be started");
        drop(command);
        let master = File::from(master);
        let shown = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (mut from, theirs) =
            (master.try_clone().expect("there are descriptors"), Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                theirs.0.lock().expect("no panic").extend_from_slice(&buffer[..count]);
                theirs.1.notify_all();
            }
        });
        Self { child, master, shown, original, slave, dir: None }
    }

    /// Starts a local server, and waits for its prompt.
    fn local(auth: &AuthServer) -> Self {
        let dir = private_dir();
        let mut program = Self::new(local(auth, &dir.path().join("sock")));
        program.dir = Some(dir);
        program.expect("a prompt", |screen| screen.current() == ">");
        program
    }

    /// The control socket of a local server.
    fn control(&self) -> PathBuf {
        self.dir.as_ref().expect("it has one").path().join("sock_control")
    }

    fn type_text(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Waits until the screen satisfies `is_right`.
    fn expect(&self, what: &str, is_right: impl Fn(&Screen) -> bool) -> Screen {
        let end = Instant::now() + DEADLINE;
        let mut shown = self.shown.0.lock().expect("no panic");
        loop {
            let screen = Screen::show(&shown);
            if is_right(&screen) {
                return screen;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: {:#?}\n{}", screen.lines(), shown.escape_ascii());
            shown = self.shown.1.wait_timeout(shown, left).expect("no panic").0;
        }
    }

    fn expect_line(&self, line: &str) {
        self.expect(line, |screen| screen.lines().iter().any(|shown| shown == line));
    }

    /// Waits until the line at the cursor is this.
    fn expect_current(&self, line: &str) {
        self.expect(line, |screen| screen.current() == line);
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.master).expect("it is a terminal")
    }

    fn is_raw(&self) -> bool {
        !self.modes().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().cast_signed();
        kill(Pid::from_raw(pid), signal).expect("it has not been waited for");
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end", || {
            status = self.child.try_wait().expect("it is our child");
            status.map(drop)
        });
        status.expect("it was awaited")
    }

    /// Asserts that the program succeeds after printing `last`, and restores the terminal.
    fn assert_exits(mut self, last: &str) {
        let status = self.wait();
        assert!(status.success(), "{status}");
        self.expect_line(last);
        self.expect("the beginning of a line", |screen| screen.current().is_empty());
        assert_same(&self.modes(), &self.original);
    }
}

impl Drop for TerminalProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn local(auth: &AuthServer, socket: &Path) -> Command {
    let mut command = Command::new(bin("KVS-LocalServer"));
    command.args(["--auth", &auth.addr().to_string(), "--socket"]).arg(socket);
    command
}

#[track_caller]
fn assert_same(modes: &Termios, before: &Termios) {
    assert_eq!(modes.input_modes, before.input_modes);
    assert_eq!(modes.output_modes, before.output_modes);
    assert_eq!(modes.control_modes, before.control_modes);
    assert_eq!(modes.local_modes, before.local_modes);
    assert_eq!(format!("{:?}", modes.special_codes), format!("{:?}", before.special_codes));
}

const LEFT: &str = "\x1b[D";
const UP: &str = "\x1b[A";

#[test]
fn line_can_be_edited_recalled_and_completed() {
    let auth = AuthServer::start();
    let program = TerminalProgram::local(&auth);
    program.type_text(&format!("Creategroup{}", LEFT.repeat(5)));
    program.type_text(" \r");
    program.expect_line("> Create group");
    program.expect_line("Insert group id:");
    program.type_text("weather\r");
    let secret = |screen: &Screen| {
        let said = |line: &String| line.starts_with("Group created with secret ");
        screen.lines().iter().filter(|line| said(line)).count()
    };
    program.expect("the secret", |screen| secret(screen) == 1 && screen.current() == ">");

    // The first Up key recalls the id, the second one the command before it.
    program.type_text(UP);
    program.expect_current("> weather");
    program.type_text(UP);
    program.expect_current("> Create group");
    program.type_text("\r");
    program.expect("the question", |screen| screen.current() == ">");
    program.type_text("wind\r");
    program.expect("another secret", |screen| secret(screen) == 2 && screen.current() == ">");

    program.type_text("Show g\t");
    program.expect_current("> Show group info");
    program.type_text("\r");
    program.expect("the question", |screen| screen.current() == ">");
    // Both ids begin with w, so completion needs the second letter.
    program.type_text("we\t");
    program.expect_current("> weather");
    program.type_text("\r");
    program.expect_line("Name: weather");
    program.expect("all of it", |screen| screen.current() == ">");
    // Ids are completed only after a question for an id.
    program.type_text("wea\t");
    program.type_text("x");
    program.expect_current("> weax");
    program.type_text("\r");
    program.expect_line("Unknown Command");
    program.type_text("Q\t\r");
    program.assert_exits("Exiting Local Server...");
}

#[test]
fn pasted_lines_are_all_executed() {
    let auth = AuthServer::start();
    let program = TerminalProgram::local(&auth);
    program.type_text("Create group\rg\rShow group info\rg\rQuit\r");
    program.expect_line("Name: g");
    program.assert_exits("Exiting Local Server...");
}

#[test]
fn server_output_appears_above_the_edited_line() {
    let mut auth = AuthServer::start();
    let program = TerminalProgram::local(&auth);
    program.type_text("Create group\rg\r");
    program.expect("the secret", |screen| {
        screen.current() == ">"
            && screen.lines().iter().any(|line| line.starts_with("Group created"))
    });
    program.type_text("half a li");
    program.expect_current("> half a li");
    auth.kill();
    // The server notices the loss at the next request.
    let socket = program.control();
    let asked = Command::new(bin("kvs"))
        .args(["admin", "info", "g", "--control-socket"])
        .arg(&socket)
        .stderr(Stdio::null())
        .status()
        .expect("it can be started");
    assert_eq!(asked.code(), Some(6));
    let lost = |screen: &Screen| {
        screen.lines().iter().any(|line| line.starts_with("Authentication server "))
            && screen.current() == "> half a li"
    };
    program.expect("the loss, above the line", lost);
    program.type_text("ne\r");
    program.expect_line("> half a line");
    program.expect_line("Unknown Command");
    auth.restart();
    program.signal(Signal::SIGTERM);
    program.assert_exits("Exiting Local Server...");
}

#[test]
fn log_appears_above_the_edited_line() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let mut command = local(&auth, &dir.path().join("sock"));
    command.arg("--verbose");
    let program = TerminalProgram::with(command, true);
    program.expect_current(">");
    program.type_text("half a li");
    program.expect_current("> half a li");
    for group in ["g", "h"] {
        let created = Command::new(bin("kvs"))
            .args(["admin", "create", group, "--control-socket"])
            .arg(dir.path().join("sock_control"))
            .stdout(Stdio::null())
            .status();
        assert!(created.expect("it can be started").success());
        let line = format!("created group=\"{group}\"");
        program.expect("a line of the log, above the line", |screen| {
            screen.lines().iter().any(|shown| shown.ends_with(&line))
                && screen.current() == "> half a li"
        });
    }
    // Ctrl-D only prints a message.
    program.type_text("\x15\x04");
    program.expect("the message about Ctrl-D", |screen| {
        let is_message = |line: &String| line.contains("INFO the end of the input is not Quit");
        screen.lines().iter().any(is_message) && screen.current() == ">"
    });
    program.type_text("Quit\r");
    program.expect_line("Exiting Local Server...");
}

#[test]
fn terminal_is_restored_however_a_server_exits() {
    let mut auth = AuthServer::start();
    for end in ["SIGTERM", "in the middle of a line", "Ctrl-C", "SIGINT", "kvs admin quit"] {
        let program = TerminalProgram::local(&auth);
        assert!(program.is_raw());
        match end {
            "SIGTERM" => program.signal(Signal::SIGTERM),
            "SIGINT" => program.signal(Signal::SIGINT),
            "Ctrl-C" => program.type_text("\x03"),
            "kvs admin quit" => {
                let socket = program.control();
                let quit = Command::new(bin("kvs"))
                    .args(["admin", "quit", "--yes", "--control-socket"])
                    .arg(&socket)
                    .stderr(Stdio::null())
                    .status();
                assert!(quit.expect("it can be started").success());
            }
            _ => {
                program.type_text("half");
                program.expect_current("> half");
                program.signal(Signal::SIGTERM);
            }
        }
        eprintln!("{end}");
        program.assert_exits("Exiting Local Server...");
    }
    // The authentication server shuts the local server down.
    let program = TerminalProgram::local(&auth);
    auth.send("Quit");
    program.assert_exits("Exiting Local Server...");
    auth.restart();

    // The local server exits when it loses the authentication server.
    let dir = private_dir();
    let mut command = local(&auth, &dir.path().join("sock"));
    command.arg("--exit-on-auth-loss");
    let mut program = TerminalProgram::new(command);
    program.expect_current(">");
    program.type_text("Create group\rg\r");
    program.expect("the secret", |screen| {
        screen.current() == ">"
            && screen.lines().iter().any(|line| line.starts_with("Group created"))
    });
    auth.kill();
    program.type_text("Show group info\rg\r");
    assert_eq!(program.wait().code(), Some(1));
    assert_same(&program.modes(), &program.original);
}

#[test]
fn auth_server_edits_lines_and_restores_terminal() {
    for end in ["Quit", "SIGTERM"] {
        let ports = Ports::reserve();
        let mut command = Command::new(bin("KVS-AuthServer"));
        command.args(["--listen", &ports.addr(0).to_string()]);
        let program = TerminalProgram::new(command);
        program.expect_current(">");
        program.type_text(&format!("it{LEFT}{LEFT}Qu"));
        program.expect_current("> Quit");
        match end {
            "Quit" => program.type_text("\r"),
            _ => program.signal(Signal::SIGTERM),
        }
        program.assert_exits("Exiting Authentification Server...");
    }
}

#[test]
fn end_of_input_does_not_quit() {
    let auth = AuthServer::start();
    let program = TerminalProgram::local(&auth);
    program.type_text("\x04\x04");
    program.type_text("foo\r");
    program.expect_line("Unknown Command");
    program.type_text("Quit\r");
    program.assert_exits("Exiting Local Server...");
}

#[test]
fn dumb_terminal_gets_plain_lines() {
    let auth = AuthServer::start();
    for term in ["dumb", ""] {
        let dir = private_dir();
        let mut command = local(&auth, &dir.path().join("sock"));
        command.env("TERM", term);
        let program = TerminalProgram::new(command);
        program.expect("the port", |screen| {
            screen.lines().iter().any(|line| line.starts_with("Port"))
        });
        program.type_text("foo\nQuit\n");
        let screen = program.expect("its end", |screen| {
            screen.lines().iter().any(|line| line == "Exiting Local Server...")
        });
        let plain = screen.bytes.iter().all(|&byte| byte != b'\x1b' && byte != b'>');
        assert!(plain, "{}", screen.bytes.escape_ascii());
        program.assert_exits("Exiting Local Server...");
    }
}

#[test]
fn blocked_terminal_does_not_block_the_server() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let mut program = TerminalProgram::new(local(&auth, &socket));
    program.expect_current(">");
    // As after Ctrl-S, the terminal accepts no more output.
    rustix::termios::tcflow(&program.slave, rustix::termios::Action::OOff)
        .expect("it is a terminal");
    program.type_text("foo\r");
    let control = dir.path().join("sock_control");
    for _ in 0..10 {
        let status = Command::new(bin("kvs"))
            .args(["admin", "status", "--control-socket"])
            .arg(&control)
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("it can be started").success());
    }
    program.signal(Signal::SIGTERM);
    assert!(program.wait().success());
}

/// A shell with job control, on a terminal of its own.
fn shell(script: &str, auth: &AuthServer, socket: &Path) -> TerminalProgram {
    let mut command = Command::new("setsid");
    command.args(["--ctty", "sh", "-c", script, "sh"]).arg(bin("KVS-LocalServer"));
    command.args(["--auth", &auth.addr().to_string(), "--socket"]).arg(socket);
    TerminalProgram::new(command)
}

#[test]
fn suspended_server_serves_in_background_and_resumes() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let script = r#"set -m; setpriv --pdeathsig KILL "$@"; echo stopped
        stty -a | grep -c ' icanon'
        bg; echo background; read -r line
        stty -a | grep -c ' icanon'
        echo "got $line"; kill -STOP %1; fg"#;
    let program = shell(script, &auth, &socket);
    program.expect_current(">");
    program.type_text(&format!("Quix{LEFT}"));
    program.expect_current("> Quix");
    assert!(program.is_raw());
    program.type_text("\x1a");
    program.expect_line("stopped");
    program.expect_line("background");
    program.expect("a normal terminal", |screen| screen.lines().iter().any(|line| line == "1"));
    // The server works in the background.
    let status = Command::new(bin("kvs"))
        .args(["admin", "status", "--control-socket"])
        .arg(dir.path().join("sock_control"))
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("it can be started").success());
    assert_same(&program.modes(), &program.original);
    program.type_text("for the shell\n");
    program.expect_line("got for the shell");
    program.expect_current("> Quix");
    // The cursor is at its previous position.
    program.type_text("\x1b[3~t\r");
    program.assert_exits("Exiting Local Server...");
}

#[test]
fn background_server_edits_lines_in_foreground() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let script = r#"set -m; setpriv --pdeathsig KILL "$@" & read -r line; kill -STOP %1; fg"#;
    let program = shell(script, &auth, &socket);
    program.expect("the port", |screen| screen.lines().iter().any(|line| line.starts_with("Port")));
    assert_same(&program.modes(), &program.original);
    program.type_text("to the foreground\n");
    program.expect_current(">");
    program.type_text("Q\t\r");
    program.assert_exits("Exiting Local Server...");
}
