//! Limits of a user's v2 sessions, and their effect on other applications.
//!
//! The latency of other applications is measured and printed. As a busy machine must not fail a
//! test, no speed is asserted, only that all are served and that promised bounds hold by a wide
//! margin.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_proto::v2::request::{EntriesBuilder, Request, WatchTarget};
use kvs_proto::v2::response::{self, Status};
use kvs_proto::v2::{HEADER_LEN, MAX_KEY};
use kvs_testkit::{
    GROUP, RawFrame, RawV2App, StopOnDrop, TestEnv, encode_put, encode_request, entries, until,
};

// --- what one application can do to others

/// Other applications in a group of their own, at least one for each thread of the server.
struct Others(Vec<RawV2App>);

impl Others {
    fn new(env: &TestEnv) -> Self {
        let secret = env.server.create_group("others");
        let mut others = Self((0..4).map(|_| env.raw_v2_in("others", &secret)).collect());
        others.0[0].put("k", "v");
        others
    }

    /// Median, 99th percentile and maximum latency of a get, each of the slowest application.
    fn latency(&mut self, time: Duration) -> [Duration; 3] {
        let end = Instant::now() + time;
        let mut times = vec![Vec::new(); self.0.len()];
        while Instant::now() < end {
            for (app, times) in self.0.iter_mut().zip(&mut times) {
                let begin = Instant::now();
                assert!(app.get("k").is_some());
                times.push(begin.elapsed());
            }
        }
        let figures = times.into_iter().map(|mut times| {
            times.sort();
            let len = times.len();
            [times[len / 2], times[len * 99 / 100], times[len - 1]]
        });
        figures
            .reduce(|one, other| std::array::from_fn(|n| one[n].max(other[n])))
            .expect("there are some")
    }
}

/// Sends these requests and reads the responses in a loop, until dropped.
fn flood<'s>(
    scope: &'s thread::Scope<'s, '_>,
    stop: &'s AtomicBool,
    app: &'s RawV2App,
    requests: &'s [u8],
) {
    scope.spawn(move || {
        let mut stream = app.main.stream();
        while !stop.load(Ordering::Relaxed) && stream.write_all(requests).is_ok() {}
        // Wakes the thread that reads the responses.
        let _ = stream.shutdown(Shutdown::Both);
    });
    scope.spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut stream = app.main.stream();
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
}

/// Measures the latency of other applications while some send requests without end.
fn under_attack(
    env: &TestEnv,
    others: &mut Others,
    what: &str,
    attackers: Vec<RawV2App>,
    requests: &[u8],
) -> [Duration; 3] {
    env.server.reset_peak_resident();
    let before = env.server.resident_kib();
    let stop = AtomicBool::new(false);
    let latency = thread::scope(|scope| {
        let _stop_on_drop = StopOnDrop(&stop);
        attackers.iter().for_each(|app| flood(scope, &stop, app, requests));
        // The attack needs some time to begin; no event reports that.
        thread::sleep(Duration::from_millis(50));
        others.latency(Duration::from_millis(350))
    });
    let grown = env.server.peak_resident_kib().saturating_sub(before);
    println!(
        "{what}: a get of others takes {latency:.1?} (median, 99 %, longest); {grown} KiB more"
    );
    drop(attackers);
    others.latency(Duration::from_millis(10));
    latency
}

fn many(count: usize, pair: impl Fn(usize) -> (Vec<u8>, Vec<u8>)) -> EntriesBuilder {
    let mut entries = EntriesBuilder::default();
    for n in 0..count {
        let (key, value) = pair(n);
        entries.push(&key, &value);
    }
    entries
}

