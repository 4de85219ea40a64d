//! Applications that violate the rules affect only themselves.

use std::sync::{Barrier, mpsc};
use std::time::Instant;

use kvs_testkit::{AT_ONCE, Channel, DEADLINE, ScriptedServer, Sockets, TestEnv};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// The server assigns applications to its threads in rotation: with as many applications as there
/// may be threads, each thread has one.
const ON_ALL_THREADS: usize = 4;

#[test]
fn unfinished_login_times_out_and_delays_no_other() {
    let env = TestEnv::start();
    let mut silent: Vec<_> = (0..ON_ALL_THREADS)
        .map(|_| {
            let mut main =
                Channel::connect("main", env.server.socket()).expect("the server listens");
            main.expect_int(1);
            main.send(b"g");
            main.expect_int(1);
            main
        })
        .collect();
    let mut subscribers: Vec<_> = (0..ON_ALL_THREADS)
        .map(|_| {
            let mut app = env.server.raw_app("g", env.secret());
            app.put("k", "before");
            assert!(app.register("k"));
            app
        })
        .collect();
    let writer = env.connect();
    // The login timeout is ten seconds; the test waits for the end of each connection.
    for main in &mut silent {
        main.expect_end();
    }
    writer.put("k", "after").expect("it is connected");
    for app in &mut subscribers {
        assert_eq!(app.next_change(), "k");
    }
    drop((subscribers, writer));
    env.server.quit();
    assert!(env.server.wait_exit_within(AT_ONCE * 3).success());
    assert!(!env.server.socket().exists());
}

#[test]
fn callback_connection_without_login_does_not_break_the_next() {
    let env = TestEnv::start();
    for _ in 0..3 {
        drop(
            Channel::connect("callback", env.server.callback_socket()).expect("the server listens"),
        );
        // The socket is unnamed like the dropped one, so the server identifies the same process.
        let mut app = env.server.raw_app("g", env.secret());
        app.put("k", "v");
        assert_eq!(app.get("k").as_deref(), Some("v"));
    }
}

#[test]
fn lack_of_descriptors_is_not_a_lost_authentication_server() {
    let env = TestEnv::with_args(["--exit-on-auth-loss"]);
    let connected = env.connect();
    let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Nofile) };
    let pid = Pid::from_raw(env.server.pid());
    let before = prlimit(pid, Resource::Nofile, limit).expect("it is our child");
    let answer = env.server.ask("Delete group", "g");
    assert!(
        answer.starts_with("Group not deleted: cannot send to the authentication server"),
        "{answer}"
    );
    assert!(answer.contains("Too many open files"), "{answer}");
    connected.put("k", "v").expect("connected applications keep working");
    prlimit(pid, Resource::Nofile, before).expect("it is our child");
    env.connect().put("k", "w").expect("everything works again");
    assert_eq!(connected.get("k").expect("it is connected").as_deref(), Some(&b"w"[..]));
}

#[test]
fn empty_value_is_visible_before_the_writer_calls_again() {
    let env = TestEnv::start();
    let (writer, subscriber) = (env.connect(), env.connect());
    subscriber.put("k", "before").expect("it is connected");
    let (called, calls) = mpsc::channel();
    subscriber
        .watch("k", move |_| {
            _ = called.send(());
        })
        .expect("the key exists");
    writer.put("k", "").expect("it is connected");
    calls.recv_timeout(DEADLINE).expect("the subscriber gets the event");
    assert_eq!(subscriber.get("k").expect("it is connected").as_deref(), Some(&b""[..]));
}

/// While one thread deletes a key, another puts and watches it again: the new callback must not be
/// removed with the old watch. In each round both threads begin together. When the key exists
/// afterwards, the deletion came first, and the watch must work.
#[test]
fn callback_registered_during_a_deletion_is_not_lost() {
    const ROUNDS: usize = 2_000;
    let env = TestEnv::start();
    let connection = env.connect();
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
            let (called, calls) = mpsc::channel();
            let watched = connection.watch("k", move |_| {
                _ = called.send(());
            });
            end.wait();
            if watched.is_ok() && connection.get("k").expect("it is connected").is_some() {
                connection.put("k", "newer").expect("it is connected");
                calls.recv_timeout(DEADLINE).expect("the callback is called");
                checked += 1;
            }
        }
    });
    assert!(checked > 0, "the deletion never came first");
}

#[test]
fn server_that_hangs_up_during_the_login_is_noticed_at_once() {
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
    // The connection is accepted, but the connection flag is never sent.
    let callback = server.accept_callback();
    drop(main);
    let (result, took) = login.join().expect("the login returns");
    assert_eq!(result, Err(-13));
    assert!(took < DEADLINE / 2, "it took {took:?}, with a timeout of {DEADLINE:?}");
    drop(callback);
}
