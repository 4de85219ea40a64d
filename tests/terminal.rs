//! The consoles of both servers on a terminal that can edit lines: what is seen on the screen, and in which state the terminal
//! is left.

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

/// What a terminal shows of the bytes that it was sent, as far as they are those of an editor of lines.
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
            // A colour.
            'm' => {}
            'K' => {
                let column = self.column;
                self.line().truncate(column);
            }
            _ => panic!("a sequence that this screen does not know: {number}{end}"),
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

    /// The line with the cursor.
    fn current(&self) -> String {
        self.lines().get(self.row).cloned().unwrap_or_default()
    }
}

/// A program on a terminal.
struct Seat {
    child: Child,
    master: File,
    shown: Arc<(Mutex<Vec<u8>>, Condvar)>,
    before: Termios,
    /// Its end of the terminal, which otherwise would hang up before it was looked at.
    slave: OwnedFd,
    dir: Option<TempDir>,
}

impl Seat {
    /// Its log is not seen.
    fn new(command: Command) -> Self {
        Self::with(command, false)
    }

    fn with(mut command: Command, logs: bool) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("there are terminals");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let size = Winsize { ws_row: 50, ws_col: COLUMNS as u16, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("it is a terminal");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let slave = open(name, flags, Mode::empty()).expect("it is unlocked");
        let before = tcgetattr(&slave).expect("it is a terminal");
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
        Self { child, master, shown, before, slave, dir: None }
    }

    /// A local server, when it waits for a line.
    fn local(auth: &AuthServer) -> Self {
        let dir = private_dir();
        let mut seat = Self::new(local(auth, &dir.path().join("sock")));
        seat.dir = Some(dir);
        seat.expect("a prompt", |screen| screen.current() == ">");
        seat
    }

    /// The control socket of a local server.
    fn control(&self) -> PathBuf {
        self.dir.as_ref().expect("it has one").path().join("sock_control")
    }

