//! Sessions of both protocols in one group, and the end of v2 sessions when the group is deleted.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_proto::v2::request::{Request, WatchTarget};
use kvs_proto::v2::response::Status;
use kvs_testkit::{
    GROUP, RawEvent, RawV1App, RawV2App, TestEnv, encode_put, encode_request, entries, until,
};

/// A v1 put has no response; the response to a later call shows that it was executed.
fn store(app: &mut RawV1App, key: &str, value: &str) {
    app.put(key, value);
    assert_eq!(app.get(key).as_deref(), Some(value));
}

fn event(key: &str, version: u64, by_key: bool, by_prefix: bool) -> Option<RawEvent> {
    Some(RawEvent { key: key.into(), version, by_key, by_prefix })
}

/// No other event is pending: the next event is that of a change made now.
fn expect_silence(v2: &mut [&mut RawV2App], v1: &mut RawV1App) {
    store(v1, "silence", "v");
    for app in v2 {
        assert_eq!(app.next_change().0, b"silence");
        app.delete("silence");
    }
}

#[test]
fn each_protocol_reads_and_deletes_values_of_the_other() {
    let env = TestEnv::start();
    let (mut v2, mut v1) = (env.raw_v2(), env.raw_v1());
    store(&mut v1, "a", "from a v1 session");
    let (first, value) = v2.get("a").expect("it is stored");
    assert_eq!(value, b"from a v1 session");
    let second = v2.put("a", "from a v2 session");
    assert!(second > first);
    assert_eq!(v1.get("a").as_deref(), Some("from a v2 session"));
    // A v1 put assigns a version, too.
    store(&mut v1, "a", "again");
    let (third, _) = v2.get("a").expect("it is stored");
    assert!(third > second);
    let stale = Request::Put { key: b"a", value: b"stale", expected: Some(second) };
    assert_eq!(v2.status_of(stale), (Status::Conflict, third));
    assert_eq!(v1.get("a").as_deref(), Some("again"));
    assert!(v2.delete("a"));
    assert_eq!(v1.get("a"), None);
    store(&mut v1, "b", "");
    assert_eq!(v2.get("b").map(|(_, value)| value), Some(Vec::new()));
    v1.main.send_int(2);
    v1.main.expect_int(1);
    v1.main.send(b"b");
    v1.main.expect_int(1);
    assert_eq!(v2.get("b"), None);
    // A connection of the library, which negotiates v2, in the same group.
    let library = env.connect();
    library.put("c", "from the library").expect("it is connected");
    assert_eq!(v1.get("c").as_deref(), Some("from the library"));
    assert_eq!(v2.get("c").expect("it is stored").1, b"from the library");
    assert_eq!(v2.keys("", 0), [b"c"]);
}

#[test]
fn value_too_large_for_v1_is_absent_in_v1() {
    let env = TestEnv::start();
    let (mut v2, mut v1) = (env.raw_v2(), env.raw_v1());
    for (value, carried) in [
        (vec![b'v'; 99], true),
        (vec![0xff; 99], true),
        (vec![b'v'; 100], false),
        (vec![b'v'; 1025], false),
        (vec![b'v'; 5_000_000], false),
        (b"\0".to_vec(), false),
        (b"v\0".to_vec(), false),
        (vec![], true),
    ] {
        let version = v2.put("k", &value);
        let seen = v1.get("k");
        assert_eq!(seen.is_some(), carried, "{} bytes", value.len());
        if carried {
            assert_eq!(seen, Some(String::from_utf8_lossy(&value).into_owned()));
        }
        // A v1 application can still watch, overwrite and delete the key.
        assert!(v1.register("k"));
        let next = v2.put("k", &value);
        assert!(next > version);
        assert_eq!(v1.next_change(), "k");
        store(&mut v1, "k", "short");
        assert_eq!(v1.next_change(), "k");
        v2.put("k", &value);
        assert_eq!(v1.next_change(), "k");
        v1.main.send_int(2);
        v1.main.expect_int(1);
        v1.main.send(b"k");
        v1.main.expect_int(1);
        assert_eq!(v2.get("k"), None);
    }
    // Keys that v1 cannot express do not affect it.
    v2.put(vec![b'k'; 100], "v");
    v2.put("a\0b", "v");
    assert_eq!(v1.get("a"), None);
    assert_eq!(env.pairs(), 2);
}

