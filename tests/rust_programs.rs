//! The Rust wrapper at work on the real servers.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kvs::{Connection, DisconnectReason, Error, NO_VERSION, PipelineResult, Swap, Versioned};
use kvs_testkit::{
    AuthServer, DEADLINE, Driver, LocalServer, Protocol, Sockets, StopOnDrop, connect,
    connection_builder, on_both_protocols,
};

on_both_protocols! {
    fn the_callback_path_follows_from_the_main_path(protocol: Protocol) {
        let auth = AuthServer::start();
        let server = LocalServer::start(&auth);
        let secret = server.create_group("g");

        let in_c = Driver::spawn(Driver::program().protocol(protocol).env("KVS_SOCKET", server.socket()));
        assert_eq!(in_c.establish("g", &secret), 0);
        in_c.store("k", "v");
        assert_eq!(in_c.call("register_callback k"), 1);

        let builder = kvs::Connection::builder()
            .socket(server.socket())
            .protocol(protocol)
            .timeout(DEADLINE);
        let in_rust = builder.open("g", &secret).unwrap();
        let (changed, changes) = std::sync::mpsc::channel();
        in_rust.watch("k", move |key| changed.send(key.to_vec()).expect("the test listens")).unwrap();

        in_rust.put("k", "w").unwrap();
        assert_eq!(changes.recv_timeout(DEADLINE).expect("it is told of its own change"), b"k");
        in_c.expect_change("k");
    }
}

