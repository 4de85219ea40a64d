//! A server that misbehaves at one step of one call of protocol v1.
//!
//! [`script`] is what a correct server does in each call. [`POINTS`] are the places at which it
//! sends something; at each of them it misbehaves in every way of [`Fault`].

use std::net::Shutdown;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{
    Channel, DEADLINE, Driver, Protocol, ScriptedServer, Sockets, padded, private_dir, tool,
};

use crate::AppUnderTest;
use crate::app::ScriptedEnv;

/// A timeout that is long enough for the steps before the fault, even on a loaded machine.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1000);

/// The delay after the timeout that is allowed on a loaded machine.
pub(crate) const SLACK: Duration = DEADLINE.saturating_sub(TIMEOUT);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Establish,
    Put,
    Get,
    Delete,
    Register,
}
use Call::{Delete, Establish, Get, Put, Register};

impl Call {
    fn line(self) -> &'static str {
        match self {
            Establish => "establish_connection g abcde",
            Put => "put_value k v",
            Get => "get_value k",
            Delete => "delete_value k",
            Register => "register_callback k",
        }
    }
}

/// A message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    MainFlag,
    GroupAnswer,
    CallbackFlag,
    Verdict,
    Ready,
    ReadyForValue,
    Length,
    Value,
    Answer,
}
use At::{
    Answer, CallbackFlag, GroupAnswer, Length, MainFlag, Ready, ReadyForValue, Value, Verdict,
};