#[test]
fn events_reach_both_protocols_and_deletion_ends_watches() {
    let env = TestEnv::start();
    let mut v1 = env.raw_v1();
    let (mut by_key, mut by_prefix, mut by_both) = (env.raw_v2(), env.raw_v2(), env.raw_v2());
    let mut writer = env.raw_v2();
    let version = writer.put("key", "0");
    assert!(v1.register("key"));
    assert_eq!(by_key.watch("key"), version);
    by_prefix.watch_prefix("k");
    by_both.watch_prefix("");
    by_both.watch_prefix("ke");
    assert_eq!(by_both.watch("key"), version);
    // A repeated watch has no effect.
    assert_eq!(by_both.watch("key"), version);
    by_both.watch_prefix("ke");
    let mut last = version;
    for round in 0..4 {
        if round % 2 == 0 {
            store(&mut v1, "key", "1");
        } else {
            writer.put("key", "2");
        }
        assert_eq!(v1.next_change(), "key");
        let (version, _) = writer.get("key").expect("it is stored");
        assert!(version > last);
        last = version;
        assert_eq!(by_key.next_event(), event("key", version, true, false));
        assert_eq!(by_prefix.next_event(), event("key", version, false, true));
        assert_eq!(by_both.next_event(), event("key", version, true, true));
    }
    // Several pairs in one message: one event with its own version for each, in order.
    let many = entries([(&b"key"[..], &b"3"[..]), (b"kin", b"1"), (b"other", b"1")]);
    let last = writer.expect_ok(Request::PutMany(many.entries()));
    assert_eq!(v1.next_change(), "key");
    assert_eq!(by_key.next_event(), event("key", last - 2, true, false));
    assert_eq!(by_prefix.next_event(), event("key", last - 2, false, true));
    assert_eq!(by_prefix.next_event(), event("kin", last - 1, false, true));
    assert_eq!(by_both.next_event(), event("key", last - 2, true, true));
    assert_eq!(by_both.next_event(), event("kin", last - 1, false, true));
    assert_eq!(by_both.next_event(), event("other", last, false, true));
    // First a v1 application deletes the key, then a v2 one.
    for round in 0..2 {
        if round == 0 {
            v1.main.send_int(2);
            v1.main.expect_int(1);
            v1.main.send(b"key");
            v1.main.expect_int(1);
        } else {
            assert!(writer.delete("key"));
        }
        assert_eq!(by_prefix.next_event(), event("key", 0, false, true));
        assert_eq!(by_both.next_event(), event("key", 0, false, true));
        // The key exists again; watches on the key itself have ended.
        let version = writer.put("key", "new");
        assert_eq!(by_prefix.next_event(), event("key", version, false, true));
        assert_eq!(by_both.next_event(), event("key", version, false, true));
        for app in [&mut by_key, &mut by_both] {
            let again = Request::Unwatch(WatchTarget::Key(b"key"));
            assert_eq!(app.status_of(again), (Status::NoSuchKey, 0));
        }
        assert_eq!(by_key.callback.waiting(), b"");
        assert_eq!(v1.callback.waiting(), b"");
        if round == 0 {
            assert!(v1.register("key"));
            by_key.watch("key");
            by_both.watch("key");
        }
    }
    // The prefix watch is removed; the other watches stay.
    assert_eq!(by_both.status_of(Request::Unwatch(WatchTarget::Prefix(b"ke"))), (Status::Ok, 0));
    assert_eq!(
        by_both.status_of(Request::Unwatch(WatchTarget::Prefix(b"ke"))),
        (Status::NoSuchKey, 0)
    );
    expect_silence(&mut [&mut by_both], &mut v1);
    assert_eq!(by_prefix.status_of(Request::Unwatch(WatchTarget::Prefix(b"k"))), (Status::Ok, 0));
    writer.put("key", "unseen");
    assert_eq!(by_both.next_change().0, b"silence");
    assert_eq!(by_both.next_change().0, b"key");
    assert_eq!(by_prefix.callback.waiting(), b"");
}

