//! Stopping or killing an application at any step affects no other application.
//!
//! There are two kinds of applications: one without the library, halted after each step of either
//! protocol (integers byte by byte, frames in pieces), and one with the library, halted after each
//! of its system calls on a socket. Each step has a process of its own. All of them are stopped (or
//! dead) at the same time before one server, while applications of the same group and of another
//! one, and the administrator, work.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use kvs_proto::v2::request::{Request, WatchTarget};
use kvs_testkit::{
    ChannelRole, DEADLINE, Driver, Process, ProcessOutput, Program, Protocol, RawV2App, Step,
    StepResult, Stepper, TestEnv, application_paths, compile_c, compile_preload, on_both_protocols,
};
use nix::sys::signal::Signal;

/// A server with applications that are not halted: two in the group `g` of the halted ones, and one
/// in another group.
struct StopEnv {
    env: TestEnv,
    mate: Driver,
    subscriber: Driver,
    stranger: Driver,
    /// A v2 session, which reads versions.
    observer: RefCell<RawV2App>,
    /// The descriptors that the server has open for these applications.
    descriptors: usize,
}

/// The pairs of the other applications in `g`.
const PAIRS: usize = 2;

impl StopEnv {
    fn new() -> Self {
        // The server keeps the callback connection of a login that was killed for this time.
        Self::with_login_timeout("10")
    }

    /// A login timeout that no halted application reaches.
    fn without_login_timeout() -> Self {
        Self::with_login_timeout("3600")
    }

    fn with_login_timeout(seconds: &str) -> Self {
        let env =
            TestEnv::builder().args(["--login-timeout", seconds]).group("g").group("other").start();
        let (mate, subscriber) = (env.driver(), env.driver());
        let stranger = Driver::connected(&env.server, "other", env.secret_of("other"));
        // All applications that can watch `m`; only the subscriber, which is never halted, watches
        // `w`.
        mate.store("m", "0");
        mate.store("w", "0");
        assert_eq!(subscriber.call("register_callback w"), 1);
        let observer = RefCell::new(RawV2App::login(&env.server, "g", env.secret()));
        let descriptors = env.server.open_descriptors();
        Self { env, mate, subscriber, stranger, observer, descriptors }
    }

    /// Asserts that all other applications work, also those of the same group.
    fn others_work(&self) {
        self.elsewhere_works();
        self.works(&self.mate);
        self.mate.store("w", "1");
        self.subscriber.expect_change("w");
        // Every stopped subscriber gets a pending event for this put.
        self.mate.store("m", "1");
        assert_eq!(self.subscriber.get("m").as_deref(), Ok("1"));
    }

    /// Asserts that another group and the console work.
    fn elsewhere_works(&self) {
        self.works(&self.stranger);
        assert!(!self.env.server.status().is_empty());
        let secret = self.env.server.create_group("new");
        let guest = Driver::connected(&self.env.server, "new", &secret);
        self.works(&guest);
        self.env.server.delete_group("new");
        assert_eq!(guest.put("k", "v"), -2);
    }

    fn works(&self, app: &Driver) {
        app.store("own", "1");
        assert_eq!(app.call("register_callback own"), 1);
        app.store("own", "2");
        app.expect_change("own");
        assert_eq!(app.call("delete_value own"), 1);
        assert_eq!(app.get("own"), Err(-7));
    }

    /// Deletes the group of the halted applications, and asserts that the server does not wait
    /// until their timeout.
    fn delete_group(&self) {
        self.env.server.delete_group("g");
        let late = |line: &String| line.contains("have not closed yet");
        assert!(!self.env.server.log_lines().iter().any(late), "{}", self.env.server.report());
        assert_eq!(self.mate.put("m", "2"), -2);
        self.elsewhere_works();
        // A new group of the same name starts empty.
        self.env.server.create_group("g");
        assert_eq!(self.env.server.group_info("g").map(|info| info.pairs), Ok(0));
    }

    /// Asserts that the server has released the connections, watches and descriptors of killed
    /// applications. The status must list the processes `dead`.
    fn expect_gone(&self, halted: &[i32], dead: &[i32]) {
        let status = self.env.server.status_where("the dead are closed", |status| {
            let theirs = || status.iter().filter(|app| halted.contains(&app.pid));
            theirs().all(|app| app.status == "Closed")
                && dead.iter().all(|pid| theirs().any(|app| app.pid == *pid))
        });
        for app in status.iter().filter(|app| halted.contains(&app.pid)) {
            assert_ne!(app.closed_at, "-", "{app:?}");
            assert!(app.watched.is_empty(), "{app:?}");
        }
        self.env.server.expect_open_descriptors(self.descriptors);
    }

