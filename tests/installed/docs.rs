//! Follows `docs/TUTORIAL.md` and `docs/PORTING.md` to the letter: each block of a page is typed,
//! written to a file, or expected on a screen.
//!
//! The first line of a block says what it is, together with the text before it. Readers do not see
//! what follows the language there.
//!
//! | block | what the test does |
//! |---|---|
//! | any, after a file's name in backticks and a colon | writes this file in the own directory |
//! | `sh` | runs it in the reader's own terminal, which starts in the source tree |
//! | `sh terminal=NAME` | runs it in another terminal, which opens when it is first named |
//! | `console terminal=NAME` | types it into the program that runs there |
//! | `text` | expects these lines, and no others, in the terminal of the block before |
//! | `text terminal=NAME` | expects them in that terminal |
//!
//! Every other block fails the test, and so does any line of a terminal that is not on the page,
//! except output of `make` and additional log lines of a server. Secrets, ports and the times of
//! logs may differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kvs_testkit::{
    CodeBlock, Console, Ports, Process, Program, code_blocks, has_tools, private_dir, project_dir,
};

/// The reader's own terminal.
const OWN: &str = "own";
/// The port of the authentication server on the pages; those behind it belong to local servers.
const PORT: u16 = 58132;

#[test]
fn tutorial_works_as_written() {
    if !has_tools(&["pkg-config"]) {
        return;
    }
    follow("docs/TUTORIAL.md");
}

#[test]
fn porting_guide_works_as_written() {
    if !has_tools(&["pkg-config"]) {
        return;
    }
    follow("docs/PORTING.md");
}

/// Follows the instructions of a page, with nothing but a home directory.
fn follow(name: &str) {
    let page = fs::read_to_string(project_dir().join(name)).expect("the page exists");
    let ports = Ports::reserve();
    let page = (0..Ports::COUNT)
        .fold(page, |page, n| page.replace(&(PORT + n).to_string(), &ports.port(n).to_string()));
    assert!(page.contains(&ports.port(0).to_string()), "{name} does not use the port {PORT}");

    let home = private_dir();
    let mut reader = Reader {
        home: home.path(),
        dir: project_dir().to_owned(),
        terminals: BTreeMap::new(),
        secrets: BTreeMap::new(),
        scripts: 0,
    };
    let blocks = code_blocks(&page);
    assert!(!blocks.is_empty());
    let mut current = OWN;
    for (n, block) in blocks.iter().enumerate() {
        // Locates a failure in its report.
        println!("{name}:{}: {}", block.line, block.language);
        let terminal = block.marker.as_ref().map(|(name, terminal)| {
            assert_eq!(name, "terminal", "{}: no such marker", block.line);
            terminal.as_str()
        });
        match (block.file.as_deref(), block.language.as_str()) {
            (Some(file), language) if language != "text" && terminal.is_none() => {
                reader.write(file, &block.text);
            }
            (None, "sh") => {
                current = terminal.unwrap_or(OWN);
                reader.run(current, &block.text);
                let next = blocks.get(n + 1);
                let is_shown = |next: &CodeBlock| next.language == "text" && next.marker.is_none();
                if current == OWN && !next.is_some_and(is_shown) {
                    let is_make = block.text.starts_with("make ");
                    let status = reader.end(current, is_make);
                    assert_eq!(status, "0", "{}", block.text);
                }
            }
            (None, "console") => {
                current = terminal.expect("a console block names its terminal");
                reader.type_in(current, &block.text);
            }
            (None, "text") => {
                let shown_by = terminal.unwrap_or(current);
                reader.see(shown_by, &block.text);
                if shown_by == OWN {
                    reader.end(OWN, false);
                }
            }
            (file, language) => {
                panic!(
                    "{name}:{}: `{language}`, {file:?}: neither run, written nor seen",
                    block.line
                );
            }
        }
    }
    reader.close_all();
}

struct Reader<'a> {
    home: &'a Path,
    /// The directory of the own terminal.
    dir: PathBuf,
    terminals: BTreeMap<String, Terminal>,
    /// The secrets of the page, and the real ones.
    secrets: BTreeMap<String, String>,
    scripts: usize,
}

/// A shell that runs one script after the other. Each line of its input names a script, so that
/// only the programs in the scripts read the keyboard.
struct Terminal {
    shell: Process,
    is_running: bool,
}

/// The line prefix that a shell prints after a script, before the status and the directory.
const DONE: &str = "the block is done: ";

