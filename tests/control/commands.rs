//! The commands of `kvs admin`: output, JSON, exit codes and messages.

use kvs_testkit::{Console, Driver, LocalServer, Sockets, TestEnv, until};
use serde_json::{Value, json};

use crate::{assert_error, assert_prints, control_path, json_of, kvs_admin, kvs_admin_at, program};

#[test]
fn kvs_admin_does_what_the_console_does() {
    let env = TestEnv::without_group();

    let created = kvs_admin(&env.server, &["create", "weather"]);
    let [secret] = &*created.stdout else { panic!("the secret alone: {created:?}") };
    assert_prints(&created, &[secret]);
    let info = env.server.group_info("weather").expect("it is one group for both");
    assert_eq!((&info.secret, info.pairs), (secret, 0));

    let on_console = env.server.create_group("console");
    let app = Driver::connected(&env.server, "console", &on_console);
    app.store("key", "value");
    assert_eq!(app.call("register_callback key"), 1);
    let expected = [
        "group:   console".to_string(),
        format!("secret:  {on_console}"),
        "pairs:   1".to_string(),
    ];
    assert_prints(
        &kvs_admin(&env.server, &["info", "console"]),
        &expected.each_ref().map(String::as_str),
    );

    let status = kvs_admin(&env.server, &["status"]);
    let (first, second) =
        ("weather: 0 pairs, 0 connected, 0 closed", "console: 1 pair, 1 connected, 0 closed");
    assert_eq!(status.stdout[..3], [first, "", second], "{status:?}");
    assert!(status.stdout[4].ends_with("  key"), "{status:?}");
    assert_eq!(kvs_admin(&env.server, &["status", "console"]).stdout[0], second);

    assert_prints(&kvs_admin(&env.server, &["delete", "weather", "console"]), &[]);
    assert_eq!(env.server.ask("Show group info", "weather"), "Group id not found!");
    assert!(app.get("key").is_err(), "its applications are disconnected");
    assert_eq!(env.server.lines_of("Show application status"), [""; 0]);

    let quit = kvs_admin(&env.server, &["quit"]);
    assert_prints(&quit, &[]);
    env.server.expect_line("Exiting Local Server...");
    assert!(env.server.wait_exit().success());
    assert!(!control_path(&env.server).exists() && !env.server.socket().exists());
}

#[test]
fn json_has_the_same_information() {
    let env = TestEnv::without_group();
    let created = json_of(&kvs_admin(&env.server, &["create", "g", "--json"]));
    let secret = created["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(created, json!({ "group": "g", "secret": secret }));
    let info = json_of(&kvs_admin(&env.server, &["--json", "info", "g"]));
    assert_eq!(info, json!({ "group": "g", "secret": secret, "pairs": 0 }));

    let app = Driver::connected(&env.server, "g", &secret);
    app.store("k", "v");
    assert_eq!(app.call("register_callback k"), 1);
    let status = json_of(&kvs_admin(&env.server, &["status", "--json"]));
    let expected = &status["groups"][0]["applications"][0];
    assert_eq!(expected["pid"], app.pid());
    assert_eq!(expected["watches"], json!([{ "key": "k" }]));
    assert_eq!((&expected["watch_count"], &expected["closed_at"]), (&json!(1), &Value::Null));

    let missing = kvs_admin(&env.server, &["info", "none", "--json"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(missing.stdout, [""; 0]);
    let [failure] = &*missing.stderr else { panic!("one line: {missing:?}") };
    let failure: Value = serde_json::from_str(failure).expect("it is JSON");
    assert_eq!((&failure["error"], &failure["exit_code"]), (&json!("no_such_group"), &json!(1)));
    let deleted = kvs_admin(&env.server, &["delete", "none", "g", "--json"]);
    assert_eq!(deleted.status.code(), Some(1), "one of two is not there: {deleted:?}");
    assert!(deleted.stdout.iter().any(|line| line == r#"{"deleted":["g"]}"#), "{deleted:?}");
    assert_eq!(json_of(&kvs_admin(&env.server, &["quit", "--json"])), json!({ "quit": true }));
    assert!(env.server.wait_exit().success());
}

#[test]
fn every_error_has_exit_code_and_message() {
    let mut env = TestEnv::start();
    let long = "x".repeat(100);
    for (args, code, words) in [
        (&["create", "g"][..], 5, &["group g exists already"][..]),
        (&["create", ""], 2, &["invalid group id: it is empty"]),
        (&["create", &long], 2, &["100 bytes", "too long"]),
        (&["delete", "none"], 1, &["no group none"]),
        (&["info", "none"], 1, &["no group none"]),
        (&["status", "none"], 1, &["no group none"]),
        (&["status", &long], 2, &["too long"]),
    ] {
        assert_error(&kvs_admin(&env.server, args), code, words);
    }
    for args in [&["crate", "g"][..], &["create"], &["delete"], &["create", "a", "b"]] {
        assert_eq!(kvs_admin(&env.server, args).status.code(), Some(2), "{args:?}");
    }
    let elsewhere = env.server.socket().with_file_name("nothing");
    assert_error(&kvs_admin_at(&elsewhere, &["status"]), 3, &["nothing", "no server"]);

    env.auth.kill();
    let words = &["does not answer"];
    for args in [&["create", "half"][..], &["delete", "g"], &["info", "g"]] {
        assert_error(&kvs_admin(&env.server, args), 6, words);
    }
    assert_eq!(
        kvs_admin(&env.server, &["status", "g"]).status.code(),
        Some(0),
        "status needs no authentication server"
    );
    assert_error(&kvs_admin(&env.server, &["status", "half"]), 1, &["no group half"]);
    env.auth.restart();
    until("the local server has connected again", || {
        kvs_admin(&env.server, &["info", "g"]).status.success().then_some(())
    });
    assert_error(&kvs_admin(&env.server, &["info", "half"]), 1, &["no group half"]);
    assert_eq!(
        kvs_admin(&env.server, &["create", "half"]).status.code(),
        Some(0),
        "it was not half created"
    );
}

#[test]
fn terminal_gets_sentences_and_quit_asks_first() {
    let env = TestEnv::without_group();
    let terminal = |args: &[&str]| {
        program(&control_path(&env.server), args).console(Console::Terminal { echo: false }).spawn()
    };
    let created = terminal(&["create", "g"]).finish();
    let secret = env.server.group_info("g").expect("it was created").secret;
    let sentence = "The group g was created. Applications join it with the secret ";
    assert_eq!(created.stdout, [format!("{sentence}{secret}")]);

    for answer in ["", "n", "maybe"] {
        let quit = terminal(&["quit"]);
        quit.send(answer);
        assert!(quit.finish().status.success());
        assert_eq!(env.server.status(), [], "it still serves");
    }
    let quit = terminal(&["quit"]);
    quit.send("y");
    assert!(quit.finish().status.success());
    assert!(env.server.wait_exit().success());
    let other = LocalServer::start(&env.auth);
    let quit = program(&control_path(&other), &["quit", "--yes"]);
    assert!(quit.console(Console::Terminal { echo: false }).spawn().finish().status.success());
    assert!(other.wait_exit().success());
}
