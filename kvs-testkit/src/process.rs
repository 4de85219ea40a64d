//! A running program: input, output by lines, signals, exit.
//!
//! Three threads serve a process: one reads its standard output, one its standard error, one waits
//! for its exit. All of them update one state behind a condition variable, so that a test waits for
//! any of it without polling. The process is not reaped before its exit is recorded, so a signal
//! never reaches another process that got the same number.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::output::{LineHandler, Shared, State, Stream, handle_lines, read_lines};
use crate::terminal::Console;
use crate::wait::DEADLINE;

/// A program that was started. It is killed and reaped when dropped; if the test panics, its whole
/// output is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    console: Console,
    input: Mutex<Option<File>>,
    shared: Arc<Shared>,
}

/// Exit status and whole output of a process.
#[derive(Debug)]
pub struct ProcessOutput {
    /// The exit status.
    pub status: ExitStatus,
    /// All lines of its standard output.
    pub stdout: Vec<String>,
    /// All lines of its standard error.
    pub stderr: Vec<String>,
}

impl Process {
    /// Takes over a child that was started with its standard error on a pipe.
    pub(crate) fn new(
        name: String,
        console: Console,
        mut child: Child,
        input: Option<File>,
        output: File,
        line_handler: Option<LineHandler>,
    ) -> Self {
        let errors = child.stderr.take().expect("standard error is a pipe");
        let pid = Pid::from_raw(child.id().cast_signed());
        let shared = Arc::new(Shared::default());
        match line_handler {
            Some(handler) => handle_lines(output, Arc::clone(&shared), handler),
            None => read_lines(output, Arc::clone(&shared), |state| &mut state.stdout),
        }
        read_lines(OwnedFd::from(errors).into(), Arc::clone(&shared), |state| &mut state.stderr);
        record_exit(child, pid, Arc::clone(&shared));
        Self { name, pid, console, input: Mutex::new(input), shared }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Types one line.
    ///
    /// # Panics
    /// If its input is closed.
    pub fn send(&self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// Types these bytes.
    ///
    /// # Panics
    /// If its input is closed.
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

    /// Types a last line, if its input is open, and ends its input.
    pub fn end_input_with(&self, line: &str) {
        let mut input = self.input.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(input) = input.as_mut() {
            // A program that has exited does not need the line.
            let _ = input.write_all(format!("{line}\n").as_bytes());
        }
        drop(input);
        self.end_input();
    }

    /// Waits for the line `line` on standard output and skips others.
    ///
    /// # Panics
    /// If the line does not appear.
    pub fn expect_line(&self, line: &str) -> String {
        self.expect_line_where(&format!("the line {line:?}"), |seen| seen == line)
    }

    /// Waits for a line on standard output that `matches` and skips others. `what` describes the
    /// line in the message of a failure.
    ///
    /// # Panics
    /// If no such line appears.
    pub fn expect_line_where(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.take_where(what, "standard output", DEADLINE, |state| &mut state.stdout, matches)
    }

    /// As [`expect_line_where`](Self::expect_line_where) within `limit`, for promises about time.
    ///
    /// # Panics
    /// If no such line appears in time.
    pub fn expect_line_within(
        &self,
        limit: Duration,
        what: &str,
        matches: impl Fn(&str) -> bool,
    ) -> String {
        self.take_where(what, "standard output", limit, |state| &mut state.stdout, matches)
    }

    /// The next line of standard output; `None` at its end.
    ///
    /// # Panics
    /// If neither occurs within `limit`.
    pub fn next_line_or_end(&self, limit: Duration) -> Option<String> {
        self.take("any line", "standard output", limit, |state| &mut state.stdout, |_| true)
    }

    /// The next line of standard output.
    ///
    /// # Panics
    /// If none appears.
    pub fn next_line(&self) -> String {
        self.expect_line_where("any line", |_| true)
    }

    /// Waits for exactly these lines on standard output, without others before or between them.
    ///
    /// # Panics
    /// If another line appears, or none.
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

    /// Waits for a line on standard error that `matches` and skips others.
    ///
    /// # Panics
    /// If no such line appears.
    pub fn expect_log(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        self.take_where(what, "standard error", DEADLINE, |state| &mut state.stderr, matches)
    }

    /// Waits until the incomplete last line of standard output contains `text`: a prompt, and what
    /// is typed at it, control sequences included.
    ///
    /// # Panics
    /// If the text does not appear.
    pub fn expect_partial_line(&self, text: &str) {
        let seen = self.shared.wait(DEADLINE, |state| {
            let rest = String::from_utf8_lossy(&state.stdout.rest);
            // The stream has ended: nothing else can appear.
            (rest.contains(text) || state.stdout.ended).then(|| rest.contains(text))
        });
        assert!(
            seen == Some(true),
            "{text:?} did not come on the standard output of {}\n{}",
            self.name,
            self.report()
        );
    }

    /// All lines of standard error so far, consumed or not.
    pub fn log_lines(&self) -> Vec<String> {
        self.shared.lock().stderr.lines.clone()
    }

    /// Discards the consumed lines, so that long runs do not fill the memory.
    pub fn discard_taken_lines(&self) {
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

    /// Consumes lines up to one that `matches`; `None` if the stream ends first.
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
            // The stream has ended: nothing else can appear.
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

    /// Sends a signal, unless the process has exited.
    pub fn signal(&self, signal: Signal) {
        let state = self.shared.lock();
        if state.status.is_none() {
            kill(self.pid, signal).unwrap_or_else(|error| panic!("kill {}: {error}", self.name));
        }
    }

    /// Stops the process (SIGSTOP) and waits until all its threads have stopped. SIGCONT resumes
    /// it.
    ///
    /// # Panics
    /// If it has exited.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        // The kernel reports the stop to the parent when the last thread has stopped.
        waitid(Id::Pid(self.pid), WaitPidFlag::WSTOPPED)
            .unwrap_or_else(|error| panic!("{} cannot be stopped: {error}", self.name));
    }

    /// Waits until the process stops itself; `false` if it exits instead. The wait has no timeout:
    /// use it only for programs that do one or the other in bounded time.
    pub fn stops(&self) -> bool {
        // After its exit was reaped there is no such child.
        waitid(Id::Pid(self.pid), WaitPidFlag::WSTOPPED).is_ok()
    }

    /// Kills the process (SIGKILL) and waits for its exit.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_exit();
    }

    /// Waits for its exit.
    ///
    /// # Panics
    /// If it does not exit.
    pub fn wait_exit(&self) -> ExitStatus {
        self.wait_exit_within(DEADLINE)
    }

    /// Waits for its exit within `limit`.
    ///
    /// # Panics
    /// If it does not exit in time.
    pub fn wait_exit_within(&self, limit: Duration) -> ExitStatus {
        self.shared.wait(limit, |state| state.status).unwrap_or_else(|| {
            panic!("{} did not end within {limit:?}\n{}", self.name, self.report())
        })
    }

    /// The exit status, if the process has exited.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.shared.lock().status
    }

