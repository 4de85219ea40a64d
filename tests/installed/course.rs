//! `KVS-lib.o` in old projects of the course.

use std::path::{Path, PathBuf};
use std::process::Command;

use kvs_tests::{Installed, Process, private_dir, project_dir, tool};
use tempfile::TempDir;

use super::{World, run};

/// Builds it with the two lines of the course's Makefile.
fn build(installed: &Installed, name: &str, compiler: &str) -> (TempDir, PathBuf) {
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

impl App {
    fn start(world: &World) -> Self {
        let (dir, program) = build(&world.installed, "app", "gcc");
        Self { _dir: dir, process: world.member(program).spawn() }
    }

    fn says(&self, command: &str, lines: &[&str]) {
        self.process.send(command);
        self.process.expect_next(lines);
    }
}

#[test]
fn an_old_project_with_its_own_makefile_works() {
    let world = World::start();
    let app = App::start(&world);
    app.says("establish", &["0", "variables right"]);
    app.says("put", &["1"]);
    app.says("get", &["Value: value"]);
    app.says("get nothing", &["App: the key or group name does not exist", "-7"]);
    app.says("register", &["1"]);
    // The callback is called while the put is answered.
    app.process.send("put");
    let mut lines = [app.process.next_line(), app.process.next_line()];
    lines.sort();
    assert_eq!(lines, ["1", "The key key was changed"]);
}

#[test]
fn the_callback_thread_may_be_cancelled_before_each_close() {
    let world = World::start();
    let app = App::start(&world);
    for _ in 0..3 {
        app.says("establish", &["0", "variables right"]);
        app.says("close", &["cancelled 0", "1", "descriptors -1 -1"]);
    }
    app.says("put", &["App: there is no connection, or no socket could be created", "-2"]);
    app.says("exit", &["keyboard cancelled", "Exiting the app..."]);
    assert!(app.process.wait_exit().success());
}

#[test]
fn a_forced_close_cancels_the_keyboard_and_ends_the_wait() {
    let world = World::start();
    let app = App::start(&world);
    app.says("establish", &["0", "variables right"]);
    world.local.delete_group(super::GROUP);
    app.process.expect_next(&[
        "App: Closing connection due to deletion of group or closed server",
        "keyboard cancelled",
        "Exiting the app...",
    ]);
    assert!(app.process.wait_exit().success());
}

#[test]
fn a_server_that_ends_is_a_forced_close_too() {
    let world = World::start();
    let app = App::start(&world);
    app.says("establish", &["0", "variables right"]);
    world.local.quit();
    app.process.expect_next(&[
        "App: Closing connection due to deletion of group or closed server",
        "keyboard cancelled",
        "Exiting the app...",
    ]);
    assert!(app.process.wait_exit().success());
}

#[test]
fn a_program_without_the_variables_links_too() {
    let world = World::start();
    for compiler in ["gcc", "clang", "gcc -static", "gcc -fcommon", "g++"] {
        let (_dir, program) = build(&world.installed, "plain", compiler);
        let printed = run(world.member(&program));
        assert_eq!(
            printed,
            ["Value: value", "App: the key or group name does not exist"],
            "{compiler}"
        );
    }
}

#[test]
fn only_the_object_for_the_course_knows_the_variables() {
    let installed = Installed::new();
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
