//! A server that accepts the offer of protocol v2 and then misbehaves.
//!
//! Each [`Call`] is one request, of which the server checks every byte, and one response;
//! [`faults`] lists what the server sends instead of the response. The login and the callback
//! channel have tables of their own.

use std::net::Shutdown;
use std::thread;
use std::time::Instant;

use kvs_testkit::{Channel, DEADLINE, Driver, OFFER, Protocol, WELCOME};

use crate::app::ScriptedEnv;
use crate::v1::{GARBAGE, SLACK, TIMEOUT, expect_timeout};

const GET: u8 = 1;
const PUT: u8 = 2;
const DELETE: u8 = 3;
const PUT_MANY: u8 = 4;
const KEYS: u8 = 5;
const WATCH: u8 = 6;
const UNWATCH: u8 = 7;
const CLOSE: u8 = 8;
const OK: u8 = 128;
const NO_SUCH_KEY: u8 = 129;
const CONFLICT: u8 = 130;
const TOO_LARGE: u8 = 131;
const LIMIT: u8 = 132;
const UNKNOWN: u8 = 133;
const WELCOMES: u8 = 134;
const CHANGED: u8 = 192;
const CLOSES: u8 = 193;

/// A frame as it is on the wire.
fn frame(kind: u8, number: u32, flags: u8, key: u32, version: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).expect("a short body").to_le_bytes().to_vec();
    bytes.extend(number.to_le_bytes());
    bytes.extend([kind, flags, 0, 0]);
    bytes.extend(key.to_le_bytes());
    bytes.extend(version.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The message by which a server requests the close.
pub(crate) fn close_by_server(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::V1 => (-1i32).to_ne_bytes().to_vec(),
        Protocol::V2 => frame(CLOSES, 0, 0, 0, 0, &[]),
    }
}

/// The message by which an application closes.
pub(crate) fn close_by_application(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::V1 => 4i32.to_ne_bytes().to_vec(),
        Protocol::V2 => frame(CLOSE, 0, 0, 0, 0, &[]),
    }
}

/// A call of one of the six functions, or of a function with a handle.
#[derive(Debug, Clone, Copy)]
struct Call {
    line: &'static str,
    kind: u8,
    flags: u8,
    body: &'static [u8],
    key: u32,
    /// The correct response, and the code for it.
    right: (&'static [u8], i32),
    /// The codes for a missing and for a malformed response.
    broken: i32,
    malformed: i32,
}

const fn call(
    line: &'static str,
    kind: u8,
    flags: u8,
    key: u32,
    body: &'static [u8],
    right: (&'static [u8], i32),
    (broken, malformed): (i32, i32),
) -> Call {
    Call { line, kind, flags, body, key, right, broken, malformed }
}

const TWICE: &[u8] = b"\x01\0\0\0\x01\0\0\0kv\x01\0\0\0\x01\0\0\0kv";

#[rustfmt::skip]
const CALLS: [Call; 14] = [
    //   call                     request                                  right answer
    //   broken, malformed
    call("put_value k v", PUT, 0, 1, b"kv", (b"", 1), (-8, -8)),
    call("get_value k", GET, 0, 1, b"k", (b"value", 1), (-4, -10)),
    call("delete_value k", DELETE, 0, 1, b"k", (b"", 1), (-8, -8)),
    call("register_callback k", WATCH, 0, 1, b"k", (b"", 1), (-8, -8)),
    call("kvs_put k v", PUT, 0, 1, b"kv", (b"", 0), (-8, -8)),
    call("kvs_put_many k v", PUT_MANY, 0, 0, TWICE, (b"", 0), (-8, -8)),
    call("kvs_get k", GET, 0, 1, b"k", (b"value", 0), (-4, -10)),
    call("kvs_delete k", DELETE, 0, 1, b"k", (b"", 0), (-8, -8)),
    call("kvs_cas k v", PUT, 1, 1, b"kv", (b"", 0), (-8, -8)),
    call("kvs_keys k", KEYS, 0, 1, b"k\0\0\0\0", (b"\x02\0\0\0kk", 0), (-8, -8)),
    call("kvs_watch k", WATCH, 0, 1, b"k", (b"", 0), (-8, -8)),
    call("kvs_watch_prefix k", WATCH, 1, 1, b"k", (b"", 0), (-8, -8)),
    call("kvs_unwatch k", UNWATCH, 0, 1, b"k", (b"", 0), (-8, -8)),
    call("kvs_unwatch_prefix k", UNWATCH, 1, 1, b"k", (b"", 0), (-8, -8)),
];

impl Call {
    fn has_handle(&self) -> bool {
        self.line.starts_with("kvs_")
    }

    /// Receives the request. Returns its number.
    fn receive(&self, main: &mut Channel) -> u32 {
        let header = main.take(24);
        let number = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
        let expected = frame(self.kind, number, self.flags, self.key, 0, self.body);
        assert_eq!(header, expected[..24], "{}: the header", self.line);
        main.expect(self.body);
        number
    }

    fn answer(&self, number: u32) -> Vec<u8> {
        // The response to KEYS is the last page.
        let version = u64::from(self.kind != KEYS);
        frame(OK, number, 0, 0, version, self.right.0)
    }
}

/// The fault that replaces the response.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Sends(&'static str, Vec<u8>),
    Disconnects,
    /// Sends this number of bytes of the correct response first.
    PartThenDisconnects(usize),
    Silent,
    PartThenSilent(usize),
    /// Sends single bytes, which together take longer than the timeout.
    Drips,
}
use Fault::{Disconnects, Drips, PartThenDisconnects, PartThenSilent, Sends, Silent};

impl Fault {
    fn waits(&self) -> bool {
        matches!(self, Silent | PartThenSilent(_) | Drips)
    }