    fn pairs(&self) -> usize {
        self.env.server.group_info("g").expect("the group exists").pairs
    }
}

// Without the library.

/// Everything that an application does, with a key of its own.
struct Script {
    steps: Vec<Step>,
    /// The number of steps after which the login is complete.
    admitted: usize,
    /// The number of steps after which the value is stored.
    stored: usize,
    /// The number of steps after which the key is deleted.
    deleted: usize,
    /// The step before which another application changes `m`, which this one watches.
    change: usize,
    /// The step that closes the session.
    close: usize,
    protocol: Protocol,
}

impl Script {
    fn new(protocol: Protocol, secret: &str, key: &str) -> Self {
        match protocol {
            Protocol::V1 => Self::v1(secret, key),
            Protocol::V2 => Self::v2(secret, key),
        }
    }

    fn v2(secret: &str, key: &str) -> Self {
        let name = key.as_bytes();
        let mut steps = Step::v2_login("g", secret);
        let admitted = steps.len();
        steps.extend(Step::send_request(Request::Watch(WatchTarget::Key(b"m"))));
        steps.extend(Step::take_ok(b""));
        steps.extend(Step::send_request(Request::Put {
            key: name,
            value: b"value",
            expected: None,
        }));
        let stored = steps.len();
        steps.extend(Step::take_ok(b""));
        steps.extend(Step::send_request(Request::Get(name)));
        steps.extend(Step::take_ok(b"value"));
        let change = steps.len();
        steps.extend(Step::v2_change("m"));
        steps.extend(Step::send_request(Request::Delete { key: name, expected: None }));
        let deleted = steps.len();
        steps.extend(Step::take_ok(b""));
        let close = steps.len();
        steps.extend(Step::v2_close());
        Self { steps, admitted, stored, deleted, change, close, protocol: Protocol::V2 }
    }

    fn v1(secret: &str, key: &str) -> Self {
        let mut steps = Step::login("g", secret);
        let admitted = steps.len();
        steps.extend(Step::register("m"));
        steps.extend(Step::put(key, "value"));
        let stored = steps.len();
        steps.extend(Step::get(key, "value"));
        let change = steps.len();
        steps.extend(Step::change("m"));
        steps.extend(Step::call(2, key));
        let deleted = steps.len();
        steps.extend(Step::take_int(ChannelRole::Main, 1));
        let close = steps.len();
        steps.extend(Step::close());
        Self { steps, admitted, stored, deleted, change, close, protocol: Protocol::V1 }
    }
}

/// An application that has taken `taken` steps of its script.
struct Halted {
    app: Stepper,
    key: String,
    script: Script,
    taken: usize,
}

impl Halted {
    /// One application for each step, in the order of the steps.
    fn at_each_step(stop_env: &StopEnv, protocol: Protocol) -> Vec<Self> {
        let count = Script::new(protocol, stop_env.env.secret(), "key").steps.len();
        println!("without the library an application takes {count} steps: {protocol:?}");
        (0..=count).map(|n| Self::after(stop_env, protocol, n)).collect()
    }

    fn after(stop_env: &StopEnv, protocol: Protocol, count: usize) -> Self {
        let app = Stepper::start(&stop_env.env.server);
        let key = format!("k{count}");
        let script = Script::new(protocol, stop_env.env.secret(), &key);
        let mut halted = Self { app, key, script, taken: 0 };
        while halted.taken < count {
            let seen = halted.step(stop_env);
            assert_eq!(seen, StepResult::Expected, "step {} of {count}", halted.taken);
        }
        halted
    }

    /// Takes the next step.
    fn step(&mut self, stop_env: &StopEnv) -> StepResult {
        if self.taken == self.script.change {
            stop_env.mate.call("put_value m changed");
        }
        let seen = self.app.take(&self.script.steps[self.taken]);
        self.taken += 1;
        if self.taken == self.script.stored && seen == StepResult::Expected {
            // A legal application sends a value and the next code in one piece. This one does not,
            // so it waits until the server has read the value.
            self.await_stored(stop_env);
        }
        seen
    }

    fn await_stored(&self, stop_env: &StopEnv) {
        let end = Instant::now() + DEADLINE;
        loop {
            match stop_env.mate.get(&self.key).as_deref() {
                Ok("value") => return,
                Err(-7) => assert!(Instant::now() < end, "{} is not stored", self.key),
                // The group was deleted meanwhile.
                Err(-2) => return,
                other => panic!("{} is {other:?}", self.key),
            }
        }
    }

