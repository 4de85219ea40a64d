//! Applications that do not read from the server, or send their requests in small pieces.
//! `KVS_TEST_PUTS` sets the number of changes during which a subscriber does not read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use kvs_proto::v2::request::Request;
use kvs_proto::v2::response::Status;
use kvs_proto::v2::{HEADER_LEN, NO_VERSION, Version};
use kvs_testkit::{
    GROUP, QUIET_PERIOD, RawV2App, SeededRng, StopOnDrop, TestEnv, encode_put, encode_request,
    entries, number_from_env, until,
};

/// Puts that are sent before their responses are read: fewer than the sockets hold.
const PIPELINE: usize = 100;

/// Puts as fast as the protocol allows. Returns the last version.
fn put_all(app: &mut RawV2App, key: &[u8], count: usize) -> Version {
    let mut last = 0;
    let mut left = count;
    while left > 0 {
        let now = left.min(PIPELINE);
        left -= now;
        let mut bytes = Vec::new();
        (0..now).for_each(|n| bytes.extend(encode_put(n as u32, key, left.to_string().as_bytes())));
        app.main.send(&bytes);
        for n in 0..now {
            let reply = app.response(n as u32);
            assert_eq!(reply.status, Status::Ok);
            assert!(reply.version > last);
            last = reply.version;
        }
    }
    last
}

/// Receives all events up to the one of this key and version. Versions never go back, and no event
/// is repeated.
fn changes_up_to(app: &mut RawV2App, key: &[u8], version: Version) -> Vec<(Vec<u8>, Version)> {
    let mut all: Vec<(Vec<u8>, Version)> = Vec::new();
    loop {
        all.push(app.next_change());
        if all.last().is_some_and(|last| last.0 == key && last.1 == version) {
            return all;
        }
    }
}

#[test]
fn idle_subscriber_costs_nothing_and_gets_the_last_version() {
    const WRITERS: usize = 4;
    let puts = number_from_env("KVS_TEST_PUTS").unwrap_or(200_000);
    let env = TestEnv::start();
    let (mut asleep, mut by_prefix, mut awake) = (env.raw_v2(), env.raw_v2(), env.raw_v2());
    let mut writers: Vec<_> = (0..WRITERS).map(|_| env.raw_v2()).collect();
    writers[0].put("k", "0");
    asleep.watch("k");
    by_prefix.watch_prefix("");
    awake.watch("k");
    let done = AtomicBool::new(false);
    put_all(&mut writers[0], b"k", 20_000);
    let resident = env.server.resident_kib();
    env.server.reset_peak_resident();
    let begin = Instant::now();
    let received = thread::scope(|scope| {
        let ending = StopOnDrop(&done);
        let received = scope.spawn(|| {
            // A subscriber that reads gets increasing versions.
            let (mut last, mut count) = (0, 0u64);
            while !done.load(Ordering::Relaxed) || awake.callback.unread() > 0 {
                if awake.callback.unread() == 0 {
                    thread::yield_now();
                    continue;
                }
                let (_, version) = awake.next_change();
                assert!(version > last, "{version} after {last}");
                (last, count) = (version, count + 1);
            }
            (last, count)
        });
        let writers: Vec<_> = writers
            .iter_mut()
            .map(|writer| scope.spawn(|| put_all(writer, b"k", puts / WRITERS)))
            .collect();
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok), "a writer was not served");
        drop(ending);
        received.join().expect("versions grow")
    });
    let took = begin.elapsed();
    let peak = env.server.peak_resident_kib();
    println!(
        "{puts} puts in {took:?} ({:.0} a second); {} events to the one that reads; {resident} KiB \
         before, {peak} KiB \
         at most",
        puts as f64 / took.as_secs_f64(),
        received.1
    );
    assert!(peak < resident + 2048, "the server grew from {resident} KiB to {peak} KiB");
    let last = writers[0].put("k", "last");
    assert!(received.0 < last);
    // One event may have been in transit when the writers were done.
    let rest = changes_up_to(&mut awake, b"k", last);
    assert!(
        rest.is_sorted_by(|a, b| a.1 < b.1) && rest[0].1 > received.0,
        "{rest:?} after {}",
        received.0
    );
    // The events that the socket had room for; then all others coalesced.
    for app in [&mut asleep, &mut by_prefix] {
        let mut before = 0;
        for (_, version) in changes_up_to(app, b"k", last) {
            assert!(version > before, "{version} after {before}");
            before = version;
        }
        assert_eq!(app.get("k"), Some((last, b"last".to_vec())));
        assert_eq!(app.callback.waiting(), b"");
    }
    // The subscribers receive events as before.
    for writer in &mut writers[..3] {
        let next = writer.put("k", "next");
        for app in [&mut asleep, &mut by_prefix, &mut awake] {
            assert_eq!(app.next_change(), (b"k".to_vec(), next));
        }
    }
}