    fn types(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Waits until the screen is as it should be.
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

    /// What stands on the line with the cursor.
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

    /// It ends well, with these words, and the terminal as it was.
    fn ends(mut self, last: &str) {
        let status = self.wait();
        assert!(status.success(), "{status}");
        self.expect_line(last);
        self.expect("the beginning of a line", |screen| screen.current().is_empty());
        assert_same(&self.modes(), &self.before);
    }
}

impl Drop for Seat {
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
fn a_line_can_be_edited_in_its_middle_recalled_and_completed() {
    let auth = AuthServer::start();
    let seat = Seat::local(&auth);
    seat.types(&format!("Creategroup{}", LEFT.repeat(5)));
    seat.types(" \r");
    seat.expect_line("> Create group");
    seat.expect_line("Insert group id:");
    seat.types("weather\r");
    let secret = |screen: &Screen| {
        let said = |line: &String| line.starts_with("Group created with secret ");
        screen.lines().iter().filter(|line| said(line)).count()
    };
    seat.expect("the secret", |screen| secret(screen) == 1 && screen.current() == ">");

    // Up twice: the id, and the command before it.
    seat.types(UP);
    seat.expect_current("> weather");
    seat.types(UP);
    seat.expect_current("> Create group");
    seat.types("\r");
    seat.expect("the question", |screen| screen.current() == ">");
    seat.types("wind\r");
    seat.expect("another secret", |screen| secret(screen) == 2 && screen.current() == ">");

    seat.types("Show g\t");
    seat.expect_current("> Show group info");
    seat.types("\r");
    seat.expect("the question", |screen| screen.current() == ">");
    // Both begin with w; a third letter tells them apart.
    seat.types("we\t");
    seat.expect_current("> weather");
    seat.types("\r");
    seat.expect_line("Name: weather");
    seat.expect("all of it", |screen| screen.current() == ">");
    // At other prompts it is no word.
    seat.types("wea\t");
    seat.types("x");
    seat.expect_current("> weax");
    seat.types("\r");
    seat.expect_line("Unknown Command");
    seat.types("Q\t\r");
    seat.ends("Exiting Local Server...");
}

#[test]
fn pasted_lines_are_all_obeyed() {
    let auth = AuthServer::start();
    let seat = Seat::local(&auth);
    seat.types("Create group\rg\rShow group info\rg\rQuit\r");
    seat.expect_line("Name: g");
    seat.ends("Exiting Local Server...");
}

#[test]
fn what_the_server_says_stands_above_the_line_that_is_being_typed() {
    let mut auth = AuthServer::start();
    let seat = Seat::local(&auth);
    seat.types("Create group\rg\r");
    seat.expect("the secret", |screen| {
        screen.current() == ">"
            && screen.lines().iter().any(|line| line.starts_with("Group created"))
    });
    seat.types("half a li");
    seat.expect_current("> half a li");
    auth.kill();
    // The loss is seen when somebody asks.
    let socket = seat.control();
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
    seat.expect("the loss, above the line", lost);
    seat.types("ne\r");
    seat.expect_line("> half a line");
    seat.expect_line("Unknown Command");
    auth.restart();
    seat.signal(Signal::SIGTERM);
    seat.ends("Exiting Local Server...");
}

#[test]
fn lines_of_the_log_stand_above_the_line_that_is_being_typed() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let mut command = local(&auth, &dir.path().join("sock"));
    command.arg("--verbose");
    let seat = Seat::with(command, true);
    seat.expect_current(">");
    seat.types("half a li");
    seat.expect_current("> half a li");
    for group in ["g", "h"] {
        let created = Command::new(bin("kvs"))
            .args(["admin", "create", group, "--control-socket"])
            .arg(dir.path().join("sock_control"))
            .stdout(Stdio::null())
            .status();
        assert!(created.expect("it can be started").success());
        let line = format!("created group=\"{group}\"");
        seat.expect("a line of the log, above the line", |screen| {
            screen.lines().iter().any(|shown| shown.ends_with(&line))
                && screen.current() == "> half a li"
        });
    }
    // Ctrl-D, which says something, does nothing.
    seat.types("\x15\x04");
    seat.expect("what Ctrl-D does not do", |screen| {
        let told = |line: &String| line.contains("INFO the end of the input is not Quit");
        screen.lines().iter().any(told) && screen.current() == ">"
    });
    seat.types("Quit\r");
    seat.expect_line("Exiting Local Server...");
}

#[test]
fn the_terminal_is_left_as_it_was_however_a_server_ends() {
    let mut auth = AuthServer::start();
    for end in ["SIGTERM", "in the middle of a line", "Ctrl-C", "SIGINT", "kvs admin quit"] {
        let seat = Seat::local(&auth);
        assert!(seat.is_raw());
        match end {
            "SIGTERM" => seat.signal(Signal::SIGTERM),
            "SIGINT" => seat.signal(Signal::SIGINT),
            "Ctrl-C" => seat.types("\x03"),
            "kvs admin quit" => {
                let socket = seat.control();
                let quit = Command::new(bin("kvs"))
                    .args(["admin", "quit", "--yes", "--control-socket"])
                    .arg(&socket)
                    .stderr(Stdio::null())
                    .status();
                assert!(quit.expect("it can be started").success());
            }
            _ => {
                seat.types("half");
                seat.expect_current("> half");
                seat.signal(Signal::SIGTERM);
            }
        }
        eprintln!("{end}");
        seat.ends("Exiting Local Server...");
    }
    // The authentication server ends it, which is on a terminal, too.
    let seat = Seat::local(&auth);
    auth.send("Quit");
    seat.ends("Exiting Local Server...");
    auth.restart();

    // As it is lost.
    let dir = private_dir();
    let mut command = local(&auth, &dir.path().join("sock"));
    command.arg("--exit-on-auth-loss");
    let mut seat = Seat::new(command);
    seat.expect_current(">");
    seat.types("Create group\rg\r");
    seat.expect("the secret", |screen| {
        screen.current() == ">"
            && screen.lines().iter().any(|line| line.starts_with("Group created"))
    });
    auth.kill();
    seat.types("Show group info\rg\r");
    assert_eq!(seat.wait().code(), Some(1));
    assert_same(&seat.modes(), &seat.before);
}

#[test]
fn the_authentication_server_edits_lines_too_and_leaves_the_terminal_as_it_was() {
    for end in ["Quit", "SIGTERM"] {
        let ports = Ports::reserve();
        let mut command = Command::new(bin("KVS-AuthServer"));
        command.args(["--listen", &ports.addr(0).to_string()]);
        let seat = Seat::new(command);
        seat.expect_current(">");
        seat.types(&format!("it{LEFT}{LEFT}Qu"));
        seat.expect_current("> Quit");
        match end {
            "Quit" => seat.types("\r"),
            _ => seat.signal(Signal::SIGTERM),
        }
        seat.ends("Exiting Authentification Server...");
    }
}

#[test]
fn the_end_of_the_input_is_not_quit() {
    let auth = AuthServer::start();
    let seat = Seat::local(&auth);
    seat.types("\x04\x04");
    seat.types("foo\r");
    seat.expect_line("Unknown Command");
    seat.types("Quit\r");
    seat.ends("Exiting Local Server...");
}

#[test]
fn a_terminal_that_can_only_show_lines_gets_nothing_else() {
    let auth = AuthServer::start();
    for term in ["dumb", ""] {
        let dir = private_dir();
        let mut command = local(&auth, &dir.path().join("sock"));
        command.env("TERM", term);
        let seat = Seat::new(command);
        seat.expect("the port", |screen| {
            screen.lines().iter().any(|line| line.starts_with("Port"))
        });
        seat.types("foo\nQuit\n");
        let screen = seat.expect("its end", |screen| {
            screen.lines().iter().any(|line| line == "Exiting Local Server...")
        });
        let plain = screen.bytes.iter().all(|&byte| byte != b'\x1b' && byte != b'>');
        assert!(plain, "{}", screen.bytes.escape_ascii());
        seat.ends("Exiting Local Server...");
    }
}

#[test]
fn a_terminal_that_shows_nothing_holds_nobody_up() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let mut seat = Seat::new(local(&auth, &socket));
    seat.expect_current(">");
    // Ctrl-S, as it were: nothing that it is sent is taken any more.
    rustix::termios::tcflow(&seat.slave, rustix::termios::Action::OOff).expect("it is a terminal");
    seat.types("foo\r");
    let control = dir.path().join("sock_control");
    for _ in 0..10 {
        let status = Command::new(bin("kvs"))
            .args(["admin", "status", "--control-socket"])
            .arg(&control)
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("it can be started").success());
    }
    seat.signal(Signal::SIGTERM);
    assert!(seat.wait().success());
}

