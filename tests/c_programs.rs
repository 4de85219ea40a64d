//! C and C++ programs, compiled here, at work on the real servers.
//!
//! The programs in `tests/c` check what they are told and end with exit code 0 only when all of it was
//! right; what they check is in the essay at the top of each. Here they are built in every way in which
//! the library can be used, started, and watched from the outside: exit code, output, the threads of the
//! server. The examples of `c-examples` are built with their own Makefile, in a copy.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvs_testkit::{
    AT_ONCE, Channel, Console, Driver, GROUP, Process, ProcessOutput, Program, Protocol, STRICT,
    ScriptedServer, Sockets, TestEnv, application_paths, are_installed, compile_c, lib_dir,
    number_from_env, on_both_protocols, private_dir, project_dir, shared_library, static_library,
    tool,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// For whole programs that do tens of thousands of operations, on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// Runs a program to its end, which must be good. The library says nothing by itself.
fn run(program: Program) -> Vec<String> {
    let process = program.spawn();
    process.wait_exit_within(LONG);
    succeeded(&process)
}

fn succeeded(process: &Process) -> Vec<String> {
    let ProcessOutput { status, stdout, stderr } = process.finish();
    assert!(status.success() && stderr.is_empty(), "{}", process.report());
    stdout
}

/// Only one of the tests that want both processors at a time.
fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Figures are for whoever runs the tests with `--nocapture`.
fn measured(what: &str, lines: &[String]) {
    println!("{what}: {}", lines.join("; "));
}

/// Compiles a source of `tests/c` into `dir`.
fn compile(
    dir: &TempDir,
    compiler: &str,
    standard: &str,
    source: &str,
    libraries: &[OsString],
) -> PathBuf {
    let program = dir.path().join(source).with_extension("");
    let source = format!("tests/c/{source}");
    kvs_testkit::compile(compiler, standard, &source, &program, libraries);
    program
}

// --- the original's habits, and many at work ------------------------------------------------------

#[test]
fn original_client_is_served_byte_for_byte() {
    let _alone = alone();
    let env = TestEnv::start();
    let dir = private_dir();
    let habits = compile(&dir, "gcc", "c99", "habits.c", &[]);
    let lines = run(Program::new(habits)
        .arg(env.server.socket())
        .arg(env.server.callback_socket())
        .args([GROUP, env.secret(), "20000"]));
    assert!(lines[0].starts_with("20000 rounds, 200 changes, every value right"), "{lines:?}");
    measured("original habits", &lines);
}

on_both_protocols! {
    fn eight_processes_read_their_writes_and_see_last_changes(protocol: Protocol) {
        let _alone = alone();
        let env = TestEnv::with_protocol(protocol);
        let count: u32 = number_from_env("KVS_TEST_ROUNDS").unwrap_or(3000);
        let rounds = compile_c("tests/c/rounds.c");
        let program = env.program(rounds).args(["-t", "4", GROUP, env.secret(), "8"]);
        let lines = run(program.arg(count.to_string()));
        assert!(lines[0].starts_with(&format!("8 processes, {count} rounds each")), "{lines:?}");
        measured("eight processes", &lines);
    }
}

on_both_protocols! {
    fn fast_subscriber_gets_every_change(protocol: Protocol) {
        let _alone = alone();
        let env = TestEnv::with_protocol(protocol);
        let rounds = compile_c("tests/c/rounds.c");
        let program = env.program(rounds).args(["-l", GROUP, env.secret(), "8", "1000"]);
        let lines = run(program);
        assert!(lines[0].starts_with("8 processes, 1000 rounds each, 8000 callbacks"), "{lines:?}");
        measured("eight processes, change by change", &lines);
    }
}