    /// Whether the application's pair exists.
    fn has_pair(&self) -> bool {
        (self.script.stored..self.script.deleted).contains(&self.taken)
    }

    fn expect_pair(&self, stop_env: &StopEnv) {
        let expected = if self.has_pair() { Ok("value") } else { Err(-7) };
        assert_eq!(stop_env.mate.get(&self.key).as_deref(), expected.as_deref(), "{}", self.key);
    }

    /// Continues the application up to the end of its script.
    fn goes_on(mut self, stop_env: &StopEnv) {
        self.app.signal(Signal::SIGCONT);
        let has_closed = self.taken > self.script.close;
        while self.taken < self.script.steps.len() {
            if self.taken == self.script.close && !has_closed {
                // No event was lost: the application receives the last change and reads it.
                stop_env.mate.store("m", "last");
                let steps = if self.script.protocol == Protocol::V2 {
                    self.take_changes_up_to_the_last(stop_env);
                    let mut steps = Step::send_request(Request::Get(b"m"));
                    steps.extend(Step::take_ok(b"last"));
                    steps
                } else {
                    let mut steps = Step::change("m");
                    steps.extend(Step::get("m", "last"));
                    steps
                };
                self.app.take_all(&steps);
            }
            let seen = self.step(stop_env);
            assert_eq!(
                seen,
                StepResult::Expected,
                "step {} of {}\n{}",
                self.taken,
                self.key,
                stop_env.env.server.report()
            );
        }
        self.ends();
    }

    /// In protocol v2 each change has an event of its own as long as the socket has room.
    fn take_changes_up_to_the_last(&self, stop_env: &StopEnv) {
        let (last, _) = stop_env.observer.borrow_mut().get("m").expect("it is stored");
        let mut version = 0;
        while version < last {
            let seen = self.app.take(&Step::Take(ChannelRole::Callback, vec![0; 25]));
            let StepResult::Other(bytes) = seen else { panic!("{seen:?} for a change") };
            assert_eq!((bytes[8], bytes[24]), (192, b'm'), "{bytes:?}");
            let received = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
            assert!(received > version, "{received} after {version}");
            version = received;
        }
        assert_eq!(version, last);
    }

    /// Asserts that the application detects the deletion of its group at its next step that
    /// receives something.
    fn finds_its_group_gone(mut self, stop_env: &StopEnv) {
        self.app.signal(Signal::SIGCONT);
        let has_closed = self.taken > self.script.close;
        let seen = loop {
            let Some(step) = self.script.steps.get(self.taken).cloned() else { break None };
            self.taken += 1;
            match self.app.take(&step) {
                StepResult::Expected => {}
                seen => break Some((step, seen)),
            }
        };
        match seen {
            // The end of the connection, a refusal, or the request to close.
            Some((_, StepResult::End)) => {}
            None if has_closed => {}
            Some((Step::Take(ChannelRole::Main, _), StepResult::Other(bytes))) if bytes == [0] => {}
            Some((Step::Take(ChannelRole::Callback, _), StepResult::Other(bytes)))
                if bytes == [0xff] => {}
            // A frame without a body.
            Some((Step::Take(ChannelRole::Callback, _), StepResult::Other(bytes)))
                if bytes == [0; 3] => {}
            seen => {
                panic!(
                    "step {} of {}: {seen:?}\n{}",
                    self.taken,
                    self.key,
                    stop_env.env.server.report()
                )
            }
        }
        self.ends();
    }

    fn ends(self) {
        self.app.end_input();
        assert_eq!(self.app.wait_exit().code(), Some(0), "{}", self.app.report());
    }
}

#[test]
fn v1_app_stopped_at_any_step_delays_no_other_and_continues() {
    all_stop_and_go_on(Protocol::V1);
}

#[test]
fn v2_app_stopped_at_any_step_delays_no_other_and_continues() {
    all_stop_and_go_on(Protocol::V2);
}

fn all_stop_and_go_on(protocol: Protocol) {
    let stop_env = StopEnv::without_login_timeout();
    let halted = Halted::at_each_step(&stop_env, protocol);
    for halted in &halted {
        halted.app.stop();
    }
    stop_env.others_work();
    for halted in &halted {
        halted.expect_pair(&stop_env);
    }
    stop_env.others_work();
    for halted in halted {
        halted.goes_on(&stop_env);
    }
    assert_eq!(stop_env.pairs(), PAIRS);
    stop_env.env.server.expect_open_descriptors(stop_env.descriptors);
    stop_env.delete_group();
}

