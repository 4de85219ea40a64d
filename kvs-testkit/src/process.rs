//! One real program: started, spoken to, listened to, ended.
//!
//! Three threads belong to a process: one reads its standard output, one its standard error, one waits
//! for its end. All they learn goes into one state behind one condition variable, so that a test can
//! wait for any of it without ever asking twice. The process is not reaped before its end has been
//! noted, hence a signal can never reach another process that got the same number.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::terminal::{Console, open_terminal};
use crate::{DEADLINE, Sockets};

/// A program to be started: its arguments, environment and console.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    console: Console,
    dir: Option<PathBuf>,
    limits: Vec<String>,
    handed_over: Vec<OwnedFd>,
    listener: Option<Listener>,
}

/// The number of the first descriptor that is handed over (sd_listen_fds(3)).
const FIRST_HANDED_OVER: i32 = 3;

/// Who hears the lines of a program's standard output, and then its end.
struct Listener(Box<Hearing>);

type Hearing = dyn FnMut(Option<&str>) + Send;

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl Program {
    /// The program at `path`, or found by name. Its environment is the test's without any `KVS_…`, and
    /// without the library path that cargo gives to tests: it must find the library by itself. A terminal in
    /// front of it cannot do more than show lines (`TERM` is `dumb`).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            console: Console::default(),
            dir: None,
            limits: Vec::new(),
            handed_over: Vec::new(),
            listener: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Tells it where this server is, both paths.
    pub fn served_by(self, server: &impl Sockets) -> Self {
        self.env("KVS_SOCKET", server.socket()).env("KVS_CALLBACK_SOCKET", server.callback_socket())
    }

    /// What stands at its standard input and output; pipes unless said otherwise.
    pub fn console(mut self, console: Console) -> Self {
        self.console = console;
        self
    }

    /// The directory in which it runs.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// The most descriptors that it may have open, whatever it does.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.limits.push(format!("ulimit -n {most}"));
        self
    }

    /// The permissions, in octal, that files which it makes are not to have.
    pub fn umask(mut self, mask: &str) -> Self {
        self.limits.push(format!("umask {mask}"));
        self
    }

    /// Hands these descriptors over to it, as systemd does with sockets (sd_listen_fds(3)).
    pub fn hand_over(mut self, descriptors: Vec<OwnedFd>) -> Self {
        let count = descriptors.len();
        let names = vec!["socket"; count].join(":");
        // The shell becomes the program: it stays one process.
        self.limits.push(format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}"));
        self.handed_over = descriptors;
        self
    }

    /// Gives each line of its standard output to `listener` as soon as it comes, and `None` at the end,
    /// instead of keeping it: for programs that say very much.
    pub fn listener(mut self, listener: impl FnMut(Option<&str>) + Send + 'static) -> Self {
        self.listener = Some(Listener(Box::new(listener)));
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(self) -> Process {
        let name =
            self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        let mut command = Command::new(&self.path);
        if !self.limits.is_empty() {
            // The shell becomes the program: it stays one process.
            let script = format!("{} && exec \"$0\" \"$@\"", self.limits.join(" && "));
            command = Command::new("sh");
            command.arg("-c").arg(script).arg(&self.path);
        }
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("KVS_") {
                command.env_remove(variable);
            }
        }
        command.env_remove("LD_LIBRARY_PATH").env("TERM", "dumb");
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let numbered = self.handed_over.into_iter().zip(FIRST_HANDED_OVER..);
        let mappings = numbered.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).expect("each has a number of its own");
        command.stderr(Stdio::piped());
        let mut master = None;
        match self.console {
            Console::Pipes => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
            }
            Console::NoInput => {
                command.stdin(Stdio::null()).stdout(Stdio::piped());
            }
            Console::Terminal { echo } => {
                let (ends, screen) = open_terminal(echo).expect("a pseudo-terminal can be opened");
                command.stdin(ends.stdin).stdout(ends.stdout);
                master = Some(screen.master);
            }
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.path.display()));
        // The command holds the program's end of the terminal, which would then never hang up.
        drop(command);

        let (input, output) = match master {
            Some(master) => {
                let output = master.try_clone().expect("a descriptor can be duplicated");
                (Some(master), output)
            }
            None => {
                let output = child.stdout.take().expect("standard output is a pipe");
                (
                    child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe))),
                    File::from(OwnedFd::from(output)),
                )
            }
        };
        let errors = child.stderr.take().expect("standard error is a pipe");
        let pid = Pid::from_raw(child.id().cast_signed());
        let shared = Arc::new(Shared::default());
        match self.listener {
            Some(listener) => hand_over_lines(output, Arc::clone(&shared), listener),
            None => read_lines(output, Arc::clone(&shared), |state| &mut state.stdout),
        }
        read_lines(OwnedFd::from(errors).into(), Arc::clone(&shared), |state| &mut state.stderr);
        note_end(child, pid, Arc::clone(&shared));
        Process { name, pid, console: self.console, input: Mutex::new(input), shared }
    }
}

