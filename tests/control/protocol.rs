//! The control protocol: replies, limits, and clients that violate it.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kvs_proto::control::{
    AdminErrorKind as Kind, AdminRequest, AdminResponse, Bytes, GroupStatus, MAX_REQUEST_LEN,
    WatchedItem,
};
use kvs_testkit::{AT_ONCE, RawV2App, Sockets, TestEnv, until};

use crate::{AdminClient, assert_error, control_path, group, kind, kvs_admin};

#[test]
fn quit_reply_precedes_shutdown() {
    let env = TestEnv::start();
    let (mut admin, mut other) =
        (AdminClient::connect(&env.server), AdminClient::connect(&env.server));
    assert_eq!(admin.request(&AdminRequest::Quit {}), AdminResponse::Quitting {});
    // The server either replies or has closed this connection.
    other
        .0
        .get_mut()
        .write_all(&AdminRequest::Create { group: group("late"), secret: None }.encode())
        .ok();
    assert!(admin.is_closed());
    assert!(!env.server.socket().exists() && !control_path(&env.server).exists());
    assert!(env.server.wait_exit().success());
    let again = kvs_admin(&env.server, &["status"]);
    assert_error(&again, 3, &["no server"]);
}

#[test]
fn names_and_keys_are_arbitrary_bytes() {
    let env = TestEnv::without_group();
    let mut admin = AdminClient::connect(&env.server);
    let name = Bytes(b"\xff\n\"\\\x01 \xe2\x82".to_vec());
    let AdminResponse::Created { group, secret } =
        admin.request(&AdminRequest::Create { group: name.clone(), secret: None })
    else {
        panic!("it is a name like any other");
    };
    assert_eq!(group, name);
    let info = admin.request(&AdminRequest::Info { group: name.clone() });
    assert_eq!(info, AdminResponse::Info { group: name.clone(), secret, pairs: 0 });
    assert!(
        kvs_admin(&env.server, &["status"]).stdout[0].contains("\u{fffd}\\n"),
        "no line is forged"
    );
    assert_eq!(
        admin.request(&AdminRequest::Delete { group: name.clone() }),
        AdminResponse::Deleted { group: name }
    );

    let secret = env.server.create_group("g");
    let mut app = RawV2App::login(&env.server, "g", &secret);
    let long = vec![1; 65_536];
    for key in [&b"\xff\x00key"[..], &long] {
        app.put(key, "");
        app.watch(key);
    }
    app.watch_prefix(b"\xfe");
    let AdminResponse::Status { groups, more: false } =
        admin.request(&AdminRequest::Status { group: None })
    else {
        panic!("one line is enough");
    };
    let application = &groups[0].applications[0];
    // The count includes watches that do not fit into the reply.
    let shown = WatchedItem::Key(Bytes(b"\xff\x00key".to_vec()));
    assert_eq!((&*application.watches, application.watch_count), (&[shown][..], 3));
    assert_eq!(groups[0].pairs, 2);
}

#[test]
fn long_status_is_split_and_complete() {
    const GROUPS: usize = 300;
    const APPLICATIONS: usize = 400;
    let env = TestEnv::without_group();
    let mut admin = AdminClient::connect(&env.server);
    let mut secrets = Vec::new();
    for n in 0..GROUPS {
        match admin
            .request(&AdminRequest::Create { group: group(&format!("group {n}")), secret: None })
        {
            AdminResponse::Created { secret, .. } => {
                secrets.push(String::from_utf8(secret.0).expect("letters"))
            }
            other => panic!("{other:?}"),
        }
    }
    let key = |n: usize, k: usize| format!("{n:0>80}/{k}");
    let apps: Vec<_> = (0..APPLICATIONS)
        .map(|n| {
            let mut app = RawV2App::login(&env.server, "group 7", &secrets[7]);
            (0..5).for_each(|k| app.watch_prefix(key(n, k)));
            app
        })
        .collect();

    // A client that does not read blocks only itself.
    let mut blocked = AdminClient::connect(&env.server);
    for _ in 0..20 {
        blocked.send(&AdminRequest::Status { group: None }.encode());
    }

    admin.send(&AdminRequest::Status { group: None }.encode());
    let (mut groups, mut lines): (Vec<GroupStatus>, _) = (Vec::new(), 0);
    loop {
        lines += 1;
        let AdminResponse::Status { groups: part, more } = admin.receive() else {
            panic!("a status")
        };
        groups.extend(part);
        if !more {
            break;
        }
    }
    assert!(lines > 1, "in parts");
    let mut names: Vec<_> = groups.iter().map(|group| group.group.to_string()).collect();
    names.dedup();
    assert_eq!(names, (0..GROUPS).map(|n| format!("group {n}")).collect::<Vec<_>>());
    let applications: Vec<_> = groups.iter().flat_map(|group| &group.applications).collect();
    assert_eq!(applications.len(), APPLICATIONS);
    for (n, application) in applications.iter().enumerate() {
        assert_eq!((application.number, application.watch_count), (n as u64 + 1, 5));
        let watched = (0..5).map(|k| WatchedItem::Prefix(group(&key(n, k))));
        assert_eq!(application.watches, watched.collect::<Vec<_>>());
    }
    let printed = kvs_admin(&env.server, &["status", "group 7"]);
    assert_eq!(printed.stdout.len(), APPLICATIONS + 2, "a heading, and a line for each");
    drop(apps);
    drop(blocked);
    env.server.quit();
}