/// A shell with job control, on a terminal of its own.
fn shell(script: &str, auth: &AuthServer, socket: &Path) -> Seat {
    let mut command = Command::new("setsid");
    command.args(["--ctty", "sh", "-c", script, "sh"]).arg(bin("KVS-LocalServer"));
    command.args(["--auth", &auth.addr().to_string(), "--socket"]).arg(socket);
    Seat::new(command)
}

#[test]
fn a_server_can_be_stopped_with_ctrl_z_serves_in_the_background_and_comes_back_with_its_line() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let script = r#"set -m; setpriv --pdeathsig KILL "$@"; echo stopped; stty -a | grep -c ' icanon';
        bg; echo background; read -r line; stty -a | grep -c ' icanon'; echo "got $line"; kill -STOP %1; fg"#;
    let seat = shell(script, &auth, &socket);
    seat.expect_current(">");
    seat.types(&format!("Quix{LEFT}"));
    seat.expect_current("> Quix");
    assert!(seat.is_raw());
    seat.types("\x1a");
    seat.expect_line("stopped");
    seat.expect_line("background");
    seat.expect("a normal terminal", |screen| screen.lines().iter().any(|line| line == "1"));
    // In the background it serves.
    let status = Command::new(bin("kvs"))
        .args(["admin", "status", "--control-socket"])
        .arg(dir.path().join("sock_control"))
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("it can be started").success());
    assert_same(&seat.modes(), &seat.before);
    seat.types("for the shell\n");
    seat.expect_line("got for the shell");
    seat.expect_current("> Quix");
    // The cursor is where it was.
    seat.types("\x1b[3~t\r");
    seat.ends("Exiting Local Server...");
}

#[test]
fn a_server_that_was_started_in_the_background_edits_lines_when_it_comes_to_the_foreground() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let script = r#"set -m; setpriv --pdeathsig KILL "$@" & read -r line; kill -STOP %1; fg"#;
    let seat = shell(script, &auth, &socket);
    seat.expect("the port", |screen| screen.lines().iter().any(|line| line.starts_with("Port")));
    assert_same(&seat.modes(), &seat.before);
    seat.types("to the foreground\n");
    seat.expect_current(">");
    seat.types("Q\t\r");
    seat.ends("Exiting Local Server...");
}
