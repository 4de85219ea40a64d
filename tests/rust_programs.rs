//! The crate `kvs` against the real servers.

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
    DEADLINE, Driver, Protocol, Sockets, StopOnDrop, TestEnv, connection_builder, on_both_protocols,
};

on_both_protocols! {
    fn callback_path_follows_from_the_main_path(protocol: Protocol) {
        let env = TestEnv::builder().protocol(protocol).start();

        let program = Driver::program().protocol(protocol);
        let in_c = Driver::spawn(program.env("KVS_SOCKET", env.server.socket()));
        assert_eq!(in_c.establish(env.group(), env.secret()), 0);
        in_c.store("k", "v");
        assert_eq!(in_c.call("register_callback k"), 1);

        let builder = kvs::Connection::builder()
            .socket(env.server.socket())
            .protocol(protocol)
            .timeout(DEADLINE);
        let in_rust = builder.open(env.group(), env.secret()).unwrap();
        let (changed, changes) = std::sync::mpsc::channel();
        in_rust
            .watch("k", move |key| changed.send(key.to_vec()).expect("the test listens"))
            .unwrap();

        in_rust.put("k", "w").unwrap();
        assert_eq!(changes.recv_timeout(DEADLINE).expect("its own change is reported"), b"k");
        in_c.expect_change("k");
    }
}

on_both_protocols! {
    fn aborted_login_does_not_disturb_the_next_one(protocol: Protocol) {
        let env = TestEnv::builder().protocol(protocol).start();
        // A path at which no server can listen, as the client notices after it has sent the secret.
        let nowhere = "/dev/null/sock";
        for round in 0..3000 {
            let aborted = connection_builder(&env.server, protocol).callback_socket(nowhere);
            assert_eq!(aborted.open(env.group(), env.secret()).map_err(code).err(), Some(-12));
            // The server may not have noticed the end of the aborted login yet.
            let next = env.try_connect(env.group(), env.secret());
            assert!(next.is_ok(), "round {round}: {next:?}");
        }
    }
}

/// The socket paths of this process in `/tmp`.
fn own_paths() -> Vec<String> {
    let pid = std::process::id().to_string();
    let names = fs::read_dir("/tmp").expect("/tmp can be read").flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            let rest = name.strip_prefix("app_socket_cb_").or(name.strip_prefix("app_socket_"));
            rest.is_some_and(|rest| rest.split('_').next() == Some(&pid))
        })
        .collect()
}

on_both_protocols! {
    fn many_threads_log_in_at_the_same_time(protocol: Protocol) {
        const THREADS: usize = 32;
        const LOGINS: usize = 20;
        let env = TestEnv::builder().protocol(protocol).start();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let env = &env;
                scope.spawn(move || {
                    for login in 0..LOGINS {
                        let key = format!("key-{thread}");
                        let value = format!("value-{thread}-{login}");
                        let connection = env.connect();
                        connection.put(&key, &value).expect("the connection is open");
                        let stored = connection.get(&key).expect("the connection is open");
                        assert_eq!(stored.as_deref(), Some(value.as_bytes()));
                        connection.close().expect("the connection is open");
                    }
                });
            }
        });
        assert_eq!(env.pairs(), THREADS);
        let status = env.server.status_where("all are closed", |status| {
            status.iter().all(|app| app.status == "Closed")
        });
        assert_eq!(status.len(), THREADS * LOGINS);

        // Another test of this process may be logging in.
        let end = Instant::now() + DEADLINE;
        while !own_paths().is_empty() {
            assert!(Instant::now() < end, "paths remain in /tmp: {:?}", own_paths());
        }
    }
}

// --- protocol v2 ---------------------------------------------------------------------------------

fn code(error: Error) -> i32 {
    error.code()
}

/// The key and the version of a change.
type ReportedChange = (Vec<u8>, u64);

