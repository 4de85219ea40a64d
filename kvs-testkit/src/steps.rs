//! An application without the library, in a process of its own, that takes one step of the protocol at a
//! time (`tests/c/steps.c`). Between two steps it does nothing: whoever stops or kills it there knows
//! exactly what it has done.
//!
//! Integers are sent and taken byte by byte, as a process may be stopped between any two of them. Strings
//! go in one `send`, as every legal application sends them.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvs_proto::v2::HEADER_LEN;
use kvs_proto::v2::request::Request;

use crate::{Process, Program, RawFrame, Sockets, compile_c, framed, padded};

/// One of the two channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The main channel.
    Main,
    /// The callback channel.
    Callback,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It connects.
    Connect(On),
    /// It sends these bytes in one call.
    Send(On, Vec<u8>),
    /// It receives bytes, which should be these.
    Take(On, Vec<u8>),
    /// It receives so many bytes, whatever they are.
    Skip(On, usize),
    /// It closes its socket.
    Close(On),
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// What should.
    Expected,
    /// Other bytes.
    Other(Vec<u8>),
    /// The server has closed the connection.
    End,
}

impl Step {
    /// An integer is sent.
    pub fn send_int(on: On, int: i32) -> impl Iterator<Item = Self> {
        int.to_ne_bytes().into_iter().map(move |byte| Self::Send(on, vec![byte]))
    }

    /// An integer is received.
    pub fn take_int(on: On, int: i32) -> impl Iterator<Item = Self> {
        int.to_ne_bytes().into_iter().map(move |byte| Self::Take(on, vec![byte]))
    }

    /// A login, each habit that of the original.
    pub fn login(group: &str, secret: &str) -> Vec<Self> {
        let mut steps = vec![Self::Connect(On::Main)];
        steps.extend(Self::take_int(On::Main, 1));
        steps.push(Self::Send(On::Main, group.into()));
        steps.extend(Self::take_int(On::Main, 1));
        steps.push(Self::Send(On::Main, secret.into()));
        steps.push(Self::Connect(On::Callback));
        steps.extend(Self::take_int(On::Callback, 1));
        steps.extend(Self::take_int(On::Main, 1));
        steps
    }

    /// A function code and its ready flag, and the key.
    pub fn call(code: i32, key: &str) -> Vec<Self> {
        let mut steps: Vec<_> = Self::send_int(On::Main, code).collect();
        steps.extend(Self::take_int(On::Main, 1));
        steps.push(Self::Send(On::Main, key.into()));
        steps
    }

    /// A put.
    pub fn put(key: &str, value: &str) -> Vec<Self> {
        let mut steps = Self::call(0, key);
        steps.extend(Self::take_int(On::Main, 1));
        steps.push(Self::Send(On::Main, value.into()));
        steps
    }

    /// A get of a value that is there. It is taken in two pieces.
    pub fn get(key: &str, value: &str) -> Vec<Self> {
        let mut steps = Self::call(1, key);
        steps.extend(Self::take_int(On::Main, i32::try_from(value.len()).expect("it is short")));
        let (first, rest) = value.as_bytes().split_at(1);
        steps.push(Self::Take(On::Main, first.to_vec()));
        steps.push(Self::Take(On::Main, [rest, &[0]].concat()));
        steps
    }

    /// A delete of a key that is there.
    pub fn delete(key: &str) -> Vec<Self> {
        Self::call(2, key).into_iter().chain(Self::take_int(On::Main, 1)).collect()
    }

    /// A registration for a key that is there.
    pub fn register(key: &str) -> Vec<Self> {
        Self::call(3, key).into_iter().chain(Self::take_int(On::Main, 1)).collect()
    }

    /// One change is taken on the callback channel, its key in three pieces.
    pub fn change(key: &str) -> Vec<Self> {
        let mut steps: Vec<_> = Self::take_int(On::Callback, 1).collect();
        steps.extend(Self::send_int(On::Callback, 1));
        let padded = padded(key);
        for piece in [0..1, 1..99, 99..100] {
            steps.push(Self::Take(On::Callback, padded[piece].to_vec()));
        }
        steps
    }