#[test]
fn group_of_v1_apps_stopped_at_any_step_can_be_deleted() {
    all_stop_and_their_group_is_deleted(Protocol::V1);
}

#[test]
fn group_of_v2_apps_stopped_at_any_step_can_be_deleted() {
    all_stop_and_their_group_is_deleted(Protocol::V2);
}

fn all_stop_and_their_group_is_deleted(protocol: Protocol) {
    let stop_env = StopEnv::without_login_timeout();
    let halted = Halted::at_each_step(&stop_env, protocol);
    for halted in &halted {
        halted.app.stop();
    }
    stop_env.delete_group();
    for halted in halted {
        halted.finds_its_group_gone(&stop_env);
    }
    assert_eq!(stop_env.pairs(), 0);
    stop_env.elsewhere_works();
}

#[test]
fn v1_app_killed_at_any_step_leaves_only_stored_pairs() {
    all_are_killed(Protocol::V1);
}

#[test]
fn v2_app_killed_at_any_step_leaves_only_stored_pairs() {
    all_are_killed(Protocol::V2);
}

fn all_are_killed(protocol: Protocol) {
    let stop_env = StopEnv::new();
    let halted = Halted::at_each_step(&stop_env, protocol);
    for halted in &halted {
        halted.app.kill();
    }
    let pids: Vec<_> = halted.iter().map(|halted| halted.app.pid()).collect();
    let was_in = |halted: &&Halted| halted.taken >= halted.script.admitted;
    let dead: Vec<_> = halted.iter().filter(was_in).map(|halted| halted.app.pid()).collect();
    stop_env.expect_gone(&pids, &dead);
    for halted in &halted {
        halted.expect_pair(&stop_env);
    }
    let stored = halted.iter().filter(|halted| halted.has_pair()).count();
    assert_eq!(stop_env.pairs(), PAIRS + stored);
    stop_env.others_work();
    stop_env.delete_group();
}

// With the library.

/// More system calls than the tour makes.
const CALLS: usize = 90;

/// The output of a tour that succeeds, call by call.
const TOUR: [&str; 9] = [
    "establish 0",
    "put first 1",
    "get 1 first",
    "register 1",
    "put second 1",
    "await 1",
    "get 1 second",
    "delete 1",
    "close 1",
];

/// Starts one process for each system call of the tour, halted after that call by this signal. The
/// last processes make fewer calls and are not halted.
fn halted_tours(stop_env: &StopEnv, signal: Signal, protocol: Protocol) -> Vec<(String, Process)> {
    static BUILT: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let [tour, halt] =
        BUILT.get_or_init(|| [compile_c("tests/c/tour.c"), compile_preload("tests/c/halt.c")]);
    let start = |n: usize| {
        let key = format!("t{n}");
        let process = Program::new(tour)
            .args(["g", stop_env.env.secret(), &key])
            .served_by(&stop_env.env.server)
            .protocol(protocol)
            .env("KVS_TIMEOUT_MS", "3600000")
            .env("LD_PRELOAD", halt)
            .env("KVS_HALT_AT", n.to_string())
            .env("KVS_HALT_SIGNAL", (signal as i32).to_string())
            .spawn();
        (key, process)
    };
    (1..=CALLS).map(start).collect()
}

/// The calls that have begun and those that have returned, by the lines before and after each.
fn progress(finished: &ProcessOutput) -> HashMap<&str, usize> {
    let mut seen = HashMap::new();
    for line in &finished.stdout {
        *seen.entry(line.as_str()).or_default() += 1;
    }
    seen
}

fn remove_paths(pid: i32) {
    for path in application_paths(pid) {
        // The path exists only if the process was killed between `bind` and `connect`.
        let _ = std::fs::remove_file(path);
    }
}

/// Waits until every tour is stopped or has ended.
fn await_stops(tours: &[(String, Process)], protocol: Protocol) {
    let stopped = tours.iter().filter(|(_, tour)| tour.stops()).count();
    println!("the library makes {stopped} system calls on sockets");
    assert!(
        (min_system_calls(protocol)..CALLS).contains(&stopped),
        "{stopped} of {CALLS} were stopped"
    );
}

/// The library makes at least this many system calls on sockets. A v2 operation takes two.
fn min_system_calls(protocol: Protocol) -> usize {
    if protocol == Protocol::V1 { 40 } else { 30 }
}