/// A callback that sends changes to the test. A test may stop receiving them.
fn forward(
    changes: &mpsc::Sender<ReportedChange>,
) -> impl Fn(&kvs::KeyChange<'_>) + Send + Sync + 'static {
    let changes = changes.clone();
    move |change| drop(changes.send((change.key.to_vec(), change.version)))
}

#[test]
fn v1_session_survives_unsupported_operations() {
    let env = TestEnv::start();
    let app =
        connection_builder(&env.server, Protocol::V1).open(env.group(), env.secret()).unwrap();
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
    let (report, changes) = mpsc::channel();
    app.watch_changes("k", forward(&report)).unwrap();
    app.put("k", "w").unwrap();
    assert_eq!(changes.recv_timeout(DEADLINE).unwrap(), (b"k".to_vec(), 0));
    assert!(app.unwatch("k").unwrap());
    assert!(!app.unwatch("k").unwrap());
    app.close().unwrap();
}

/// A longer group name leaves no room for the offer of protocol v2.
#[test]
fn group_name_over_95_bytes_selects_protocol_v1() {
    let env = TestEnv::start();
    for (len, protocol) in [(95, Protocol::V2), (96, Protocol::V1), (99, Protocol::V1)] {
        let group = "n".repeat(len);
        let secret = env.server.create_group(&group);
        let app = env.try_connect(&group, &secret).unwrap();
        assert_eq!(app.protocol(), protocol, "{len}");
        let version = app.put("k", "v").unwrap();
        assert_eq!(version != NO_VERSION, protocol == Protocol::V2, "{len}");
        assert_eq!(app.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    }
}

#[test]
fn compare_and_swap_detects_a_change_in_between() {
    let env = TestEnv::start();
    let (app, other) = (env.connect(), env.connect());
    let Swap::Done(first) = app.put_if_absent("k", "one").unwrap() else {
        panic!("the key is absent")
    };
    assert_eq!(other.put_if_absent("k", "two").unwrap(), Swap::Conflict(first));
    let found = other.get_versioned("k").unwrap();
    assert_eq!(found, Some(Versioned { value: b"one".to_vec(), version: first }));
    let Swap::Done(second) = other.compare_and_swap("k", "two", first).unwrap() else {
        panic!("the key has that version")
    };
    assert!(second > first);
    assert_eq!(app.compare_and_swap("k", "no", first).unwrap(), Swap::Conflict(second));
    assert!(app.delete("k").unwrap());
    assert_eq!(app.compare_and_swap("k", "no", second).unwrap(), Swap::Conflict(0));
    assert_eq!(app.compare_and_delete("k", second).unwrap(), Swap::Conflict(0));
    let Swap::Done(third) = app.put_if_absent("k", "three").unwrap() else {
        panic!("the key is absent")
    };
    assert_eq!(other.compare_and_delete("k", second).unwrap(), Swap::Conflict(third));
    assert_eq!(app.get("k").unwrap().as_deref(), Some(&b"three"[..]));
    let fourth = app.put("k", "four").unwrap();
    assert!(fourth > third);
    assert_eq!(other.compare_and_delete("k", fourth).unwrap(), Swap::Done(0));
    assert_eq!(app.get_versioned("k").unwrap(), None);
}

#[test]
fn put_many_is_atomic() {
    let env = TestEnv::start();
    let (app, other) = (env.connect(), env.connect());
    let keys: Vec<String> = (0..50).map(|n| format!("key-{n:02}")).collect();
    let put = |round: u64| app.put_many(keys.iter().map(|key| (key, round.to_string()))).unwrap();
    let last = put(0);
    // Pairs that are too long together, or too many, are rejected with numbers, and change nothing.
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
    // The versions are consecutive, and `put_many` returns the last.
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
                // A later read never returns an older round.
                let mut seen = 0;
                for result in pipeline.run().unwrap() {
                    let PipelineResult::Value(found) = result else { panic!("{result:?}") };
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
fn keys_are_listed_once_during_puts_and_deletes() {
    const COUNT: usize = 25_000;
    let env = TestEnv::start();
    let (app, other) = (env.connect(), env.connect());
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
        let listed: Vec<_> = app.keys("key-").map(Result::unwrap).collect();
        let different: HashSet<_> = listed.iter().collect();
        assert_eq!(different.len(), listed.len());
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
fn prefix_watch_reports_puts_and_deletes_until_removed() {
    let env = TestEnv::start();
    let (app, other) = (env.connect(), env.connect());
    let (report, changes) = mpsc::channel();
    let next = || changes.recv_timeout(DEADLINE).expect("a change is reported");
    assert!(!app.unwatch_prefix("p:").unwrap());
    app.watch_prefix("p:", forward(&report)).unwrap();
    other.put("p:1", "v").unwrap();
    let version = app.get_versioned("p:1").unwrap().unwrap().version;
    assert_eq!(next(), (b"p:1".to_vec(), version));
    other.delete("p:1").unwrap();
    assert_eq!(next(), (b"p:1".to_vec(), 0));
    other.put("q", "v").unwrap();
    app.watch_changes("q", forward(&report)).unwrap();
    other.put("p:2", "v").unwrap();
    assert_eq!(next().0, b"p:2");
    assert!(app.unwatch_prefix("p:").unwrap());
    other.put("p:2", "w").unwrap();
    other.put("q", "w").unwrap();
    assert_eq!(next().0, b"q");
    // A callback may remove its own watch.
    let (ended, end) = mpsc::channel();
    let app = Arc::new(app);
    let weak = Arc::downgrade(&app);
    app.watch("q", move |key| {
        let app = weak.upgrade().expect("the test keeps the connection");
        ended.send(app.unwatch(key).unwrap()).unwrap();
    })
    .unwrap();
    other.put("q", "x").unwrap();
    assert!(end.recv_timeout(DEADLINE).unwrap());
    assert!(!app.unwatch("q").unwrap());
}

#[test]
fn callback_does_not_run_after_unwatch() {
    let env = TestEnv::start();
    let (app, other) = (env.connect(), env.connect());
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
            let (report, first) = mpsc::channel();
            app.watch("k", move |_| {
                is_inside.store(true, Ordering::SeqCst);
                count.fetch_add(1, Ordering::SeqCst);
                let _ = report.send(());
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
fn unwatch_times_out_while_its_callback_runs() {
    let env = TestEnv::start();
    let writer = env.connect();
    writer.put("k", "v").unwrap();
    let app = connection_builder(&env.server, Protocol::V2).timeout(Duration::from_millis(200));
    let app = app.open(env.group(), env.secret()).unwrap();
    let ((begun, begins), (end, ends)) = (mpsc::channel(), mpsc::channel::<()>());
    let ends = Mutex::new(ends);
    app.watch("k", move |_| {
        begun.send(()).expect("the test listens");
        let _ended = ends.lock().expect("no thread panics").recv();
    })
    .unwrap();
    writer.put("k", "w").unwrap();
    begins.recv_timeout(DEADLINE).unwrap();
    let late = app.unwatch("k").unwrap_err();
    assert_eq!(late.code(), -15);
    assert!(matches!(late, Error::CallbackRuns), "{late}");
    // The watch is removed, but the callback still runs.
    assert!(matches!(app.unwatch("k"), Err(Error::CallbackRuns)));
    end.send(()).unwrap();
    assert!(!app.unwatch("k").unwrap());
}

#[test]
fn disconnect_is_reported_once_unless_closed_by_program() {
    let env = TestEnv::start();
    let other_secret = env.server.create_group("other");
    let (report, ends) = mpsc::channel();
    let report_end_of = |app: &Connection, name: &'static str| {
        let report = report.clone();
        app.on_disconnect(move |reason| report.send((name, reason)).expect("the test listens"))
            .unwrap();
    };
    let next = || ends.recv_timeout(DEADLINE).expect("an end is reported");
    let (closed, dropped) = (env.connect(), env.connect());
    report_end_of(&closed, "closed");
    report_end_of(&dropped, "dropped");
    closed.close().unwrap();
    drop(dropped);
    let deleted = env.try_connect("other", &other_secret).unwrap();
    let killed = env.connect();
    report_end_of(&deleted, "replaced");
    report_end_of(&deleted, "deleted");
    report_end_of(&killed, "killed");
    env.server.delete_group("other");
    assert_eq!(next(), ("deleted", DisconnectReason::ClosedByServer));
    assert_eq!(deleted.on_disconnect(|_| ()).map_err(code), Err(-2));
    assert!(!deleted.is_open() && killed.is_open());
    env.server.kill();
    assert_eq!(next(), ("killed", DisconnectReason::ConnectionLost));
    assert_eq!(killed.put("k", "v").map_err(code), Err(-3));
    assert_eq!(killed.put("k", "v").map_err(code), Err(-2));
    assert_eq!(ends.recv_timeout(Duration::ZERO), Err(mpsc::RecvTimeoutError::Timeout));
}

#[test]
fn pipeline_results_are_in_order_and_independent() {
    let env = TestEnv::start();
    let app = env.connect();
    assert_eq!(app.pipeline().unwrap().run().unwrap().len(), 0);
    let mut pipeline = app.pipeline().unwrap();
    pipeline.put("a", "1").unwrap().get("a").unwrap().put("a", "2").unwrap().get("a").unwrap();
    pipeline.get("missing").unwrap();
    assert_eq!(pipeline.get("").map(drop).map_err(code), Err(-15));
    assert_eq!(pipeline.put("a", vec![0; (16 << 20) + 1]).map(drop).map_err(code), Err(-15));
    assert_eq!(pipeline.len(), 5);
    let results = pipeline.run().unwrap();
    let [
        PipelineResult::Done(first),
        PipelineResult::Value(one),
        PipelineResult::Done(second),
        PipelineResult::Value(two),
        last,
    ] = &results[..]
    else {
        panic!("{results:?}")
    };
    assert!(second > first);
    assert_eq!((&one.value[..], one.version), (&b"1"[..], *first));
    assert_eq!((&two.value[..], two.version), (&b"2"[..], *second));
    assert!(matches!(last, PipelineResult::NoSuchKey), "{last:?}");
}

/// Several threads send and receive far more than the socket buffers hold.
#[test]
fn long_pipelines_do_not_block_other_calls() {
    const COUNT: usize = 20_000;
    let env = TestEnv::start();
    let app = env.connect();
    app.put("large", vec![b'v'; 1000]).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut pipeline = app.pipeline().unwrap();
                for _ in 0..COUNT {
                    pipeline.get("large").unwrap();
                }
                let results = pipeline.run().unwrap();
                assert_eq!(results.len(), COUNT);
                for result in results {
                    let PipelineResult::Value(found) = result else { panic!("{result:?}") };
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