    fn happen(&self, main: &mut Option<Channel>, right: &[u8]) {
        let channel = main.as_mut().expect("open until the fault");
        match self {
            Sends(_, bytes) => channel.send(bytes),
            Disconnects => *main = None,
            PartThenDisconnects(len) => {
                channel.send(&right[..*len]);
                *main = None;
            }
            Silent => {}
            PartThenSilent(len) => channel.send(&right[..*len]),
            Drips => {
                for byte in right {
                    thread::sleep(TIMEOUT * 2 / 5);
                    if channel.try_send(&[*byte]).is_err() {
                        return;
                    }
                }
                panic!("an answer was waited for, byte by byte");
            }
        }
    }
}

/// Frames with one byte changed.
fn changed(right: &[u8], changes: &[(&'static str, usize, u8)]) -> Vec<Fault> {
    let change = |(what, at, byte): &(&'static str, usize, u8)| {
        let mut frame = right.to_vec();
        frame[*at] = *byte;
        Sends(what, frame)
    };
    changes.iter().map(change).collect()
}

/// All faults that can replace the response to request `number`.
fn faults(call: &Call, number: u32) -> Vec<Fault> {
    let right = call.answer(number);
    let next = (number + 1).to_le_bytes()[0];
    let mut faults = changed(
        &right,
        &[
            ("a length that no answer has", 3, 0x7F),
            ("the number 0", 4, 0),
            ("the number of the next request", 4, next),
            ("a number far away", 7, 0xFF),
            ("a request", 8, PUT),
            ("the kind 0", 8, 0),
            ("the kind before the first", 8, OK - 1),
            ("the kind behind the last", 8, WELCOMES + 1),
            ("another welcome", 8, WELCOMES),
            ("a change", 8, CHANGED),
            ("a flag", 9, 1),
            ("a reserved byte that is set", 10, 1),
            ("a reserved byte that is set", 11, 0x80),
            ("a key longer than the body", 15, 1),
        ],
    );
    let mut sends = |what, frame| faults.push(Sends(what, frame));
    sends("garbage", GARBAGE.to_vec());
    if call.right.0.is_empty() {
        sends("a body where none belongs", frame(OK, number, 0, 0, 1, b"body"));
    }
    if call.kind == KEYS {
        sends("an entry that does not fit", frame(OK, number, 0, 0, 0, b"\x03\0\0\0kk"));
        sends("half an entry", frame(OK, number, 0, 0, 0, b"\x02\0\0\0kk\x02"));
        sends("an entry without a key", frame(OK, number, 0, 0, 0, b"\x02\0\0\0kk\0\0\0\0"));
        let hostile = b"\x02\0\0\0kk\xff\xff\xff\xff";
        sends("an entry longer than any memory", frame(OK, number, 0, 0, 0, hostile));
    }
    if ![GET, DELETE, UNWATCH].contains(&call.kind) && (call.kind, call.flags) != (WATCH, 0) {
        sends("no such key", frame(NO_SUCH_KEY, number, 0, 0, 0, b""));
    }
    if (call.kind, call.flags) != (PUT, 1) {
        sends("a conflict", frame(CONFLICT, number, 0, 0, 5, b""));
    }
    sends("a refusal with a body", frame(TOO_LARGE, number, 0, 0, 0, b"body"));
    faults.extend([
        Disconnects,
        PartThenDisconnects(1),
        PartThenDisconnects(23),
        Silent,
        PartThenSilent(12),
    ]);
    if right.len() > 24 {
        faults.extend([PartThenDisconnects(25), PartThenSilent(25)]);
    }
    faults.push(Drips);
    faults
}

/// Asserts that no call with a handle works without a connection.
pub(crate) fn expect_unconnected_handle(driver: &Driver, row: &str) {
    for call in CALLS.iter().filter(|call| call.has_handle()) {
        assert_eq!(driver.call(call.line), -2, "{row}: {} afterwards", call.line);
    }
    assert_eq!(driver.call("kvs_close"), -2, "{row}: kvs_close afterwards");
}

/// Makes a get by one of the six functions or with a handle.
pub(crate) fn expect_get(driver: &Driver, row: &str, main: &mut Channel, has_handle: bool) {
    let get = |call: &&Call| call.kind == GET && call.has_handle() == has_handle;
    let call = CALLS.iter().find(get).expect("there is one of each");
    driver.begin(call.line);
    let number = call.receive(main);
    main.send(&call.answer(number));
    assert_eq!(driver.returned(call.line), call.right.1, "{row}: the next call");
}

impl ScriptedEnv {
    fn try_fault(&self, call: &Call, nth: usize) {
        let timeout = if faults(call, 1)[nth].waits() { TIMEOUT } else { DEADLINE };
        let (main, callback) = self.log_in_by(timeout, call.has_handle());
        let mut main = Some(main);
        let begin = Instant::now();
        self.driver().begin(call.line);
        let number = call.receive(main.as_mut().expect("just connected"));
        let fault = &faults(call, number)[nth];
        let row = format!("{}: {fault:?}", call.line);
        fault.happen(&mut main, &call.answer(number));
        let code = if matches!(fault, Sends(..)) { call.malformed } else { call.broken };
        assert_eq!(self.driver().returned(call.line), code, "{row}");
        if fault.waits() {
            expect_timeout(&row, begin);
        }
        drop((main, callback));
        self.expect_closed(&row, call.has_handle());
    }
}

/// The faults of all calls that cause a wait, or those that do not.
fn fault_rows(waits: bool) -> Vec<(Call, usize)> {
    let rows = |call: Call| {
        let numbered = faults(&call, 1).into_iter().enumerate();
        let wanted = numbered.filter(move |(_, fault)| fault.waits() == waits);
        wanted.map(move |(nth, _)| (call, nth))
    };
    CALLS.into_iter().flat_map(rows).collect()
}

#[test]
fn invalid_response_closes_with_its_code() {
    let env = ScriptedEnv::new(Protocol::V2);
    let rows = fault_rows(false);
    for (call, nth) in &rows {
        let row = format!("{}: {:?}", call.line, faults(call, 1)[*nth]);
        println!("{row}");
        env.app.expect_no_growth(&row, || env.try_fault(call, *nth));
    }
    println!("{} rows", rows.len());
}

#[test]
fn missing_response_costs_one_timeout() {
    // The rows mostly wait, so many of them run concurrently.
    const LANES: usize = 16;
    let rows = fault_rows(true);
    thread::scope(|scope| {
        for lane in 0..LANES {
            let rows = &rows;
            scope.spawn(move || {
                let env = ScriptedEnv::new(Protocol::V2);
                for (call, nth) in rows.iter().skip(lane).step_by(LANES) {
                    println!("{}: {:?}", call.line, faults(call, 1)[*nth]);
                    env.try_fault(call, *nth);
                }
            });
        }
    });
    println!("{} rows", rows.len());
}

/// Legal refusals: the kind, and the codes of the six functions and of those with a handle.
const REFUSALS: [(u8, i32, i32); 3] =
    [(TOO_LARGE, -15, -15), (LIMIT, -5, -19), (UNKNOWN, -17, -17)];

#[test]
fn refusal_returns_its_code_and_keeps_the_connection() {
    let env = ScriptedEnv::new(Protocol::V2);
    let mut rows = Vec::new();
    for call in CALLS {
        for (kind, code, code_of_handle) in REFUSALS {
            // Reading and deleting exceed no limit.
            if call.has_handle() || kind != LIMIT || [PUT, WATCH].contains(&call.kind) {
                rows.push((call, kind, if call.has_handle() { code_of_handle } else { code }));
            }
        }
        if [GET, DELETE, UNWATCH].contains(&call.kind) || (call.kind, call.flags) == (WATCH, 0) {
            rows.push((call, NO_SUCH_KEY, -7));
        }
        if (call.kind, call.flags) == (PUT, 1) {
            rows.push((call, CONFLICT, -18));
        }
    }
    for (call, kind, code) in rows {
        let row = format!("{}: the answer {kind}", call.line);
        println!("{row}");
        env.app.expect_no_growth(&row, || {
            let (mut main, callback) = env.log_in_by(DEADLINE, call.has_handle());
            env.driver().begin(call.line);
            let number = call.receive(&mut main);
            let version = if kind == CONFLICT { 5 } else { 0 };
            main.send(&frame(kind, number, 0, 0, version, &[]));
            assert_eq!(env.driver().returned(call.line), code, "{row}");
            if code == -5 {
                // The library closes as in protocol v1.
                main.expect(&close_by_application(Protocol::V2));
                main.expect_end();
                env.expect_closed(&row, false);
            } else {
                env.expect_alive_and_close(&row, (main, callback), call.has_handle());
            }
        });
    }
}

// --- the login

/// A message of the login: the correct one, the faults that replace it, and the codes for a
/// malformed and for a missing one.
struct Point {
    name: &'static str,
    callback_is_up: bool,
    right: Vec<u8>,
    wrong: Vec<Fault>,
    malformed: i32,
    broken: i32,
}

fn points() -> [Point; 4] {
    let integers = |list: &[i32]| {
        list.iter().map(|int| Sends("an integer", int.to_ne_bytes().to_vec())).collect::<Vec<_>>()
    };
    let mut welcomes = changed(
        &WELCOME,
        &[
            ("an answer in place of a welcome", 8, OK),
            ("a change in place of a welcome", 8, CHANGED),
            ("kind 0", 8, 0),
            ("a welcome with a number", 4, 1),
            ("a welcome with a flag", 9, 1),
            ("a reserved byte that is set", 10, 1),
            ("a welcome with a key", 12, 1),
        ],
    );
    welcomes.push(Sends("a welcome with a body", frame(WELCOMES, 0, 0, 0, 1 << 24, b"body")));
    welcomes.push(Sends("garbage", GARBAGE.to_vec()));
    [
        Point {
            name: "the answer to the offer",
            callback_is_up: false,
            right: 2i32.to_ne_bytes().to_vec(),
            wrong: integers(&[-1, 3, -2, i32::MIN, i32::MAX, 0x0200_0000]),
            malformed: -8,
            broken: -8,
        },
        Point {
            name: "the callback channel's flag",
            callback_is_up: true,
            right: 1i32.to_ne_bytes().to_vec(),
            wrong: integers(&[0, 2, -1, i32::MAX]),
            malformed: -14,
            broken: -13,
        },
        Point {
            name: "the verdict",
            callback_is_up: true,
            right: 1i32.to_ne_bytes().to_vec(),
            wrong: integers(&[-1, 2, i32::MIN, i32::MAX]),
            malformed: -8,
            broken: -8,
        },
        Point {
            name: "the welcome",
            callback_is_up: true,
            right: WELCOME.to_vec(),
            wrong: welcomes,
            malformed: -8,
            broken: -8,
        },
    ]
}

impl Point {
    fn faults(&self) -> Vec<Fault> {
        let half = self.right.len() / 2;
        let mut faults = self.wrong.clone();
        faults.extend([
            Disconnects,
            PartThenDisconnects(half),
            Silent,
            PartThenSilent(half),
            Drips,
        ]);
        faults
    }
}

fn try_login(env: &ScriptedEnv, login: &str, point: &Point, fault: &Fault) {
    let row = format!("{login}, {}: {fault:?}", point.name);
    println!("{row}");
    env.set_timeout(if fault.waits() { TIMEOUT } else { DEADLINE });
    let begin = Instant::now();
    env.driver().begin(login);
    let mut main = env.server.accept_main();
    main.send_int(1);
    main.expect(b"g");
    main.expect(OFFER);
    let mut callback = None;
    if point.callback_is_up {
        main.send_int(2);
        main.expect(b"abcde");
        callback = Some(env.server.accept_callback());
    }
    let mut main = Some(main);
    if point.name == "the callback channel's flag" {
        fault.happen(&mut callback, &point.right);
    } else {
        if let Some(callback) = &mut callback {
            callback.send_int(1);
        }
        if point.name == "the welcome" {
            main.as_mut().expect("just connected").send_int(1);
        }
        fault.happen(&mut main, &point.right);
    }
    let code = if matches!(fault, Sends(..)) { point.malformed } else { point.broken };
    assert_eq!(env.driver().returned(login), code, "{row}");
    if fault.waits() {
        expect_timeout(&row, begin);
    }
    drop((main, callback));
    env.expect_closed(&row, false);
}

#[test]
fn server_fault_after_the_offer_fails_the_login() {
    thread::scope(|scope| {
        for login in ["establish_connection g abcde", "kvs_open g abcde"] {
            for point in points() {
                scope.spawn(move || {
                    let env = ScriptedEnv::new(Protocol::V2);
                    for fault in point.faults() {
                        let row = format!("{login}, {}: {fault:?}", point.name);
                        if fault.waits() {
                            try_login(&env, login, &point, &fault);
                        } else {
                            env.app.expect_no_growth(&row, || {
                                try_login(&env, login, &point, &fault);
                            });
                        }
                    }
                });
            }
        }
    });
}

#[test]
fn unsolicited_bytes_after_the_welcome_close_the_connection() {
    let env = ScriptedEnv::new(Protocol::V2);
    for call in [&CALLS[0], &CALLS[1]] {
        let row = format!("{}, when an answer is there before the request", call.line);
        env.app.expect_no_growth(&row, || {
            let (mut main, callback) = env.log_in(DEADLINE);
            main.send(&frame(OK, 0, 0, 0, 1, &[]));
            assert_eq!(env.driver().call(call.line), call.malformed, "{row}");
            drop((main, callback));
            env.expect_closed(&row, false);
        });
    }
}

// --- sending

#[test]
fn v2_call_after_the_server_closed_fails_at_its_first_send() {
    let env = ScriptedEnv::new(Protocol::V2);
    for call in CALLS {
        for gone in [true, false] {
            let row = format!("{}, server gone: {gone}", call.line);
            env.app.expect_no_growth(&row, || {
                let (main, callback) = env.log_in_by(DEADLINE, call.has_handle());
                let ends = if gone {
                    drop((main, callback));
                    None
                } else {
                    main.stream().shutdown(Shutdown::Read).expect("it is connected");
                    Some((main, callback))
                };
                assert_eq!(env.driver().call(call.line), -3, "{row}");
                drop(ends);
                env.expect_closed(&row, call.has_handle());
            });
        }
    }
}

/// The server reads nothing, so that the socket fills up.
#[test]
fn server_that_does_not_read_costs_one_timeout() {
    let env = ScriptedEnv::new(Protocol::V2);
    let row = "put_value, 256 KiB, to a server that reads nothing";
    let (main, callback) = env.log_in(TIMEOUT);
    let begin = Instant::now();
    assert_eq!(env.driver().call("put_long k 262144"), -3, "{row}");
    expect_timeout(row, begin);
    drop((main, callback));
    env.expect_closed(row, false);
}

/// Two threads wait for a silent server, each for its own response.
#[test]
fn calls_of_two_threads_cost_one_timeout() {
    let env = ScriptedEnv::new(Protocol::V2);
    let row = "put_value, while a callback is in get_value";
    let (mut main, mut callback) = env.log_in(TIMEOUT);
    env.driver().begin("register_reading_callback k");
    let number = CALLS[3].receive(&mut main);
    main.send(&CALLS[3].answer(number));
    assert_eq!(env.driver().returned("register_reading_callback k"), 1);
    callback.send(&frame(CHANGED, 0, 1, 1, 2, b"k"));
    CALLS[1].receive(&mut main);
    let begin = Instant::now();
    env.driver().begin("put_value k v");
    CALLS[0].receive(&mut main);
    // The other call times out first and closes the connection for both.
    assert_eq!(env.driver().returned("put_value k v"), -8, "{row}");
    let took = begin.elapsed();
    assert!(took < TIMEOUT + SLACK, "{row}: it took {took:?}");
    env.driver().expect_log("the code in the callback", |line| line == "read k -4 -");
    main.expect_end();
    env.expect_closed(row, false);
}

// --- the callback channel

/// Malformed messages on the callback channel.
fn malformed_events() -> Vec<Fault> {
    let change = frame(CHANGED, 0, 1, 1, 2, b"k");
    let mut faults = changed(
        &change,
        &[
            ("a change longer than any key", 3, 1),
            ("a change with a number", 4, 1),
            ("an answer", 8, OK),
            ("a request", 8, PUT),
            ("an unknown kind", 8, CLOSES + 1),
            ("watched by nothing", 9, 0),
            ("an unknown flag", 9, 5),
            ("a reserved byte that is set", 11, 1),
            ("no key", 12, 0),
            ("a key longer than the body", 12, 2),
        ],
    );
    let mut sends = |what, frame| faults.push(Sends(what, frame));
    sends("more than a key", frame(CHANGED, 0, 1, 1, 2, b"kk"));
    sends("an empty key", frame(CHANGED, 0, 1, 0, 2, b""));
    sends("a close with a body", frame(CLOSES, 0, 0, 0, 0, b"body"));
    sends("a close with a version", frame(CLOSES, 0, 0, 0, 1, b""));
    sends("a close with a flag", frame(CLOSES, 0, 1, 0, 0, b""));
    sends("garbage", GARBAGE.to_vec());
    faults.extend([Disconnects, PartThenDisconnects(1), PartThenDisconnects(24)]);
    faults
}

#[test]
fn callback_channel_fault_closes_the_connection() {
    let env = ScriptedEnv::new(Protocol::V2);
    let right = frame(CHANGED, 0, 1, 1, 2, b"k");
    for fault in malformed_events() {
        let row = format!("callback channel: {fault:?}");
        println!("{row}");
        env.app.expect_no_growth(&row, || {
            let (mut main, callback) = env.log_in(DEADLINE);
            let mut callback = Some(callback);
            fault.happen(&mut callback, &right);
            // The application closes the connection without a message.
            main.expect_end();
            assert_eq!(env.driver().put("k", "v"), -3, "{row}");
            drop(callback);
            env.expect_closed(&row, false);
        });
        env.app.expect_no_growth(&row, || {
            let (mut main, callback) = env.log_in_with(DEADLINE, "kvs_open g abcde");
            let mut callback = Some(callback);
            assert_eq!(env.driver().call("kvs_on_disconnect"), 0, "{row}");
            fault.happen(&mut callback, &right);
            main.expect_end();
            env.driver().expect_log("the end", |line| line == "disconnected");
            assert_eq!(env.driver().call("kvs_put k v"), -3, "{row}");
            drop(callback);
            env.expect_closed(&row, true);
        });
    }
}

/// The callback channel has no requests and no timeout; an event without a watch is ignored.
#[test]
fn incomplete_event_blocks_no_call() {
    let env = ScriptedEnv::new(Protocol::V2);
    let row = "half a change, then silence";
    let (main, mut callback) = env.log_in(TIMEOUT);
    callback.send(&frame(CHANGED, 0, 3, 7, 2, b"unknown"[..7].into()));
    callback.send(&frame(CHANGED, 0, 1, 1, 2, b"k")[..24]);
    env.expect_alive_and_close(row, (main, callback), false);
}

/// Events may be split and joined in any way.
#[test]
fn events_may_be_split_at_any_byte() {
    let env = ScriptedEnv::new(Protocol::V2);
    let (mut main, mut callback) = env.log_in(DEADLINE);
    env.driver().begin("register_callback k");
    let number = CALLS[3].receive(&mut main);
    main.send(&CALLS[3].answer(number));
    assert_eq!(env.driver().returned("register_callback k"), 1);
    for byte in frame(CHANGED, 0, 1, 1, 2, b"k") {
        callback.send(&[byte]);
    }
    env.driver().expect_change("k");
    let mut glued = Vec::new();
    for version in 3..=5 {
        glued.extend(frame(CHANGED, 0, 1, 1, version, b"k"));
    }
    callback.send(&glued);
    for _ in 3..=5 {
        env.driver().expect_change("k");
    }
    env.expect_alive_and_close("changes", (main, callback), false);
}

#[test]
fn forced_close_ends_the_connection_despite_the_server() {
    let env = ScriptedEnv::new(Protocol::V2);
    for (row, hangs_up) in [("a forced close", false), ("a forced close, then a hang-up", true)] {
        env.app.expect_no_growth(row, || {
            let (mut main, mut callback) = env.log_in(DEADLINE);
            callback.send(&close_by_server(Protocol::V2));
            if !hangs_up {
                main.expect(&close_by_application(Protocol::V2));
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

/// Begins to watch a key. Returns the number of the request, whose response is pending.
fn begin_watch(env: &ScriptedEnv, main: &mut Channel, function: &str, key: &str) -> u32 {
    env.driver().begin(&format!("{function} {key}"));
    let header = main.take(24);
    assert_eq!(header[8], WATCH);
    main.expect(key.as_bytes());
    u32::from_le_bytes(header[4..8].try_into().expect("four bytes"))
}

fn end_watch(env: &ScriptedEnv, main: &mut Channel, function: &str, number: u32, version: u64) {
    main.send(&frame(OK, number, 0, 0, version, &[]));
    assert!(env.driver().returned(function) >= 0);
}

fn times_changed(env: &ScriptedEnv, key: &str) -> usize {
    let line = format!("changed {key}");
    env.driver().log_lines().iter().filter(|seen| **seen == line).count()
}

/// When the server responds that a key is not watched or does not exist, another application has
/// deleted it. Earlier events may still be in transit.
#[test]
fn watch_unknown_to_the_server_ends_in_the_library() {
    for (function, call) in [("register_callback", &CALLS[2]), ("kvs_watch", &CALLS[12])] {
        let env = ScriptedEnv::new(Protocol::V2);
        let (mut main, mut callback) = env.log_in_by(DEADLINE, call.has_handle());
        for key in ["k", "o"] {
            let number = begin_watch(&env, &mut main, function, key);
            end_watch(&env, &mut main, function, number, 1);
        }
        env.driver().begin(call.line);
        let number = call.receive(&mut main);
        main.send(&frame(NO_SUCH_KEY, number, 0, 0, 0, &[]));
        assert_eq!(env.driver().returned(call.line), -7);
        let late = [frame(CHANGED, 0, 1, 1, 2, b"k"), frame(CHANGED, 0, 1, 1, 3, b"o")].concat();
        callback.send(&late);
        env.driver().expect_change("o");
        assert_eq!(times_changed(&env, "k"), 0, "{}", call.line);
    }
}

/// The response to a watch contains the version of the key. Events up to this version may be in
/// transit for another watch.
#[test]
fn event_older_than_a_watch_is_not_reported() {
    let env = ScriptedEnv::new(Protocol::V2);
    let (mut main, mut callback) = env.log_in(DEADLINE);
    let function = "register_callback";
    let number = begin_watch(&env, &mut main, function, "o");
    end_watch(&env, &mut main, function, number, 1);
    let number = begin_watch(&env, &mut main, function, "k");
    let both = [frame(CHANGED, 0, 1, 1, 2, b"o"), frame(CHANGED, 0, 1, 1, 3, b"k")].concat();
    callback.send(&both);
    // The event that must wait for the response follows this one.
    env.driver().expect_change("o");
    end_watch(&env, &mut main, function, number, 3);
    let both = [frame(CHANGED, 0, 1, 1, 4, b"k"), frame(CHANGED, 0, 1, 1, 5, b"o")].concat();
    callback.send(&both);
    env.driver().expect_change("o");
    assert_eq!(times_changed(&env, "k"), 1);
    // A later event that arrives before the response is not lost.
    env.driver().begin("delete_value k");
    let number = CALLS[2].receive(&mut main);
    main.send(&CALLS[2].answer(number));
    assert_eq!(env.driver().returned("delete_value k"), 1);
    let number = begin_watch(&env, &mut main, function, "k");
    callback.send(&frame(CHANGED, 0, 1, 1, 8, b"k"));
    end_watch(&env, &mut main, function, number, 7);
    env.driver().expect_change("k");
    assert_eq!(times_changed(&env, "k"), 2);
    env.expect_alive_and_close("watches", (main, callback), false);
}

/// The codes in the tables of this module.
pub(crate) fn codes() -> impl Iterator<Item = i32> {
    let of_calls = CALLS.into_iter().flat_map(|call| [call.broken, call.malformed, -7, -18]);
    let of_refusals = REFUSALS.into_iter().flat_map(|(_, code, of_handle)| [code, of_handle]);
    let of_points = points().map(|point| [point.malformed, point.broken]);
    of_calls.chain(of_refusals).chain(of_points.into_iter().flatten())
}