#[test]
fn concurrent_creations_and_deletions_are_exclusive() {
    let env = TestEnv::without_group();
    for round in 0..100 {
        let name = format!("g{round}");
        let mut admins: Vec<_> = (0..4).map(|_| AdminClient::connect(&env.server)).collect();
        let created = AtomicUsize::new(0);
        thread::scope(|scope| {
            for admin in &mut admins {
                scope.spawn(|| {
                    match admin.request(&AdminRequest::Create { group: group(&name), secret: None })
                    {
                        AdminResponse::Created { .. } => {
                            created.fetch_add(1, Ordering::Relaxed);
                        }
                        other => assert_eq!(kind(other), Kind::Exists),
                    }
                });
            }
            match &*env.server.ask("Create group", &name) {
                "Group id already exists" => {}
                answer => {
                    assert!(answer.starts_with("Group created with secret "), "{answer}");
                    created.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert_eq!(created.into_inner(), 1, "round {round}");
    }
    // A late deletion would be counted twice, or would delete a new group.
    let mut admins: Vec<_> = (0..6).map(|_| AdminClient::connect(&env.server)).collect();
    let (created, deleted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (n, admin) in admins.iter_mut().enumerate() {
            let (created, deleted) = (&created, &deleted);
            scope.spawn(move || {
                for _ in 0..100 {
                    let group = group("contended");
                    let answer = match n % 2 {
                        0 => admin.request(&AdminRequest::Create { group, secret: None }),
                        _ => admin.request(&AdminRequest::Delete { group }),
                    };
                    match answer {
                        AdminResponse::Created { .. } => created.fetch_add(1, Ordering::Relaxed),
                        AdminResponse::Deleted { .. } => deleted.fetch_add(1, Ordering::Relaxed),
                        AdminResponse::Error { kind: Kind::Exists | Kind::NotFound, .. } => 0,
                        other => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    let left = match admins[0].request(&AdminRequest::Info { group: group("contended") }) {
        AdminResponse::Info { .. } => 1,
        other => {
            assert_eq!(kind(other), Kind::NotFound);
            0
        }
    };
    assert_eq!(created.into_inner(), deleted.into_inner() + left);
}

#[test]
fn hostile_clients_do_not_affect_others() {
    let env = TestEnv::start();
    let app = env.driver();

    let mut admin = AdminClient::connect(&env.server);
    for garbage in [&b"\n"[..], b"\x00\xff\n", b"[[[[\n", b"{\"version\":1}\n", b"Create group\n"] {
        admin.send(garbage);
        assert_eq!(kind(admin.receive()), Kind::Invalid);
    }
    admin.send(b"{\"version\":2,\"request\":\"quit\"}\n");
    assert_eq!(kind(admin.receive()), Kind::Version);
    let known = kind(admin.request(&AdminRequest::Create { group: group("g"), secret: None }));
    assert_eq!(known, Kind::Exists, "the connection stays open");

    let mut endless = AdminClient::connect(&env.server);
    endless.send(&vec![b'['; MAX_REQUEST_LEN]);
    assert_eq!(kind(endless.receive()), Kind::Invalid);
    assert!(endless.is_closed());

    let threads = env.server.threads();
    let mut half = AdminClient::connect(&env.server);
    half.send(b"{\"version\":1,\"request\":\"cre");
    let mut idle: Vec<_> = (0..100).map(|_| AdminClient::connect(&env.server)).collect();
    assert_eq!(env.server.group_info("g").map(|info| info.secret), Ok(env.secret().to_owned()));
    for _ in 0..3 {
        assert_eq!(kvs_admin(&env.server, &["status", "g"]).status.code(), Some(0));
    }
    app.store("k", "v");
    assert_eq!(app.call_within(AT_ONCE, "get_value k").1, "v");
    assert!(half.is_closed(), "its connection was needed");
    assert!(idle[0].is_closed());
    until("the threads of closed connections end", || {
        (env.server.threads() <= threads + 16).then_some(())
    });
    let last = idle.last_mut().expect("there are a hundred");
    assert_eq!(
        kind(last.request(&AdminRequest::Create { group: group("g"), secret: None })),
        Kind::Exists,
        "it is connected"
    );

    // Requests that are truncated at any byte.
    for n in 0..50 {
        let mut admin = AdminClient::connect(&env.server);
        let line = AdminRequest::Status { group: None }.encode();
        admin.send(&line[..n % line.len()]);
    }
    env.server.quit();
}

/// This test is slow, as it waits for the timeout.
#[test]
fn incomplete_request_times_out() {
    let env = TestEnv::without_group();
    let mut half = AdminClient::connect(&env.server);
    half.send(b"{");
    let drip = half.0.get_ref().try_clone().expect("a descriptor can be duplicated");
    thread::scope(|scope| {
        scope.spawn(|| {
            // Single bytes do not extend the timeout. The pause is part of the attack.
            let mut drip = &drip;
            while drip.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(200));
            }
        });
        assert!(half.is_closed());
    });
    assert_eq!(kvs_admin(&env.server, &["status"]).status.code(), Some(0));
}
