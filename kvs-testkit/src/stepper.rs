//! A raw application in a process of its own that takes one protocol step at a time
//! (`tests/c/steps.c`).
//!
//! The process does nothing between two steps, so a test that stops or kills it there knows exactly
//! what it has done. Integers are sent and received byte by byte, as a process may be stopped
//! between any two bytes. Strings are sent in one call, as every conforming application sends them.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvs_proto::v2::HEADER_LEN;
use kvs_proto::v2::request::Request;

use crate::channel::padded;
use crate::compile::compile_c;
use crate::process::Process;
use crate::program::Program;
use crate::raw_v2::{RawFrame, encode_request};
use crate::sockets::Sockets;

/// Which of the two channels of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelRole {
    /// The main channel.
    Main,
    /// The callback channel.
    Callback,
}

/// A step of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Connects the channel.
    Connect(ChannelRole),
    /// Sends these bytes in one call.
    Send(ChannelRole, Vec<u8>),
    /// Receives bytes, which should be these.
    Take(ChannelRole, Vec<u8>),
    /// Receives this number of any bytes.
    Skip(ChannelRole, usize),
    /// Closes the socket.
    Close(ChannelRole),
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepResult {
    /// As expected.
    Expected,
    /// Other bytes were received.
    Other(Vec<u8>),
    /// The server has closed the connection.
    End,
}

impl Step {
    /// Sends an integer.
    pub fn send_int(on: ChannelRole, int: i32) -> impl Iterator<Item = Self> {
        int.to_ne_bytes().into_iter().map(move |byte| Self::Send(on, vec![byte]))
    }

    /// Receives an integer.
    pub fn take_int(on: ChannelRole, int: i32) -> impl Iterator<Item = Self> {
        int.to_ne_bytes().into_iter().map(move |byte| Self::Take(on, vec![byte]))
    }

    /// A v1 login, as the original application does it.
    pub fn login(group: &str, secret: &str) -> Vec<Self> {
        let mut steps = vec![Self::Connect(ChannelRole::Main)];
        steps.extend(Self::take_int(ChannelRole::Main, 1));
        steps.push(Self::Send(ChannelRole::Main, group.into()));
        steps.extend(Self::take_int(ChannelRole::Main, 1));
        steps.push(Self::Send(ChannelRole::Main, secret.into()));
        steps.push(Self::Connect(ChannelRole::Callback));
        steps.extend(Self::take_int(ChannelRole::Callback, 1));
        steps.extend(Self::take_int(ChannelRole::Main, 1));
        steps
    }

    /// A function code, its ready flag, and the key.
    pub fn call(code: i32, key: &str) -> Vec<Self> {
        let mut steps: Vec<_> = Self::send_int(ChannelRole::Main, code).collect();
        steps.extend(Self::take_int(ChannelRole::Main, 1));
        steps.push(Self::Send(ChannelRole::Main, key.into()));
        steps
    }

    /// A put.
    pub fn put(key: &str, value: &str) -> Vec<Self> {
        let mut steps = Self::call(0, key);
        steps.extend(Self::take_int(ChannelRole::Main, 1));
        steps.push(Self::Send(ChannelRole::Main, value.into()));
        steps
    }

    /// A get of an existing value, received in two pieces.
    pub fn get(key: &str, value: &str) -> Vec<Self> {
        let mut steps = Self::call(1, key);
        steps.extend(Self::take_int(
            ChannelRole::Main,
            i32::try_from(value.len()).expect("it is short"),
        ));
        let (first, rest) = value.as_bytes().split_at(1);
        steps.push(Self::Take(ChannelRole::Main, first.to_vec()));
        steps.push(Self::Take(ChannelRole::Main, [rest, &[0]].concat()));
        steps
    }

    /// A delete of an existing key.
    pub fn delete(key: &str) -> Vec<Self> {
        Self::call(2, key).into_iter().chain(Self::take_int(ChannelRole::Main, 1)).collect()
    }

    /// A watch on an existing key.
    pub fn register(key: &str) -> Vec<Self> {
        Self::call(3, key).into_iter().chain(Self::take_int(ChannelRole::Main, 1)).collect()
    }

    /// Receives one v1 change event, its key in three pieces.
    pub fn change(key: &str) -> Vec<Self> {
        let mut steps: Vec<_> = Self::take_int(ChannelRole::Callback, 1).collect();
        steps.extend(Self::send_int(ChannelRole::Callback, 1));
        let padded = padded(key);
        for piece in [0..1, 1..99, 99..100] {
            steps.push(Self::Take(ChannelRole::Callback, padded[piece].to_vec()));
        }
        steps
    }

    /// A v2 login.
    pub fn v2_login(group: &str, secret: &str) -> Vec<Self> {
        let mut steps = vec![Self::Connect(ChannelRole::Main)];
        steps.extend(Self::take_int(ChannelRole::Main, 1));
        steps.push(Self::Send(ChannelRole::Main, [group.as_bytes(), b"\0kvs2"].concat()));
        steps.extend(Self::take_int(ChannelRole::Main, 2));
        steps.push(Self::Send(ChannelRole::Main, secret.into()));
        steps.push(Self::Connect(ChannelRole::Callback));
        steps.extend(Self::take_int(ChannelRole::Callback, 1));
        steps.extend(Self::take_int(ChannelRole::Main, 1));
        steps.extend([Self::Skip(ChannelRole::Main, 1), Self::Skip(ChannelRole::Main, 23)]);
        steps
    }

