//! The program `KVS-AuthServer` as a child process.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command as Process, ExitStatus, Output as Finished, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::harness::{TIMEOUT, own_ip, spawn};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_KVS-AuthServer");

/// The program, started without the environment variables that it reads.
pub(crate) struct ServerProcess {
    pub(crate) child: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) printed: Receiver<String>,
    pub(crate) logged: Receiver<String>,
}

pub(crate) fn command() -> Process {
    let mut command = Process::new(PROGRAM);
    for variable in ["LISTEN", "VERBOSE", "LINKS_PER_MACHINE", "GROUPS_PER_MACHINE", "CONFIRM_WAIT"]
    {
        command.env_remove(format!("KVS_{variable}"));
    }
    command
}

pub(crate) fn lines(stream: impl io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    lines
}

impl ServerProcess {
    /// Starts the program on a free port and waits until it serves.
    pub(crate) fn start(command: &mut Process) -> (Self, SocketAddr) {
        command
            .env("KVS_LISTEN", SocketAddr::new(own_ip(), 0).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(command);
        let printed = lines(child.stdout.take().unwrap());
        let logged = lines(child.stderr.take().unwrap());
        let input = child.stdin.take();
        let address = loop {
            let line = logged.recv_timeout(TIMEOUT).expect("it logs its address");
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().parse().unwrap();
            }
        };
        (Self { child, input, printed, logged }, address)
    }

    pub(crate) fn type_line(&mut self, line: &str) {
        writeln!(self.input.as_ref().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        // The shell's own: not every machine has a program of that name.
        let kill = ["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &pid];
        let killed = spawn(Process::new("sh").args(kill)).wait().unwrap();
        assert!(killed.success());
    }

    /// Waits for the exit. Returns the status and the lines that were not read yet.
    pub(crate) fn end(&mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        // Both streams end when the program has exited.
        let take = |lines: &Receiver<String>| {
            let mut taken = Vec::new();
            loop {
                match lines.recv_timeout(TIMEOUT) {
                    Ok(line) => taken.push(line),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return taken,
                    Err(mpsc::RecvTimeoutError::Timeout) => panic!("the program does not exit"),
                }
            }
        };
        let (printed, logged) = (take(&self.printed), take(&self.logged));
        (self.child.wait().unwrap(), printed, logged)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(command: &mut Process) -> Finished {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(command).wait_with_output().unwrap()
}