on_both_protocols! {
    fn a_login_that_was_given_up_half_way_does_not_spoil_the_next(protocol: Protocol) {
        let auth = AuthServer::start();
        let server = LocalServer::start(&auth);
        let secret = server.create_group("g");
        // Cannot be connected to, and the server has got the secret when that is found out.
        let nowhere = "/dev/null/sock";
        for round in 0..3000 {
            let half = connection_builder(&server, protocol).callback_socket(nowhere);
            assert_eq!(half.open("g", &secret).map_err(|error| error.code()).err(), Some(-12));
            // The server may not have noticed yet.
            let next = connection_builder(&server, protocol).open("g", &secret);
            assert!(next.is_ok(), "round {round}: {next:?}");
        }
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

on_both_protocols! {
    fn any_number_of_threads_may_log_in_at_the_same_time(protocol: Protocol) {
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
                        let connection =
 connection_builder(server, protocol).open("g", secret).expect("it is let in");
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
}

// --- what only a framed session can do ------------------------------------------------------------

/// Both servers, and a group.
struct World {
    server: LocalServer,
    secret: String,
    _auth: AuthServer,
}

impl World {
    fn start() -> Self {
        let auth = AuthServer::start();
        let server = LocalServer::start(&auth);
        let secret = server.create_group("g");
        Self { server, secret, _auth: auth }
    }

    fn connect(&self) -> Connection {
        let connection = connect(&self.server, "g", &self.secret).expect("it is let in");
        assert_eq!(connection.protocol(), Protocol::V2);
        connection
    }
}

fn code(error: Error) -> i32 {
    error.code()
}

/// A change, as a callback tells it.
type Told = (Vec<u8>, u64);

fn tell(to: &mpsc::Sender<Told>) -> impl Fn(&kvs::Change<'_>) + Send + Sync + 'static {
    let to = to.clone();
    // Whoever has heard enough listens no more.
    move |change| drop(to.send((change.key.to_vec(), change.version)))
}

#[test]
fn an_original_session_says_what_it_cannot_do_and_stays() {
    let world = World::start();
    let app = connection_builder(&world.server, Protocol::V1).open("g", &world.secret).unwrap();
    assert_eq!(app.protocol(), Protocol::V1);
    assert_eq!(app.get_versioned("k").map_err(code), Err(-17));
    assert_eq!(app.compare_and_swap("k", "v", 1).map_err(code), Err(-17));
    assert_eq!(app.put_if_absent("k", "v").map_err(code), Err(-17));
    assert_eq!(app.compare_and_delete("k", 1).map_err(code), Err(-17));
    assert_eq!(app.put_many([("k", "v")]).map_err(code), Err(-17));
    assert_eq!(app.keys_page("", 0, 0).map_err(code), Err(-17));
    assert_eq!(app.keys("").map(|key| key.map_err(code)).collect::<Vec<_>>(), [Err(-17)]);
    assert_eq!(app.watch_prefix("k", |_| ()).map_err(code), Err(-17));
    assert_eq!(app.unwatch_prefix("k").map_err(code), Err(-17));
    assert_eq!(app.pipeline().map(drop).map_err(code), Err(-17));
    assert_eq!(app.put("k", vec![b'v'; 100]).map_err(code), Err(-15));
    app.put("k", "v").unwrap();
    let (told, changes) = mpsc::channel();
    app.watch_changes("k", tell(&told)).unwrap();
    app.put("k", "w").unwrap();
    assert_eq!(changes.recv_timeout(DEADLINE).unwrap(), (b"k".to_vec(), 0));
    assert!(app.unwatch("k").unwrap());
    assert!(!app.unwatch("k").unwrap());
    app.close().unwrap();
}

/// Its name leaves no room for the offer.
#[test]
fn a_group_with_a_very_long_name_is_entered_by_an_original_session() {
    let world = World::start();
    for (len, protocol) in [(95, Protocol::V2), (96, Protocol::V1), (99, Protocol::V1)] {
        let group = "n".repeat(len);
        let secret = world.server.create_group(&group);
        let app = connect(&world.server, &group, &secret).unwrap();
        assert_eq!(app.protocol(), protocol, "{len}");
        let version = app.put("k", "v").unwrap();
        assert_eq!(version != NO_VERSION, protocol == Protocol::V2, "{len}");
        assert_eq!(app.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    }
}

#[test]
fn versions_tell_whether_somebody_was_faster() {
    let world = World::start();
    let (app, other) = (world.connect(), world.connect());
    let Swap::Done(first) = app.put_if_absent("k", "one").unwrap() else { panic!("it is absent") };
    assert_eq!(other.put_if_absent("k", "two").unwrap(), Swap::Conflict(first));
    let found = other.get_versioned("k").unwrap();
    assert_eq!(found, Some(Versioned { value: b"one".to_vec(), version: first }));
    let Swap::Done(second) = other.compare_and_swap("k", "two", first).unwrap() else {
        panic!("it has that version")
    };
    assert!(second > first);
    assert_eq!(app.compare_and_swap("k", "no", first).unwrap(), Swap::Conflict(second));
    assert!(app.delete("k").unwrap());
    assert_eq!(app.compare_and_swap("k", "no", second).unwrap(), Swap::Conflict(0));
    assert_eq!(app.compare_and_delete("k", second).unwrap(), Swap::Conflict(0));
    let Swap::Done(third) = app.put_if_absent("k", "three").unwrap() else {
        panic!("it is absent")
    };
    assert_eq!(other.compare_and_delete("k", second).unwrap(), Swap::Conflict(third));
    assert_eq!(app.get("k").unwrap().as_deref(), Some(&b"three"[..]));
    let fourth = app.put("k", "four").unwrap();
    assert!(fourth > third);
    assert_eq!(other.compare_and_delete("k", fourth).unwrap(), Swap::Done(0));
    assert_eq!(app.get_versioned("k").unwrap(), None);
}

#[test]
fn a_put_of_many_is_one_put() {
    let world = World::start();
    let (app, other) = (world.connect(), world.connect());
    let keys: Vec<String> = (0..50).map(|n| format!("key-{n:02}")).collect();
    let put = |round: u64| app.put_many(keys.iter().map(|key| (key, round.to_string()))).unwrap();
    let last = put(0);
    // What is too long together, or too many, is told in numbers, and changes nothing.
    let most = (16 << 20) + 65_600;
    let long = vec![b'v'; 9 << 20];
    let len = 2 * (8 + 1 + long.len());
    let too_long = app.put_many([("a", &long), ("b", &long)]).unwrap_err();
    assert_eq!(too_long.code(), -15);
    assert!(too_long.to_string().contains(&format!("{len} bytes are too long: at most {most}")));
    let rest = vec![b'v'; most + 1 - 2 * (8 + 1) - long.len()];
    let too_long = app.put_many([("a", &long), ("b", &rest)]).unwrap_err();
    assert!(too_long.to_string().contains(&format!("{} bytes", most + 1)), "{too_long}");
    let too_many = app.put_many((0..=10_000).map(|n| (n.to_string(), "v"))).unwrap_err();
    assert!(too_many.to_string().contains("at most 10000"), "{too_many}");
    assert_eq!(app.get("a").unwrap(), None);
    app.put_many([("a", &long[..]), ("b", &rest[1..])]).unwrap();
    // The versions are consecutive, and the last is told.
    for (key, version) in keys.iter().zip(last + 1 - keys.len() as u64..) {
        assert_eq!(app.get_versioned(key).unwrap().unwrap().version, version, "{key}");
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut pipeline = other.pipeline().unwrap();
                for key in &keys {
                    pipeline.get(key).unwrap();
                }
                // What is read later is never older.
                let mut seen = 0;
                for answer in pipeline.run().unwrap() {
                    let PipelineResult::Value(found) = answer else { panic!("{answer:?}") };
                    let round: u64 = String::from_utf8(found.value).unwrap().parse().unwrap();
                    assert!(round >= seen);
                    seen = round;
                }
            }
        });
        let _stop_on_drop = StopOnDrop(&done);
        for round in 1..=300 {
            put(round);
            if reader.is_finished() {
                break;
            }
        }
    });
    let none: [(&str, &str); 0] = [];
    assert_eq!(app.put_many(none).map_err(code), Err(-15));
    assert_eq!(app.put_many([("new", "v"), ("", "v")]).map_err(code), Err(-15));
    let many = (0..=10_000).map(|n| (format!("new-{n}"), ""));
    assert_eq!(app.put_many(many).map_err(code), Err(-15));
    let large = vec![0; 9 << 20];
    assert_eq!(app.put_many([("new-a", &large), ("new-b", &large)]).map_err(code), Err(-15));
    assert_eq!(app.keys("new").count(), 0);
}

#[test]
fn keys_are_told_once_while_others_come_and_go() {
    const COUNT: usize = 25_000;
    let world = World::start();
    let (app, other) = (world.connect(), world.connect());
    let keys: Vec<String> = (0..COUNT).map(|n| format!("key-{n}")).collect();
    for keys in keys.chunks(10_000) {
        app.put_many(keys.iter().map(|key| (key, "v"))).unwrap();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                other.put("key-x", "v").unwrap();
                other.delete("key-x").unwrap();
            }
        });
        let _stop_on_drop = StopOnDrop(&done);
        let told: Vec<_> = app.keys("key-").map(Result::unwrap).collect();
        let different: HashSet<_> = told.iter().collect();
        assert_eq!(different.len(), told.len());
        assert!(keys.iter().all(|key| different.contains(&key.as_bytes().to_vec())));
        let by_page: usize = {
            let (mut cursor, mut count) = (0, 0);
            loop {
                let (page, next) = app.keys_page("key-1", cursor, 100).unwrap();
                count += page.len();
                cursor = next;
                if next == 0 {
                    break count;
                }
            }
        };
        assert_eq!(by_page, keys.iter().filter(|key| key.starts_with("key-1")).count());
    });
    assert_eq!(app.keys("nothing").count(), 0);
}