enum Part {
    Receives(&'static [u8]),
    /// The callback channel is connected.
    Accepts,
    Sends(At, &'static [u8]),
}
use Part::{Accepts, Receives, Sends};

const ZERO: &[u8] = &0i32.to_ne_bytes();
const ONE: &[u8] = &1i32.to_ne_bytes();
const TWO: &[u8] = &2i32.to_ne_bytes();
const THREE: &[u8] = &3i32.to_ne_bytes();
const LONGEST: &[u8] = &99i32.to_ne_bytes();
const LONGEST_VALUE: &[u8] = &{
    let mut value = [b'v'; 100];
    value[99] = 0;
    value
};

/// The steps of a correct server in this call.
fn script(call: Call) -> &'static [Part] {
    match call {
        Establish => &[
            Sends(MainFlag, ONE),
            Receives(b"g"),
            Sends(GroupAnswer, ONE),
            Receives(b"abcde"),
            Accepts,
            Sends(CallbackFlag, ONE),
            Sends(Verdict, ONE),
        ],
        Put => &[
            Receives(ZERO),
            Sends(Ready, ONE),
            Receives(b"k"),
            Sends(ReadyForValue, ONE),
            Receives(b"v"),
        ],
        Get => &[
            Receives(ONE),
            Sends(Ready, ONE),
            Receives(b"k"),
            Sends(Length, LONGEST),
            Sends(Value, LONGEST_VALUE),
        ],
        Delete => &[Receives(TWO), Sends(Ready, ONE), Receives(b"k"), Sends(Answer, ONE)],
        Register => &[Receives(THREE), Sends(Ready, ONE), Receives(b"k"), Sends(Answer, ONE)],
    }
}

/// The fault that replaces the correct message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Integer(i32),
    Bytes(&'static [u8]),
    Disconnects,
    HalfThenDisconnects,
    /// The server sends the correct message and stops receiving.
    StopsReceiving,
    Silent,
    HalfThenSilent,
    /// The server sends single bytes: each wait is short, but all of them together exceed the
    /// timeout.
    Drips,
}
use Fault::{
    Bytes, Disconnects, Drips, HalfThenDisconnects, HalfThenSilent, Integer, Silent, StopsReceiving,
};

/// More bytes than any message, which form no valid integer.
pub(crate) const GARBAGE: &[u8] = &[0xA5; 1000];

struct Point {
    call: Call,
    at: At,
    /// Integers that are wrong here, and their code.
    wrong: (&'static [i32], i32),
    /// The code when the message is missing or incomplete.
    broken: i32,
    /// The code when the next message of the call cannot be sent.
    stops_receiving: Option<i32>,
}

/// Integers that are neither a flag, a response nor a length anywhere.
const NEVER: &[i32] = &[-2, i32::MIN, i32::MAX, 0x0101_0101, 100];
/// Integers that are no flag.
const NO_FLAG: &[i32] = &[0, -1, 2, -2, i32::MIN, i32::MAX, 0x0101_0101, 0x0100_0000];
/// Integers that are no response where 0 is one.
const NO_ANSWER: &[i32] = &[-1, 2, -2, i32::MIN, i32::MAX, 0x0101_0101];
/// Integers that are no response where -1 is one.
const NO_KEY_ANSWER: &[i32] = &[0, 2, -2, i32::MIN, i32::MAX, 0x0101_0101];

const fn point(
    call: Call,
    at: At,
    wrong: (&'static [i32], i32),
    broken: i32,
    stops_receiving: Option<i32>,
) -> Point {
    Point { call, at, wrong, broken, stops_receiving }
}

#[rustfmt::skip]
const POINTS: [Point; 13] = [
    //    call       message        wrong: integers, code     broken  stops_receiving
    point(Establish, MainFlag,      (NO_FLAG, -14),           -13,    Some(-6)),
    point(Establish, GroupAnswer,   (NO_ANSWER, -8),          -8,     Some(-6)),
    point(Establish, CallbackFlag,  (NO_FLAG, -14),           -13,    None),
    point(Establish, Verdict,       (NO_ANSWER, -8),          -8,     None),
    point(Put,       Ready,         (NO_FLAG, -5),            -4,     Some(-6)),
    point(Put,       ReadyForValue, (NO_FLAG, -5),            -8,     Some(-6)),
    point(Get,       Ready,         (NO_FLAG, -5),            -4,     Some(-6)),
    point(Get,       Length,        (NEVER, -10),             -4,     None),
    point(Get,       Value,         (&[], -10),               -10,    None),
    point(Delete,    Ready,         (NO_FLAG, -5),            -4,     Some(-6)),
    point(Delete,    Answer,        (NO_KEY_ANSWER, -8),      -8,     None),
    point(Register,  Ready,         (NO_FLAG, -5),            -4,     Some(-6)),
    point(Register,  Answer,        (NO_KEY_ANSWER, -8),      -8,     None),
];

/// One line of the table.
#[derive(Debug, Clone, Copy)]
struct Row {
    call: Call,
    at: At,
    fault: Fault,
    code: i32,
}

impl Row {
    fn name(&self) -> String {
        format!("{:?}, at {:?}: {:?}, code {}", self.call, self.at, self.fault, self.code)
    }

    fn waits(&self) -> bool {
        matches!(self.fault, Silent | HalfThenSilent | Drips)
    }
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for Point { call, at, wrong: (integers, wrong), broken, stops_receiving } in POINTS {
        let mut row = |fault, code| rows.push(Row { call, at, fault, code });
        for integer in integers {
            row(Integer(*integer), wrong);
        }
        row(Bytes(GARBAGE), wrong);
        for fault in [Disconnects, HalfThenDisconnects, Silent, HalfThenSilent, Drips] {
            row(fault, broken);
        }
        if let Some(code) = stops_receiving {
            row(StopsReceiving, code);
        }
    }
    let mut row = |call, at, fault, code| rows.push(Row { call, at, fault, code });
    // Refusals, which keep the connection or end the login normally.
    row(Establish, GroupAnswer, Integer(0), -7);
    row(Establish, Verdict, Integer(0), -9);
    row(Get, Length, Integer(-1), -7);
    row(Delete, Answer, Integer(-1), -7);
    row(Register, Answer, Integer(-1), -7);
    // Malformed values.
    row(Get, Value, Bytes(&[b'v'; 100]), -10);
    row(Get, Value, Bytes(&[0; 100]), -10);
    // Surplus bytes, which the library takes for the next message.
    row(Establish, MainFlag, Bytes(b"\x01\0\0\0\x02\0\0\0"), -8);
    row(Put, Ready, Bytes(b"\x01\0\0\0\x02\0\0\0"), -5);
    row(Get, Ready, Bytes(b"\x01\0\0\0\xff\xff\xff\x7f"), -10);
    row(Get, Length, Bytes(b"\x01\0\0\0no"), -10);
    row(Delete, Ready, Bytes(b"\x01\0\0\0\x02\0\0\0"), -8);
    rows
}

/// The server's ends of a connection, as far as they are open.
#[derive(Default)]
struct Ends {
    main: Option<Channel>,
    callback: Option<Channel>,
}

impl Ends {
    fn of((main, callback): (Channel, Channel)) -> Self {
        Self { main: Some(main), callback: Some(callback) }
    }

    fn main(&mut self) -> &mut Channel {
        self.main.as_mut().expect("connected first, and open until the fault")
    }

    fn sender(&mut self, at: At) -> &mut Channel {
        match at {
            CallbackFlag => self.callback.as_mut().expect("the script accepts it first"),
            _ => self.main(),
        }
    }

    /// Plays the script up to the fault.
    fn play(&mut self, server: &ScriptedServer, row: Row) {
        if row.call == Establish {
            self.main = Some(server.accept_main());
        }
        for part in script(row.call) {
            match part {
                Receives(bytes) => self.main().expect(bytes),
                Accepts => self.callback = Some(server.accept_callback()),
                Sends(at, bytes) if *at == row.at => return self.go_wrong(row, bytes),
                Sends(at, bytes) => self.sender(*at).send(bytes),
            }
        }
        panic!("{}: not in the script", row.name());
    }

    fn go_wrong(&mut self, row: Row, right: &[u8]) {
        let channel = self.sender(row.at);
        match row.fault {
            Integer(integer) => channel.send_int(integer),
            Bytes(bytes) => channel.send(bytes),
            Silent => {}
            HalfThenSilent => channel.send(&right[..right.len() / 2]),
            StopsReceiving => {
                channel.stream().shutdown(Shutdown::Read).expect("it is connected");
                channel.send(right);
            }
            Drips => {
                for byte in right {
                    thread::sleep(TIMEOUT * 2 / 5);
                    if channel.try_send(&[*byte]).is_err() {
                        return;
                    }
                }
            }
            Disconnects => *self = Self::default(),
            HalfThenDisconnects => {
                channel.send(&right[..right.len() / 2]);
                *self = Self::default();
            }
        }
    }
}

/// A get by one of the six functions.
pub(crate) fn expect_get(driver: &Driver, row: &str, main: &mut Channel) {
    driver.begin("get_value other");
    for part in script(Get) {
        match part {
            Receives(b"k") => main.expect(b"other"),
            Receives(bytes) => main.expect(bytes),
            Sends(_, bytes) => main.send(bytes),
            Accepts => {}
        }
    }
    assert_eq!(driver.returned("get_value other"), 1, "{row}: the next call");
}

impl ScriptedEnv {
    /// The application puts a value, which the server does not read.
    fn leave_value_unread(&self, row: &str, main: &mut Channel) {
        self.driver().begin("put_value k v");
        main.expect(ZERO);
        main.send(ONE);
        main.expect(b"k");
        main.send(ONE);
        assert_eq!(self.driver().returned("put_value k v"), 1, "{row}");
    }

    fn try_row(&self, row: Row) {
        let name = row.name();
        let timeout = if row.waits() { TIMEOUT } else { DEADLINE };
        let mut ends = match row.call {
            Establish => {
                self.set_timeout(timeout);
                Ends::default()
            }
            _ => Ends::of(self.log_in(timeout)),
        };
        let begin = Instant::now();
        self.driver().begin(row.call.line());
        ends.play(&self.server, row);
        assert_eq!(self.driver().returned(row.call.line()), row.code, "{name}");
        if row.waits() {
            expect_timeout(&name, begin);
        }
        match ends {
            Ends { main: Some(main), callback: Some(callback) }
                if row.code == -7 && row.call != Establish =>
            {
                self.expect_alive_and_close(&name, (main, callback), false);
            }
            _ => self.expect_closed(&name, false),
        }
    }
}

pub(crate) fn expect_timeout(name: &str, begin: Instant) {
    let took = begin.elapsed();
    assert!(took >= TIMEOUT, "{name}: not the time-out, after {took:?}");
    assert!(took < TIMEOUT + SLACK, "{name}: it took {took:?}");
}

#[test]
fn server_fault_at_any_step_closes_with_its_code() {
    let env = ScriptedEnv::new(Protocol::V1);
    let mut count = 0;
    for row in rows().into_iter().filter(|row| !row.waits()) {
        println!("{}", row.name());
        env.app.expect_no_growth(&row.name(), || env.try_row(row));
        count += 1;
    }
    println!("{count} rows");
}

#[test]
fn silent_server_at_any_step_costs_one_timeout() {
    // The rows mostly wait, so many of them run concurrently.
    const LANES: usize = 16;
    let rows: Vec<Row> = rows().into_iter().filter(Row::waits).collect();
    thread::scope(|scope| {
        for lane in 0..LANES {
            let rows = &rows;
            scope.spawn(move || {
                let env = ScriptedEnv::new(Protocol::V1);
                for row in rows.iter().skip(lane).step_by(LANES) {
                    println!("{}", row.name());
                    env.try_row(*row);
                }
            });
        }
    });
    println!("{} rows", rows.len());
}

/// Every call that needs a connection.
const CALLS: [&str; 5] =
    ["put_value k v", "get_value k", "delete_value k", "register_callback k", "close_connection"];

#[test]
fn call_after_the_server_closed_fails_at_its_first_send() {
    let env = ScriptedEnv::new(Protocol::V1);
    for call in CALLS {
        let row = format!("{call}, after the server has hung up");
        env.app.expect_no_growth(&row, || {
            drop(env.log_in(DEADLINE));
            assert_eq!(env.driver().call(call), -3, "{row}");
            env.expect_closed(&row, false);
        });
    }
}

#[test]
fn unread_value_costs_the_next_call_its_timeout() {
    thread::scope(|scope| {
        for call in CALLS {
            scope.spawn(move || {
                let env = ScriptedEnv::new(Protocol::V1);
                let row = format!("{call}, while a value is unread");
                let (mut main, callback) = env.log_in(TIMEOUT);
                env.leave_value_unread(&row, &mut main);
                let begin = Instant::now();
                assert_eq!(env.driver().call(call), -3, "{row}");
                expect_timeout(&row, begin);
                drop((main, callback));
                env.expect_closed(&row, false);
            });
        }
    });
}

/// The server responds in advance and reads nothing, so that the socket fills up.
#[test]
fn server_that_does_not_read_costs_one_timeout() {
    let env = ScriptedEnv::new(Protocol::V1);
    let row = "get_value, until the socket is full";
    let (mut main, callback) = env.log_in(TIMEOUT);
    let code = loop {
        // Ready, length 0, and the NUL of the value.
        main.send(b"\x01\0\0\0\0\0\0\0\0");
        let begin = Instant::now();
        match env.driver().call("get_value k") {
            1 => {}
            code => {
                expect_timeout(row, begin);
                break code;
            }
        }
    };
    assert!(code == -3 || code == -6, "{row}: code or key cannot be sent: {code}");
    drop((main, callback));
    env.expect_closed(row, false);
}

/// One thread of the application waits for a silent server; another thread waits for the first one,
/// and no longer.
#[test]
fn concurrent_calls_cost_one_timeout() {
    let env = ScriptedEnv::new(Protocol::V1);
    let row = "put_value, while a callback is in get_value";
    let (mut main, mut callback) = env.log_in(TIMEOUT);
    env.driver().begin("register_reading_callback k");
    main.expect(THREE);
    main.send(ONE);
    main.expect(b"k");
    main.send(ONE);
    assert_eq!(env.driver().returned("register_reading_callback k"), 1);
    change(&mut callback, "k");
    main.expect(ONE);
    let begin = Instant::now();
    // Both calls time out at nearly the same moment, and the other one closes the connection.
    let code = env.driver().call("put_value k v");
    assert!(code == -2 || code == -15, "{row}: closed, or busy: {code}");
    let took = begin.elapsed();
    assert!(took < TIMEOUT + SLACK, "{row}: it took {took:?}");
    env.driver().expect_log("the code in the callback", |line| line == "read k -4 -");
    main.expect_end();
    env.expect_closed(row, false);
}

/// Invalid calls, which send nothing and keep the connection.
const INVALID_CALLS: [(&str, i32); 7] = [
    ("establish_connection g abcde", -16),
    ("establish_connection", -16),
    ("put_value", -15),
    ("put_value k", -15),
    ("get_value", -15),
    ("delete_value", -15),
    ("register_callback", -15),
];

#[test]
fn invalid_call_keeps_the_connection() {
    let env = ScriptedEnv::new(Protocol::V1);
    for (call, code) in INVALID_CALLS {
        env.app.expect_no_growth(call, || {
            let (main, callback) = env.log_in(DEADLINE);
            assert_eq!(env.driver().call(call), code, "{call}");
            assert!(main.waiting().is_empty(), "{call}: nothing is sent");
            env.expect_alive_and_close(call, (main, callback), false);
        });
    }
}

/// The codes in the tables of this module.
pub(crate) fn codes() -> impl Iterator<Item = i32> {
    let invalid_calls = INVALID_CALLS.iter().map(|(_, code)| *code);
    rows().into_iter().map(|row| row.code).chain(invalid_calls)
}

// --- where there is no server

/// A path without a server.
fn unreachable(dir: &Path) -> Vec<(&'static str, String)> {
    let path = |name: &str| dir.join(name).to_str().expect("plain names").to_owned();
    tool(std::process::Command::new("mkfifo").arg(path("fifo")));
    std::fs::write(path("file"), "").expect("the directory is the test's own");
    std::os::unix::fs::symlink(path("loop"), path("loop")).expect("likewise");
    drop(std::os::unix::net::UnixListener::bind(path("stale")).expect("likewise"));
    vec![
        ("nothing", path("nothing")),
        ("a FIFO", path("fifo")),
        ("a directory", dir.to_str().expect("plain names").to_owned()),
        ("a file", path("file")),
        ("a loop of links", path("loop")),
        ("the socket of a server that has died", path("stale")),
        ("a path that is too long", path(&"x".repeat(150))),
        ("a path in a file", path("file/sock")),
    ]
}

#[test]
fn path_without_a_server_fails_within_the_timeout() {
    let dir = private_dir();
    let datagrams = std::os::unix::net::UnixDatagram::bind(dir.path().join("datagrams"))
        .expect("the directory is the test's own");
    let mut paths = unreachable(dir.path());
    let path = dir.path().join("datagrams");
    paths.push(("a socket for datagrams", path.to_str().expect("plain names").to_owned()));
    let server = ScriptedServer::start();
    for (what, path) in paths {
        let app = AppUnderTest::spawn(
            Driver::program()
                .env("KVS_SOCKET", &path)
                .env("KVS_CALLBACK_SOCKET", server.callback_socket())
                .env("KVS_TIMEOUT_MS", "60000"),
        );
        app.expect_no_growth(what, || {
            // The call fails at once, long before its timeout.
            assert_eq!(app.driver.call(Establish.line()), -12, "{what}");
            app.expect_unconnected(what);
            app.expect_nothing_left(what);
        });
    }
    drop(datagrams);
}

/// A listener that never accepts, and connections that fill its backlog.
fn full(path: &Path) -> Vec<std::os::fd::OwnedFd> {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };
    use std::os::fd::AsRawFd;

    let address = UnixAddr::new(path).expect("a short path");
    let new = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket")
    };
    let listener = new();
    bind(listener.as_raw_fd(), &address).expect("a free path");
    listen(&listener, Backlog::new(1).expect("a legal backlog")).expect("it is bound");
    let mut all = vec![listener];
    loop {
        let next = new();
        match connect(next.as_raw_fd(), &address) {
            Ok(()) => all.push(next),
            Err(nix::errno::Errno::EAGAIN) => return all,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

#[test]
fn server_with_a_full_backlog_costs_one_timeout() {
    let env = ScriptedEnv::new(Protocol::V1);
    let dir = private_dir();
    let path = dir.path().join("full");
    let _full = full(&path);
    let program = |main: &Path, callback: &Path| {
        Driver::program()
            .protocol(Protocol::V1)
            .env("KVS_SOCKET", main)
            .env("KVS_CALLBACK_SOCKET", callback)
            .env("KVS_TIMEOUT_MS", TIMEOUT.as_millis().to_string())
    };
    for main_is_full in [true, false] {
        let row = format!("full backlog, main: {main_is_full}");
        let app = AppUnderTest::spawn(if main_is_full {
            program(&path, env.server.callback_socket())
        } else {
            program(env.server.socket(), &path)
        });
        let begin = Instant::now();
        app.driver.begin(Establish.line());
        let mut main = None;
        if !main_is_full {
            let mut channel = env.server.accept_main();
            channel.send(ONE);
            channel.expect(b"g");
            channel.send(ONE);
            channel.expect(b"abcde");
            main = Some(channel);
        }
        assert_eq!(app.driver.returned(Establish.line()), -12, "{row}");
        expect_timeout(&row, begin);
        drop(main);
        app.expect_unconnected(&row);
        app.expect_nothing_left(&row);
    }
}

// --- the callback channel

fn change(callback: &mut Channel, key: &str) {
    callback.send_int(1);
    callback.expect_int(1);
    callback.send(&padded(key));
}

type CallbackFault = (&'static str, fn(&mut Ends));

/// Faults of a server on the callback channel.
const CALLBACK_FAULTS: [CallbackFault; 14] = [
    ("a flag that is 0", |ends| callback(ends).send_int(0)),
    ("a flag that is 2", |ends| callback(ends).send_int(2)),
    ("a flag that is -2", |ends| callback(ends).send_int(-2)),
    ("rubbish for a flag", |ends| callback(ends).send(GARBAGE)),
    ("a hang-up", |ends| ends.callback = None),
    ("half a flag, then a hang-up", |ends| {
        callback(ends).send(&ONE[..2]);
        ends.callback = None;
    }),
    ("a hang-up in place of the key", |ends| {
        callback(ends).send_int(1);
        ends.callback = None;
    }),
    ("stops_receiving for the answer to a flag", |ends| {
        callback(ends).stream().shutdown(Shutdown::Read).expect("it is connected");
        callback(ends).send_int(1);
    }),
    ("half a key, then a hang-up", |ends| {
        callback(ends).send_int(1);
        callback(ends).expect_int(1);
        callback(ends).send(&padded("k")[..50]);
        ends.callback = None;
    }),
    ("half a key, then silence", |ends| {
        callback(ends).send_int(1);
        callback(ends).expect_int(1);
        callback(ends).send(&padded("k")[..50]);
    }),
    ("a key that drips", |ends| {
        callback(ends).send_int(1);
        callback(ends).expect_int(1);
        for byte in padded("k") {
            thread::sleep(TIMEOUT / 4);
            if callback(ends).try_send(&[byte]).is_err() {
                return;
            }
        }
        panic!("a key was waited for, byte by byte");
    }),
    ("a key without NUL", |ends| {
        callback(ends).send_int(1);
        callback(ends).send(&[b'k'; 100]);
    }),
    ("an empty key", |ends| {
        callback(ends).send_int(1);
        callback(ends).send(&[0; 100]);
        // A valid key without a watch, followed by an invalid one.
        callback(ends).send_int(3);
    }),
    ("endless changes, and the ready flags are not read", |ends| {
        let mut change = ONE.to_vec();
        change.extend(padded("k"));
        while callback(ends).try_send(&change).is_ok() {}
    }),
];

fn callback(ends: &mut Ends) -> &mut Channel {
    ends.callback.as_mut().expect("open until the fault")
}

#[test]
fn callback_channel_fault_closes_the_connection() {
    thread::scope(|scope| {
        for (row, fault) in CALLBACK_FAULTS {
            scope.spawn(move || {
                let env = ScriptedEnv::new(Protocol::V1);
                env.app.expect_no_growth(row, || {
                    println!("callback channel: {row}");
                    let mut ends = Ends::of(env.log_in(TIMEOUT));
                    fault(&mut ends);
                    // The application closes the connection without a message.
                    ends.main().expect_end();
                    assert_eq!(env.driver().put("k", "v"), -3, "{row}");
                    env.expect_closed(row, false);
                });
            });
        }
    });
}

#[test]
fn forced_close_ends_the_connection_despite_the_server() {
    let env = ScriptedEnv::new(Protocol::V1);
    for (row, hangs_up) in [("a forced close", false), ("a forced close, then a hang-up", true)] {
        env.app.expect_no_growth(row, || {
            let (mut main, mut callback) = env.log_in(DEADLINE);
            callback.send_int(-1);
            if !hangs_up {
                main.expect_int(4);
                main.expect_end();
                callback.expect_end();
            }
            drop((main, callback));
            // The thread that closed the connection ends.
            assert_eq!(env.driver().call("await_threads 1"), 1, "{row}");
            env.expect_closed(row, false);
        });
    }
}

/// The connection is lost while the server has not read the last value; no call waits for that.
#[test]
fn unread_value_on_a_lost_connection_blocks_no_call() {
    let env = ScriptedEnv::new(Protocol::V1);
    for call in CALLS.into_iter().chain([Establish.line()]) {
        let row = format!("{call}, after a hang-up, with a value unread");
        env.app.expect_no_growth(&row, || {
            let (mut main, callback) = env.log_in(DEADLINE);
            env.leave_value_unread(&row, &mut main);
            drop(callback);
            // The library's thread has closed the connection, and ends.
            assert_eq!(env.driver().call("await_threads 1"), 1, "{row}");
            let begin = Instant::now();
            env.driver().begin(call);
            let next = (call == Establish.line()).then(|| env.server.login("g", "abcde"));
            let code = if next.is_some() { 0 } else { -3 };
            assert_eq!(env.driver().returned(call), code, "{row}");
            let took = begin.elapsed();
            assert!(took < DEADLINE / 2, "{row}: it took {took:?}");
            match next {
                Some((main, callback)) => env.expect_alive_and_close(&row, (main, callback), false),
                None => env.expect_closed(&row, false),
            }
            drop(main);
        });
    }
}

/// An incomplete flag may stay incomplete for ever, as no call waits for it.
#[test]
fn incomplete_flag_on_the_callback_channel_blocks_no_call() {
    let env = ScriptedEnv::new(Protocol::V1);
    let row = "half a flag on the callback channel, then silence";
    let (main, mut callback) = env.log_in(TIMEOUT);
    callback.send(&ONE[..2]);
    env.expect_alive_and_close(row, (main, callback), false);
}
