//! Applications that do not read their events or responses (protocol v1).
//!
//! A subscriber may leave its callback channel unread while a watched key changes any number of
//! times: the server keeps one entry per key, other applications are not affected, and the last
//! change arrives in the end. `KVS_TEST_PUTS` sets the number of changes (`make test-isolation`:
//! 1,000,000).
//!
//! The latency of a get is measured alternately with and without such a subscriber, and printed. As
//! a loaded machine must not fail the test, no speed is asserted, only that everything completes.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{DEADLINE, QUIET_PERIOD, RawV1App, TestEnv, number_from_env, padded};

/// Creates these keys and a subscriber to them.
fn subscriber(env: &TestEnv, keys: &[String]) -> RawV1App {
    let mut app = env.raw_v1();
    for key in keys {
        app.put(key, "0");
        assert!(app.register(key));
    }
    app
}

/// Puts as fast as the protocol allows: each value is sent with the next function code, so a put
/// costs two round trips. `value(n)` is the n-th value.
fn put_all(app: &mut RawV1App, key: &str, count: usize, value: impl Fn(usize) -> String) {
    app.main.send_int(0);
    for n in 1..=count {
        app.main.expect_int(1);
        app.main.send(key.as_bytes());
        app.main.expect_int(1);
        let mut bytes = value(n).into_bytes();
        if n < count {
            bytes.extend(0i32.to_ne_bytes());
        }
        app.main.send(&bytes);
    }
    // The response to a later call shows that everything is stored.
    assert!(app.get(key).is_some());
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("watched{n}")).collect()
}

#[test]
fn idle_subscriber_costs_nothing_and_gets_the_last_change() {
    const WRITERS: usize = 4;
    let puts = number_from_env("KVS_TEST_PUTS").unwrap_or(50_000);
    let env = TestEnv::start();
    let keys = keys(1);
    let mut asleep = subscriber(&env, &keys);
    // This subscriber has read the announcement and never sends its ready flag.
    let mut half_asleep = subscriber(&env, &keys);
    // A third subscriber reads its events.
    let awake = env.connect();
    let (called, changes) = std::sync::mpsc::channel();
    awake
        .watch(&keys[0], move |_| {
            // After a failure of the test there is no receiver.
            let _ = called.send(());
        })
        .expect("the key exists");
    let mut writers: Vec<_> = (0..WRITERS).map(|_| env.raw_v1()).collect();
    put_all(&mut writers[0], &keys[0], 100, |n| n.to_string());
    half_asleep.callback.expect_int(1);

    let resident = env.server.resident_kib();
    let begin = Instant::now();
    let most = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = writers
            .iter_mut()
            .map(|writer| {
                let key = &keys[0];
                scope.spawn(move || put_all(writer, key, puts / WRITERS, |n| n.to_string()))
            })
            .collect();
        scope.spawn(|| {
            // No event reports memory that is allocated and released in between.
            while !done.load(Ordering::Relaxed) {
                let now = usize::try_from(env.server.resident_kib()).expect("it is small");
                most.fetch_max(now, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a writer was not served");
    });
    let took = begin.elapsed();
    let after = env.server.resident_kib().max(most.into_inner() as u64);
    println!(
        "{puts} puts in {took:?} ({:.0} a second); VmRSS {resident} KiB before, {after} KiB \
         at most",
        puts as f64 / took.as_secs_f64()
    );
    assert!(after < resident + 2048, "the server grew from {resident} KiB to {after} KiB");

    awake.put(&keys[0], "last").expect("it is connected");
    assert_eq!(awake.get(&keys[0]).expect("it is connected").as_deref(), Some(&b"last"[..]));
    changes.recv_timeout(DEADLINE).expect("it receives the event");
    // One event was announced; all later ones are coalesced.
    for _ in 0..2 {
        assert_eq!(asleep.next_change(), keys[0]);
    }
    assert_eq!(asleep.get(&keys[0]).as_deref(), Some("last"));
    half_asleep.callback.send_int(1);
    half_asleep.callback.expect(&padded(&keys[0]));
    assert_eq!(half_asleep.next_change(), keys[0]);
    assert_eq!(half_asleep.get(&keys[0]).as_deref(), Some("last"));
    // No event follows: the next one is that of the next change.
    for app in [&mut asleep, &mut half_asleep] {
        assert_eq!(app.callback.waiting().escape_ascii().to_string(), "");
    }
}

#[test]
fn idle_subscriber_of_many_keys_gets_each_once() {
    const KEYS: usize = 2_000;
    const TIMES: usize = 5;
    let env = TestEnv::start();
    let keys = keys(KEYS);
    let mut asleep = subscriber(&env, &keys);
    let mut writer = env.raw_v1();
    for n in 1..=TIMES {
        for key in &keys {
            writer.put(key, &n.to_string());
        }
    }
    assert_eq!(writer.get(&keys[0]).as_deref(), Some("5"));
    let resident = env.server.resident_kib();
    for _ in 0..TIMES {
        for key in &keys {
            writer.put(key, "last");
        }
    }
    assert_eq!(writer.get(&keys[0]).as_deref(), Some("last"));
    let grown = env.server.resident_kib().saturating_sub(resident);
    assert!(grown < 1024, "the server grew by {grown} KiB");

    let mut received = HashMap::<String, usize>::new();
    // The first key was announced before it changed again.
    for _ in 0..=KEYS {
        *received.entry(asleep.next_change()).or_default() += 1;
    }
    assert_eq!(received.len(), KEYS);
    assert_eq!(received[&keys[0]], 2);
    assert_eq!(asleep.callback.waiting().escape_ascii().to_string(), "");
}

#[test]
fn v1_subscriber_reading_byte_by_byte_delays_no_other() {
    /// An announcement and a padded key.
    const CHANGE: usize = 4 + 100;
    let env = TestEnv::start();
    let keys = keys(1);
    let mut slow = subscriber(&env, &keys);
    let writer = env.connect();
    // More changes than the subscriber reads.
    for n in 0..2 * CHANGE {
        writer.put(&keys[0], n.to_string()).expect("it is connected");
        let seen = writer.get(&keys[0]).expect("it is connected");
        assert_eq!(seen.as_deref(), Some(n.to_string().as_bytes()));
        slow.callback.take(1);
        if n % CHANGE == 3 {
            slow.callback.send_int(1);
        }
    }
    writer.put(&keys[0], "last").expect("it is connected");
    assert_eq!(slow.next_change(), keys[0]);
    assert_eq!(writer.get(&keys[0]).expect("it is connected").as_deref(), Some(&b"last"[..]));
    assert_eq!(slow.get(&keys[0]).as_deref(), Some("last"));
}

#[test]
fn idle_subscriber_does_not_slow_others() {
    const TURNS: usize = 20;
    const GETS: usize = 200;
    let env = TestEnv::start();
    let watched = keys(1);
    let _asleep = subscriber(&env, &watched);
    // The same load on a key without subscribers.
    let mut writer = env.raw_v1();
    put_all(&mut writer, "free", 1, |n| n.to_string());
    let reader = env.connect();
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for turn in 0..TURNS * 2 {
        let key = if turn % 2 == 0 { "free" } else { &watched[0] };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (stop, writer) = (&stop, &mut writer);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    put_all(writer, key, 20, |n| n.to_string());
                }
            });
            for _ in 0..GETS {
                let begin = Instant::now();
                let got = reader.get(key);
                times[turn % 2].push(begin.elapsed());
                if !matches!(got, Ok(Some(_))) {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{key} is {got:?}");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    let [free, stalled] = times.map(|mut times| {
        times.sort();
        [times[times.len() / 2], times[times.len() * 99 / 100]]
    });
    println!(
        "a get takes {free:?} (median, 99th percentile) without a subscriber that never reads, \
         {stalled:?} \
         with one: {:.2} times as long",
        stalled[0].as_secs_f64() / free[0].as_secs_f64()
    );
}

