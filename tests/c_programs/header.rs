//! The promises of the headers: codes, handles, callbacks, forks, and compilation in every
//! supported way.

use std::collections::BTreeSet;
use std::process::Command;

use kvs_testkit::{
    Driver, GROUP, Program, Protocol, STRICT, TestEnv, are_installed, compile_c, lib_dir,
    on_both_protocols, private_dir, project_dir, shared_library, static_library, tool,
};

use crate::programs::{LONG, OTHER_GROUP, alone, compile, measured, run, succeeded};

on_both_protocols! {
    fn codes_have_their_real_causes(protocol: Protocol) {
        let env = TestEnv::with_protocol(protocol);
        let codes = compile_c("tests/c/codes.c");
        run(env.member(codes).arg(env!("CARGO_PKG_VERSION")));
    }
}

/// Runs `handles.c`, which requests the deletion of a group and the end of the server.
fn handles(env: &TestEnv, program: impl FnOnce(&str) -> Program) {
    let other = env.server.create_group(OTHER_GROUP);
    let process = program(&other).spawn();
    process.expect_line_within(LONG, "`delete`", |line| line == "delete");
    env.server.delete_group(OTHER_GROUP);
    process.expect_line("kill");
    env.server.kill();
    process.send("killed");
    process.wait_exit_within(LONG);
    let lines = succeeded(&process);
    assert_eq!(lines.last().map(String::as_str), Some("every handle is right"));
    measured("handles", &lines);
}

on_both_protocols! {
    fn handles_keep_the_promises_of_the_header(protocol: Protocol) {
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
        // The other programs do not depend on the protocol and are slow under valgrind.
        if protocol == Protocol::V2 {
            run(valgrind("api", &[]));
            run(valgrind("old_style", &[]));
            handles(&env, |other| valgrind("handles", &[]).args([OTHER_GROUP, other]));
        }
    }
}

/// Compiles each header alone, without warnings.
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
            // The first call precedes any login.
            ("put_value k v", -2),
            ("establish_connection unknown abcde", -7),
            ("establish_connection g wrong", -9),
            ("get_value k", -2),
        ];
        // The query whether there is a connection, which is no failure.
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
        // A sanitizer slows each child down many times.
        let children = if std::env::var_os("KVS_TEST_PROGRAMS").is_some() { "200" } else { "2000" };
        let lines = run(env.member(compile_c("tests/c/forks.c")).arg(children));
        assert!(lines[0].starts_with(&format!("{children} forks during ")), "{lines:?}");
        measured("forks", &lines);
    }
}