on_both_protocols! {
    fn thousand_applications_need_no_more_threads(protocol: Protocol) {
        const COUNT: usize = 1000;
        let _alone = alone();
        let env = TestEnv::with_protocol(protocol);
        let many = compile_c("tests/c/many.c");
        let threads_before = env.server.threads();

        let many = env.member(many).arg(COUNT.to_string()).spawn();
        many.expect_line_where("`connected`", |line| line == "connected");
        let threads_during = env.server.threads();
        let status = env.server.status();
        assert_eq!(status.len(), COUNT);
        assert!(status.iter().all(|app| app.status == "Connected"), "{status:#?}");
        let pids: BTreeSet<i32> = status.iter().map(|app| app.pid).collect();
        assert_eq!(pids.len(), COUNT, "every application has its own pid");

        many.send("");
        many.wait_exit_within(LONG);
        let lines = succeeded(&many);
        let threads_after = env.server.threads();
        env.server.status_where("all applications closed", |apps| {
            apps.len() == COUNT && apps.iter().all(|app| app.status == "Closed")
        });
        assert_eq!([threads_during, threads_after], [threads_before; 2], "threads during and after");
        assert_eq!(env.server.group_info(GROUP).unwrap().pairs, COUNT);
        measured("a thousand applications", &lines[1..]);
    }
}

// --- the promises of the header -------------------------------------------------------------------

on_both_protocols! {
    fn codes_have_their_real_causes(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let codes = compile_c("tests/c/codes.c");
        run(env.member(codes).arg(env!("CARGO_PKG_VERSION")));
    }
}

const OTHER_GROUP: &str = "other";

/// Runs `handles.c` to its end. It asks for what it cannot do itself.
fn handles(env: &TestEnv, program: impl FnOnce(&str) -> Program) {
    let other = env.server.create_group(OTHER_GROUP);
    let process = program(&other).spawn();
    process.expect_line_within(LONG, "`delete`", |line| line == "delete");
    env.server.delete_group(OTHER_GROUP);
    process.expect_line("kill");
    env.server.kill();
    process.wait_exit_within(LONG);
    let lines = succeeded(&process);
    assert_eq!(lines.last().map(String::as_str), Some("every handle is right"));
    measured("handles", &lines);
}

on_both_protocols! {
    fn handles_do_all_that_the_header_says(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let program = compile_c("tests/c/handles.c");
        handles(&env, |other| env.member(program).args([OTHER_GROUP, other]));
    }
}

on_both_protocols! {
    fn callbacks_threads_fork_and_signals_work_as_documented(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        run(env.member(compile_c("tests/c/api.c")));
    }
}

on_both_protocols! {
    fn callbacks_may_call_the_library_and_end_their_thread(protocol: Protocol) {
        let _alone = alone();
        let env = TestEnv::with_protocol(protocol);
        let lines = run(env.member(compile_c("tests/c/callbacks.c")));
        assert!(lines[0].starts_with("1000 ended threads, "), "{lines:?}");
        measured("callbacks", &lines);
    }
}

on_both_protocols! {
    fn unloading_the_library_while_connected_is_safe(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let dir = private_dir();
        let program = compile(&dir, "gcc", "c99", "unload.c", &[]);
        let process = env
            .program(program)
            .arg(lib_dir().join("libkvs.so"))
            .args([GROUP, env.secret()])
            .spawn();
        process.expect_line("unloaded");
        let other = Driver::connected(&env.server, GROUP, env.secret());
        other.store("k", "after");
        process.wait_exit();
        assert_eq!(succeeded(&process), ["unloaded", "called back"]);
    }
}

on_both_protocols! {
    fn valgrind_finds_no_errors(protocol: Protocol) {
        if !are_installed(&["valgrind"], "valgrind_finds_no_errors") {
            return;
        }
        let env = TestEnv::with_protocol(protocol);
        let valgrind = |source: &str, options: &[&str]| {
            env
                .program("valgrind")
                .args(["-q", "--leak-check=full", "--show-leak-kinds=definite"])
                .args(["--errors-for-leak-kinds=definite", "--error-exitcode=99"])
                .arg(compile_c(&format!("tests/c/{source}.c")))
                .args(options)
                .args([GROUP, env.secret()])
        };
        run(valgrind("codes", &[]).arg(env!("CARGO_PKG_VERSION")));
        run(valgrind("rounds", &["-t", "4"]).args(["2", "100"]));
        // The others meet no more of what is particular to the session, and are slow in this way.
        if protocol == Protocol::V2 {
            run(valgrind("api", &[]));
            run(valgrind("old_style", &[]));
            handles(&env, |other| valgrind("handles", &[]).args([OTHER_GROUP, other]));
        }
    }
}