#[test]
fn endless_requests_do_not_starve_others() {
    let env = TestEnv::start();
    let mut others = Others::new(&env);
    let quiet = others.latency(Duration::from_millis(500));
    println!("in quiet: {quiet:.1?}");
    let mut writer = env.raw_v2();
    writer.put("k", vec![b'v'; 1000]);
    writer.put("large", vec![b'v'; 16 << 20]);
    let ten_thousand = many(10_000, |n| (n.to_le_bytes()[..3].to_vec(), b"v".to_vec()));
    let apps = |count: usize| (0..count).map(|_| env.raw_v2()).collect::<Vec<_>>();
    let attack = |others: &mut Others, what, attackers, requests: &[u8]| {
        under_attack(&env, others, what, attackers, requests)
    };
    let gets = encode_request(1, Request::Get(b"k")).repeat(2500);
    attack(&mut others, "gets without end", apps(4), &gets);
    let puts = encode_put(1, b"k", b"v").repeat(2500);
    attack(&mut others, "puts without end", apps(4), &puts);
    let large = encode_request(1, Request::Get(b"large")).repeat(100);
    attack(&mut others, "gets of 16 MiB without end", apps(4), &large);
    let unknown = RawFrame { kind: 99, body: &[0; 60_000], ..RawFrame::default() }.bytes();
    attack(&mut others, "unknown requests of 60 kB without end", apps(4), &unknown);
    let put_many = encode_request(1, Request::PutMany(ten_thousand.entries()));
    attack(&mut others, "put_many of 10,000 without end", apps(4), &put_many);
    // 10,000 keys are stored now. A page for a prefix that none of them has costs as much and is
    // empty.
    for (what, prefix) in [("keys without end", &b""[..]), ("keys that do not exist", b"none")] {
        let keys = encode_request(1, Request::Keys { prefix, cursor: 0, limit: 0 }).repeat(1000);
        attack(&mut others, what, apps(4), &keys);
    }
}

#[test]
fn fan_out_to_many_subscribers_does_not_starve_others() {
    let env = TestEnv::start();
    let mut others = Others::new(&env);
    let quiet = others.latency(Duration::from_millis(500));
    println!("in quiet: {quiet:.1?}");
    let mut asleep: Vec<_> = (0..100).map(|_| env.raw_v2()).collect();
    asleep.iter_mut().take(16).for_each(|app| app.watch_prefix("sixteen"));
    asleep.iter_mut().for_each(|app| app.watch_prefix("hundred"));
    let apps = |count: usize| (0..count).map(|_| env.raw_v2()).collect::<Vec<_>>();
    let key = |prefix: &str, n: usize| [prefix.as_bytes(), &n.to_le_bytes()[..3]].concat();
    for prefix in ["sixteen", "hundred"] {
        let puts: Vec<u8> = (0..2500).flat_map(|n| encode_put(1, &key(prefix, n), b"v")).collect();
        let what = format!("puts for {prefix} subscribers");
        under_attack(&env, &mut others, &what, apps(4), &puts);
        let entries = many(10_000, |n| (key(prefix, n), b"v".to_vec()));
        let put_many = encode_request(1, Request::PutMany(entries.entries()));
        let what = format!("put_many for {prefix} subscribers");
        under_attack(&env, &mut others, &what, apps(1), &put_many);
    }
}

#[test]
fn prefixes_of_many_lengths_do_not_starve_others() {
    let env = TestEnv::start();
    let mut others = Others::new(&env);
    let mut subscriber = env.raw_v2();
    let key = vec![b'k'; MAX_KEY];
    // These subscriptions use a twentieth of the user's limit.
    let lengths = 10_000;
    (0..lengths).for_each(|n| subscriber.watch_prefix(&key[..n]));
    let mut writer = env.raw_v2();
    let begin = Instant::now();
    writer.put(&key, "v");
    println!("a put of a key that {lengths} prefixes of it watch takes {:?}", begin.elapsed());
    let begin = Instant::now();
    writer.put("k", "v");
    println!("a put of a short one: {:?}", begin.elapsed());
    assert_eq!(subscriber.next_change().0, key);
    let puts = encode_put(1, &key, b"v").repeat(10);
    under_attack(&env, &mut others, "puts of long keys", vec![env.raw_v2()], &puts);
    let puts = encode_put(1, &key[..1000], b"v").repeat(100);
    under_attack(&env, &mut others, "puts of keys of 1000 bytes", vec![env.raw_v2()], &puts);
    let begin = Instant::now();
    subscriber.close();
    others.latency(Duration::from_millis(10));
    println!("{:?} to close the subscriber", begin.elapsed());
}

