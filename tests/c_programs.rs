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
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvs_tests::{
    AuthServer, Channel, Console, Finished, LocalServer, Process, Program, ScriptedServer,
    application_paths, compile_c, lib_dir, project_dir,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// For whole programs that do tens of thousands of operations, on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// What a C program that contains the library links besides.
const STATIC_LIBRARIES: [&str; 4] = ["-lpthread", "-ldl", "-lm", "-lrt"];

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Both servers, and a group.
struct World {
    local: LocalServer,
    auth: AuthServer,
    secret: String,
}

const GROUP: &str = "g";

impl World {
    fn start() -> Self {
        let auth = AuthServer::start();
        let local = LocalServer::start(&auth);
        let secret = local.create_group(GROUP);
        Self { local, auth, secret }
    }

    /// A program for these servers.
    fn program(&self, path: impl AsRef<Path>) -> Program {
        program(path)
            .env("KVS_SOCKET", self.local.socket())
            .env("KVS_CALLBACK_SOCKET", self.local.callback_socket())
    }

    /// One whose first arguments are the group and its secret.
    fn member(&self, path: impl AsRef<Path>) -> Program {
        self.program(path).args([GROUP, &self.secret])
    }
}

/// A program without the library path that cargo gives to tests: it must find the library without.
fn program(path: impl AsRef<Path>) -> Program {
    Program::new("env").args(["-u", "LD_LIBRARY_PATH"]).arg(path.as_ref())
}

/// Runs a program to its end, which must be good. The library says nothing by itself.
fn run(program: Program) -> Vec<String> {
    let process = program.spawn();
    process.wait_exit_within(LONG);
    succeeded(&process)
}

fn succeeded(process: &Process) -> Vec<String> {
    let Finished { status, stdout, stderr } = process.finish();
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

/// Visible although the tests' output is captured.
fn skipped(what: &str, package: &str) {
    let line = format!("skipped: {what} (install the Debian package {package})\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Runs a tool to its end, which must be good; what it printed.
fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix("kvs-c-").tempdir().expect("a temporary directory can be made")
}

/// Compiles a source of `tests/c` into `dir`, as strictly as can be; `more` comes after it.
fn compile(
    dir: &TempDir,
    compiler: &str,
    standard: &str,
    source: &str,
    more: impl IntoIterator<Item = impl Into<OsString>>,
) -> PathBuf {
    let source = project_dir().join("tests/c").join(source);
    let program = dir.path().join(source.file_stem().expect("the source is a file"));
    let mut command = Command::new(compiler);
    command
        .arg(format!("-std={standard}"))
        .args(["-O1", "-g", "-pthread"])
        .args(STRICT)
        .arg("-I")
        .arg(project_dir().join("include"))
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .args(more.into_iter().map(Into::into));
    tool(&mut command);
    program
}

/// What a program links that uses the library where it was built.
fn shared_library() -> [OsString; 4] {
    let dir = lib_dir();
    let rpath = format!("-Wl,-rpath,{}", dir.display());
    ["-L".into(), dir.into(), "-lkvs".into(), rpath.into()]
}

// --- the original's habits, and many at work ------------------------------------------------------

#[test]
fn a_client_with_every_habit_of_the_original_is_served_without_one_wrong_byte() {
    let _alone = alone();
    let world = World::start();
    let dir = temp_dir();
    let habits = compile(&dir, "gcc", "c99", "habits.c", [] as [&str; 0]);
    let lines = run(program(habits)
        .arg(world.local.socket())
        .arg(world.local.callback_socket())
        .args([GROUP, &world.secret, "20000"]));
    assert!(lines[0].starts_with("20000 rounds, 200 changes, every value right"), "{lines:?}");
    measured("original habits", &lines);
}

#[test]
fn eight_processes_read_what_they_wrote_and_see_the_last_of_every_change() {
    let _alone = alone();
    let world = World::start();
    let rounds = compile_c("tests/c/rounds.c");
    let program = world.program(rounds).args(["-t", "4", GROUP, &world.secret, "8", "10000"]);
    let lines = run(program);
    assert!(lines[0].starts_with("8 processes, 10000 rounds each"), "{lines:?}");
    measured("eight processes", &lines);
}

#[test]
fn every_single_change_is_told_to_a_watcher_that_keeps_up() {
    let _alone = alone();
    let world = World::start();
    let rounds = compile_c("tests/c/rounds.c");
    let program = world.program(rounds).args(["-l", GROUP, &world.secret, "8", "1000"]);
    let lines = run(program);
    assert!(lines[0].starts_with("8 processes, 1000 rounds each, 8000 callbacks"), "{lines:?}");
    measured("eight processes, change by change", &lines);
}

#[test]
fn a_thousand_applications_are_served_at_once_by_a_fixed_number_of_threads() {
    const COUNT: usize = 1000;
    let _alone = alone();
    let world = World::start();
    let many = compile_c("tests/c/many.c");
    let threads_before = world.local.threads();

    let many = world.member(many).arg(COUNT.to_string()).spawn();
    many.expect_line_where("`connected`", |line| line == "connected");
    let threads_during = world.local.threads();
    let status = world.local.status();
    assert_eq!(status.len(), COUNT);
    assert!(status.iter().all(|app| app.status == "Connected"), "{status:#?}");
    let pids: BTreeSet<i32> = status.iter().map(|app| app.pid).collect();
    assert_eq!(pids.len(), COUNT, "every application has its own pid");

    many.send("");
    many.wait_exit_within(LONG);
    let lines = succeeded(&many);
    let threads_after = world.local.threads();
    world.local.status_where("all applications closed", |apps| {
        apps.len() == COUNT && apps.iter().all(|app| app.status == "Closed")
    });
    assert_eq!([threads_during, threads_after], [threads_before; 2], "threads during and after");
    assert_eq!(world.local.group_info(GROUP).unwrap().pairs, COUNT);
    measured("a thousand applications", &lines[1..]);
}

// --- the promises of the header -------------------------------------------------------------------

#[test]
fn codes_have_their_real_causes_and_leave_nothing_behind() {
    let world = World::start();
    let codes = compile_c("tests/c/codes.c");
    run(world.member(codes).arg(env!("CARGO_PKG_VERSION")));
}

#[test]
fn callbacks_threads_fork_and_signals_are_as_promised() {
    let world = World::start();
    run(world.member(compile_c("tests/c/api.c")));
}

#[test]
fn nothing_is_wrong_under_valgrind() {
    if !is_installed("valgrind") {
        skipped("nothing_is_wrong_under_valgrind", "valgrind");
        return;
    }
    let world = World::start();
    for source in ["codes", "api"] {
        let program = compile_c(&format!("tests/c/{source}.c"));
        let valgrind = world
            .program("valgrind")
            .args(["-q", "--leak-check=full", "--show-leak-kinds=definite"])
            .args(["--errors-for-leak-kinds=definite", "--error-exitcode=99"])
            .arg(program)
            .args([GROUP, &world.secret]);
        run(if source == "codes" { valgrind.arg(env!("CARGO_PKG_VERSION")) } else { valgrind });
    }
}

#[test]
fn both_headers_serve_c99_and_cpp17_programs_old_and_new() {
    let world = World::start();
    let dir = temp_dir();
    for header in ["kvs.h", "KVS-lib.h"] {
        for (compiler, standard, language) in
            [("gcc", "c99", "c"), ("gcc", "c17", "c"), ("g++", "c++17", "c++")]
        {
            let include = project_dir().join("include");
            tool(
                Command::new(compiler)
                    .arg(format!("-std={standard}"))
                    .args(STRICT)
                    .args(["-fsyntax-only", "-x", language])
                    .arg(include.join(header)),
            );
        }
    }
    for (compiler, standard, source) in
        [("gcc", "c99", "old_style.c"), ("g++", "c++17", "cplusplus.cpp")]
    {
        run(world.member(compile(&dir, compiler, standard, source, shared_library())));
    }
}

#[test]
fn programs_that_contain_the_library_work_too() {
    let world = World::start();
    let dir = temp_dir();
    let mut libraries = vec![lib_dir().join("libkvs.a").into_os_string()];
    libraries.extend(STATIC_LIBRARIES.map(OsString::from));
    let codes = compile(&dir, "gcc", "c99", "codes.c", libraries.clone());
    run(world.member(codes).arg(env!("CARGO_PKG_VERSION")));
    run(world.member(compile(&dir, "gcc", "c99", "api.c", libraries)));
}

#[test]
fn the_library_exports_its_eight_functions_and_nothing_else() {
    if !is_installed("nm") {
        skipped("the_library_exports_its_eight_functions_and_nothing_else", "binutils");
        return;
    }
    let symbols =
        tool(Command::new("nm").args(["-D", "--defined-only"]).arg(lib_dir().join("libkvs.so")));
    let names: BTreeSet<&str> =
        symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let promised = [
        "close_connection",
        "delete_value",
        "establish_connection",
        "get_value",
        "kvs_strerror",
        "kvs_version",
        "put_value",
        "register_callback",
    ];
    assert_eq!(names, BTreeSet::from(promised));
}

#[test]
fn the_library_prints_one_line_for_a_failure_when_it_is_asked_to() {
    let world = World::start();
    let calls = compile_c("tests/c/calls.c");
    let failures = ["establish unknown abcde", "establish g wrong", "put k v"];
    let debugged = world.program(&calls).args(failures).env("KVS_DEBUG", "1").spawn().finish();
    assert_eq!(debugged.stdout[..3], ["-7", "-9", "-2"]);
    assert_eq!(debugged.stderr.len(), 3, "{:?}", debugged.stderr);
    let silent = run(world.program(&calls).args(failures));
    assert_eq!(silent, debugged.stdout);
}

// --- servers that break off -----------------------------------------------------------------------

/// Plays the server's part of a login of the program `calls`.
fn greet(server: &ScriptedServer) -> (Channel, Channel) {
    let mut main = server.accept_main();
    main.send_int(1);
    main.expect(b"g");
    main.send_int(1);
    main.expect(b"abcde");
    let mut callback = server.accept_callback();
    callback.send_int(1);
    main.send_int(1);
    (main, callback)
}

fn calls(server: &ScriptedServer, calls: &[&str]) -> Process {
    program(compile_c("tests/c/calls.c"))
        .env("KVS_SOCKET", server.socket())
        .env("KVS_CALLBACK_SOCKET", server.callback_socket())
        .args(calls)
        .spawn()
}

const LOGIN: &str = "establish g abcde";

/// A login that the server breaks off: it fails with `code`, and the next one works.
fn broken_login(code: i32, break_off: impl FnOnce(&ScriptedServer)) {
    let server = ScriptedServer::start();
    let calls = calls(&server, &[LOGIN, "put k v", LOGIN, "close"]);
    break_off(&server);
    let (mut main, _callback) = greet(&server);
    main.expect_int(4);
    let code = code.to_string();
    let lines = succeeded(&calls);
    assert_eq!(lines, [&code, "-2", "0", "1", "descriptors left open: 0"], "login, code {code}");
}

/// A call that the server breaks off: it fails with `code`, the connection is closed, and the next
/// login works.
fn broken_call(call: &str, code: i32, break_off: impl FnOnce(Channel) -> Option<Channel>) {
    let server = ScriptedServer::start();
    let calls = calls(&server, &[LOGIN, "wait", call, "put k v", LOGIN, "close"]);
    let (main, _callback) = greet(&server);
    let kept_open = if code == -3 {
        // The call begins when the server has broken off.
        let kept_open = break_off(main);
        calls.send("");
        kept_open
    } else {
        calls.send("");
        break_off(main)
    };
    let (mut main, _callback) = greet(&server);
    main.expect_int(4);
    drop(kept_open);
    let code = code.to_string();
    let lines = succeeded(&calls);
    assert_eq!(lines, ["0", &code, "-2", "0", "1", "descriptors left open: 0"], "{call}, {code}");
}

#[test]
fn a_login_that_is_broken_off_fails_with_its_code_and_the_next_works() {
    broken_login(-13, |server| drop(server.accept_main()));
    broken_login(-14, |server| server.accept_main().send_int(0));
    broken_login(-8, |server| {
        let mut main = server.accept_main();
        main.send_int(1);
        main.expect(b"g");
    });
    let up_to_callback = |server: &ScriptedServer| {
        let mut main = server.accept_main();
        main.send_int(1);
        main.expect(b"g");
        main.send_int(1);
        main.expect(b"abcde");
        (main, server.accept_callback())
    };
    broken_login(-13, |server| drop(up_to_callback(server).1));
    broken_login(-14, |server| up_to_callback(server).1.send_int(7));
    broken_login(-8, |server| {
        let (main, mut callback) = up_to_callback(server);
        callback.send_int(1);
        drop(main);
    });
}

#[test]
fn a_call_that_is_broken_off_fails_with_its_code_and_never_raises_sigpipe() {
    broken_call("put k v", -3, |_| None);
    broken_call("get k", -4, |mut main| {
        main.expect_int(1);
        None
    });
    broken_call("put k v", -5, |mut main| {
        main.expect_int(0);
        main.send_int(2);
        Some(main)
    });
    broken_call("put k v", -6, |mut main| {
        main.expect_int(0);
        // From now on, sending to it fails; only then may the program go on.
        main.stream().shutdown(Shutdown::Read).expect("the socket is connected");
        main.send_int(1);
        Some(main)
    });
    for (call, function) in [("delete k", 2), ("register k", 3)] {
        broken_call(call, -8, |mut main| {
            main.expect_int(function);
            main.send_int(1);
            main.expect(b"k");
            None
        });
    }
    broken_call("get k", -10, |mut main| {
        main.expect_int(1);
        main.send_int(1);
        main.expect(b"k");
        main.send_int(5);
        main.send(b"abc");
        None
    });
}

#[test]
fn a_silent_server_costs_no_more_than_the_timeout() {
    let server = ScriptedServer::start();
    let calls = program(compile_c("tests/c/calls.c"))
        .env("KVS_SOCKET", server.socket())
        .env("KVS_CALLBACK_SOCKET", server.callback_socket())
        .env("KVS_TIMEOUT_MS", "300")
        .args([LOGIN, "wait", "get k", "get k"])
        .spawn();
    let (_main, _callback) = greet(&server);
    calls.expect_line("0");
    let begin = Instant::now();
    calls.send("");
    calls.expect_line("-4");
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    calls.expect_line("-2");
    succeeded(&calls);
}

#[test]
fn a_callback_channel_that_breaks_raises_no_sigpipe() {
    let server = ScriptedServer::start();
    let calls = calls(&server, &[LOGIN, "wait", "put k v", "close"]);
    let (mut main, mut callback) = greet(&server);
    // The program's answer to this flag is sent to a socket that nobody reads any more.
    callback.stream().shutdown(Shutdown::Read).expect("the socket is connected");
    callback.send_int(1);
    callback.expect_end();
    drop(callback);
    // The library gives the connection up.
    main.expect_end();
    calls.send("");
    let lines = succeeded(&calls);
    assert_eq!(lines, ["0", "-3", "-2", "descriptors left open: 0"]);
}

// --- the examples ---------------------------------------------------------------------------------

/// A copy of `c-examples`, beside what its Makefile expects there; built.
struct Examples {
    dir: TempDir,
}

impl Examples {
    fn build() -> Self {
        let dir = temp_dir();
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

#[test]
fn the_small_examples_do_what_they_say() {
    let world = World::start();
    let examples = Examples::build();

    assert_eq!(
        run(world.member(examples.path("put_get"))),
        ["greeting = hello", "greeting = good morning", "greeting: no such key"]
    );
    assert_eq!(
        run(world.member(examples.path("threads"))),
        ["4 threads, 250 rounds each: every value was right"]
    );
    let lines = run(world.member(examples.path("processes")));
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (n, line) in lines.iter().enumerate() {
        let pid = line.strip_prefix(&format!("process-{n} = "));
        assert!(pid.is_some_and(|pid| pid.parse::<i32>().is_ok()), "{lines:?}");
    }
}

#[test]
fn the_examples_report_errors() {
    let world = World::start();
    let examples = Examples::build();
    for name in ["put_get", "watch", "threads", "processes", "meminfo"] {
        let arguments = [GROUP, "wrong", "key"];
        let count = if name == "watch" { 3 } else { 2 };
        let program = world.program(examples.path(name)).args(&arguments[..count]);
        let finished = program.spawn().finish();
        assert_eq!(finished.status.code(), Some(1), "{name}: {finished:?}");
        let [line] = &finished.stderr[..] else { panic!("{name}: {finished:?}") };
        assert!(line.starts_with(&format!("{name}: establish_connection: ")), "{line}");

        let finished = world.program(examples.path(name)).spawn().finish();
        assert_eq!(finished.status.code(), Some(2), "{name}: {finished:?}");
        assert!(finished.stderr[0].starts_with("usage: "), "{name}: {finished:?}");
    }
}

#[test]
fn a_watching_example_prints_what_a_publishing_one_changes() {
    let world = World::start();
    let examples = Examples::build();
    let meminfo = |interval: &str, rounds: &str| {
        world.program(examples.path("meminfo")).args([
            "-i",
            interval,
            "-n",
            rounds,
            GROUP,
            &world.secret,
        ])
    };
    let watch = |count: Option<&str>, keys: &[&str]| {
        let mut program = world.program(examples.path("watch"));
        if let Some(count) = count {
            program = program.args(["-n", count]);
        }
        let process = program.args([GROUP, &world.secret]).args(keys).spawn();
        process.expect_line_where("`watching …`", |line| line.starts_with("watching "));
        process
    };

    let lines = run(meminfo("0", "2"));
    assert_eq!(lines.len(), 2, "{lines:?}");
    let lines_of_file = fs::read_to_string("/proc/meminfo").unwrap().lines().count();
    let pairs = lines_of_file + 6;
    assert!(lines[0].starts_with(&format!("round 1: {pairs} pairs in ")), "{lines:?}");
    assert_eq!(world.local.group_info(GROUP).unwrap().pairs, pairs);

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
    world.local.delete_group(GROUP);
    for process in [&until_the_end, &publisher] {
        process.wait_exit();
        let seen = succeeded(process);
        assert_eq!(seen.last().unwrap(), "the group was deleted or the server closed");
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
    program(examples.path("demo.sh")).env("TMPDIR", private.path()).console(Console::NoInput)
}

#[test]
fn the_demonstration_shows_all_and_leaves_nothing() {
    let examples = Examples::build();
    let private = temp_dir();
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
fn a_demonstration_that_fails_says_so_and_stops_everything() {
    let examples = Examples::build();
    let private = temp_dir();
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
fn a_demonstration_that_is_stopped_stops_everything() {
    let examples = Examples::build();
    let private = temp_dir();
    let demo = demo(&examples, &private).spawn();
    demo.expect_line("watch       | watching 3 keys");
    demo.signal(Signal::SIGTERM);
    // It waits for the publisher, which has some rounds to go.
    let finished = demo.finish();
    assert_eq!(finished.status.code(), Some(143), "{finished:?}");
    assert_empty(private.path());
    assert_no_process_mentions(private.path());
}

#[test]
fn applications_leave_no_socket_path_behind() {
    let world = World::start();
    let calls = compile_c("tests/c/calls.c");
    let login = format!("establish {GROUP} {}", world.secret);
    let calls = world.program(calls).args([&login, "wait", "close"]).spawn();
    calls.expect_line("0");
    for path in application_paths(calls.pid()) {
        assert!(!path.exists(), "{} while connected", path.display());
    }
    calls.send("");
    succeeded(&calls);
    world.local.quit();
    assert!(!world.local.socket().exists() && !world.local.callback_socket().exists());
    assert!(world.auth.exit_status().is_none());
}