/// Both headers, each alone, without a warning.
fn check_headers(compiler: &str, standard: &str, language: &str) {
    for header in ["kvs.h", "KVS-lib.h"] {
        tool(
            Command::new(compiler)
                .arg(format!("-std={standard}"))
                .args(STRICT)
                .args(["-fsyntax-only", "-x", language])
                .arg(project_dir().join("include").join(header)),
        );
    }
}

on_both_protocols! {
    fn both_headers_compile_in_old_and_new_c(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        for standard in ["c89", "gnu89", "c99", "c17"] {
            check_headers("gcc", standard, "c");
        }
        run(env.member(compile_c("tests/c/old_style.c")));
    }
}

on_both_protocols! {
    fn both_headers_compile_in_cpp17(protocol: Protocol) {
        if !are_installed(&["g++"], "both_headers_compile_in_cpp17") {
            return;
        }
        let env = TestEnv::with_protocol(protocol);
        let dir = private_dir();
        check_headers("g++", "c++17", "c++");
        run(env.member(compile(&dir, "g++", "c++17", "cplusplus.cpp", &shared_library())));
    }
}

on_both_protocols! {
    fn statically_linked_programs_work(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let dir = private_dir();
        let codes = compile(&dir, "gcc", "c99", "codes.c", &static_library());
        run(env.member(codes).arg(env!("CARGO_PKG_VERSION")));
        run(env.member(compile(&dir, "gcc", "c99", "api.c", &static_library())));
    }
}

#[test]
fn library_exports_exactly_the_functions_of_its_header() {
    let symbols =
        tool(Command::new("nm").args(["-D", "--defined-only"]).arg(lib_dir().join("libkvs.so")));
    let names: BTreeSet<&str> =
        symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let promised = [
        "close_connection",
        "delete_value",
        "establish_connection",
        "get_value",
        "kvs_cas",
        "kvs_close",
        "kvs_delete",
        "kvs_get",
        "kvs_keys",
        "kvs_on_disconnect",
        "kvs_open",
        "kvs_protocol",
        "kvs_put",
        "kvs_put_many",
        "kvs_strerror",
        "kvs_unwatch",
        "kvs_unwatch_prefix",
        "kvs_version",
        "kvs_watch",
        "kvs_watch_prefix",
        "put_value",
        "register_callback",
    ];
    assert_eq!(names, BTreeSet::from(promised));
}

on_both_protocols! {
    fn debug_line_is_printed_only_on_request(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let failures = [
            // The first before anything else, when no connection was ever asked for.
            ("put_value k v", -2),
            ("establish_connection unknown abcde", -7),
            ("establish_connection g wrong", -9),
            ("get_value k", -2),
        ];
        // The question whether it is connected, which is no failure.
        let question = ("put_value", -2);
        for debug in ["1", "0", ""] {
            let driver =
                Driver::spawn(env.driver_program().env("KVS_DEBUG", debug));
            for (call, code) in failures.into_iter().chain([question]) {
                assert_eq!(driver.call(call), code, "{call}");
            }
            assert_eq!(driver.establish(GROUP, env.secret()), 0);
            assert_eq!(driver.call(question.0), -15);
            assert_eq!(driver.call("close_connection"), 1);
            driver.end_input();
            let lines = driver.finish().stderr;
            if debug != "1" {
                assert_eq!(lines, [""; 0], "KVS_DEBUG={debug}");
                continue;
            }
            assert_eq!(lines.len(), failures.len(), "{lines:?}");
            for (line, (call, code)) in lines.iter().zip(failures) {
                let function = call.split(' ').next().unwrap_or_default();
                assert!(line.starts_with(&format!("kvs: {function}: {code}: ")), "{line}");
            }
        }
    }
}

