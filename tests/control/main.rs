//! Administration without the console: the control socket of a local server, and `kvs admin`.

#![forbid(unsafe_code)]

mod commands;
mod endpoint;
mod protocol;
mod secret_file;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use kvs_proto::control::{AdminErrorKind as Kind, AdminRequest, AdminResponse, Bytes};
use kvs_testkit::{Console, DEADLINE, LocalServer, ProcessOutput, Program, Sockets, bin};
use serde_json::Value;

/// The default path of the control socket.
fn control_path(server: &LocalServer) -> PathBuf {
    let mut path = server.socket().as_os_str().to_owned();
    path.push("_control");
    path.into()
}

/// Runs `kvs admin` for this server; its standard output is a pipe.
fn kvs_admin(server: &LocalServer, args: &[&str]) -> ProcessOutput {
    kvs_admin_at(&control_path(server), args)
}

fn kvs_admin_at(control: &Path, args: &[&str]) -> ProcessOutput {
    program(control, args).console(Console::NoInput).spawn().finish()
}

fn program(control: &Path, args: &[&str]) -> Program {
    Program::new(bin("kvs")).arg("admin").args(args).arg("--control-socket").arg(control)
}

/// Asserts that the command succeeded and printed only these lines.
#[track_caller]
fn assert_prints(finished: &ProcessOutput, lines: &[&str]) {
    assert_eq!((finished.status.code(), &*finished.stderr), (Some(0), &[][..]), "{finished:?}");
    assert_eq!(finished.stdout, lines);
}

/// Asserts that the command failed with this exit code and one message that has all these words.
#[track_caller]
fn assert_error(finished: &ProcessOutput, code: i32, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(code), "{finished:?}");
    assert_eq!(finished.stdout, [""; 0]);
    let [message] = &*finished.stderr else { panic!("one message: {finished:?}") };
    assert!(message.starts_with("kvs: "), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// A client of the control protocol.
struct AdminClient(BufReader<UnixStream>);

impl AdminClient {
    fn connect(server: &LocalServer) -> Self {
        let stream =
            UnixStream::connect(control_path(server)).expect("the control socket is there");
        stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the server listens");
    }

    fn receive(&mut self) -> AdminResponse {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("the server answers in time");
        AdminResponse::decode(&line).expect("answers are in the protocol")
    }

    fn request(&mut self, request: &AdminRequest) -> AdminResponse {
        self.send(&request.encode());
        self.receive()
    }

    /// Whether the server closes the connection without sending more.
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn group(name: &str) -> Bytes {
    Bytes(name.as_bytes().to_vec())
}

fn kind(answer: AdminResponse) -> Kind {
    match answer {
        AdminResponse::Error { kind, message } => {
            assert!(!message.is_empty());
            kind
        }
        other => panic!("an error is awaited, not {other:?}"),
    }
}

fn json_of(finished: &ProcessOutput) -> Value {
    let [line] = &*finished.stdout else { panic!("one line: {finished:?}") };
    serde_json::from_str(line).expect("it is JSON")
}