    /// A login that ends in a framed session.
    pub fn framed_login(group: &str, secret: &str) -> Vec<Self> {
        let mut steps = vec![Self::Connect(On::Main)];
        steps.extend(Self::take_int(On::Main, 1));
        steps.push(Self::Send(On::Main, [group.as_bytes(), b"\0kvs2"].concat()));
        steps.extend(Self::take_int(On::Main, 2));
        steps.push(Self::Send(On::Main, secret.into()));
        steps.push(Self::Connect(On::Callback));
        steps.extend(Self::take_int(On::Callback, 1));
        steps.extend(Self::take_int(On::Main, 1));
        steps.extend([Self::Skip(On::Main, 1), Self::Skip(On::Main, 23)]);
        steps
    }

    /// A request, its header in three pieces and its body in two.
    pub fn ask(request: Request<'_>) -> Vec<Self> {
        let frame = framed(7, request);
        let (header, body) = frame.split_at(HEADER_LEN);
        let (first, rest) = body.split_at(body.len() / 2);
        let pieces = [&header[..1], &header[1..20], &header[20..], first, rest];
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        pieces.map(|piece| Self::Send(On::Main, piece.to_vec())).collect()
    }

    /// Its answer, "ok", in pieces, whatever the version.
    pub fn take_ok(body: &[u8]) -> Vec<Self> {
        let frame = RawFrame { number: 7, kind: 128, body, ..RawFrame::default() }.bytes();
        let mut steps = Self::frame(On::Main, &frame);
        if !body.is_empty() {
            steps.push(Self::Take(On::Main, body[..1].to_vec()));
            steps.push(Self::Take(On::Main, body[1..].to_vec()));
        }
        steps
    }

    /// A change of a key that is watched by itself, in pieces, whatever the version.
    pub fn framed_change(key: &str) -> Vec<Self> {
        let body = key.as_bytes();
        let key_len = u32::try_from(body.len()).expect("it is short");
        let frame = RawFrame { kind: 192, flags: 1, key_len, body, ..RawFrame::default() }.bytes();
        let mut steps = Self::frame(On::Callback, &frame);
        steps.push(Self::Take(On::Callback, body.to_vec()));
        steps
    }

    /// A header, of which the version is not looked at.
    fn frame(on: On, frame: &[u8]) -> Vec<Self> {
        let (first, rest) = frame[..16].split_at(3);
        vec![Self::Take(on, first.to_vec()), Self::Take(on, rest.to_vec()), Self::Skip(on, 8)]
    }

    /// The goodbye.
    pub fn framed_close() -> Vec<Self> {
        let mut steps = Self::ask(Request::Close);
        steps.extend([Self::Close(On::Main), Self::Close(On::Callback)]);
        steps
    }

    /// The goodbye.
    pub fn close() -> Vec<Self> {
        let mut steps: Vec<_> = Self::send_int(On::Main, 4).collect();
        steps.extend([Self::Close(On::Main), Self::Close(On::Callback)]);
        steps
    }
}

/// A process that takes steps. It is an application of its own as far as the server can tell.
#[derive(Debug)]
pub struct Stepper {
    process: Process,
    servers: [PathBuf; 2],
}

impl Stepper {
    /// Starts one for this server. It has done nothing yet.
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
    /// When it cannot be taken.
    pub fn take(&self, step: &Step) -> Seen {
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
            "end" => Seen::End,
            answer if answer == expected || matches!(step, Step::Skip(..)) => Seen::Expected,
            answer => Seen::Other(unhex(answer)),
        }
    }

    /// Takes steps, all of which must come out as they should.
    ///
    /// # Panics
    /// When one does not.
    pub fn take_all(&self, steps: &[Step]) {
        for (n, step) in steps.iter().enumerate() {
            let seen = self.take(step);
            assert_eq!(seen, Seen::Expected, "step {n} of {steps:?}\n{}", self.report());
        }
    }

    fn connect(&self, on: On) -> String {
        let (server, stem) = match on {
            On::Main => (&self.servers[0], "app_socket_"),
            On::Callback => (&self.servers[1], "app_socket_cb_"),
        };
        // Beside the server's, in the directory that is the test's.
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

impl On {
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
