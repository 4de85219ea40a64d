//! Two local servers of one authentication server: a group name belongs to one of them, and each
//! serves its own groups only.

#![forbid(unsafe_code)]

use kvs_testkit::{Driver, LocalServer, RawLocalServer, TestEnv};

#[test]
fn group_name_is_taken_and_free_on_both_servers_alike() {
    let env = TestEnv::without_group();
    let second = LocalServer::start(&env.auth);
    assert_ne!(env.server.port(), second.port());

    env.server.create_group("g");
    assert_eq!(second.ask("Create group", "g"), "Group id already exists");
    assert_eq!(env.server.ask("Create group", "g"), "Group id already exists");

    env.server.delete_group("g");
    second.create_group("g");
    assert_eq!(env.server.ask("Create group", "g"), "Group id already exists");
    second.quit();
    env.server.create_group("g");
}

#[test]
fn group_of_the_other_server_does_not_exist() {
    let env = TestEnv::without_group();
    let second = LocalServer::start(&env.auth);
    let secret = env.server.create_group("g");

    assert_eq!(second.group_info("g"), Err("Group id not found!".into()));
    assert_eq!(second.ask("Delete group", "g"), "Group id doesn't exist");
    assert_eq!(Driver::start(&second).establish("g", &secret), -7);
    assert!(second.status().is_empty());

    let info = env.server.group_info("g").expect("it was not deleted");
    assert_eq!((info.name.as_str(), info.secret, info.pairs), ("g", secret.clone(), 0));
    assert_eq!(Driver::start(&env.server).establish("g", &secret), 0);
}

#[test]
fn each_server_serves_its_own_groups() {
    let env = TestEnv::without_group();
    let second = LocalServer::start(&env.auth);
    let at_first = Driver::connected(&env.server, "one", &env.server.create_group("one"));
    let at_second = Driver::connected(&second, "two", &second.create_group("two"));

    // The same key in both groups, watched in each.
    for (app, value) in [(&at_first, "first"), (&at_second, "second")] {
        app.store("k", value);
        assert_eq!(app.call("register_callback k"), 1);
    }
    assert_eq!(at_first.get("k").as_deref(), Ok("first"));
    at_first.store("only", "here");
    assert_eq!(at_second.get("only"), Err(-7));
    assert_eq!(env.server.group_info("one").map(|info| info.pairs), Ok(2));
    assert_eq!(second.group_info("two").map(|info| info.pairs), Ok(1));

    // An event goes to the subscribers of its own group only.
    assert_eq!(at_first.put("k", "changed"), 1);
    at_first.expect_change("k");
    assert_eq!(at_second.put("k", "changed"), 1);
    at_second.expect_change("k");
    assert_eq!(at_second.log_lines().len(), 1, "{}", at_second.report());

    // The end of one server does not affect the other.
    env.server.quit();
    assert_eq!(at_first.put("k", "late"), -2);
    assert_eq!(at_second.get("k").as_deref(), Ok("changed"));
}

#[test]
fn group_over_the_limit_of_its_machine_is_refused_with_reason() {
    let env = TestEnv::builder().auth_arg("--groups-per-machine").auth_arg("2").no_group().start();
    let second = LocalServer::start(&env.auth);
    let secret = env.server.create_group("one");
    second.create_group("two");
    for server in [&env.server, &second] {
        let answer = server.ask("Create group", "three");
        assert!(
            answer.starts_with("Group not created: ")
                && answer.contains("accepts no more groups from this machine"),
            "{answer}"
        );
        assert_eq!(server.ask("Show group info", "three"), "Group id not found!");
    }
    assert_eq!(env.server.ask("Create group", "two"), "Group id already exists");
    assert_eq!(Driver::start(&env.server).establish("one", &secret), 0);
    second.delete_group("two");
    let third = env.server.create_group("three");
    let observer = RawLocalServer::connect(env.auth.addr());
    assert_eq!(observer.get_secret("three"), Some(third));
}