on_both_protocols! {
    fn debug_line_names_the_cause(protocol: Protocol) {
        let env = TestEnv::builder().args(["--max-pairs-per-user", "1"]).group(GROUP).start();
        let driver = Driver::spawn(
            Driver::program().served_by(&env.server).protocol(protocol).env("KVS_DEBUG", "1"),
        );
        let fails = |call: &str, code: i32, why: &str| {
            assert_eq!(driver.call(call), code, "{call}");
            let function = call.split(' ').next().unwrap_or_default();
            let line = driver.expect_log(function, |line| {
                line.starts_with(&format!("kvs: {function}: {code}: "))
            });
            assert!(line.contains(why), "{line}");
        };
        let original = protocol == Protocol::V1;
        assert_eq!(driver.call(&format!("kvs_open {GROUP} {}", env.secret())), 0);
        assert_eq!(driver.call("kvs_put k v"), 0);
        fails("kvs_unwatch k", -7, "not watched");
        fails("kvs_get missing", -7, "no such key");
        if original {
            for call in ["kvs_keys k", "kvs_cas k v", "kvs_watch_prefix k"] {
                fails(call, -17, "KVS_PROTOCOL");
            }
        } else {
            fails("kvs_unwatch_prefix k", -7, "not watched");
            fails("kvs_put other v", -19, "the user is at its limit");
        }
        assert_eq!(driver.establish(GROUP, env.secret()), 0);
        fails("put_value other v", -5, "limit");

        drop(env.auth);
        fails("establish_connection g abcde", -8, "authentication server");
    }
}

on_both_protocols! {
    fn fork_during_library_calls_never_blocks_the_child(protocol: Protocol) {
        let _alone = alone();
        let env = TestEnv::with_protocol(protocol);
        // With a sanitizer each child takes many times as long.
        let children = if std::env::var_os("KVS_TEST_PROGRAMS").is_some() { "200" } else { "2000" };
        let lines = run(env.member(compile_c("tests/c/forks.c")).arg(children));
        assert!(lines[0].starts_with(&format!("{children} forks during ")), "{lines:?}");
        measured("forks", &lines);
    }
}

// --- servers that break off -----------------------------------------------------------------------

const LOGIN: &str = "establish_connection g abcde";

/// A program that logs in while the test plays the server.
struct Client {
    server: ScriptedServer,
    driver: Driver,
    /// How many it has open while it is not connected.
    descriptors: i32,
}

impl Client {
    fn start() -> Self {
        Self::with(|program| program)
    }

    /// One of which the program is changed before.
    fn with(change: impl FnOnce(Program) -> Program) -> Self {
        let server = ScriptedServer::start();
        let driver =
            Driver::spawn(change(Driver::program().served_by(&server).protocol(Protocol::V1)));
        let descriptors = driver.call("descriptors");
        Self { server, driver, descriptors }
    }

    fn log_in(&self) -> (Channel, Channel) {
        self.driver.begin(LOGIN);
        let channels = self.server.login("g", "abcde");
        assert_eq!(self.driver.returned(LOGIN), 0);
        channels
    }

    /// It has no connection any more and nothing left of it, and the next login works.
    fn expect_closed(&self, what: &str) {
        assert_eq!(self.driver.put("k", "v"), -2, "{what}");
        assert_eq!(self.driver.call("descriptors"), self.descriptors, "{what}");
        let (mut main, _callback) = self.log_in();
        assert_eq!(self.driver.call("close_connection"), 1, "{what}");
        main.expect_int(4);
        self.driver.end_input();
        succeeded(&self.driver);
    }
}

