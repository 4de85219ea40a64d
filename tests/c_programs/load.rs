//! Applications under load: one that behaves like the original client, several processes, a
//! thousand logins.

use std::collections::BTreeSet;

use kvs_testkit::{
    GROUP, Program, Sockets, TestEnv, compile_c, number_from_env, on_both_protocols, private_dir,
};

use crate::programs::{LONG, alone, compile, measured, run, succeeded};

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
        let threads = [threads_during, threads_after];
        assert_eq!(threads, [threads_before; 2], "threads during and after");
        assert_eq!(env.server.group_info(GROUP).unwrap().pairs, COUNT);
        measured("a thousand applications", &lines[1..]);
    }
}