#[test]
fn status_shows_watches_of_both_protocols() {
    let env = TestEnv::start();
    let mut v1 = env.raw_v1();
    let mut v2 = env.raw_v2();
    store(&mut v1, "a", "v");
    assert!(v1.register("a"));
    v2.watch("a");
    v2.watch_prefix("");
    v2.watch_prefix("some/");
    v2.put(b"bin\0\x1b\xff", "v");
    v2.watch(b"bin\0\x1b\xff");
    let long = [&[b'l'; 7000][..], b"end"].concat();
    v2.watch_prefix(&long);
    let shown = |status: &str| {
        let apps = env.server.status();
        let mut apps: Vec<_> = apps.into_iter().filter(|app| app.status == status).collect();
        apps.sort_by_key(|app| app.number);
        apps.into_iter().map(|app| app.watched).collect::<Vec<_>>()
    };
    let watched = shown("Connected");
    assert_eq!(watched[0], ["a"]);
    assert_eq!(watched[1][..3], ["a", " (prefix)", "some/ (prefix)"]);
    assert!(watched[1][3].chars().all(|c| !c.is_control()), "{:?}", watched[1][3]);
    // A long prefix is abbreviated.
    assert!(
        watched[1][4].ends_with(" (prefix)") && watched[1][4].len() < 200,
        "{:?}",
        watched[1][4]
    );
    v2.expect_ok(Request::Unwatch(WatchTarget::Prefix(b"")));
    assert!(v2.delete("a"));
    let watched = shown("Connected");
    assert_eq!(watched[0], [""; 0]);
    assert_eq!(watched[1][0], "some/ (prefix)");
    v2.close();
    v1.close();
    env.server.status_where("both are closed", |status| {
        status.len() == 2
            && status.iter().all(|app| app.status == "Closed" && app.watched.is_empty())
    });
}

/// Several changes of a key in one message cause one event, for the last of them.
#[test]
fn put_many_sends_one_event_per_key() {
    let env = TestEnv::start();
    let (mut writer, mut v1) = (env.raw_v2(), env.raw_v1());
    let (mut by_key, mut by_prefix, mut by_both) = (env.raw_v2(), env.raw_v2(), env.raw_v2());
    for key in ["a", "b", "c"] {
        writer.put(key, "0");
        assert!(v1.register(key));
        by_key.watch(key);
        by_both.watch(key);
    }
    by_prefix.watch_prefix("");
    by_both.watch_prefix("");
    by_both.watch_prefix("a");
    let order = ["b", "a", "b", "c", "a", "b", "b"];
    for _ in 0..100 {
        let many = entries(order.map(|key| (key.as_bytes(), &b"v"[..])));
        let last = writer.expect_ok(Request::PutMany(many.entries()));
        let expected = [("a", last - 2), ("b", last), ("c", last - 3)];
        for app in [&mut by_key, &mut by_prefix, &mut by_both] {
            let mut received = [(); 3].map(|()| app.next_change());
            received.sort();
            assert_eq!(received, expected.map(|(key, version)| (key.into(), version)));
        }
        // A v1 event has its handshake before the next one, so the v1 subscriber receives no more
        // events either.
        let mut received = [(); 3].map(|()| v1.next_change());
        received.sort();
        assert_eq!(received, expected.map(|(key, _)| key));
    }
    // No event follows the last one.
    let version = writer.put("c", "end");
    for app in [&mut by_key, &mut by_prefix, &mut by_both] {
        assert_eq!(app.next_change(), (b"c".to_vec(), version));
    }
    assert_eq!(v1.next_change(), "c");
}