/// Unread responses fill the socket; then the server stops reading from their application, and from
/// no other.
#[test]
fn app_that_reads_no_responses_delays_no_other() {
    const APPS: usize = 8;
    let env = TestEnv::start();
    let value = "v".repeat(99);
    let other = env.connect();
    other.put("k", &value).expect("it is connected");
    assert!(other.get("k").expect("it is connected").is_some());
    let apps: Vec<_> = (0..APPS).map(|_| env.raw_v1()).collect();
    let resident = env.server.resident_kib();
    let stuck: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> =
            apps.into_iter().map(|app| scope.spawn(|| get_until_stuck(app))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the server stops at last")).collect()
    });
    let grown = env.server.resident_kib().saturating_sub(resident);
    assert!(grown < 1024, "the server grew by {grown} KiB");
    for _ in 0..100 {
        assert!(other.get("k").expect("it is connected").is_some());
    }
    let late = env.connect();
    assert!(late.get("k").expect("it is connected").is_some());
    // The server does not read further requests of these applications.
    for (app, _) in &stuck[APPS / 2..] {
        let mut stream = app.main.stream();
        stream.set_nonblocking(true).expect("it is a socket");
        let mut sent = 0;
        while sent < 4 << 20 {
            match stream.write(&[0xff; 4096]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("after {sent} bytes: {error}"),
            }
        }
        assert!(sent < 4 << 20, "the server reads from one that does not take its answers");
    }
    // Once the applications read, all responses arrive and the server serves them again.
    let answer = [&1i32.to_ne_bytes()[..], &99i32.to_ne_bytes(), value.as_bytes(), &[0]].concat();
    for (mut app, bytes) in stuck.into_iter().take(APPS / 2) {
        println!("{bytes} bytes of answers waited");
        let expected: Vec<u8> = answer.iter().copied().cycle().take(bytes).collect();
        app.main.expect(&expected);
        if bytes % answer.len() == 4 {
            app.main.send(b"k");
            app.main.expect(&answer[4..]);
        }
        assert_eq!(app.get("k").as_ref(), Some(&value));
    }
    // The group of the others can be deleted, and the server can quit.
    env.server.delete_group("g");
    env.server.quit();
}

/// Gets `k` without reading responses until the server sends no more. Returns the number of
/// response bytes.
fn get_until_stuck(mut app: RawV1App) -> (RawV1App, usize) {
    /// A socket holds more than this.
    const AT_LEAST: usize = 10_000;
    let mut due = 0;
    // A string may be sent only when the server has read the previous one, which the response
    // shows.
    for (string, answer) in [(&1i32.to_ne_bytes()[..], 4), (b"k", 4 + 100)].into_iter().cycle() {
        app.main.send(string);
        due += answer;
        let begin = Instant::now();
        while app.main.unread() < due {
            let timeout = if due < AT_LEAST { DEADLINE } else { QUIET_PERIOD };
            if begin.elapsed() > timeout {
                assert!(due >= AT_LEAST, "no more than {} bytes of answers", app.main.unread());
                return (app, due);
            }
            thread::yield_now();
        }
    }
    unreachable!("the strings are sent again and again")
}