#[test]
fn stalled_subscriber_gets_last_versions_and_deletions_in_order() {
    const KEYS: usize = 500;
    const STEPS: usize = 30_000;
    let seed = number_from_env("KVS_TEST_SEED").unwrap_or_else(|| SeededRng::from_time().number());
    println!("KVS_TEST_SEED={seed}");
    let mut rng = SeededRng::new(seed);
    let env = TestEnv::start();
    let (mut asleep, mut writer) = (env.raw_v2(), env.raw_v2());
    asleep.watch_prefix("key");
    let mut versions: HashMap<Vec<u8>, Version> = HashMap::new();
    let mut steps: Vec<(Vec<u8>, Version)> = Vec::new();
    for number in 0..STEPS {
        let key = format!("key{}", rng.below(KEYS)).into_bytes();
        let had = versions.get(&key).copied().unwrap_or(NO_VERSION);
        let version = match rng.below(3) {
            0 if had != NO_VERSION => {
                assert!(writer.delete(&key));
                NO_VERSION
            }
            1 => {
                let pairs = [(&key[..], &b"1"[..]), (b"elsewhere", b""), (&key, b"2")];
                writer.expect_ok(Request::PutMany(entries(pairs).entries()))
            }
            _ => writer.put(&key, number.to_string()),
        };
        versions.insert(key.clone(), version);
        steps.push((key, version));
    }
    let end = writer.put("key end", "");
    let mut received: HashMap<Vec<u8>, Version> = HashMap::new();
    let mut newest: HashMap<Vec<u8>, Version> = HashMap::new();
    let all = changes_up_to(&mut asleep, b"key end", end);
    println!("{STEPS} steps were sent as {} events", all.len());
    // For each key: the events are a subsequence of the changes and end with the last one.
    let mut happened: HashMap<&[u8], Vec<Version>> = HashMap::new();
    steps.iter().for_each(|(key, version)| happened.entry(key).or_default().push(*version));
    let mut at: HashMap<Vec<u8>, usize> = HashMap::new();
    for (key, version) in &all[..all.len() - 1] {
        if *version != NO_VERSION {
            let newest = newest.entry(key.clone()).or_default();
            assert!(*version > *newest, "{} goes back", key.escape_ascii());
            *newest = *version;
        }
        let history = &happened[&key[..]];
        let from = at.entry(key.clone()).or_default();
        let found = history[*from..].iter().position(|seen| seen == version);
        let found = found.unwrap_or_else(|| {
            // The first of two puts in one message is a version of its own.
            history[*from..].iter().position(|seen| *seen == version + 2).expect("it happened")
        });
        *from += found + 1;
        received.insert(key.clone(), *version);
    }
    assert_eq!(received, versions, "the last change of a key is always sent");
}

#[test]
fn v2_subscriber_reading_byte_by_byte_delays_no_other() {
    let env = TestEnv::start();
    let (mut slow, mut writer) = (env.raw_v2(), env.raw_v2());
    writer.put("k", "v");
    slow.watch("k");
    let key = vec![b'k'; 3000];
    slow.watch_prefix(&key[..100]);
    let mut bytes = Vec::new();
    for n in 0..2_000u32 {
        writer.put("k", n.to_string());
        writer.put([&key[..], &n.to_le_bytes()].concat(), "v");
        bytes.extend(slow.callback.take(1));
    }
    let last = writer.put("k", "last");
    // The subscriber has received whole frames in order, and part of another.
    let mut at = 0;
    loop {
        while bytes.len() < at + HEADER_LEN {
            bytes.extend(slow.callback.take(1));
        }
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four")) as usize;
        at += HEADER_LEN + len;
        if at >= bytes.len() {
            bytes.extend(slow.callback.take(at - bytes.len()));
            break;
        }
    }
    changes_up_to(&mut slow, b"k", last);
}

