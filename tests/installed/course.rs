//! `KVS-lib.o` in old projects of the course.

use std::path::{Path, PathBuf};
use std::process::Command;

use kvs_testkit::{InstalledTree, Process, has_tools, private_dir, project_dir, tool};
use tempfile::TempDir;

use super::{InstalledEnv, run};

/// Builds a program with the two lines of the course's Makefile.
fn build(installed: &InstalledTree, name: &str, compiler: &str) -> (TempDir, PathBuf) {
    let dir = private_dir();
    let source = format!("{name}.c");
    let copies = [
        (project_dir().join("tests/c/course").join(&source), source.as_str()),
        (installed.path("lib/kvs/KVS-lib.o"), "KVS-lib.o"),
        (installed.path("include/KVS-lib.h"), "KVS-lib.h"),
        (installed.path("include/kvs.h"), "kvs.h"),
    ];
    for (from, to) in copies {
        std::fs::copy(&from, dir.path().join(to))
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    let makefile =
        format!("{name}: KVS-lib.o {source}\n\t{compiler} {source} -o {name} KVS-lib.o\n");
    std::fs::write(dir.path().join("Makefile"), makefile).expect("the directory is ours");
    tool(Command::new("make").arg("-C").arg(dir.path()));
    let program = dir.path().join(name);
    (dir, program)
}

struct App {
    _dir: TempDir,
    process: Process,
}

/// The output of the library at a forced close, and the output of the program after it.
const FORCED: [&str; 3] = [
    "App: Closing connection due to deletion of group or closed server",
    "keyboard cancelled",
    "Exiting the app...",
];

impl App {
    fn start(env: &InstalledEnv) -> Self {
        Self::built_by(env, "gcc")
    }

    fn built_by(env: &InstalledEnv, compiler: &str) -> Self {
        let (dir, program) = build(&env.installed, "app", compiler);
        Self { _dir: dir, process: env.member(program).spawn() }
    }

    fn says(&self, command: &str, lines: &[&str]) {
        self.process.send(command);
        self.process.expect_next(lines);
    }
}

#[test]
fn old_project_builds_with_its_own_makefile() {
    let env = InstalledEnv::start();
    let app = App::start(&env);
    app.says("establish", &["0", "variables right"]);
    app.says("put", &["1"]);
    app.says("get", &["Value: value"]);
    app.says("get nothing", &["App: no such key, group or watch", "-7"]);
    app.says("register", &["1"]);
    // The callback may run before the put returns.
    app.process.send("put");
    let mut lines = [app.process.next_line(), app.process.next_line()];
    lines.sort();
    assert_eq!(lines, ["1", "The key key was changed"]);
}

#[test]
fn callback_thread_may_be_cancelled_before_close() {
    let env = InstalledEnv::start();
    let app = App::start(&env);
    for _ in 0..3 {
        app.says("establish", &["0", "variables right"]);
        app.says("close", &["cancelled 0", "1", "descriptors -1 -1"]);
    }
    app.says("put", &["App: not connected, or a socket could not be created", "-2"]);
    app.says("exit", &["keyboard cancelled", "Exiting the app..."]);
    assert!(app.process.wait_exit().success());
}

/// Asserts that `end` closes the connection of a waiting program by force, and ends its wait.
fn is_a_forced_close(end: impl FnOnce(&InstalledEnv)) {
    let env = InstalledEnv::start();
    let app = App::start(&env);
    app.says("establish", &["0", "variables right"]);
    end(&env);
    app.process.expect_next(&FORCED);
    assert!(app.process.wait_exit().success());
}

#[test]
fn forced_close_cancels_the_keyboard_thread() {
    is_a_forced_close(|env| env.server().delete_group(env.group()));
}

#[test]
fn server_exit_is_a_forced_close() {
    is_a_forced_close(|env| env.server().quit());
}

#[test]
fn server_killed_during_calls_is_a_forced_close() {
    // Either the call or the library's thread detects the loss first.
    for _ in 0..10 {
        let env = InstalledEnv::start();
        let app = App::start(&env);
        app.says("establish", &["0", "variables right"]);
        app.process.send("puts");
        env.server()
            .status_where("it puts", |status| status.iter().any(|app| app.status == "Connected"));
        env.server().kill();
        let notice = app.process.expect_line(FORCED[0]);
        assert_eq!(notice, FORCED[0]);
        app.process.expect_line(FORCED[1]);
        app.process.expect_line(FORCED[2]);
        assert!(app.process.wait_exit().success());
    }
}

#[test]
fn each_compiler_links_the_shared_variables() {
    if !has_tools(&["clang"]) {
        return;
    }
    let env = InstalledEnv::start();
    for compiler in ["gcc -fcommon", "gcc -static", "clang"] {
        let app = App::built_by(&env, compiler);
        app.says("establish", &["0", "variables right"]);
        app.says("close", &["cancelled 0", "1", "descriptors -1 -1"]);
        app.says("exit", &["keyboard cancelled", "Exiting the app..."]);
    }
}

#[test]
fn forked_child_is_unconnected_and_its_parent_unaffected() {
    let env = InstalledEnv::start();
    let app = App::start(&env);
    app.says("establish", &["0", "variables right"]);
    app.says("fork", &["child right", "variables right"]);
    app.says("put", &["1"]);
}

#[test]
fn program_with_some_variables_exits_with_its_last_thread() {
    let env = InstalledEnv::start();
    let (_dir, program) = build(&env.installed, "some", "gcc");
    let printed = run(env.member(program));
    assert_eq!(printed, ["App: no such key, group or watch", "closed"]);
}

#[test]
fn program_without_the_variables_links() {
    if !has_tools(&["clang", "g++"]) {
        return;
    }
    let env = InstalledEnv::start();
    for compiler in ["gcc", "clang", "gcc -static", "gcc -fcommon", "g++"] {
        let (_dir, program) = build(&env.installed, "plain", compiler);
        let printed = run(env.member(&program));
        assert_eq!(printed, ["Value: value", "App: no such key, group or watch"], "{compiler}");
    }
}

#[test]
fn only_the_course_object_has_the_variables() {
    let installed = InstalledTree::new();
    let undefined = |file: &Path| {
        let names = tool(Command::new("nm").arg(file));
        let weak = |name: &str| names.lines().any(|line| line.trim_start() == format!("w {name}"));
        ["cfd", "cfd_cb", "cl_addr", "sv_addr_cb", "callback_tid", "tid", "exit_flag"].map(weak)
    };
    assert_eq!(undefined(&installed.path("lib/kvs/KVS-lib.o")), [true; 7]);
    assert_eq!(undefined(&installed.path("lib/libkvs.a")), [false; 7]);
    let names = tool(Command::new("nm").arg("-D").arg(installed.path("lib/libkvs.so")));
    assert!(!names.contains("cfd") && !names.contains("exit_flag"), "{names}");
}
