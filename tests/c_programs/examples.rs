//! The programs of `c-examples`, built with their own Makefile, and the demo.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kvs_testkit::{
    Console, Driver, GROUP, Program, Protocol, Sockets, TestEnv, application_paths, lib_dir,
    on_both_protocols, private_dir, project_dir, tool,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::programs::{OTHER_GROUP, measured, run, succeeded};

/// A built copy of `c-examples`, with the files that its Makefile needs beside it.
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
        let expected = ["visits = 2", "last:counter = visits", &format!("last:pid = {pid}")];
        assert_eq!(succeeded(&process), expected);

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

/// Asserts that no process that was started in this directory is left.
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
    // A copy keeps the execute permission of the program.
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
    // The subscriber waits for the publisher, which has some rounds left.
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