/// A login that the server breaks off: it fails with `code`, and the next one works.
fn broken_login(code: i32, break_off: impl FnOnce(&ScriptedServer)) {
    let client = Client::start();
    client.driver.begin(LOGIN);
    break_off(&client.server);
    assert_eq!(client.driver.returned(LOGIN), code);
    client.expect_closed(&format!("login, code {code}"));
}

/// A call that the server breaks off: it fails with `code`, the connection is closed, and the next
/// login works.
fn broken_call(call: &str, code: i32, break_off: impl FnOnce(Channel) -> Option<Channel>) {
    let client = Client::start();
    let (main, _callback) = client.log_in();
    let kept_open = if code == -3 {
        // The call begins when the server has broken off.
        let kept_open = break_off(main);
        client.driver.begin(call);
        kept_open
    } else {
        client.driver.begin(call);
        break_off(main)
    };
    assert_eq!(client.driver.returned(call), code, "{call}");
    client.expect_closed(&format!("{call}, code {code}"));
    drop(kept_open);
}

#[test]
fn aborted_login_fails_with_its_code_and_the_next_works() {
    broken_login(-13, |server| drop(server.accept_main()));
    broken_login(-14, |server| server.accept_main().send_int(0));
    broken_login(-8, |server| {
        let mut main = server.accept_main();
        main.send_int(1);
        main.expect(b"g");
    });
    let up_to_callback = |server: &ScriptedServer| server.accept_login("g", "abcde");
    broken_login(-13, |server| drop(up_to_callback(server).1));
    broken_login(-14, |server| up_to_callback(server).1.send_int(7));
    broken_login(-8, |server| {
        let (main, mut callback) = up_to_callback(server);
        callback.send_int(1);
        drop(main);
    });
}

#[test]
fn aborted_call_fails_with_its_code_without_sigpipe() {
    broken_call("put_value k v", -3, |_| None);
    broken_call("get_value k", -4, |mut main| {
        main.expect_int(1);
        None
    });
    broken_call("put_value k v", -5, |mut main| {
        main.expect_int(0);
        main.send_int(2);
        Some(main)
    });
    broken_call("put_value k v", -6, |mut main| {
        main.expect_int(0);
        // From now on, sending to it fails; only then may the program go on.
        main.stream().shutdown(Shutdown::Read).expect("the socket is connected");
        main.send_int(1);
        Some(main)
    });
    for (call, function) in [("delete_value k", 2), ("register_callback k", 3)] {
        broken_call(call, -8, |mut main| {
            main.expect_int(function);
            main.send_int(1);
            main.expect(b"k");
            None
        });
    }
    broken_call("get_value k", -10, |mut main| {
        main.expect_int(1);
        main.send_int(1);
        main.expect(b"k");
        main.send_int(5);
        main.send(b"abc");
        None
    });
}

#[test]
fn silent_server_costs_one_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let client = Client::with(|program| program.env("KVS_TIMEOUT_MS", "1000"));
    let _channels = client.log_in();
    let begin = Instant::now();
    assert_eq!(client.driver.call("get_value k"), -4);
    let waited = begin.elapsed();
    assert!(waited >= TIMEOUT, "{waited:?}");
    assert!(waited < TIMEOUT + AT_ONCE, "{waited:?}");
    client.expect_closed("after the time-out");
}

#[test]
fn concurrent_logins_at_a_silent_server_cost_one_timeout() {
    let server = ScriptedServer::start();
    let lines = run(Program::new(compile_c("tests/c/silence.c"))
        .served_by(&server)
        .env("KVS_TIMEOUT_MS", "1000")
        .arg("1500"));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "-13", "the server did not greet");
    assert!(
        ["-13", "-15"].contains(&lines[1].as_str()),
        "not greeted, or never its turn: {lines:?}"
    );
}