    /// Sends a v2 request, its header in three pieces and its body in two.
    pub fn send_request(request: Request<'_>) -> Vec<Self> {
        let frame = encode_request(7, request);
        let (header, body) = frame.split_at(HEADER_LEN);
        let (first, rest) = body.split_at(body.len() / 2);
        let pieces = [&header[..1], &header[1..20], &header[20..], first, rest];
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        pieces.map(|piece| Self::Send(ChannelRole::Main, piece.to_vec())).collect()
    }

    /// Receives the response "ok" in pieces, with any version.
    pub fn take_ok(body: &[u8]) -> Vec<Self> {
        let frame = RawFrame { number: 7, kind: 128, body, ..RawFrame::default() }.bytes();
        let mut steps = Self::frame(ChannelRole::Main, &frame);
        if !body.is_empty() {
            steps.push(Self::Take(ChannelRole::Main, body[..1].to_vec()));
            steps.push(Self::Take(ChannelRole::Main, body[1..].to_vec()));
        }
        steps
    }

    /// Receives a v2 change event of a watched key in pieces, with any version.
    pub fn v2_change(key: &str) -> Vec<Self> {
        let body = key.as_bytes();
        let key_len = u32::try_from(body.len()).expect("it is short");
        let frame = RawFrame { kind: 192, flags: 1, key_len, body, ..RawFrame::default() }.bytes();
        let mut steps = Self::frame(ChannelRole::Callback, &frame);
        steps.push(Self::Take(ChannelRole::Callback, body.to_vec()));
        steps
    }

    /// Receives a header with any version.
    fn frame(on: ChannelRole, frame: &[u8]) -> Vec<Self> {
        let (first, rest) = frame[..16].split_at(3);
        vec![Self::Take(on, first.to_vec()), Self::Take(on, rest.to_vec()), Self::Skip(on, 8)]
    }

    /// The close request of v2.
    pub fn v2_close() -> Vec<Self> {
        let mut steps = Self::send_request(Request::Close);
        steps.extend([Self::Close(ChannelRole::Main), Self::Close(ChannelRole::Callback)]);
        steps
    }

    /// The close code of v1.
    pub fn close() -> Vec<Self> {
        let mut steps: Vec<_> = Self::send_int(ChannelRole::Main, 4).collect();
        steps.extend([Self::Close(ChannelRole::Main), Self::Close(ChannelRole::Callback)]);
        steps
    }
}

/// A process that takes steps. The server sees it as an application of its own.
#[derive(Debug)]
pub struct Stepper {
    process: Process,
    servers: [PathBuf; 2],
}

impl Stepper {
    /// Starts one for this server, without a connection.
    pub fn start(server: &impl Sockets) -> Self {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| compile_c("tests/c/steps.c"));
        Self {
            process: Program::new(program).spawn(),
            servers: [server.socket().to_owned(), server.callback_socket().to_owned()],
        }
    }

    /// Takes a step.
    ///
    /// # Panics
    /// If the process fails.
    pub fn take(&self, step: &Step) -> StepResult {
        let (line, expected) = match step {
            Step::Connect(on) => (self.connect(*on), "done".to_owned()),
            Step::Send(on, bytes) => (format!("send {} {}", on.name(), hex(bytes)), "done".into()),
            Step::Take(on, bytes) => (format!("take {} {}", on.name(), bytes.len()), hex(bytes)),
            Step::Skip(on, len) => (format!("take {} {len}", on.name()), String::new()),
            Step::Close(on) => (format!("close {}", on.name()), "done".into()),
        };
        self.send(&line);
        let answer = self.next_line();
        match answer.as_str() {
            "end" => StepResult::End,
            answer if answer == expected || matches!(step, Step::Skip(..)) => StepResult::Expected,
            answer => StepResult::Other(unhex(answer)),
        }
    }

    /// Takes steps, all with the expected result.
    ///
    /// # Panics
    /// If one has another result.
    pub fn take_all(&self, steps: &[Step]) {
        for (n, step) in steps.iter().enumerate() {
            let seen = self.take(step);
            assert_eq!(seen, StepResult::Expected, "step {n} of {steps:?}\n{}", self.report());
        }
    }

    fn connect(&self, on: ChannelRole) -> String {
        let (server, stem) = match on {
            ChannelRole::Main => (&self.servers[0], "app_socket_"),
            ChannelRole::Callback => (&self.servers[1], "app_socket_cb_"),
        };
        // In the test's directory, beside the server's sockets.
        let own = server.parent().unwrap_or(Path::new("/")).join(format!("{stem}{}", self.pid()));
        format!("connect {} {} {}", on.name(), server.display(), own.display())
    }
}

impl Deref for Stepper {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl ChannelRole {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Callback => "callback",
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<_> = text.as_bytes().chunks(2).map(digits).collect();
    bytes.unwrap_or_else(|| panic!("{text:?} is no answer to a step"))
}