/// The table and all unread responses share a long value, so each response costs only its own
/// bookkeeping.
#[test]
fn unread_large_responses_share_memory_and_delay_no_other() {
    const APPS: usize = 8;
    const GETS: usize = 2_000;
    let large = vec![b'v'; 16 << 20];
    let env = TestEnv::start();
    let other_secret = env.server.create_group("other");
    let mut writer = env.raw_v2();
    let version = writer.put("large", &large);
    let mut other = env.raw_v2_in("other", &other_secret);
    let mut apps: Vec<_> = (0..APPS).map(|_| env.raw_v2()).collect();
    let resident = env.server.resident_kib();
    env.server.reset_peak_resident();
    for app in &mut apps {
        // More requests than the server reads at once.
        app.main.send(&encode_request(7, Request::Get(b"large")).repeat(GETS));
        until("the first answer fills the socket", || (app.main.unread() > 60_000).then_some(()));
    }
    let mut times: Vec<_> = (0..1000)
        .map(|_| {
            let begin = Instant::now();
            other.expect_served();
            begin.elapsed()
        })
        .collect();
    times.sort();
    let grown = env.server.peak_resident_kib().saturating_sub(resident);
    println!(
        "{APPS} applications with {GETS} responses of 16 MiB due: {grown} KiB; a get of another \
         takes {:?} (median; 99th percentile {:?})",
        times[500], times[990]
    );
    assert!(grown < 4096, "the server grew by {grown} KiB");
    // Pending responses keep the value that was read, although the key is overwritten and deleted.
    writer.put("large", "other");
    assert!(writer.delete("large"));
    let mut app = apps.pop().expect("there are some");
    let reply = app.response(7);
    assert_eq!((reply.status, reply.version), (Status::Ok, version));
    assert!(reply.body == large, "the value is another");
    for _ in 1..GETS {
        assert_eq!(app.response(7).status, Status::NoSuchKey);
    }
    app.expect_served();
    // The last session to drop its responses frees the value.
    drop((apps, app));
    until("the memory is given back", || {
        (env.server.resident_kib() + (10 << 10) < resident).then_some(())
    });
}

/// The server stops reading from an application that does not read its responses, and keeps the
/// requests that it had read.
#[test]
fn server_stops_reading_from_app_that_reads_no_responses() {
    let env = TestEnv::start();
    let mut other = env.raw_v2();
    other.put("k", "v".repeat(1000));
    let mut app = env.raw_v2();
    let resident = env.server.resident_kib();
    env.server.reset_peak_resident();
    let gets = encode_request(7, Request::Get(b"k")).repeat(1000);
    let mut sent = 0;
    app.main.stream().set_write_timeout(Some(QUIET_PERIOD)).expect("not zero");
    while app.main.try_send(&gets).is_ok() {
        sent += 1000;
        assert!(sent < 1_000_000, "the server reads although its answers are not taken");
    }
    let grown = env.server.peak_resident_kib().saturating_sub(resident);
    println!("after {sent} gets or more it reads no more; {grown} KiB");
    assert!(grown < 2048, "the server grew by {grown} KiB");
    other.expect_served();
    // Once the responses are read, the server responds to every complete request.
    for _ in 0..sent {
        let reply = app.response(7);
        assert_eq!((reply.status, reply.body.len()), (Status::Ok, 1000));
    }
    drop(app);
    other.expect_served();
    assert_eq!(env.server.status().iter().filter(|app| app.status == "Connected").count(), 1);
}

/// A value that arrives in small pieces delays no other application and is stored only with its
/// last byte.
#[test]
fn large_puts_in_small_pieces_delay_no_other() {
    const APPS: usize = 8;
    let env = TestEnv::start();
    let mut other = env.raw_v2();
    let value = vec![b'v'; 16 << 20];
    let put = encode_put(3, b"large", &value);
    let mut apps: Vec<_> = (0..APPS).map(|_| env.raw_v2()).collect();
    let resident = env.server.resident_kib();
    // Single bytes first; then half of the value; then all but one byte.
    for n in 0..100 {
        for app in &mut apps {
            app.main.send(&put[n..=n]);
        }
        other.expect_served();
    }
    let half = put.len() / 2;
    for (from, to) in [(100, half), (half, put.len() - 1)] {
        for app in &mut apps {
            app.main.send(&put[from..to]);
        }
        other.expect_served();
        assert_eq!(other.get("large"), None);
    }
    let grown = env.server.resident_kib() - resident;
    println!("{APPS} puts of 16 MiB under way: {} MiB", grown >> 10);
    assert!(grown < (APPS as u64 * 17) << 10, "{grown} KiB");
    for (n, app) in apps.iter_mut().enumerate() {
        app.main.send(&put[put.len() - 1..]);
        let reply = app.response(3);
        assert_eq!((reply.status, reply.version), (Status::Ok, n as u64 + 1));
    }
    assert!(other.get("large").expect("it is stored").1 == value);
    assert_eq!(env.pairs(), 1);
    assert!(other.delete("large"));
    drop(apps);
    // The C library caches some memory for each thread. A leak in the server would be ten times as
    // large.
    for _ in 0..6 {
        let mut apps: Vec<_> = (0..APPS).map(|_| env.raw_v2()).collect();
        apps.iter_mut().for_each(|app| app.main.send(&put));
        apps.iter_mut().for_each(|app| assert_eq!(app.response(3).status, Status::Ok));
        assert!(other.delete("large"));
        drop(apps);
        until("all are gone", || {
            let status = env.server.status();
            (status.iter().filter(|app| app.status == "Connected").count() == 1).then_some(())
        });
    }
    let after = env.server.resident_kib();
    println!("{resident} KiB at first, {after} KiB after six rounds");
    assert!(after < resident + (200 << 10), "{after} KiB");
    assert!(!env.server.log_lines().iter().any(|line| line.contains(GROUP)));
}