impl Reader<'_> {
    fn write(&self, file: &str, text: &str) {
        let path = self.dir.join(file);
        assert!(path.starts_with(self.home), "{} is not the reader's", path.display());
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn open(&self, name: &str) -> Terminal {
        let loop_over_files =
            format!("exec 2>&1\nwhile read -r file; do . \"$file\"; echo \"{DONE}$? $PWD\"; done");
        let dir = if name == OWN { project_dir() } else { self.home };
        // The shell controls its terminal: when it is killed, the system sends SIGHUP to the rest.
        let shell = Program::new("setsid")
            .args(["--ctty", "env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"])
            // `make install` installs what was built before.
            .arg("CARGO=no-cargo-within-a-test")
            .arg(format!("HOME={}", self.home.display()))
            .args(["sh", "-c", &loop_over_files])
            .current_dir(dir)
            .console(Console::Terminal { echo: false })
            .spawn();
        Terminal { shell, is_running: false }
    }

    /// Starts a block without waiting for its end.
    fn run(&mut self, terminal: &str, block: &str) {
        if !self.terminals.contains_key(terminal) {
            let opened = self.open(terminal);
            self.terminals.insert(terminal.to_owned(), opened);
        }
        if self.terminals[terminal].is_running {
            self.end(terminal, false);
        }
        self.scripts += 1;
        let script = self.home.join(format!(".block-{}", self.scripts));
        fs::write(&script, self.in_place(block)).expect("the directory is ours");
        let terminal = self.terminals.get_mut(terminal).expect("it is open");
        terminal.shell.send(script.to_str().expect("UTF-8"));
        terminal.is_running = true;
    }

    fn running(&self, terminal: &str) -> &Terminal {
        let found = self.terminals.get(terminal).filter(|terminal| terminal.is_running);
        found.unwrap_or_else(|| panic!("nothing runs in the terminal `{terminal}`"))
    }

    fn type_in(&self, terminal: &str, block: &str) {
        for line in block.lines() {
            self.running(terminal).shell.send(&self.in_place(line));
        }
    }

    /// Waits for the lines of a block on the screen, and fails on any other line.
    fn see(&mut self, terminal: &str, block: &str) {
        for line in block.lines() {
            let expected = without_chance(&self.in_place(line));
            let shell = &self.running(terminal).shell;
            let entry = log_entry(&expected);
            let seen = shell.expect_line_where(&expected, |line| {
                log_entry(line).is_none_or(|seen| Some(seen) == entry)
            });
            if let (Some(on_page), Some(real)) = (secret(&expected), secret(&seen)) {
                self.secrets.insert(on_page.to_owned(), real.to_owned());
                continue;
            }
            if entry.is_none() || log_entry(&seen) != entry {
                assert_eq!(without_chance(&seen), expected, "{}", shell.report());
            }
        }
    }

    /// Waits for the end of the last block, and returns its status. Only `make` may print more
    /// lines.
    fn end(&mut self, terminal: &str, is_make: bool) -> String {
        let shell = &self.running(terminal).shell;
        let line = shell.expect_line_where("the end of the block", |line| {
            log_entry(line).is_none() && (!is_make || line.starts_with(DONE))
        });
        let done = line.strip_prefix(DONE).and_then(|done| done.split_once(' '));
        let (status, dir) = done.unwrap_or_else(|| {
            panic!("{line:?} is not on the page\n{}", shell.report());
        });
        if terminal == OWN {
            self.dir = dir.into();
        }
        let status = status.to_owned();
        self.terminals.get_mut(terminal).expect("it is open").is_running = false;
        status
    }

    /// Waits until all programs have exited, and closes the terminals.
    fn close_all(mut self) {
        let names: Vec<String> = self.terminals.keys().cloned().collect();
        for name in names {
            println!("closing the terminal `{name}`");
            if self.terminals[&name].is_running {
                self.end(&name, false);
            }
            let shell = &self.terminals[&name].shell;
            shell.end_input();
            shell.wait_exit();
        }
    }

    /// Replaces the secrets of the page by the real ones.
    fn in_place(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, (page, real)| text.replace(page, real))
    }
}

/// The secret in a line of a local server.
fn secret(line: &str) -> Option<&str> {
    line.strip_prefix("Group created with secret ")?.strip_suffix('!')
}

/// A line of a server's log without its time and colours.
fn log_entry(line: &str) -> Option<String> {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next()?.to_owned();
    // A colour ends with the first m.
    plain.extend(parts.map(|part| part.split_once('m').map_or(part, |(_, text)| text)));
    let (time, entry) = plain.split_once("Z ")?;
    let is_time = time.len() == "2026-11-25T13:34:51.318681".len()
        && time.bytes().all(|byte| byte.is_ascii_digit() || b"-:.T".contains(&byte));
    is_time.then(|| entry.to_owned())
}

/// A line without the random port of a local server.
fn without_chance(line: &str) -> String {
    match line.split_once("request from (127.0.0.1, ") {
        Some((before, _)) => format!("{before}request from somewhere"),
        None => line.to_owned(),
    }
}