#[test]
fn broken_callback_channel_raises_no_sigpipe() {
    let client = Client::start();
    let (mut main, mut callback) = client.log_in();
    // The program's answer to this flag is sent to a socket that nobody reads any more.
    callback.stream().shutdown(Shutdown::Read).expect("the socket is connected");
    callback.send_int(1);
    callback.expect_end();
    drop(callback);
    // The library gives the connection up.
    main.expect_end();
    assert_eq!(client.driver.put("k", "v"), -3);
    client.expect_closed("after the callback channel broke");
}

// --- the examples ---------------------------------------------------------------------------------

/// A copy of `c-examples`, beside what its Makefile expects there; built.
struct Examples {
    dir: TempDir,
}

impl Examples {
    fn build() -> Self {
        let dir = private_dir();
        let copy = dir.path().join("c-examples");
        let build = || {
            fs::create_dir(&copy)?;
            fs::create_dir(dir.path().join("target"))?;
            symlink(project_dir().join("include"), dir.path().join("include"))?;
            symlink(lib_dir(), dir.path().join("target/release"))?;
            for file in fs::read_dir(project_dir().join("c-examples"))? {
                let path = file?.path();
                let name = path.file_name().unwrap_or_default();
                let extension = path.extension().unwrap_or_default();
                if name == "Makefile" || extension == "c" || extension == "sh" {
                    fs::copy(&path, copy.join(name))?;
                }
            }
            std::io::Result::Ok(())
        };
        build().unwrap_or_else(|error| panic!("copying the examples: {error}"));
        tool(Command::new("make").arg("-C").arg(&copy));
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("c-examples").join(name)
    }
}

on_both_protocols! {
    fn small_examples_work_as_documented(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let examples = Examples::build();

        assert_eq!(
            run(env.member(examples.path("put_get"))),
            ["example = hello", "example = good morning", "example: no such key"]
        );
        assert_eq!(
            run(env.member(examples.path("threads"))),
            ["4 threads, 250 rounds each: every value was right"]
        );
        let lines = run(env.member(examples.path("processes")));
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (n, line) in lines.iter().enumerate() {
            let pid = line.strip_prefix(&format!("process-{n} = "));
            assert!(pid.is_some_and(|pid| pid.parse::<i32>().is_ok()), "{lines:?}");
        }
    }
}

on_both_protocols! {
    fn handles_example_copies_between_groups(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let examples = Examples::build();
        let other = env.server.create_group(OTHER_GROUP);
        let copy = || {
            env.member(examples.path("handles")).args([OTHER_GROUP, &other, "a:"]).spawn().finish()
        };
        let driver = Driver::spawn(env.driver_program());
        assert_eq!(driver.establish(GROUP, env.secret()), 0);
        for key in ["a:1", "a:2", "a:3", "b:1"] {
            driver.store(key, "v");
        }
        let finished = copy();
        if protocol == Protocol::V1 {
            assert_eq!(finished.status.code(), Some(1), "{finished:?}");
            let text = driver.strerror(-17);
            assert_eq!(finished.stderr, [format!("handles: kvs_keys: {text}")]);
            return;
        }
        assert_eq!(finished.stdout, ["3 copied, 0 were there already"], "{finished:?}");
        assert_eq!(env.server.group_info(OTHER_GROUP).unwrap().pairs, 3);
        driver.store("a:4", "v");
        assert_eq!(copy().stdout, ["1 copied, 3 were there already"]);
    }
}