on_both_protocols! {
    fn program_stopped_after_any_system_call_delays_no_other(protocol: Protocol) {
        let stop_env = StopEnv::without_login_timeout();
        let tours = halted_tours(&stop_env, Signal::SIGSTOP, protocol);
        await_stops(&tours, protocol);
        stop_env.others_work();
        for (key, tour) in &tours {
            tour.signal(Signal::SIGCONT);
            let ended = tour.finish();
            assert_eq!(ended.status.code(), Some(0), "{}", tour.report());
            let lines = ended.stdout.iter().map(String::as_str);
            let answers: Vec<_> = lines.filter(|line| code(line).is_some()).collect();
            assert_eq!(answers, TOUR, "{key}\n{}", stop_env.env.server.report());
        }
        assert_eq!(stop_env.pairs(), PAIRS);
        stop_env.env.server.expect_open_descriptors(stop_env.descriptors);
        stop_env.others_work();
    }
}

on_both_protocols! {
    fn stopped_program_learns_that_its_group_was_deleted(protocol: Protocol) {
        let stop_env = StopEnv::without_login_timeout();
        let tours = halted_tours(&stop_env, Signal::SIGSTOP, protocol);
        await_stops(&tours, protocol);
        stop_env.delete_group();
        for (key, tour) in &tours {
            tour.signal(Signal::SIGCONT);
            let ended = tour.finish();
            assert_eq!(ended.status.code(), Some(0), "{}", tour.report());
            // Each call has returned, with a response that had arrived already or with a documented
            // code. After the first such code no call succeeds.
            let codes: Vec<i32> = ended.stdout.iter().filter_map(|line| code(line)).collect();
            assert_eq!(codes.len(), TOUR.len(), "{key}\n{}", tour.report());
            assert!(codes.iter().all(|code| (-16..=1).contains(code)), "{key}: {codes:?}");
            let failed = codes.iter().skip_while(|code| **code >= 0);
            assert!(failed.clone().all(|code| *code < 0), "{key}: {codes:?}\n{}", tour.report());
        }
        assert_eq!(stop_env.pairs(), 0);
        stop_env.elsewhere_works();
    }
}

/// The code in `put first 1` and `get 1 first`; `None` for the line before a call.
fn code(line: &str) -> Option<i32> {
    line.split(' ').find_map(|word| word.parse().ok())
}

on_both_protocols! {
    fn program_killed_after_any_system_call_leaves_only_its_pairs(protocol: Protocol) {
        let stop_env = StopEnv::new();
        let tours = halted_tours(&stop_env, Signal::SIGKILL, protocol);
        let ended: Vec<_> = tours.iter().map(|(key, tour)| (key, tour, tour.finish())).collect();
        let killed = ended.iter().filter(|(_, _, ended)| ended.status.code().is_none()).count();
        let expected = min_system_calls(protocol)..CALLS;
        assert!(expected.contains(&killed), "{killed} of {CALLS} were killed");
        let pids: Vec<_> = ended.iter().map(|(_, tour, _)| tour.pid()).collect();
        let admitted =
            ended.iter().filter(|(_, _, output)| progress(output).contains_key("establish 0"));
        let dead: Vec<_> = admitted.map(|(_, tour, _)| tour.pid()).collect();
        assert!(dead.len() > min_system_calls(protocol) - 15, "{}", dead.len());
        stop_env.expect_gone(&pids, &dead);
        let mut stored = 0;
        for (key, tour, ended) in &ended {
            remove_paths(tour.pid());
            let progress = progress(ended);
            let seen = |line| progress.contains_key(line);
            let pair = stop_env.mate.get(key);
            // A call that was begun and did not return was executed completely or not at all.
            let mut possible = vec![Err(-7)];
            for (begun, returned, then) in [
                ("put first", "put first 1", Ok("first")),
                ("put second", "put second 1", Ok("second")),
                ("delete", "delete 1", Err(-7)),
            ] {
                if seen(returned) {
                    possible.clear();
                }
                if seen(begun) {
                    possible.push(then);
                }
            }
            assert!(
                possible.contains(&pair.as_ref().map(String::as_str).map_err(|code| *code)),
                "{key} is {pair:?}, not one of {possible:?}\n{}",
                tour.report()
            );
            stored += usize::from(pair.is_ok());
        }
        assert_eq!(stop_env.pairs(), PAIRS + stored);
        stop_env.others_work();
        stop_env.delete_group();
    }
}