/// A running program, or one that has ended. Killed and reaped when dropped; when a test fails, all it
/// ever said is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    console: Console,
    input: Mutex<Option<File>>,
    shared: Arc<Shared>,
}

/// All that a process has left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All lines of its standard output.
    pub stdout: Vec<String>,
    /// All lines of its standard error.
    pub stderr: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stdout: Stream,
    stderr: Stream,
    status: Option<ExitStatus>,
}

/// One of the two outputs.
#[derive(Debug, Default)]
struct Stream {
    lines: Vec<String>,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    /// How many lines the test has taken.
    taken: usize,
    ended: bool,
}

impl Stream {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.rest.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        // A terminal ends lines with CR LF.
        if self.rest.last() == Some(&b'\r') {
            self.rest.pop();
        }
        self.lines.push(String::from_utf8_lossy(&self.rest).into_owned());
        self.rest.clear();
    }

    fn end(&mut self) {
        if !self.rest.is_empty() {
            self.end_line();
        }
        self.ended = true;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed in another thread is no reason to lose what the process said.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until `look` finds something, `limit` at most.
    fn wait<T>(&self, limit: Duration, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .0;
        }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Types one line.
    ///
    /// # Panics
    /// When it does not read its input any more.
    pub fn send(&self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// Types these bytes as they are.
    ///
    /// # Panics
    /// When it does not read its input any more.
    pub fn send_bytes(&self, bytes: &[u8]) {
        let mut input = self.input.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(input) = input.as_mut() else { panic!("the input of {} is closed", self.name) };
        if let Err(error) = input.write_all(bytes) {
            panic!("{} does not read its input ({error})\n{}", self.name, self.report());
        }
    }

    /// Ends its input: closes the pipe, or types Ctrl-D on the terminal.
    pub fn end_input(&self) {
        if matches!(self.console, Console::Terminal { .. }) {
            self.send_bytes(b"\x04");
        } else {
            *self.input.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
        }
    }

    /// Types a last line, if it still listens, and ends its input.
    pub fn end_input_with(&self, line: &str) {
        let mut input = self.input.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(input) = input.as_mut() {
            // A program that has ended does not need it.
            let _ = input.write_all(format!("{line}\n").as_bytes());
        }
        drop(input);
        self.end_input();
    }

    /// Waits for the line `line` on standard output, passing over others.
    ///
    /// # Panics
    /// When it does not come.
    pub fn expect_line(&self, line: &str) -> String {
        self.expect_line_where(&format!("the line {line:?}"), |seen| seen == line)
    }

    /// Waits for a line on standard output that `matches`, passing over others. `what` says what is
    /// awaited, for the message of a failure.
    ///
    /// # Panics
    /// When it does not come.
    pub fn expect_line_where(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.take_where(what, "standard output", DEADLINE, |state| &mut state.stdout, matches)
    }

    /// Like [`expect_line_where`](Self::expect_line_where), `limit` at most: for promises about time.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn expect_line_within(
        &self,
        limit: Duration,
        what: &str,
        matches: impl Fn(&str) -> bool,
    ) -> String {
        self.take_where(what, "standard output", limit, |state| &mut state.stdout, matches)
    }

    /// The next line of standard output, whatever it is; `None`: that has ended.
    ///
    /// # Panics
    /// When nothing comes within `limit`.
    pub fn next_line_or_end(&self, limit: Duration) -> Option<String> {
        self.take("any line", "standard output", limit, |state| &mut state.stdout, |_| true)
    }

    /// The next line of standard output, whatever it is.
    ///
    /// # Panics
    /// When none comes.
    pub fn next_line(&self) -> String {
        self.expect_line_where("any line", |_| true)
    }

    /// Waits for exactly these lines on standard output, nothing before them or between them.
    ///
    /// # Panics
    /// When something else comes, or nothing.
    pub fn expect_next(&self, lines: &[&str]) {
        for (n, line) in lines.iter().enumerate() {
            let seen = self.take_where(
                &format!("{line:?} (line {} of {lines:?})", n + 1),
                "standard output",
                DEADLINE,
                |state| &mut state.stdout,
                |_| true,
            );
            assert_eq!(
                seen,
                *line,
                "line {} of {lines:?} on the standard output of {}\n{}",
                n + 1,
                self.name,
                self.report()
            );
        }
    }

    /// Waits for a line on standard error that `matches`, passing over others.
    ///
    /// # Panics
    /// When it does not come.
    pub fn expect_log(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.take_where(what, "standard error", DEADLINE, |state| &mut state.stderr, matches)
    }

    /// Waits until `text` stands in the line of standard output that has not ended yet: a prompt, and what is typed at it.
    /// Control sequences are in it as they came.
    ///
    /// # Panics
    /// When it does not come.
    pub fn expect_unended(&self, text: &str) {
        let seen = self.shared.wait(DEADLINE, |state| {
            let rest = String::from_utf8_lossy(&state.stdout.rest);
            // Nothing can come any more: no need to wait for the deadline.
            (rest.contains(text) || state.stdout.ended).then(|| rest.contains(text))
        });
        assert!(
            seen == Some(true),
            "{text:?} did not come on the standard output of {}\n{}",
            self.name,
            self.report()
        );
    }

    /// All lines of standard error up to now, taken or not.
    pub fn log_so_far(&self) -> Vec<String> {
        self.shared.lock().stderr.lines.clone()
    }

    /// Forgets the lines that have been taken: for runs so long that they would fill the memory.
    pub fn forget_taken_lines(&self) {
        self.shared.update(|state| {
            for stream in [&mut state.stdout, &mut state.stderr] {
                stream.lines.drain(..std::mem::take(&mut stream.taken));
            }
        });
    }

    fn take_where(
        &self,
        what: &str,
        stream_name: &str,
        limit: Duration,
        stream: impl Fn(&mut State) -> &mut Stream,
        matches: impl Fn(&str) -> bool,
    ) -> String {
        match self.take(what, stream_name, limit, stream, matches) {
            Some(line) => line,
            None => panic!(
                "the {stream_name} of {} ended while {what} was awaited\n{}",
                self.name,
                self.report()
            ),
        }
    }

    /// The line; `None`: the stream has ended before.
    fn take(
        &self,
        what: &str,
        stream_name: &str,
        limit: Duration,
        stream: impl Fn(&mut State) -> &mut Stream,
        matches: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let taken = self.shared.wait(limit, |state| {
            let stream = stream(state);
            while stream.taken < stream.lines.len() {
                let line = &stream.lines[stream.taken];
                stream.taken += 1;
                if matches(line) {
                    return Some(Some(line.clone()));
                }
            }
            // Nothing can come any more: no need to wait for the deadline.
            stream.ended.then_some(None)
        });
        match taken {
            Some(taken) => taken,
            None => panic!(
                "{what} did not come on the {stream_name} of {} within {limit:?}\n{}",
                self.name,
                self.report()
            ),
        }
    }

    /// Sends a signal; nothing when it has ended already.
    pub fn signal(&self, signal: Signal) {
        let state = self.shared.lock();
        if state.status.is_none() {
            kill(self.pid, signal).unwrap_or_else(|error| panic!("kill {}: {error}", self.name));
        }
    }

    /// Stops it (SIGSTOP) and waits until all its threads stand still. SIGCONT lets it go on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        // The system tells it to the parent when the last thread has stopped.
        waitid(Id::Pid(self.pid), WaitPidFlag::WSTOPPED)
            .unwrap_or_else(|error| panic!("{} cannot be stopped: {error}", self.name));
    }

    /// Waits until it has stopped by itself; `false` when it has ended instead. Nothing else bounds the
    /// wait: only for programs that do one or the other in bounded time.
    pub fn stops(&self) -> bool {
        // When it has ended and was reaped, there is no such child.
        waitid(Id::Pid(self.pid), WaitPidFlag::WSTOPPED).is_ok()
    }

    /// Kills it (SIGKILL) and waits until it has ended.
    pub fn kill9(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_exit();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait_exit(&self) -> ExitStatus {
        self.wait_exit_within(DEADLINE)
    }

    /// Waits for its end, `limit` at most.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait_exit_within(&self, limit: Duration) -> ExitStatus {
        self.shared.wait(limit, |state| state.status).unwrap_or_else(|| {
            panic!("{} did not end within {limit:?}\n{}", self.name, self.report())
        })
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.shared.lock().status
    }

    /// Waits for its end and for that of both its outputs.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish(&self) -> Finished {
        let finished = self.shared.wait(DEADLINE, |state| {
            let status = state.status?;
            (state.stdout.ended && state.stderr.ended).then(|| Finished {
                status,
                stdout: state.stdout.lines.clone(),
                stderr: state.stderr.lines.clone(),
            })
        });
        finished.unwrap_or_else(|| {
            panic!("{} did not end within {DEADLINE:?}\n{}", self.name, self.report())
        })
    }

    /// Waits for its end, and lets it say nothing on standard output but what has been taken.
    ///
    /// # Panics
    /// When it says more, or does not end.
    pub fn expect_end(&self) -> ExitStatus {
        let Finished { status, stdout, .. } = self.finish();
        let taken = self.shared.lock().stdout.taken;
        assert!(taken == stdout.len(), "{:?} before the end\n{}", &stdout[taken..], self.report());
        status
    }

    /// All that it said, for the message of a failure.
    pub fn report(&self) -> String {
        let state = self.shared.lock();
        let mut report = match state.status {
            Some(status) => format!("--- {} (pid {}): {status}", self.name, self.pid),
            None => format!("--- {} (pid {}): running", self.name, self.pid),
        };
        for (title, stream) in [("stdout", &state.stdout), ("stderr", &state.stderr)] {
            for line in &stream.lines {
                report.push_str(&format!("\n    {title}: {line}"));
            }
            if !stream.rest.is_empty() {
                let rest = stream.rest.escape_ascii();
                report.push_str(&format!("\n    {title} (no end of line): {rest}"));
            }
        }
        report
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
        {
            let state = self.shared.lock();
            if state.status.is_none() {
                // It is a child that has not been reaped, so this can fail in no way that matters.
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
        let _: Option<()> = self.shared.wait(DEADLINE, |state| state.status.map(|_| ()));
    }
}

fn read_lines(mut from: File, shared: Arc<Shared>, stream: fn(&mut State) -> &mut Stream) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        // A terminal whose program has ended fails with EIO instead of ending.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            shared.update(|state| stream(state).feed(&buffer[..count]));
        }
        shared.update(|state| stream(state).end());
    });
}