#[test]
fn a_prefix_is_told_of_puts_and_deletions_until_it_is_unwatched() {
    let world = World::start();
    let (app, other) = (world.connect(), world.connect());
    let (told, changes) = mpsc::channel();
    let next = || changes.recv_timeout(DEADLINE).expect("a change is told");
    assert!(!app.unwatch_prefix("p:").unwrap());
    app.watch_prefix("p:", tell(&told)).unwrap();
    other.put("p:1", "v").unwrap();
    let version = app.get_versioned("p:1").unwrap().unwrap().version;
    assert_eq!(next(), (b"p:1".to_vec(), version));
    other.delete("p:1").unwrap();
    assert_eq!(next(), (b"p:1".to_vec(), 0));
    other.put("q", "v").unwrap();
    app.watch_changes("q", tell(&told)).unwrap();
    other.put("p:2", "v").unwrap();
    assert_eq!(next().0, b"p:2");
    assert!(app.unwatch_prefix("p:").unwrap());
    other.put("p:2", "w").unwrap();
    other.put("q", "w").unwrap();
    assert_eq!(next().0, b"q");
    // A callback may end itself.
    let (ended, end) = mpsc::channel();
    let app = Arc::new(app);
    let weak = Arc::downgrade(&app);
    app.watch("q", move |key| {
        let app = weak.upgrade().expect("the test keeps it");
        ended.send(app.unwatch(key).unwrap()).unwrap();
    })
    .unwrap();
    other.put("q", "x").unwrap();
    assert!(end.recv_timeout(DEADLINE).unwrap());
    assert!(!app.unwatch("q").unwrap());
}

#[test]
fn after_unwatch_the_callback_does_not_run() {
    let world = World::start();
    let (app, other) = (world.connect(), world.connect());
    other.put("k", "v").unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                other.put("k", "v").unwrap();
            }
        });
        let _stop_on_drop = StopOnDrop(&done);
        for round in 0..300 {
            let (inside, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let (is_inside, count) = (Arc::clone(&inside), Arc::clone(&calls));
            let (told, first) = mpsc::channel();
            app.watch("k", move |_| {
                is_inside.store(true, Ordering::SeqCst);
                count.fetch_add(1, Ordering::SeqCst);
                let _ = told.send(());
                thread::yield_now();
                is_inside.store(false, Ordering::SeqCst);
            })
            .unwrap();
            first.recv_timeout(DEADLINE).unwrap();
            assert!(app.unwatch("k").unwrap());
            assert!(!inside.load(Ordering::SeqCst), "round {round}");
            let seen = calls.load(Ordering::SeqCst);
            app.get("k").unwrap();
            assert_eq!(calls.load(Ordering::SeqCst), seen, "round {round}");
        }
    });
}

