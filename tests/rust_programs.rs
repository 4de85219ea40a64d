//! The Rust wrapper at work on the real servers.

#![forbid(unsafe_code)]

mod wrapper;

use std::fs;
use std::thread;
use std::time::Instant;

use kvs_tests::{AuthServer, DEADLINE, Driver, LocalServer, Sockets};
use wrapper::connect;

#[test]
fn the_callback_path_follows_from_the_main_path() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");

    let in_c = Driver::spawn(Driver::program().env("KVS_SOCKET", server.socket()));
    assert_eq!(in_c.establish("g", &secret), 0);
    in_c.store("k", "v");
    assert_eq!(in_c.call("register_callback k"), 1);

    let builder = kvs::Connection::builder().socket(server.socket()).timeout(DEADLINE);
    let in_rust = builder.open("g", &secret).unwrap();
    let (changed, changes) = std::sync::mpsc::channel();
    in_rust.watch("k", move |key| changed.send(key.to_vec()).expect("the test listens")).unwrap();

    in_rust.put("k", "w").unwrap();
    assert_eq!(changes.recv_timeout(DEADLINE).expect("it is told of its own change"), b"k");
    in_c.expect_change("k");
}

#[test]
fn a_login_that_was_given_up_half_way_does_not_spoil_the_next() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    // Cannot be connected to, and the server has got the secret when that is found out.
    let nowhere = "/dev/null/sock";
    for round in 0..3000 {
        let half = kvs::Connection::builder().socket(server.socket()).callback_socket(nowhere);
        assert_eq!(half.open("g", &secret).map_err(|error| error.code()).err(), Some(-12));
        // The server may not have noticed yet.
        let next = connect(&server, "g", &secret);
        assert!(next.is_ok(), "round {round}: {next:?}");
    }
}

/// What this process has left in `/tmp`, or is using there at this moment.
fn own_paths() -> Vec<String> {
    let pid = std::process::id().to_string();
    let names = fs::read_dir("/tmp").expect("it can be read").flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            let rest = name.strip_prefix("app_socket_cb_").or(name.strip_prefix("app_socket_"));
            rest.is_some_and(|rest| rest.split('_').next() == Some(&pid))
        })
        .collect()
}

#[test]
fn any_number_of_threads_may_log_in_at_the_same_time() {
    const THREADS: usize = 32;
    const LOGINS: usize = 20;
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (server, secret) = (&server, &secret);
            scope.spawn(move || {
                for login in 0..LOGINS {
                    let key = format!("key-{thread}");
                    let value = format!("value-{thread}-{login}");
                    let connection = connect(server, "g", secret).expect("it is let in");
                    connection.put(&key, &value).expect("it is connected");
                    let stored = connection.get(&key).expect("it is connected");
                    assert_eq!(stored.as_deref(), Some(value.as_bytes()));
                    connection.close().expect("it is connected");
                }
            });
        }
    });
    assert_eq!(server.group_info("g").map(|info| info.pairs), Ok(THREADS));
    let status = server
        .status_where("all are closed", |status| status.iter().all(|app| app.status == "Closed"));
    assert_eq!(status.len(), THREADS * LOGINS);

    // Another test of this process may be using one for an instant.
    let end = Instant::now() + DEADLINE;
    while !own_paths().is_empty() {
        assert!(Instant::now() < end, "left behind in /tmp: {:?}", own_paths());
    }
}