fn hand_over_lines(from: File, shared: Arc<Shared>, Listener(mut listener): Listener) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while let Ok(1..) = from.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line);
            listener(Some(text.trim_end_matches('\n')));
            line.clear();
        }
        listener(None);
        shared.update(|state| state.stdout.end());
    });
}

fn note_end(mut child: Child, pid: Pid, shared: Arc<Shared>) {
    thread::spawn(move || {
        // Wait without reaping: until its end is noted its number must stay its own.
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_err() {}
        shared.update(|state| {
            state.status = Some(child.wait().expect("a child that has ended can be reaped"));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn cat(console: Console) -> Process {
        Program::new("cat").console(console).spawn()
    }

    #[test]
    fn lines_go_in_and_out_over_pipes_and_terminals() {
        for (console, times) in [
            (Console::Pipes, 1),
            (Console::Terminal { echo: false }, 1),
            (Console::Terminal { echo: true }, 2),
        ] {
            let cat = cat(console);
            for line in ["a", "b", "c"] {
                cat.send(line);
                cat.expect_next(&[line, line][..times]);
            }
            cat.end_input();
            let finished = cat.finish();
            assert!(finished.status.success());
            assert_eq!(finished.stdout.len(), 3 * times, "{console:?}: {:?}", finished.stdout);
        }
    }

    #[test]
    fn a_line_that_cannot_come_any_more_is_not_waited_for() {
        let cat = cat(Console::NoInput);
        let failure = catch_unwind(AssertUnwindSafe(|| cat.expect_line("never"))).unwrap_err();
        let message = failure.downcast_ref::<String>().unwrap();
        assert!(message.contains("ended while the line \"never\" was awaited"), "{message}");
    }

    #[test]
    fn a_listener_hears_every_line_and_the_end() {
        let (heard, lines) = std::sync::mpsc::channel();
        let cat = Program::new("cat")
            .listener(move |line| {
                let _ = heard.send(line.map(str::to_owned));
            })
            .spawn();
        for line in [Some("a "), Some(""), None] {
            match line {
                Some(line) => cat.send(line),
                None => cat.end_input(),
            }
            assert_eq!(lines.recv_timeout(DEADLINE).unwrap().as_deref(), line);
        }
        assert_eq!(cat.finish().stdout, [""; 0]);
    }

    #[test]
    fn taken_lines_can_be_forgotten_and_others_are_not() {
        let cat = cat(Console::Pipes);
        for line in ["a", "b", "c"] {
            cat.send(line);
        }
        cat.expect_line("b");
        cat.forget_taken_lines();
        cat.expect_next(&["c"]);
        cat.end_input();
        assert_eq!(cat.finish().stdout, ["c"]);
    }

    #[test]
    fn a_process_ends_with_the_value_that_stands_for_it() {
        let cat = cat(Console::Pipes);
        let pid = cat.pid();
        assert!(cat.threads() == 1 && cat.exit_status().is_none());
        drop(cat);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn processor_time_is_what_was_used() {
        let busy = Program::new("sh").args(["-c", "while :; do :; done"]).spawn();
        let end = Instant::now() + DEADLINE;
        while busy.cpu_ticks() < 5 {
            assert!(Instant::now() < end, "a busy loop uses the processor");
        }
    }
}
