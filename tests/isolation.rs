//! Applications that do not keep to the rules hurt themselves, and nobody else.

use std::sync::{Barrier, mpsc};
use std::time::Instant;

use kvs_testkit::{
    AT_ONCE, AuthServer, Channel, DEADLINE, LocalServer, RawV1App, ScriptedServer, Sockets,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

fn connect(server: &LocalServer, group: &str, secret: &str) -> kvs::Connection {
    kvs::Connection::builder()
        .socket(server.socket())
        .callback_socket(server.callback_socket())
        .open(group, secret)
        .expect("a login with the right secret")
}

fn raw_app(server: &LocalServer, group: &str, secret: &str) -> RawV1App {
    RawV1App::login(server, group, secret)
}

/// Applications are spread over the server's threads in turn: with as many as there may be threads, each
/// thread has one.
const ON_ALL_THREADS: usize = 4;

#[test]
fn a_login_that_is_never_finished_ends_and_holds_up_neither_changes_nor_quit() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    let mut silent: Vec<_> = (0..ON_ALL_THREADS)
        .map(|_| {
            let mut main = Channel::connect("main", server.socket()).expect("the server listens");
            main.expect_int(1);
            main.send(b"g");
            main.expect_int(1);
            main
        })
        .collect();
    let mut watchers: Vec<_> = (0..ON_ALL_THREADS)
        .map(|_| {
            let mut app = raw_app(&server, "g", &secret);
            app.put("k", "before");
            assert!(app.register("k"));
            app
        })
        .collect();
    let writer = connect(&server, "g", &secret);
    // Ten seconds are the promise; the end of each connection is the event.
    for main in &mut silent {
        main.expect_end();
    }
    writer.put("k", "after").expect("it is connected");
    for app in &mut watchers {
        assert_eq!(app.next_change(), "k");
    }
    drop((watchers, writer));
    server.quit();
    assert!(server.wait_exit_within(AT_ONCE * 3).success());
    assert!(!server.socket().exists());
}

#[test]
fn a_callback_connection_without_login_does_not_spoil_the_next_login() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    for _ in 0..3 {
        drop(Channel::connect("callback", server.callback_socket()).expect("the server listens"));
        // Not bound to a path, like the one that was dropped: it belongs to this process, too.
        let mut app = raw_app(&server, "g", &secret);
        app.put("k", "v");
        assert_eq!(app.get("k").as_deref(), Some("v"));
    }
}

#[test]
fn a_server_without_free_descriptors_does_not_take_the_authentication_server_for_lost() {
    let auth = AuthServer::start();
    let server = LocalServer::builder(auth.addr()).arg("--exit-on-auth-loss").start();
    let secret = server.create_group("g");
    let connected = connect(&server, "g", &secret);
    let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Nofile) };
    let pid = Pid::from_raw(server.pid());
    let before = prlimit(pid, Resource::Nofile, limit).expect("it is our child");
    let answer = server.ask("Delete group", "g");
    assert!(answer.starts_with("Group not deleted: the authentication server"), "{answer}");
    assert!(answer.contains("Too many open files"), "{answer}");
    connected.put("k", "v").expect("connected applications keep working");
    prlimit(pid, Resource::Nofile, before).expect("it is our child");
    connect(&server, "g", &secret).put("k", "w").expect("everything works again");
    assert_eq!(connected.get("k").expect("it is connected").as_deref(), Some(&b"w"[..]));
}

#[test]
fn an_empty_value_is_seen_before_the_writer_calls_again() {
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    let (writer, watcher) = (connect(&server, "g", &secret), connect(&server, "g", &secret));
    watcher.put("k", "before").expect("it is connected");
    let (told, changes) = mpsc::channel();
    watcher
        .watch("k", move |_| {
            _ = told.send(());
        })
        .expect("the key exists");
    writer.put("k", "").expect("it is connected");
    changes.recv_timeout(DEADLINE).expect("the watcher is told");
    assert_eq!(watcher.get("k").expect("it is connected").as_deref(), Some(&b""[..]));
}

/// What one thread deletes, another may put and watch again at once: the new callback must not go with the
/// old watch. In each round the two threads begin together; when the key is there afterwards, the deletion
/// came first, and the watch must work.
#[test]
fn a_callback_registered_while_the_key_is_deleted_is_not_lost() {
    const ROUNDS: usize = 2_000;
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    let connection = connect(&server, "g", &secret);
    let (begin, end) = (Barrier::new(2), Barrier::new(2));
    let mut checked = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                begin.wait();
                connection.delete("k").expect("it is connected");
                end.wait();
            }
        });
        for _ in 0..ROUNDS {
            connection.put("k", "old").expect("it is connected");
            begin.wait();
            connection.put("k", "new").expect("it is connected");
            let (told, changes) = mpsc::channel();
            let watched = connection.watch("k", move |_| {
                _ = told.send(());
            });
            end.wait();
            if watched.is_ok() && connection.get("k").expect("it is connected").is_some() {
                connection.put("k", "newer").expect("it is connected");
                changes.recv_timeout(DEADLINE).expect("the callback is called");
                checked += 1;
            }
        }
    });
    assert!(checked > 0, "the deletion never came first");
}

#[test]
fn a_server_that_hangs_up_during_the_login_is_noticed_at_once() {
    let server = ScriptedServer::start();
    let (socket, callback_socket) =
        (server.socket().to_path_buf(), server.callback_socket().to_path_buf());
    let login = std::thread::spawn(move || {
        let begin = Instant::now();
        let result = kvs::Connection::builder()
            .socket(socket)
            .callback_socket(callback_socket)
            .timeout(DEADLINE)
            .open("g", "abcde");
        (result.map(drop).map_err(|error| error.code()), begin.elapsed())
    });
    let mut main = server.accept_main();
    main.send_int(1);
    main.expect(b"g\0kvs2");
    main.send_int(1);
    main.expect(b"abcde");
    // Accepted, never greeted.
    let callback = server.accept_callback();
    drop(main);
    let (result, took) = login.join().expect("the login returns");
    assert_eq!(result, Err(-13));
    assert!(took < DEADLINE / 2, "it took {took:?}, with a time-out of {DEADLINE:?}");
    drop(callback);
}
