//! The prompt: the commands typed one after the other, on a terminal.
//!
//! No error ends it. A lost connection is told at once, and the next command opens another one. Each watch has a connection
//! and a thread of its own, which reports above the line that is being typed, and outlives what happens to the connection of
//! the commands.
//!
//! The history is a file that only its owner can read. A line in which the secret stands is not kept, nor what follows the
//! group of a `connect`.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};

use crate::access::{Access, Member};
use crate::arguments::{Line, LineCommand, Request, WatchRequest};
use crate::commands::{self, Surroundings};
use crate::completion::{Completion, Current};
use crate::failure::Failure;
use crate::output::{self, Output, note};
use crate::script::{Parsed, parse};
use crate::watch::{Changes, End, Event, Wanted, Watcher};
use crate::words::{Plain, Quoted, Typed};

/// Lines of the history.
const HISTORY: usize = 1000;

/// Bytes of a value that a watch shows.
const SHOWN: usize = 200;

/// Runs the prompt to its end.
pub(crate) fn run(access: Access, output: Output) -> Result<u8, Failure> {
    let mut prompt = Prompt::new(access, output)?;
    prompt.begin();
    loop {
        match prompt.editor.readline(&prompt.text()) {
            // What was pasted may have several.
            Ok(lines) => {
                for line in lines.lines() {
                    if prompt.line(line) == Then::End {
                        return Ok(0);
                    }
                }
            }
            // The line is thrown away, as a shell does it.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(0),
            Err(error) => return Err(Failure::Terminal(error.to_string())),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

struct Prompt {
    access: Access,
    output: Output,
    editor: Editor<Completion, FileHistory>,
    /// `None`: there is no place for it.
    history: Option<PathBuf>,
    member: Option<Member>,
    /// The same connection for the tab key.
    current: Current,
    watches: Vec<Watch>,
}

/// A watch that goes on while commands are typed.
struct Watch {
    changes: Arc<Changes>,
    thread: JoinHandle<()>,
}

/// Writes above the line that is being typed.
struct Announcer(Option<Box<dyn ExternalPrinter + Send>>);

impl Announcer {
    fn say(&mut self, line: impl Display) {
        let line = format!("{line}\n");
        match &mut self.0 {
            // That the terminal has gone ends the prompt.
            Some(printer) => drop(printer.print(line)),
            // A terminal that cannot do it gets it where the cursor is.
            None => drop(io::Write::write_all(&mut io::stdout(), line.as_bytes())),
        }
    }
}

impl Prompt {
    fn new(access: Access, output: Output) -> Result<Self, Failure> {
        let broken = |error: ReadlineError| Failure::Terminal(error.to_string());
        let config = Config::builder()
            .max_history_size(HISTORY)
            .map_err(broken)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config).map_err(broken)?;
        let current = Rc::new(RefCell::new(None));
        editor.set_helper(Some(Completion::new(Rc::clone(&current))));
        let mut history = history_file();
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
            if let Some(Err(error)) = path.parent().map(make_directory) {
                let sentence = format!("the history is not kept: {}: {error}", path.display());
                output.warning("no_history", &sentence);
                history = None;
            }
        }
        let watches = Vec::new();
        Ok(Self { access, output, editor, history, member: None, current, watches })
    }

    fn begin(&mut self) {
        if self.access.group().is_none() {
            self.note("no group yet: \"connect GROUP\" joins one, \"help\" lists the commands");
            return;
        }
        match self.connected(self.output) {
            Ok(_) => self.note("\"help\" lists the commands, Ctrl-D quits"),
            Err(failure) => self.output.failure(&failure),
        }
    }

    /// What stands before the line.
    fn text(&self) -> String {
        let Some(group) = self.access.group() else { return "kvs> ".into() };
        match self.is_connected() {
            true => format!("{}> ", Plain(group)),
            false => format!("{} (not connected)> ", Plain(group)),
        }
    }

    fn is_connected(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.connection.is_open())
    }

    fn note(&self, sentence: &str) {
        self.output.event(|| note(sentence), sentence);
    }

    /// Does a line.
    fn line(&mut self, line: &str) -> Then {
        let parsed = parse(line.as_bytes());
        self.remember(line, &parsed);
        let done = match parsed {
            Ok(Parsed::Nothing) => Ok(()),
            Ok(Parsed::Clap(error)) => {
                output::say_clap(&error, self.output);
                Ok(())
            }
            Ok(Parsed::Line(Line { command: LineCommand::Quit, .. })) => return Then::End,
            Ok(Parsed::Line(line)) => self.command(line),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = done {
            self.output.failure(&failure);
        }
        Then::GoOn
    }

    fn command(&mut self, line: Line) -> Result<(), Failure> {
        let output = self.output.or_json(line.style.json);
        match line.command {
            LineCommand::Request(Request::Watch(request)) => self.watch(request, output),
            LineCommand::Request(request) => {
                let member = self.connected(output)?;
                commands::run(request, member, output, Surroundings::Lines).map(drop)
            }
            LineCommand::Unwatch => match self.unwatch() {
                0 => Err(Failure::Usage("there is no watch to end".into())),
                _ => Ok(()),
            },
            LineCommand::Connect { group } => self.change_group(group.into_vec(), output),
            // The caller has taken it out.
            LineCommand::Quit => Ok(()),
        }
    }

    /// The connection that there is, or a new one.
    fn connected(&mut self, output: Output) -> Result<&Member, Failure> {
        let open = self.member.take().filter(|member| member.connection.is_open());
        let member = match open {
            Some(member) => member,
            None => {
                self.current.replace(None);
                let member = self.access.join(output)?;
                self.use_for_tab_and_end(&member);
                member
            }
        };
        Ok(self.member.insert(member))
    }

    /// A new connection is that of the tab key, and its end is told when it comes.
    fn use_for_tab_and_end(&mut self, member: &Member) {
        self.current.replace(Some(Arc::clone(&member.connection)));
        let mut announcer = self.announcer();
        let ended = Failure::Ended { socket: member.socket.clone(), group: member.group.clone() };
        // When it has ended already, the next command tells it.
        let _ = member.connection.on_disconnect(move |_| {
            announcer.say(format_args!("kvs: {ended}; the next command connects again"));
        });
    }

    fn announcer(&mut self) -> Announcer {
        let printer = self.editor.create_external_printer().ok();
        Announcer(printer.map(|printer| Box::new(printer) as Box<dyn ExternalPrinter + Send>))
    }

    /// Joins another group, and leaves this one when that has worked.
    fn change_group(&mut self, group: Vec<u8>, output: Output) -> Result<(), Failure> {
        let mut access = self.access.clone();
        access.change_group(group);
        let member = access.join(output)?;
        if self.unwatch() > 0 {
            self.note("the watches have ended with the group");
        }
        self.access = access;
        self.use_for_tab_and_end(&member);
        self.member = Some(member);
        Ok(())
    }

    fn watch(&mut self, request: WatchRequest, output: Output) -> Result<(), Failure> {
        if request.exec.is_some() || request.count.is_some() {
            let sentence = "at the prompt a watch has neither --exec nor --count: it reports until \"unwatch\"";
            return Err(Failure::Usage(sentence.into()));
        }
        let member = self.access.join(output)?;
        let wanted = Wanted::new(request.keys, request.prefixes);
        let announcer = self.announcer();
        let (started, start) = mpsc::sync_channel(1);
        let (wanted_there, initial) = (wanted.clone(), request.initial);
        let thread = thread::Builder::new()
            .name("watch".into())
            .spawn(move || report(&member, wanted_there, initial, output, announcer, &started))
            .map_err(|error| Failure::Terminal(error.to_string()))?;
        // The thread answers, or has ended.
        let changes = start
            .recv()
            .unwrap_or_else(|_| Err(Failure::Terminal("the watch has ended".into())))?;
        self.watches.retain(|watch| !watch.thread.is_finished());
        self.watches.push(Watch { changes, thread });
        if !request.quiet {
            self.note(&format!("watching {}; \"unwatch\" ends it", wanted.text()));
        }
        Ok(())
    }

    /// Ends all watches; how many. Their threads end by themselves: one may be writing.
    fn unwatch(&mut self) -> usize {
        self.watches.retain(|watch| !watch.thread.is_finished());
        let count = self.watches.len();
        for watch in self.watches.drain(..) {
            watch.changes.end(End::Unwatched);
        }
        count
    }

    fn remember(&mut self, line: &str, parsed: &Result<Parsed, Failure>) {
        let line = match parsed {
            Ok(Parsed::Nothing) => return,
            // So what was typed behind it is not kept, and cannot be a secret.
            _ if Typed::new(line).first() == Some(b"connect") => match parsed {
                Ok(Parsed::Line(_)) => line,
                _ => return,
            },
            _ => line,
        };
        let secret = self.access.secret().unwrap_or_default();
        if !secret.is_empty() && line.as_bytes().windows(secret.len()).any(|part| part == secret) {
            return;
        }
        // The tab key leaves a space behind. An escaped one belongs to a word.
        let line = if line.ends_with("\\ ") { line } else { line.trim_end() };
        let added = self.editor.add_history_entry(line);
        let Some(path) = self.history.clone() else { return };
        // At once, so that nothing is lost however the prompt ends.
        if let Err(error) = added.and_then(|_| self.editor.append_history(&path)) {
            let sentence = format!("the history is not kept: {}: {error}", path.display());
            self.output.warning("no_history", &sentence);
            self.history = None;
        }
    }
}

/// The thread of a watch: says whether it has begun, and then each change.
fn report(
    member: &Member,
    wanted: Wanted,
    initial: bool,
    output: Output,
    mut announcer: Announcer,
    started: &mpsc::SyncSender<Result<Arc<Changes>, Failure>>,
) {
    let mut watcher = match Watcher::start(member, wanted) {
        Ok(watcher) => watcher,
        Err(failure) => {
            // The prompt waits for it.
            let _ = started.send(Err(failure));
            return;
        }
    };
    let _ = started.send(Ok(watcher.changes()));
    let line = |event: &Event| match output.is_json() {
        true => event.object().to_string(),
        false => event.text(SHOWN),
    };
    let mut told = Ok(());
    if initial {
        told = watcher.initial(|event| {
            announcer.say(line(&event));
            Ok(())
        });
    }
    while told.is_ok() {
        match watcher.next() {
            Ok(Some(event)) => announcer.say(line(&event)),
            Ok(None) => return,
            Err(failure) => told = Err(failure),
        }
    }
    if let Err(failure) = told {
        let group = Quoted(&member.group);
        announcer
            .say(format_args!("kvs: {failure}; a watch in the group {group} has ended with it"));
    }
}

/// Where the history is kept.
fn history_file() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("kvs/history"))
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