/// Applications increment a counter by compare-and-swap, and some vanish in between; no increment
/// overwrites another.
#[test]
fn counters_by_compare_and_swap_lose_no_update() {
    const APPS: usize = 6;
    const TIMES: u64 = 500;
    let env = TestEnv::start();
    let certain = AtomicU64::new(0);
    let uncertain = AtomicU64::new(0);
    thread::scope(|scope| {
        for n in 0..APPS {
            let (env, certain, uncertain) = (&env, &certain, &uncertain);
            scope.spawn(move || {
                let mut connection = env.connect();
                assert_eq!(connection.protocol(), kvs::Protocol::V2);
                for time in 0..TIMES {
                    if n % 2 == 0 && time % 50 == 49 {
                        // The application sends one more increment and vanishes before the
                        // response.
                        let mut app = env.raw_v2();
                        let (version, value) = app.get("counter").unwrap_or((0, b"0".to_vec()));
                        let value = (number(&value) + 1).to_string();
                        let (key, expected) = (b"counter", Some(version));
                        app.send_request(Request::Put { key, value: value.as_bytes(), expected });
                        uncertain.fetch_add(1, Ordering::Relaxed);
                        drop(app);
                        connection = env.connect();
                    }
                    loop {
                        let found = connection.get_versioned("counter").expect("it is connected");
                        let (value, version) =
                            found.map_or((0, 0), |found| (number(&found.value), found.version));
                        let next = (value + 1).to_string();
                        let swap = connection.compare_and_swap("counter", next, version);
                        match swap.expect("it is connected") {
                            kvs::Swap::Done(new) => {
                                assert!(new > version);
                                certain.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            kvs::Swap::Conflict(other) => assert!(other > version),
                        }
                    }
                }
            });
        }
    });
    let (certain, uncertain) = (certain.into_inner(), uncertain.into_inner());
    assert_eq!(certain, APPS as u64 * TIMES);
    let (version, value) = env.raw_v2().get("counter").expect("it is stored");
    let value = number(&value);
    println!("{value} counted, {certain} of them for certain; {uncertain} perhaps");
    assert!((certain..=certain + uncertain).contains(&value), "{value}");
    // Each version is one increment, and each increment has its version.
    assert_eq!(version, value);
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("a number")
}

// --- the end

/// Applications with v2 sessions, each halted in the middle of an operation.
struct Busy {
    /// Applications whose sockets have room for the request to close.
    reachable: Vec<(&'static str, RawV2App)>,
    /// Applications whose unread bytes fill the socket, which has no room for the request.
    full: Vec<(&'static str, RawV2App)>,
}

fn busy(env: &TestEnv) -> Busy {
    let large = vec![b'v'; 4_000_000];
    let key = vec![b'k'; 60_000];
    let mut writer = env.raw_v2();
    writer.put("large", &large);
    writer.put("small", "v");
    let mut reachable = Vec::new();
    let mut full = Vec::new();
    reachable.push(("idle", env.raw_v2()));
    let mut app = env.raw_v2();
    app.watch("small");
    writer.put("small", "w");
    reachable.push(("with changes unread", app));
    let mut app = env.raw_v2();
    app.main.send(&encode_put(1, b"unfinished", b"value")[..10]);
    reachable.push(("in the middle of a header", app));
    let mut app = env.raw_v2();
    app.main.send(&encode_put(1, b"unfinished", &large)[..1_000_000]);
    reachable.push(("in the middle of a large put", app));
    let mut app = env.raw_v2();
    app.main.send(&encode_request(1, Request::Get(b"large")).repeat(1000));
    reachable.push(("with large answers unread", app));
    let mut app = env.raw_v2();
    app.watch_prefix("k");
    for n in 0..10u8 {
        writer.put([&key[..], &[n]].concat(), "v");
    }
    full.push(("with changes that fill the socket", app));
    // Wait until the applications are in those states, as far as a test can observe it.
    for (what, app) in &reachable {
        if what.contains("unread") {
            until(what, || (app.main.unread() > 0 || app.callback.unread() > 0).then_some(()));
        }
    }
    until("a socket is full", || (full[0].1.callback.unread() > 60_000).then_some(()));
    writer.close();
    Busy { reachable, full }
}

/// Asserts that every application is closed. Applications whose sockets have room receive the
/// request to close, and are closed as soon as they send theirs.
fn expect_all_closed(busy: Busy) {
    for (what, mut app) in busy.reachable {
        while app.next_event().is_some() {}
        let _ = app.main.try_send(&encode_request(0, Request::Close));
        app.main.rest();
        app.callback.expect_end();
        println!("{what}: asked and closed");
    }
    for (what, mut app) in busy.full {
        app.main.rest();
        app.callback.rest();
        println!("{what}: closed");
    }
}

fn expect_none_late(env: &TestEnv) {
    let late = |line: &String| line.contains("have not closed yet");
    assert!(!env.server.log_lines().iter().any(late), "{}", env.server.report());
}

#[test]
fn group_is_deleted_during_any_v2_request() {
    let env = TestEnv::start();
    let other_secret = env.server.create_group("other");
    let mut other = env.raw_v2_in("other", &other_secret);
    let busy = busy(&env);
    thread::scope(|scope| {
        let closed = scope.spawn(|| expect_all_closed(busy));
        let begin = Instant::now();
        env.server.delete_group(GROUP);
        let took = begin.elapsed();
        closed.join().expect("all are closed");
        println!("deleted in {took:?}");
        // One application does not read the request to close; the server waits one second for it.
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
    expect_none_late(&env);
    other.expect_served();
    // A new group of the same name starts empty.
    let secret = env.server.create_group(GROUP);
    let mut new = env.raw_v2_in(GROUP, &secret);
    assert_eq!(new.keys("", 0), [[0; 0]; 0]);
    assert_eq!(new.put("k", "v"), 1);
}

#[test]
fn quit_ends_v2_sessions_during_any_request() {
    let env = TestEnv::start();
    let busy = busy(&env);
    thread::scope(|scope| {
        let closed = scope.spawn(|| expect_all_closed(busy));
        let begin = Instant::now();
        env.server.quit();
        println!("quit in {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        closed.join().expect("all are closed");
    });
    expect_none_late(&env);
}

#[test]
fn requests_before_a_requested_close_are_executed() {
    let env = TestEnv::start();
    let mut apps: Vec<_> = (0..8).map(|_| env.raw_v2()).collect();
    for app in &mut apps {
        app.watch_prefix("");
    }
    apps[0].put("k", "v");
    thread::scope(|scope| {
        for mut app in apps {
            scope.spawn(move || {
                assert_eq!(app.next_change().0, b"k");
                // The request to close comes before the changes that still wait.
                while app.next_event().is_some() {}
                app.close();
            });
        }
        let begin = Instant::now();
        env.server.delete_group(GROUP);
        println!("deleted in {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    });
}

/// The server executes the requests that precede `CLOSE` in the same message.
#[test]
fn requests_before_a_close_are_executed() {
    let env = TestEnv::start();
    let mut witness = env.raw_v2();
    let mut app = env.raw_v2();
    let mut bytes = Vec::new();
    for n in 0..1000u32 {
        bytes.extend(encode_put(n, n.to_string().as_bytes(), b"v"));
    }
    bytes.extend(encode_request(0, Request::Close));
    app.main.send(&bytes);
    app.callback.expect_end();
    drop(app);
    assert_eq!(witness.keys("", 100).len(), 1000);
    // The server does not read requests after `CLOSE`.
    let mut app = env.raw_v2();
    app.main.send(&[encode_request(0, Request::Close), encode_put(1, b"late", b"v")].concat());
    app.main.rest();
    assert_eq!(witness.get("late"), None);
    let mut stream = app.main.stream();
    let error = stream.write_all(b"more").expect_err("it is closed");
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
}