#[test]
fn an_unwatch_whose_callback_does_not_end_says_so_after_the_timeout() {
    let world = World::start();
    let patient = world.connect();
    patient.put("k", "v").unwrap();
    let hasty = connection_builder(&world.server, Protocol::V2).timeout(Duration::from_millis(200));
    let hasty = hasty.open("g", &world.secret).unwrap();
    let ((begun, begins), (end, ends)) = (mpsc::channel(), mpsc::channel::<()>());
    let ends = Mutex::new(ends);
    hasty
        .watch("k", move |_| {
            begun.send(()).expect("the test listens");
            let _ended = ends.lock().expect("nobody panics").recv();
        })
        .unwrap();
    patient.put("k", "w").unwrap();
    begins.recv_timeout(DEADLINE).unwrap();
    let late = hasty.unwatch("k").unwrap_err();
    assert_eq!(late.code(), -15);
    assert!(matches!(late, Error::CallbackRuns), "{late}");
    // Also when it is not watched any more.
    assert!(matches!(hasty.unwatch("k"), Err(Error::CallbackRuns)));
    end.send(()).unwrap();
    assert!(!hasty.unwatch("k").unwrap());
}

#[test]
fn the_end_of_a_connection_is_told_once_unless_the_program_has_closed_it() {
    let world = World::start();
    let other_secret = world.server.create_group("other");
    let (told, ends) = mpsc::channel();
    let when_ended = |app: &Connection, name: &'static str| {
        let told = told.clone();
        app.on_disconnect(move |reason| told.send((name, reason)).expect("the test listens"))
            .unwrap();
    };
    let next = || ends.recv_timeout(DEADLINE).expect("an end is told");
    let (closed, dropped) = (world.connect(), world.connect());
    when_ended(&closed, "closed");
    when_ended(&dropped, "dropped");
    closed.close().unwrap();
    drop(dropped);
    let deleted = connect(&world.server, "other", &other_secret).unwrap();
    let killed = world.connect();
    when_ended(&deleted, "replaced");
    when_ended(&deleted, "deleted");
    when_ended(&killed, "killed");
    world.server.delete_group("other");
    assert_eq!(next(), ("deleted", DisconnectReason::ClosedByServer));
    assert_eq!(deleted.on_disconnect(|_| ()).map_err(code), Err(-2));
    assert!(!deleted.is_open() && killed.is_open());
    world.server.kill();
    assert_eq!(next(), ("killed", DisconnectReason::ConnectionLost));
    assert_eq!(killed.put("k", "v").map_err(code), Err(-3));
    assert_eq!(killed.put("k", "v").map_err(code), Err(-2));
    assert_eq!(ends.recv_timeout(Duration::ZERO), Err(mpsc::RecvTimeoutError::Timeout));
}

#[test]
fn a_pipeline_is_answered_in_order_and_each_operation_by_itself() {
    let world = World::start();
    let app = world.connect();
    assert_eq!(app.pipeline().unwrap().run().unwrap().len(), 0);
    let mut pipeline = app.pipeline().unwrap();
    pipeline.put("a", "1").unwrap().get("a").unwrap().put("a", "2").unwrap().get("a").unwrap();
    pipeline.get("missing").unwrap();
    assert_eq!(pipeline.get("").map(drop).map_err(code), Err(-15));
    assert_eq!(pipeline.put("a", vec![0; (16 << 20) + 1]).map(drop).map_err(code), Err(-15));
    assert_eq!(pipeline.len(), 5);
    let answers = pipeline.run().unwrap();
    let [
        PipelineResult::Done(first),
        PipelineResult::Value(one),
        PipelineResult::Done(second),
        PipelineResult::Value(two),
        last,
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert!(second > first);
    assert_eq!((&one.value[..], one.version), (&b"1"[..], *first));
    assert_eq!((&two.value[..], two.version), (&b"2"[..], *second));
    assert!(matches!(last, PipelineResult::NoSuchKey), "{last:?}");
}

/// Far more than the sockets hold, in both directions at once, from several threads.
#[test]
fn long_pipelines_block_nobody() {
    const COUNT: usize = 20_000;
    let world = World::start();
    let app = world.connect();
    app.put("large", vec![b'v'; 1000]).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut pipeline = app.pipeline().unwrap();
                for _ in 0..COUNT {
                    pipeline.get("large").unwrap();
                }
                let answers = pipeline.run().unwrap();
                assert_eq!(answers.len(), COUNT);
                for answer in answers {
                    let PipelineResult::Value(found) = answer else { panic!("{answer:?}") };
                    assert_eq!(found.value.len(), 1000);
                }
            });
        }
        for thread in 0..4 {
            let app = &app;
            scope.spawn(move || {
                for round in 0..500 {
                    let (key, value) = (format!("small-{thread}"), format!("{thread}-{round}"));
                    app.put(&key, &value).unwrap();
                    assert_eq!(app.get(&key).unwrap().as_deref(), Some(value.as_bytes()));
                }
            });
        }
    });
}
