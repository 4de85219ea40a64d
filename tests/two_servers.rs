//! Two local servers of one authentication server: a group name belongs to one of them, and each serves
//! its own groups only.

#![forbid(unsafe_code)]

use kvs_testkit::{AuthServer, Driver, LocalServer, RawLocalServer};

#[test]
fn group_name_is_taken_and_free_on_both_servers_alike() {
    let auth = AuthServer::start();
    let first = LocalServer::start(&auth);
    let second = LocalServer::start(&auth);
    assert_ne!(first.port(), second.port());

    first.create_group("g");
    assert_eq!(second.ask("Create group", "g"), "Group id already exists");
    assert_eq!(first.ask("Create group", "g"), "Group id already exists");

    first.delete_group("g");
    second.create_group("g");
    assert_eq!(first.ask("Create group", "g"), "Group id already exists");
    second.quit();
    first.create_group("g");
}

#[test]
fn group_of_the_other_server_does_not_exist() {
    let auth = AuthServer::start();
    let first = LocalServer::start(&auth);
    let second = LocalServer::start(&auth);
    let secret = first.create_group("g");

    assert_eq!(second.group_info("g"), Err("Group id not found!".into()));
    assert_eq!(second.ask("Delete group", "g"), "Group id doesn't exist");
    assert_eq!(Driver::start(&second).establish("g", &secret), -7);
    assert!(second.status().is_empty());

    let info = first.group_info("g").expect("it was not deleted");
    assert_eq!((info.name.as_str(), info.secret, info.pairs), ("g", secret.clone(), 0));
    assert_eq!(Driver::start(&first).establish("g", &secret), 0);
}

#[test]
fn each_server_serves_its_own_groups() {
    let auth = AuthServer::start();
    let first = LocalServer::start(&auth);
    let second = LocalServer::start(&auth);
    let at_first = Driver::connected(&first, "one", &first.create_group("one"));
    let at_second = Driver::connected(&second, "two", &second.create_group("two"));

    // The same key in both groups, watched in each.
    for (app, value) in [(&at_first, "first"), (&at_second, "second")] {
        app.store("k", value);
        assert_eq!(app.call("register_callback k"), 1);
    }
    assert_eq!(at_first.get("k").as_deref(), Ok("first"));
    at_first.store("only", "here");
    assert_eq!(at_second.get("only"), Err(-7));
    assert_eq!(first.group_info("one").map(|info| info.pairs), Ok(2));
    assert_eq!(second.group_info("two").map(|info| info.pairs), Ok(1));

    // An event goes to the subscribers of its own group only.
    assert_eq!(at_first.put("k", "changed"), 1);
    at_first.expect_change("k");
    assert_eq!(at_second.put("k", "changed"), 1);
    at_second.expect_change("k");
    assert_eq!(at_second.log_lines().len(), 1, "{}", at_second.report());

    // The end of one server does not affect the other.
    first.quit();
    assert_eq!(at_first.put("k", "late"), -2);
    assert_eq!(at_second.get("k").as_deref(), Ok("changed"));
}

#[test]
fn group_over_the_limit_of_its_machine_is_refused_with_reason() {
    let auth = AuthServer::builder().arg("--groups-per-machine").arg("2").start();
    let first = LocalServer::start(&auth);
    let second = LocalServer::start(&auth);
    let secret = first.create_group("one");
    second.create_group("two");
    for server in [&first, &second] {
        let answer = server.ask("Create group", "three");
        assert!(
            answer.starts_with("Group not created: ")
                && answer.contains("accepts no more groups from this machine"),
            "{answer}"
        );
        assert_eq!(server.ask("Show group info", "three"), "Group id not found!");
    }
    assert_eq!(first.ask("Create group", "two"), "Group id already exists");
    assert_eq!(Driver::start(&first).establish("one", &secret), 0);
    second.delete_group("two");
    let third = first.create_group("three");
    let observer = RawLocalServer::connect(auth.addr());
    assert_eq!(observer.get_secret("three"), Some(third));
}