    /// Waits for its exit and for the end of both output streams.
    ///
    /// # Panics
    /// If it does not exit.
    pub fn finish(&self) -> ProcessOutput {
        let finished = self.shared.wait(DEADLINE, |state| {
            let status = state.status?;
            (state.stdout.ended && state.stderr.ended).then(|| ProcessOutput {
                status,
                stdout: state.stdout.lines.clone(),
                stderr: state.stderr.lines.clone(),
            })
        });
        finished.unwrap_or_else(|| {
            panic!("{} did not end within {DEADLINE:?}\n{}", self.name, self.report())
        })
    }

    /// Waits for its exit, without any line of standard output that was not consumed.
    ///
    /// # Panics
    /// If there is such a line, or the process does not exit.
    pub fn expect_end(&self) -> ExitStatus {
        let ProcessOutput { status, stdout, .. } = self.finish();
        let taken = self.shared.lock().stdout.taken;
        assert!(taken == stdout.len(), "{:?} before the end\n{}", &stdout[taken..], self.report());
        status
    }

    /// The whole output, for failure messages.
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
                // The child has not been reaped, so the signal cannot reach another process.
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
        let _: Option<()> = self.shared.wait(DEADLINE, |state| state.status.map(|_| ()));
    }
}

/// Records the exit status on a thread of its own.
fn record_exit(mut child: Child, pid: Pid, shared: Arc<Shared>) {
    thread::spawn(move || {
        // Wait without reaping: until the exit is recorded the number must not be reused.
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_err() {}
        shared.update(|state| {
            state.status = Some(child.wait().expect("a child that has ended can be reaped"));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Program;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Instant;

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
    fn expect_line_fails_at_end_of_output() {
        let cat = cat(Console::NoInput);
        let failure = catch_unwind(AssertUnwindSafe(|| cat.expect_line("never"))).unwrap_err();
        let message = failure.downcast_ref::<String>().unwrap();
        assert!(message.contains("ended while the line \"never\" was awaited"), "{message}");
    }

    #[test]
    fn line_handler_receives_every_line_and_the_end() {
        let (heard, lines) = std::sync::mpsc::channel();
        let cat = Program::new("cat")
            .line_handler(move |line| {
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
    fn only_consumed_lines_are_discarded() {
        let cat = cat(Console::Pipes);
        for line in ["a", "b", "c"] {
            cat.send(line);
        }
        cat.expect_line("b");
        cat.discard_taken_lines();
        cat.expect_next(&["c"]);
        cat.end_input();
        assert_eq!(cat.finish().stdout, ["c"]);
    }

    #[test]
    fn process_ends_when_dropped() {
        let cat = cat(Console::Pipes);
        let pid = cat.pid();
        assert!(cat.threads() == 1 && cat.exit_status().is_none());
        drop(cat);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn cpu_ticks_count_processor_time() {
        let busy = Program::new("sh").args(["-c", "while :; do :; done"]).spawn();
        let end = Instant::now() + DEADLINE;
        while busy.cpu_ticks() < 5 {
            assert!(Instant::now() < end, "a busy loop uses the processor");
        }
    }
}