on_both_protocols! {
    fn counter_example_loses_no_update(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let examples = Examples::build();
        let counter = |count: &str| env.member(examples.path("counter")).args(["visits", count]);
        if protocol == Protocol::V1 {
            let finished = counter("1").spawn().finish();
            assert_eq!(finished.status.code(), Some(1), "{finished:?}");
            assert!(finished.stderr[0].starts_with("counter: kvs_watch_prefix: "), "{finished:?}");
            return;
        }
        let process = counter("2").spawn();
        process.wait_exit();
        let pid = process.pid();
        let told = ["visits = 2", "last:counter = visits", &format!("last:pid = {pid}")];
        assert_eq!(succeeded(&process), told);

        let together: Vec<_> = (0..4).map(|_| counter("100").spawn()).collect();
        for process in &together {
            process.wait_exit();
            succeeded(process);
        }
        let lines = run(counter("1"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        let driver = Driver::spawn(env.driver_program());
        assert_eq!(driver.establish(GROUP, env.secret()), 0);
        assert_eq!(driver.get("visits").as_deref(), Ok("403"));
    }
}

#[test]
fn examples_report_errors() {
    let env = TestEnv::start();
    let examples = Examples::build();
    for name in ["put_get", "watch", "threads", "processes", "handles", "counter", "meminfo"] {
        let arguments = [GROUP, "wrong", "key", "another"];
        let (count, function) = match name {
            "watch" => (3, "establish_connection"),
            "handles" => (4, "kvs_open"),
            "counter" => (3, "kvs_open"),
            _ => (2, "establish_connection"),
        };
        let program = env.program(examples.path(name)).args(&arguments[..count]);
        let finished = program.spawn().finish();
        assert_eq!(finished.status.code(), Some(1), "{name}: {finished:?}");
        let [line] = &finished.stderr[..] else { panic!("{name}: {finished:?}") };
        assert!(line.starts_with(&format!("{name}: {function}: ")), "{line}");

        let finished = env.program(examples.path(name)).spawn().finish();
        assert_eq!(finished.status.code(), Some(2), "{name}: {finished:?}");
        assert!(finished.stderr[0].starts_with("usage: "), "{name}: {finished:?}");
    }
    let missing = env.member(examples.path("watch")).arg("missing").spawn().finish();
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert_eq!(missing.stderr, ["watch: missing: no such key: put it before you watch it"]);
}

on_both_protocols! {
    fn watch_example_prints_published_changes(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let examples = Examples::build();
        let meminfo = |interval: &str, rounds: &str| {
            env.program(examples.path("meminfo")).args([
                "-i",
                interval,
                "-n",
                rounds,
                GROUP,
                env.secret(),
            ])
        };
        let watch = |count: Option<&str>, keys: &[&str]| {
            let mut program = env.program(examples.path("watch"));
            if let Some(count) = count {
                program = program.args(["-n", count]);
            }
            let process = program.args([GROUP, env.secret()]).args(keys).spawn();
            process.expect_line_where("`watching …`", |line| line.starts_with("watching "));
            process
        };

        let lines = run(meminfo("0", "2"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        let lines_of_file = fs::read_to_string("/proc/meminfo").unwrap().lines().count();
        let pairs = lines_of_file + 6;
        assert!(lines[0].starts_with(&format!("round 1: {pairs} pairs in ")), "{lines:?}");
        assert_eq!(env.server.group_info(GROUP).unwrap().pairs, pairs);

        let counting = watch(Some("4"), &["MemTotal"]);
        let interrupted = watch(None, &["load1", "tasks"]);
        let until_the_end = watch(None, &["lastpid"]);
        let publisher = meminfo("20", "0").spawn();

        counting.wait_exit();
        let seen = succeeded(&counting);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let total = meminfo.lines().next().and_then(|line| line.split_once(':')).unwrap().1.trim();
        let change = format!("MemTotal = {total}");
        assert_eq!(seen, ["watching 1 key", &change, &change, &change, &change]);

        for key in ["load1 = ", "tasks = "] {
            interrupted.expect_line_where(key, |line| line.starts_with(key));
        }
        interrupted.signal(Signal::SIGINT);
        interrupted.wait_exit();
        let seen = succeeded(&interrupted);
        assert_eq!(seen[0], "watching 2 keys");
        assert!(!seen.iter().any(|line| line.contains("deleted")), "{seen:?}");

        until_the_end.expect_line_where("lastpid = ", |line| line.starts_with("lastpid = "));
        env.server.delete_group(GROUP);
        for process in [&until_the_end, &publisher] {
            process.wait_exit();
            let seen = succeeded(process);
            assert_eq!(seen.last().unwrap(), "the group was deleted or the server closed");
        }
    }
}

/// No process is left that was started for something in this directory.
fn assert_no_process_mentions(dir: &Path) {
    let dir = dir.to_str().expect("temporary directories have plain names");
    for entry in fs::read_dir("/proc").expect("this is Linux").flatten() {
        let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        assert!(!command.contains(dir), "still running: {command}");
    }
}

fn assert_empty(dir: &Path) {
    let entries = fs::read_dir(dir).expect("the directory is the test's own");
    let left: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn demo(examples: &Examples, private: &TempDir) -> Program {
    Program::new(examples.path("demo.sh")).env("TMPDIR", private.path()).console(Console::NoInput)
}

#[test]
fn demo_shows_everything_and_cleans_up() {
    let examples = Examples::build();
    let private = private_dir();
    let begin = Instant::now();
    let demo = demo(&examples, &private).spawn();
    demo.wait_exit();
    let seconds = begin.elapsed().as_secs_f64();
    let lines = succeeded(&demo);
    assert!(seconds < 15.0, "{seconds} s");
    for part in [
        "AuthServer  | listening on 127.0.0.1:",
        "LocalServer | Port Number: ",
        "LocalServer | Group created with secret ",
        "meminfo     | round 8: ",
        "watch       | watching 3 keys",
        "watch       | MemFree = ",
        "watch       | load1 = ",
        "LocalServer | Status: Connected",
        "LocalServer | Status: Closed",
        "LocalServer | Number of key-value pairs: ",
        "LocalServer | Group deleted!",
        "watch       | the group was deleted or the server closed",
        "LocalServer | Exiting Local Server...",
        "AuthServer  | Exiting Authentification Server...",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(part)), "no {part:?}\n{}", demo.report());
    }
    assert_empty(private.path());
    assert_no_process_mentions(private.path());
    measured("demonstration", &[format!("{seconds:.1} s")]);
}

#[test]
fn failing_demo_reports_and_cleans_up() {
    let examples = Examples::build();
    let private = private_dir();
    let script = "#!/bin/sh\necho broken on purpose >&2\nexit 3\n";
    // Not written into the program itself: the copy keeps its execute permission.
    fs::remove_file(examples.path("meminfo")).unwrap();
    fs::copy(examples.path("demo.sh"), examples.path("meminfo")).unwrap();
    fs::write(examples.path("meminfo"), script).unwrap();

    let finished = demo(&examples, &private).spawn().finish();
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stdout.iter().any(|line| line == "meminfo     | broken on purpose"));
    assert!(finished.stderr.iter().any(|line| line == "demo: meminfo failed"), "{finished:?}");
    assert_eq!(finished.stderr.last().unwrap(), "demo: failed");
    assert_empty(private.path());
    assert_no_process_mentions(private.path());
}

#[test]
fn interrupted_demo_cleans_up() {
    let examples = Examples::build();
    let private = private_dir();
    let demo = demo(&examples, &private).spawn();
    demo.expect_line("watch       | watching 3 keys");
    demo.signal(Signal::SIGTERM);
    // It waits for the publisher, which has some rounds to go.
    let finished = demo.finish();
    assert_eq!(finished.status.code(), Some(143), "{finished:?}");
    assert_empty(private.path());
    assert_no_process_mentions(private.path());
}

on_both_protocols! {
    fn applications_leave_no_socket_path_behind(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let driver = Driver::spawn(env.driver_program());
        assert_eq!(driver.establish(GROUP, env.secret()), 0);
        for path in application_paths(driver.pid()) {
            assert!(!path.exists(), "{} while connected", path.display());
        }
        assert_eq!(driver.call("close_connection"), 1);
        for path in application_paths(driver.pid()) {
            assert!(!path.exists(), "{} afterwards", path.display());
        }
        env.server.quit();
        assert!(!env.server.socket().exists() && !env.server.callback_socket().exists());
        assert!(env.auth.exit_status().is_none());
    }
}