/// The server removes the subscriptions of a closed session in time slices, and charges them until
/// then.
#[test]
fn cleanup_of_many_subscriptions_does_not_starve_others() {
    let many = std::env::var("KVS_TEST_WATCHES").map_or(20_000, |many| many.parse().unwrap());
    let limit = (u64::from(many) * 512 + 1_000_000).to_string();
    let env = TestEnv::with_args(["--max-bytes-per-user", &limit]);
    let mut others = Others::new(&env);
    // An application of the same group must be served, too.
    let (mut app, mut subscriber) = (env.raw_v2(), env.raw_v2());
    app.put("k", "v");
    others.0.push(app);
    println!("in quiet: {:.1?}", others.latency(Duration::from_millis(100)));
    let numbers: Vec<u32> = (1..=many).collect();
    // 100 responses fit into the socket even with one buffer each. With more, the client, which
    // does not read yet, and the server, which stops reading, would block each other.
    for numbers in numbers.chunks(100) {
        let asked = numbers.iter().map(|n| {
            let prefix = [b"p", &n.to_le_bytes()[..]].concat();
            subscriber.send_request(Request::Watch(WatchTarget::Prefix(&prefix)))
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().for_each(|n| assert_eq!(subscriber.response(n).status, Status::Ok));
    }
    let value = vec![b'v'; (many as usize * 512).min(16_000_000)];
    let put = Request::Put { key: b"large", value: &value, expected: None };
    assert_eq!(others.0[4].status_of(put).0, Status::Limit);
    drop(subscriber);
    let latency = others.latency(Duration::from_micros(2 * u64::from(many)));
    println!("{many} watches: a get takes {latency:.1?} while they are taken away");
    until("they are given back", || (others.0[4].status_of(put).0 == Status::Ok).then_some(()));
}

// --- memory

/// Overwritten values stay in memory while responses that contain them are unread.
#[test]
fn unread_overwritten_values_are_charged_and_limited() {
    let env = TestEnv::with_args(["--max-bytes-per-user", "100000000"]);
    let mut writer = env.raw_v2();
    let resident = env.server.resident_kib();
    env.server.reset_peak_resident();
    let mut asleep = Vec::new();
    let value = vec![b'v'; 8 << 20];
    let mut limited = 0;
    for _ in 0..40 {
        match writer.status_of(Request::Put { key: b"large", value: &value, expected: None }) {
            (Status::Ok, _) => {}
            (Status::Limit, 0) => limited += 1,
            other => panic!("{other:?}"),
        }
        let mut app = env.raw_v2();
        app.send_request(Request::Get(b"large"));
        until("an answer", || (app.main.unread() > 0).then_some(()));
        asleep.push(app);
    }
    let grown = env.server.peak_resident_kib().saturating_sub(resident) >> 10;
    println!("{limited} puts of 40 are refused; {grown} MiB");
    assert!(limited > 25, "{limited}");
    assert!(grown < 200, "{grown} MiB");
    drop(asleep);
    until("it may store again", || {
        let put = Request::Put { key: b"large", value: &value, expected: None };
        (writer.status_of(put).0 == Status::Ok).then_some(())
    });
}

/// A page is limited in keys and in bytes, so long keys make it shorter.
#[test]
fn key_pages_are_limited_in_bytes() {
    let env = TestEnv::start();
    let mut app = env.raw_v2();
    let key = |n: u32| [&n.to_le_bytes()[..], &vec![b'k'; 60_000]].concat();
    const KEYS: u32 = 1000;
    for n in 0..KEYS {
        app.put(key(n), "");
    }
    let resident = env.server.resident_kib();
    env.server.reset_peak_resident();
    let mut asleep: Vec<_> = (0..20).map(|_| env.raw_v2()).collect();
    for app in &mut asleep {
        for _ in 0..10 {
            app.send_request(Request::Keys { prefix: b"", cursor: 0, limit: 0 });
        }
    }
    let mut largest = 0;
    let (mut all, mut cursor) = (0, 0);
    loop {
        let reply = app.request(Request::Keys { prefix: b"", cursor, limit: 0 });
        assert_eq!(reply.status, Status::Ok);
        largest = largest.max(reply.body.len());
        all += response::decode_keys(&reply.body).expect("a page").len();
        cursor = reply.version;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(all, KEYS as usize);
    assert!(largest <= 1 << 20, "a page of {largest} bytes");
    let grown = env.server.peak_resident_kib().saturating_sub(resident) >> 10;
    println!("the largest page has {largest} bytes; {grown} MiB for 20 unread ones");
}

/// A prefix subscription yields events of any number of keys. Keys that are put and deleted cost
/// their user only the pending event.
#[test]
fn subscriber_over_quota_is_disconnected_and_others_are_not() {
    const BYTES: u64 = 4_000_000;
    const KEYS: usize = 20_000;
    let limit = BYTES.to_string();
    let env = TestEnv::with_args(["--max-bytes-per-user", &limit]);
    let (mut writer, mut awake) = (env.raw_v2(), env.raw_v2());
    let (mut asleep, mut full) = (env.raw_v2(), env.raw_v2());
    let mut original = env.raw_v1();
    original.put("kept", "v");
    assert!(original.register("kept"));
    full.watch_prefix("kept");
    let key = |n: usize| format!("job {n}");
    for from in [0, KEYS / 2] {
        let entries = many(KEYS / 2, |n| (key(from + n).into_bytes(), Vec::new()));
        writer.expect_ok(Request::PutMany(entries.entries()));
    }
    awake.watch_prefix("job");
    asleep.watch_prefix("");
    let resident = env.server.resident_kib();
    env.server.reset_peak_resident();
    let is_closed = || env.server.status().iter().any(|app| app.status == "Closed");
    let mut deleted = 0;
    // Puts are refused with LIMIT meanwhile; a deletion never is.
    while deleted < KEYS && (deleted % 500 != 0 || !is_closed()) {
        assert!(writer.delete(key(deleted)));
        assert_eq!(awake.next_change(), (key(deleted).into_bytes(), 0));
        deleted += 1;
    }
    assert!(is_closed(), "{deleted} changes gather");
    let grown = env.server.peak_resident_kib().saturating_sub(resident);
    println!("closed after {deleted} deletions; {grown} KiB");
    // Each pending event is charged 256 bytes.
    assert!(deleted as u64 >= BYTES / 256, "closed after {deleted}");
    assert!(grown < 16 << 10, "{grown} KiB");
    (deleted..KEYS).for_each(|n| {
        assert!(writer.delete(key(n)));
        assert_eq!(awake.next_change(), (key(n).into_bytes(), 0));
    });
    asleep.main.expect_end();
    asleep.callback.rest();
    until("it is logged", || {
        let log = env.server.log_lines();
        log.iter().any(|line| line.contains("pending events exceed")).then_some(())
    });
    // Other sessions are unaffected, and the pending events are no longer charged.
    let version = writer.put("kept", "w");
    assert_eq!(full.next_change(), (b"kept".to_vec(), version));
    assert_eq!(original.next_change(), "kept");
    writer.put("large", vec![b'v'; BYTES as usize - 100_000]);
    // A user at its limit still receives events.
    let put = Request::Put { key: b"more", value: &[b'v'; 200_000], expected: None };
    assert_eq!(writer.status_of(put).0, Status::Limit);
    writer.put("kept", "x");
    full.next_change();
    original.next_change();
    assert!(writer.delete("large"));
    until("the memory is given back", || {
        (env.server.resident_kib() < resident + 4096).then_some(())
    });
}

/// One message can cause many events. The server refuses it above a maximum and keeps pending
/// events within the limit.
#[test]
fn events_of_one_put_many_are_bounded() {
    let env = TestEnv::with_args(["--max-bytes-per-user", "4000000"]);
    let mut asleep: Vec<_> = (0..30).map(|_| env.raw_v2()).collect();
    asleep.iter_mut().for_each(|app| app.watch_prefix(""));
    let mut writer = env.raw_v2();
    let resident = env.server.resident_kib();
    let pair = |n: usize| (format!("key {n}").into_bytes(), b"v".to_vec());
    // So many events at once would delay all applications.
    let entries = many(10_000, pair);
    let too_large = (Status::TooLarge, 0);
    assert_eq!(writer.status_of(Request::PutMany(entries.entries())), too_large);
    assert_eq!(writer.get("key 0"), None, "all or none");
    for half in [0, 5000] {
        let entries = many(5000, |n| pair(half + n));
        // The events of the first half use up the limit of the user, who may store nothing until
        // the server has closed the subscribers: no response reports that.
        until("the put is within the limit", || {
            match writer.status_of(Request::PutMany(entries.entries())) {
                (Status::Ok, _) => Some(()),
                (Status::Limit, 0) => None,
                other => panic!("{other:?}"),
            }
        });
    }
    let grown = env.server.peak_resident_kib().saturating_sub(resident);
    println!("10,000 keys for {} subscribers: {grown} KiB", asleep.len());
    assert!(grown < 20 << 10, "{grown} KiB");
    until("those of whom too much waits are closed", || {
        let status = env.server.status();
        (status.iter().filter(|app| app.status == "Closed").count() > 20).then_some(())
    });
    writer.expect_served();
}

/// The server releases the buffer in which it encodes events once they are sent.
#[test]
fn idle_sessions_keep_no_event_buffers() {
    const APPS: usize = 200;
    let env = TestEnv::start();
    let mut apps: Vec<_> = (0..APPS).map(|_| env.raw_v2()).collect();
    let mut writer = env.raw_v2();
    let long = vec![b'l'; MAX_KEY];
    apps.iter_mut().for_each(|app| app.watch_prefix("l"));
    writer.put("l", "v");
    apps.iter_mut().for_each(|app| _ = app.next_change());
    let before = env.server.resident_kib();
    for _ in 0..3 {
        let last = writer.put(&long, "v");
        for app in &mut apps {
            assert_eq!(app.next_change(), (long.clone(), last));
        }
    }
    let grown = env.server.resident_kib().saturating_sub(before);
    println!("{APPS} applications received events of a key of 64 KiB: {grown} KiB");
    assert!(grown < 5 << 10, "{grown} KiB");
}

// --- what is charged

/// Everything that a v2 session makes the server keep is charged to its user. Requests over the
/// limit are refused, and the session continues.
#[test]
fn requests_over_the_limit_are_refused_and_sessions_continue() {
    let env = TestEnv::with_args(["--max-bytes-per-user", "200000", "--max-pairs-per-user", "5"]);
    let mut app = env.raw_v2();
    let limit = (Status::Limit, 0);
    let put = |key, value| Request::Put { key, value, expected: None };
    // The limit of pairs.
    for key in ["a", "b", "c"] {
        app.put(key, "v");
    }
    let three = entries([(&b"d"[..], &b"v"[..]), (b"e", b"v"), (b"f", b"v")]);
    assert_eq!(app.status_of(Request::PutMany(three.entries())), limit);
    assert_eq!(app.get("d"), None);
    let fitting = entries([(&b"d"[..], &b"v"[..]), (b"a", b"w"), (b"e", b"v")]);
    let last = app.expect_ok(Request::PutMany(fitting.entries()));
    assert_eq!(app.status_of(put(b"f", b"v")), limit);
    let new = Request::Put { key: b"f", value: b"v", expected: Some(0) };
    assert_eq!(app.status_of(new), limit);
    assert_eq!(app.get("f"), None);
    // Overwriting is allowed, also with a condition. Refused requests consumed no version.
    assert_eq!(app.put("a", "x"), last + 1);
    let stale = Request::Put { key: b"a", value: b"y", expected: Some(last) };
    assert_eq!(app.status_of(stale), (Status::Conflict, last + 1));
    assert!(app.delete("e"));
    assert_eq!(app.put("f", "v"), last + 2);
    // The limit of bytes, for a request that arrives whole and one that arrives in pieces.
    let value = vec![b'v'; 200_000];
    assert_eq!(app.status_of(put(b"a", &value)), limit);
    assert_eq!(app.status_of(put(b"a", &value[..199_990])), limit);
    assert_eq!(app.get("a").map(|(_, value)| value), Some(b"x".to_vec()));
    app.put("a", &value[..100_000]);
    // A partly received request is charged.
    let mut other = env.raw_v2();
    let large = encode_put(9, b"b", &value[..90_000]);
    // The response to the request before it shows that the server has read its beginning.
    other.main.send(&[&encode_request(8, Request::Get(b"none"))[..], &large[..20_000]].concat());
    assert_eq!(other.response(8).status, Status::NoSuchKey);
    assert_eq!(app.status_of(put(b"c", &value[..20_000])), limit);
    other.main.send(&large[20_000..]);
    assert_eq!(other.response(9).status, Status::Ok);
    app.put("b", "v");
    // A watch of a key or prefix is charged 512 bytes, and the bytes of a name beyond 99.
    let long = vec![b'k'; 60_099];
    app.watch_prefix(&long);
    assert_eq!(app.status_of(Request::Watch(WatchTarget::Prefix(&long[1..]))), limit);
    let mut watches = 0;
    while app.status_of(Request::Watch(WatchTarget::Prefix(format!("{watches}").as_bytes())))
        != limit
    {
        watches += 1;
    }
    println!("{watches} watches beside the long one");
    assert!((60..80).contains(&watches), "{watches}");
    assert_eq!(app.status_of(Request::Watch(WatchTarget::Key(b"a"))), limit);
    assert_eq!(app.status_of(Request::Unwatch(WatchTarget::Prefix(&long))), (Status::Ok, 0));
    app.watch("a");
    app.expect_ok(Request::Unwatch(WatchTarget::Key(b"a")));
    // A repeated watch is not charged.
    app.watch_prefix("0");
    // When the application leaves, everything but its pairs is released.
    app.close();
    until("the watches are given back", || {
        (other.status_of(put(b"b", &value[..90_000])).0 == Status::Ok).then_some(())
    });
    assert_eq!(env.pairs(), 5);
    // The log mentions each limit once, however often it was reached.
    let lines = || {
        let lines = env.server.log_lines();
        lines.iter().filter(|line| line.contains("-per-user")).count()
    };
    until("both limits are logged", || (lines() == 2).then_some(()));
}

/// Pending events and unread responses are charged.
#[test]
fn unread_events_and_responses_are_charged_until_read() {
    let env = TestEnv::with_args(["--max-bytes-per-user", "2700000"]);
    let (mut app, mut asleep) = (env.raw_v2(), env.raw_v2());
    let value = vec![b'v'; 1_000_000];
    app.put("k", &value);
    let put = Request::Put { key: b"more", value: &value, expected: None };
    app.expect_ok(put);
    app.delete("more");
    // One unread response.
    asleep.send_request(Request::Get(b"k"));
    until("it counts", || {
        let refused = app.status_of(put).0 == Status::Limit;
        if !refused {
            app.delete("more");
        }
        refused.then_some(())
    });
    // Reading small values always works.
    assert!(app.get("k").is_some());
    assert_eq!(asleep.main.response().body, value);
    until("it is given back", || (app.status_of(put).0 == Status::Ok).then_some(()));
    app.delete("more");
    // Events of long keys.
    let key = |n: u8| [&vec![b'k'; 60_000][..], &[n]].concat();
    asleep.watch_prefix("k");
    for n in 0..20 {
        app.put(key(n), "");
        assert!(app.delete(key(n)));
    }
    assert_eq!(app.status_of(put).0, Status::Limit);
    for _ in 0..20 {
        // The put of a key may arrive as an event of its own before the deletion.
        while asleep.next_change().1 != 0 {}
    }
    until("they are given back", || (app.status_of(put).0 == Status::Ok).then_some(()));
}

/// A user at its limit can still delete; reads that cannot be served are refused.
#[test]
fn unread_responses_block_puts_and_large_gets_but_not_deletes() {
    let env = TestEnv::with_args(["--max-bytes-per-user", "2500000"]);
    let mut app = env.raw_v2();
    let long_key = vec![b'g'; 60_000];
    app.put("large", vec![b'v'; 1_000_000]);
    app.put("fill", vec![b'v'; 900_000]);
    app.put(&long_key, "v");
    for key in ["gone", "gone, too", "small"] {
        app.put(key, "v");
    }
    let put = Request::Put { key: b"new", value: b"v", expected: None };
    let many = entries([(&b"new"[..], &b"v"[..]), (b"newer", b"v")]);
    let limit = (Status::Limit, 0);
    // Two responses are pending except for what the sockets hold; more requests follow one of them.
    let mut asleep = [env.raw_v2(), env.raw_v2()];
    for one in &mut asleep {
        one.send_request(Request::Get(b"large"));
        until("an answer", || (one.main.unread() > 0).then_some(()));
    }
    let [first, second] = &mut asleep;
    let behind = [
        put,
        Request::PutMany(many.entries()),
        Request::Delete { key: b"gone", expected: None },
        Request::Get(b"small"),
    ];
    let numbers = behind.map(|request| first.send_request(request));
    until("they count", || (app.status_of(put) == limit).then_some(()));
    assert_eq!(app.status_of(Request::PutMany(many.entries())), limit);
    until("no third one may wait", || {
        let mut third = env.raw_v2();
        (third.request(Request::Get(b"large")).status == Status::Limit).then_some(())
    });
    assert!(app.get("small").is_some());
    assert!(app.delete("gone, too"));
    // A deletion that arrives in pieces is not refused either.
    let delete = encode_request(9, Request::Delete { key: &long_key, expected: None });
    let (beginning, end) = delete.split_at(30_000);
    app.main.send(beginning);
    env.raw_v2().expect_served();
    app.main.send(end);
    assert_eq!(app.main.response().status, Status::Ok);
    // The same holds for requests that waited for a response to be read: the other response still
    // uses the quota.
    assert_eq!(first.main.response().body.len(), 1_000_000);
    let answers = numbers.map(|number| first.response(number).status);
    assert_eq!(answers, [Status::Limit, Status::Limit, Status::Ok, Status::Ok]);
    assert_eq!(env.pairs(), 3);
    assert_eq!(app.get("new"), None);
    assert_eq!(second.main.response().body.len(), 1_000_000);
    until("there is room again", || (app.status_of(put).0 == Status::Ok).then_some(()));
}

/// A connection with an incomplete frame is charged to its user like any other.
#[test]
fn incomplete_frames_on_many_connections_take_little_memory() {
    const APPS: usize = 400;
    let env = TestEnv::start();
    let mut witnesses: Vec<_> = (0..4).map(|_| env.raw_v2()).collect();
    let mut apps: Vec<_> = (0..APPS).map(|_| env.raw_v2()).collect();
    let resident = env.server.resident_kib();
    // The largest incomplete frame that is not checked against the limit.
    let half = encode_put(1, b"k", &[b'v'; 4090]);
    for (n, app) in apps.iter_mut().enumerate() {
        let cut = if n % 2 == 0 { half.len() - 1 } else { HEADER_LEN - 1 };
        app.main.send(&half[..cut]);
    }
    // Events are served in their order, on each thread.
    witnesses.iter_mut().for_each(RawV2App::expect_served);
    let grown = env.server.resident_kib().saturating_sub(resident);
    println!("{APPS} halves of frames: {grown} KiB");
    assert!(grown < APPS as u64 * 5, "{grown} KiB");
    drop(apps);
    assert_eq!(env.pairs(), 0);
    assert_eq!(env.server.status()[0].group, GROUP);
}
