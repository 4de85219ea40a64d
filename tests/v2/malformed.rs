//! Malformed input of protocol v2, on either channel and at any point: the server stores nothing of
//! a malformed frame, closes its session, serves all other applications, and keeps nothing of the
//! sender. Requests that are only unknown or too large get a response, and the session stays in
//! step.
//!
//! First a table of everything that can be wrong, then splits and disconnections at each byte, then
//! random sequences from a seed (`KVS_TEST_SEED`). `KVS_TEST_SEQUENCES` sets their number.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use kvs_proto::v2::request::{Request, WatchTarget};
use kvs_proto::v2::response::Status;
use kvs_proto::v2::{HEADER_LEN, MAX_KEY};
use kvs_testkit::{
    Channel, GROUP, RawFrame, RawV1App, RawV2App, SeededRng, Sockets, TestEnv, encode_put,
    encode_request, entries, number_from_env,
};

/// The longest value of this server, so that a short one is too large.
const MAX_VALUE: usize = 100_000;

const MIB: usize = 1 << 20;

/// A server, and a witness of each protocol that checks its service and its content.
struct Witnessed {
    env: TestEnv,
    witness: RawV2App,
    original: RawV1App,
    descriptors: usize,
    rounds: usize,
}

impl Witnessed {
    fn new() -> Self {
        let env = TestEnv::with_args(["--max-value-bytes", "100000"]);
        let mut witness = env.raw_v2();
        assert_eq!(witness.max_value, MAX_VALUE as u64);
        witness.put("k", "0");
        witness.watch_prefix("");
        let original = env.raw_v1();
        assert_eq!(env.pairs(), 1);
        let descriptors = env.server.open_descriptors();
        Self { env, witness, original, descriptors, rounds: 0 }
    }

    /// Asserts that the witnesses are served and receive only events of their own puts: no other
    /// application stores anything.
    fn expect_served(&mut self, what: &str) {
        self.rounds += 1;
        let value = self.rounds.to_string();
        self.original.put("k", &value);
        assert_eq!(self.original.get("k").as_ref(), Some(&value));
        let version = self.witness.get("k").filter(|(_, seen)| *seen == value.as_bytes());
        let (version, _) = version.unwrap_or_else(|| panic!("{what}: k has another value"));
        let event = self.witness.next_change();
        assert_eq!(event, (b"k".to_vec(), version), "{what}");
    }

    fn expect_nothing_stored(&self, what: &str) {
        assert_eq!(self.env.pairs(), 1, "{what}");
    }

    /// Asserts that the server is as idle and as small as before.
    fn expect_nothing_left(&mut self) {
        self.expect_served("at the end");
        self.expect_nothing_stored("at the end");
        self.env.server.expect_open_descriptors(self.descriptors);
        // The promise is that nothing happens, so there is no event to wait for.
        let before = self.env.server.cpu_ticks();
        thread::sleep(Duration::from_millis(500));
        let used = self.env.server.cpu_ticks() - before;
        assert!(used <= 5, "a server with nothing to do used {used} clock ticks in half a second");
    }
}

/// Asserts that the server closes both connections.
fn expect_closed(app: RawV2App) {
    let RawV2App { mut main, mut callback, .. } = app;
    main.rest();
    callback.rest();
}

/// A legal request of each kind, which leaves no trace unless it is executed.
fn legal() -> Vec<RawFrame<'static>> {
    /// One pair: "x" → "y".
    const ENTRIES: &[u8] = b"\x01\0\0\0\x01\0\0\0xy";
    let frame = |kind, flags, key_len, version, body| RawFrame {
        kind,
        flags,
        key_len,
        version,
        body,
        ..RawFrame::default()
    };
    vec![
        frame(1, 0, 1, 0, b"x"),
        frame(2, 0, 1, 0, b"xvalue"),
        frame(2, 1, 1, 0, b"xvalue"),
        frame(3, 0, 1, 0, b"x"),
        frame(3, 1, 1, 77, b"x"),
        frame(4, 0, 0, 0, ENTRIES),
        frame(5, 0, 1, 0, b"x\x09\0\0\0"),
        frame(6, 0, 1, 0, b"x"),
        frame(6, 1, 1, 0, b"x"),
        frame(7, 0, 1, 0, b"x"),
        frame(7, 1, 0, 0, b""),
        frame(8, 0, 0, 0, b""),
    ]
}

/// All frames that end a session (`docs/PROTOCOL.md` §7, Errors), each with a name for failure
/// messages.
fn malformed() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for legal in legal() {
        let mut add = |what: &str, change: &dyn Fn(&mut RawFrame<'_>)| {
            let mut frame = legal.clone();
            change(&mut frame);
            all.push((
                format!("{what}, kind {}, flags {}", legal.kind, legal.flags),
                frame.bytes(),
            ));
        };
        let len = u32::try_from(legal.body.len()).expect("it is short");
        add("a key longer than the body", &|frame| frame.key_len = len + 1);
        add("a key of 4 GiB", &|frame| frame.key_len = u32::MAX);
        add("the first reserved byte", &|frame| frame.reserved = [1, 0]);
        add("the second reserved byte", &|frame| frame.reserved = [0, 0x80]);
        for bit in 1..8 {
            add("an unknown flag", &|frame| frame.flags |= 1 << bit);
        }
        let has_flag = matches!(legal.kind, 2 | 3 | 6 | 7);
        if !has_flag {
            add("a flag of others", &|frame| frame.flags |= 1);
        }
        let has_version = legal.kind == 5 || (matches!(legal.kind, 2 | 3) && legal.flags == 1);
        if !has_version {
            add("a version", &|frame| frame.version = 1);
            add("a huge version", &|frame| frame.version = 1 << 63);
        }
        let may_be_empty = matches!(legal.kind, 4 | 5 | 8) || (legal.kind > 5 && legal.flags == 1);
        if !may_be_empty {
            add("an empty key", &|frame| frame.key_len = 0);
            add("no body", &|frame| (frame.key_len, frame.body) = (0, b""));
        }
        match legal.kind {
            1 | 3 | 6 | 7 | 8 => add("bytes after the key", &|frame| frame.body = b"xy"),
            _ => {}
        }
        match legal.kind {
            4 => {
                for (what, body) in [
                    ("no entries", &b""[..]),
                    ("half a length", b"\x01\0\0"),
                    ("one length", b"\x01\0\0\0"),
                    ("no key", b"\x01\0\0\0\0\0\0\0"),
                    ("a key that is cut", b"\x02\0\0\0\0\0\0\0x"),
                    ("a value that is cut", b"\x01\0\0\0\x02\0\0\0xy"),
                    ("a value of 4 GiB", b"\x01\0\0\0\xff\xff\xff\xffxy"),
                    ("a key of 4 GiB", b"\xff\xff\xff\xff\x01\0\0\0xy"),
                    ("both of 4 GiB", b"\xff\xff\xff\xff\xff\xff\xff\xffxy"),
                    ("an empty key", b"\0\0\0\0\x01\0\0\0y"),
                    ("a byte too many", b"\x01\0\0\0\x01\0\0\0xyz"),
                    ("a good one, then a bad one", b"\x01\0\0\0\x01\0\0\0xy\0\0\0\0\0\0\0\0"),
                ] {
                    add(&format!("entries: {what}"), &|frame| frame.body = body);
                }
                add("a key outside of the entries", &|frame| frame.key_len = 1);
            }
            5 => {
                for body in [&b"x"[..], b"x\x09\0\0", b"x\x09\0\0\0\0"] {
                    add("keys with a limit of another length", &|frame| frame.body = body);
                }
            }
            _ => {}
        }
    }
    all
}

/// Requests that the server refuses with this status and does not execute.
fn refused() -> Vec<(String, Vec<u8>, Status)> {
    let mut all = Vec::new();
    let body = vec![7; 3 * MAX_VALUE];
    for kind in [0, 9, 77, 127, 128, 134, 192, 255] {
        for len in [0, 1, 5000, body.len()] {
            // For an unknown kind the server checks only what holds for every frame.
            let frame = RawFrame {
                number: 1,
                kind,
                flags: 0xff,
                version: u64::MAX,
                key_len: u32::try_from(len).expect("it is short") / 2,
                body: &body[..len],
                ..RawFrame::default()
            };
            all.push((format!("kind {kind} with {len} bytes"), frame.bytes(), Status::Unknown));
        }
    }
    let mut too_large = |what: &str, frame: Vec<u8>| {
        all.push((what.to_owned(), frame, Status::TooLarge));
    };
    let (key, longest) = (&body[..=MAX_KEY], &body[..MAX_KEY]);
    let value = &body[..=MAX_VALUE];
    let put = |key, value| encode_put(1, key, value);
    too_large("a get with a long key", encode_request(1, Request::Get(key)));
    too_large("a put with a long key", put(key, b"v"));
    too_large("a put with a long value", put(b"x", value));
    too_large("a put with the longest key and a long value", put(longest, value));
    too_large(
        "a deletion with a long key",
        encode_request(1, Request::Delete { key, expected: None }),
    );
    too_large("a watch of a long key", encode_request(1, Request::Watch(WatchTarget::Key(key))));
    too_large(
        "a watch of a long prefix",
        encode_request(1, Request::Watch(WatchTarget::Prefix(key))),
    );
    too_large(
        "an unwatch of a long key",
        encode_request(1, Request::Unwatch(WatchTarget::Key(key))),
    );
    too_large(
        "keys with a long prefix",
        encode_request(1, Request::Keys { prefix: key, cursor: 0, limit: 1 }),
    );
    let mut many = |what: &str, pairs: Vec<(&[u8], &[u8])>| {
        too_large(what, encode_request(1, Request::PutMany(entries(pairs).entries())));
    };
    many("entries with a long key", vec![(b"x", b""), (key, b"")]);
    many("entries with a long value", vec![(b"x", b""), (b"y", value)]);
    many("10,001 entries", vec![(b"x", b""); 10_001]);
    many("entries that are too long together", vec![(b"x", &body[..MAX_VALUE]); 2]);
    let frame = |kind, len: usize| {
        RawFrame { number: 1, kind, key_len: 1, body: &body[..len], ..RawFrame::default() }.bytes()
    };
    too_large("a get with a long rest", frame(1, MAX_KEY + 1));
    too_large("a close with a long body", frame(8, MAX_KEY + 1));
    all
}

#[test]
fn malformed_frame_ends_its_session_and_stores_nothing() {
    let mut witnessed = Witnessed::new();
    let all = malformed();
    println!("{} malformed frames", all.len());
    let good = encode_request(5, Request::Get(b"k"));
    let later = encode_put(6, b"later", b"value");
    for (what, frame) in all {
        // The frame alone; between others in one piece; and byte by byte.
        for way in 0..3 {
            println!("{what}, way {way}");
            let mut app = witnessed.env.raw_v2();
            match way {
                0 => app.main.send(&frame),
                1 => app.main.send(&[&good[..], &frame, &later].concat()),
                _ => {
                    for byte in &frame {
                        // The server closes as soon as it detects the error.
                        if app.main.try_send(&[*byte]).is_err() {
                            break;
                        }
                    }
                    let _ = app.main.try_send(&later);
                }
            }
            if way == 1 {
                // Earlier requests get their responses, unless the server detects the end first.
                let answer = app.main.rest();
                assert!(answer.is_empty() || answer.len() > HEADER_LEN, "{what}: {answer:?}");
            }
            expect_closed(app);
            witnessed.expect_served(&what);
        }
        witnessed.expect_nothing_stored(&what);
    }
    witnessed.expect_nothing_left();
}

#[test]
fn unknown_and_too_large_requests_keep_the_session_in_sync() {
    let mut witnessed = Witnessed::new();
    let mut app = witnessed.env.raw_v2();
    let all = refused();
    println!("{} frames that are refused", all.len());
    for (what, frame, status) in &all {
        // The frame in one piece, split within the header, and split within the body.
        let cuts = [frame.len(), 3, HEADER_LEN, frame.len().min(HEADER_LEN + 70_000)];
        for cut in cuts {
            let (first, rest) = frame.split_at(cut);
            app.main.send(first);
            if !rest.is_empty() {
                app.main.send(rest);
            }
            let reply = app.response(1);
            assert_eq!((reply.status, reply.version), (*status, 0), "{what}, cut at {cut}");
            assert!(reply.body.is_empty());
            app.expect_served();
        }
        witnessed.expect_served(what);
        witnessed.expect_nothing_stored(what);
    }
    // The server responds when the header is complete, and skips the announced body when it
    // arrives.
    for kind in [2, 4, 9] {
        let mut app = witnessed.env.raw_v2();
        let frame = RawFrame { body_len: Some(u32::MAX), number: 3, kind, ..RawFrame::default() };
        app.main.send(&frame.bytes());
        let status = if kind == 9 { Status::Unknown } else { Status::TooLarge };
        assert_eq!(app.response(3).status, status);
        app.main.send(&vec![0; MIB]);
        drop(app);
        witnessed.expect_served("4 GiB");
    }
    // The longest key and value that the server accepts.
    let longest = vec![b'k'; MAX_KEY];
    let value = vec![b'v'; MAX_VALUE];
    let version = app.put(&longest, &value);
    assert_eq!(app.get(&longest), Some((version, value)));
    assert_eq!(witnessed.witness.next_change(), (longest.clone(), version));
    assert!(app.delete(&longest));
    assert_eq!(witnessed.witness.next_change(), (longest, 0));
    app.close();
    witnessed.expect_nothing_left();
}

#[test]
fn frames_may_be_split_and_merged_at_every_byte() {
    let mut witnessed = Witnessed::new();
    let mut app = witnessed.env.raw_v2();
    let mut stream = Vec::new();
    let many = entries([(&b"b"[..], &b"1"[..]), (b"c", b"")]);
    let requests = [
        Request::Put { key: b"a", value: b"\0value\xff", expected: None },
        Request::Get(b"a"),
        Request::PutMany(many.entries()),
        Request::Delete { key: b"a", expected: None },
        Request::Delete { key: b"b", expected: None },
        Request::Delete { key: b"c", expected: None },
        Request::Get(b"a"),
    ];
    for (number, request) in (0..).zip(requests) {
        request.encode(number, &mut stream);
    }
    for cut in 0..=stream.len() {
        for piece in [&stream[..cut], &stream[cut..]] {
            // An empty piece would send nothing.
            if !piece.is_empty() {
                app.main.send(piece);
            }
        }
        let replies: Vec<_> = (0..7).map(|number| app.response(number)).collect();
        let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
        use Status::{NoSuchKey, Ok};
        assert_eq!(statuses, [Ok, Ok, Ok, Ok, Ok, Ok, NoSuchKey], "cut at {cut}");
        assert_eq!(replies[1].body, b"\0value\xff");
        assert_eq!(replies[1].version, replies[0].version);
        assert_eq!(replies[2].version, replies[0].version + 2);
        for (key, version) in [
            ("a", replies[0].version),
            ("b", replies[0].version + 1),
            ("c", replies[2].version),
            ("a", 0),
            ("b", 0),
            ("c", 0),
        ] {
            // A put and its deletion may be coalesced.
            let event = witnessed.witness.next_change();
            if event != (key.into(), version) {
                assert_eq!(event.1, 0, "cut at {cut}");
                break;
            }
        }
        // The remaining events; then none.
        witnessed.rounds += 1;
        app.put("k", "again");
        while witnessed.witness.next_change().0 != b"k" {}
        witnessed.expect_served("a cut");
    }
    app.close();
    witnessed.expect_nothing_left();
}

#[test]
fn hang_up_at_any_byte_of_a_frame_stores_nothing() {
    let mut witnessed = Witnessed::new();
    let put = encode_put(1, b"key", b"value");
    let large = encode_put(1, b"key", &vec![b'v'; MAX_VALUE]);
    let many =
        encode_request(1, Request::PutMany(entries([(&b"key"[..], &b"v"[..]); 3]).entries()));
    let mut cuts: Vec<(&[u8], usize)> = (0..put.len()).map(|cut| (&put[..], cut)).collect();
    cuts.extend((HEADER_LEN..many.len()).step_by(5).map(|cut| (&many[..], cut)));
    cuts.extend([100, 4096, 4121, 65_536, large.len() - 1].map(|cut| (&large[..], cut)));
    println!("{} cuts", cuts.len());
    for (n, (frame, cut)) in cuts.into_iter().enumerate() {
        let how = [None, Some(Shutdown::Write), Some(Shutdown::Both), Some(Shutdown::Read)][n % 4];
        let mut app = witnessed.env.raw_v2();
        app.main.send(&frame[..cut]);
        if let Some(how) = how {
            app.main.stream().shutdown(how).expect("it is connected");
        }
        match n % 3 {
            0 => drop(app),
            1 => {
                let RawV2App { main, callback, .. } = app;
                drop(callback);
                drop(main);
            }
            _ => {
                let RawV2App { main, mut callback, .. } = app;
                drop(main);
                callback.expect_end();
            }
        }
        witnessed.expect_served(&format!("cut at {cut}, {how:?}"));
    }
    // An application without a callback channel gets no events, and is served.
    for how in [Shutdown::Write, Shutdown::Both] {
        let mut app = witnessed.env.raw_v2();
        app.watch("k");
        app.callback.stream().shutdown(how).expect("it is connected");
        witnessed.expect_served("no callback channel");
        app.expect_served();
        app.close();
    }
    witnessed.expect_nothing_left();
}

/// The server allocates memory only for the received part of an announced body.
#[test]
fn announced_bodies_reserve_no_memory() {
    const APPS: usize = 100;
    let env = TestEnv::with_args(["--max-value-bytes", "1000000"]);
    let mut witness = env.raw_v2();
    witness.put("k", "v");
    let apps: Vec<_> = (0..APPS).map(|_| env.raw_v2()).collect();
    let resident = env.server.resident_kib();
    env.server.reset_peak_resident();
    let apps: Vec<_> = apps
        .into_iter()
        .enumerate()
        .map(|(n, mut app)| {
            let (body_len, kind) =
                [(u32::MAX, 2), (1_000_000, 2), (1_065_600, 4), (1 << 31, 9)][n % 4];
            let key_len = if kind == 4 { 0 } else { 1 };
            let body: &[u8] = b"\x01\0\0\0";
            let frame =
                RawFrame { body_len: Some(body_len), kind, key_len, body, ..RawFrame::default() };
            app.main.send(&frame.bytes());
            app
        })
        .collect();
    witness.expect_served();
    let grown = env.server.peak_resident_kib().saturating_sub(resident);
    println!("{APPS} announced bodies: {grown} KiB");
    assert!(grown < 2048, "{grown} KiB for {APPS} bodies that never came");
    drop(apps);
    assert_eq!(env.pairs(), 1);
}

#[test]
fn bytes_on_the_callback_channel_end_the_session() {
    let mut witnessed = Witnessed::new();
    let ready = 1i32.to_ne_bytes();
    let close = encode_request(0, Request::Close);
    let huge = vec![0; MIB];
    for bytes in [&b"\0"[..], &b"x"[..], &ready, &close, &huge] {
        // The states are: without events, with read events, and with pending events.
        for state in 0..3 {
            let what = format!("{} bytes in state {state}", bytes.len());
            let mut app = witnessed.env.raw_v2();
            if state > 0 {
                app.watch("k");
                witnessed.expect_served(&what);
            }
            if state == 1 {
                assert_eq!(app.next_change().0, b"k");
            }
            let _ = app.callback.try_send(bytes);
            expect_closed(app);
            witnessed.expect_served(&what);
        }
    }
    witnessed.expect_nothing_left();
}

#[test]
fn anything_but_the_offer_after_the_group_name_ends_the_login() {
    let mut witnessed = Witnessed::new();
    let begin = |hello: &[u8]| {
        let path = witnessed.env.server.socket();
        let mut main = Channel::connect("main", path).expect("the server listens");
        main.expect_int(1);
        main.send(hello);
        main
    };
    let name = "n".repeat(95);
    for (hello, answer) in [
        (&b"g\0kvs2"[..], 2),
        (b"g\0kvs23", 2),
        (b"g\0kvs32", 2),
        // Offers of a later version of the protocol, and of none.
        (b"g\0kvs", 1),
        (b"g\0kvs3", 1),
        (b"g\0kvs1", 1),
        (b"none\0kvs2", 0),
        ([name.as_bytes(), b"\0kvs2"].concat().as_slice(), 0),
    ] {
        let mut main = begin(hello);
        main.expect_int(answer);
        if answer == 0 {
            main.expect_end();
        }
    }
    for hello in [
        &b"g\0"[..],
        b"g\0k",
        b"g\0kv",
        b"g\0kv2",
        b"g\0xkvs2",
        b"g\0\0kvs2",
        b"g\0KVS2",
        [name.as_bytes(), b"\0kvs23"].concat().as_slice(),
        [&b"g\0kvs2"[..], &[b'3'; 100]].concat().as_slice(),
    ] {
        begin(hello).expect_end();
    }
    // An offer in two pieces is a name followed by other bytes.
    let mut main = begin(b"g");
    main.expect_int(1);
    main.send(b"\0kvs2");
    main.expect_end();
    // The application must send nothing before the verdict.
    for early in [encode_request(1, Request::Get(b"k")), vec![0], encode_put(1, b"x", b"y")] {
        let mut main = begin(b"g\0kvs2");
        main.expect_int(2);
        main.send(witnessed.env.secret().as_bytes());
        // Together with the secret these bytes would be a wrong secret, or none.
        let _ = main.try_send(&early);
        main.rest();
    }
    witnessed.expect_served("offers");
    witnessed.expect_nothing_left();
}

#[test]
fn descriptors_and_out_of_band_data_are_ignored_by_v2() {
    let mut witnessed = Witnessed::new();
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let many = vec![null.as_fd(); 253];
    for n in 0..30 {
        let mut app = witnessed.env.raw_v2();
        app.main.try_send_with(&encode_put(1, b"x", b"y"), &many).expect("it is connected");
        assert_eq!(app.response(1).status, Status::Ok);
        assert!(app.delete("x"));
        assert!(witnessed.env.server.open_descriptors() < witnessed.descriptors + 100);
        // An out-of-band byte joins the stream when the next one arrives: then it is a truncated
        // frame, or a malformed one.
        let channel = if n % 2 == 0 { &mut app.main } else { &mut app.callback };
        channel.try_send_out_of_band(b"\xff").expect("this kernel has it on UNIX sockets");
        let _ = channel.try_send(&[0xff; HEADER_LEN]);
        let _ = channel.try_send_with(b"\xff", &many[..3]);
        drop(app);
        // The witness receives two events, or only that of the deletion.
        while witnessed.witness.next_change().1 != 0 {}
        witnessed.expect_served("passed descriptors");
    }
    witnessed.expect_nothing_left();
}

/// A header that is malformed, whatever follows.
fn broken(rng: &mut SeededRng) -> Vec<u8> {
    let mut header: Vec<u8> = (0..HEADER_LEN).map(|_| rng.number() as u8).collect();
    match rng.below(2) {
        0 => header[10] |= 1,
        _ => header[11] |= 0x80,
    }
    header
}

/// Frames that store nothing, most of them legal. A body that is shorter than announced swallows
/// the frames after it.
fn harmless(rng: &mut SeededRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..rng.below(6) as u32 {
        let key = vec![b'k'; 1 + rng.below(3)];
        match rng.below(8) {
            0 => Request::Get(&key).encode(number, &mut bytes),
            1 => Request::Watch(WatchTarget::Prefix(&key)).encode(number, &mut bytes),
            2 => Request::Watch(WatchTarget::Key(&key)).encode(number, &mut bytes),
            3 => Request::Unwatch(WatchTarget::Prefix(&key)).encode(number, &mut bytes),
            4 => Request::Keys { prefix: b"", cursor: rng.number(), limit: rng.below(5) as u32 }
                .encode(number, &mut bytes),
            5 => Request::Delete { key: b"none", expected: Some(rng.number()) }
                .encode(number, &mut bytes),
            6 => Request::Put { key: &key, value: b"v", expected: Some(u64::MAX) }
                .encode(number, &mut bytes),
            _ => {
                let body = vec![7; rng.below(20_000)];
                let kind = 9 + rng.below(200) as u8;
                bytes.extend(RawFrame { number, kind, body: &body, ..RawFrame::default() }.bytes());
            }
        }
    }
    bytes
}

#[test]
fn random_frames_store_and_leak_nothing() {
    let count = number_from_env("KVS_TEST_SEQUENCES").unwrap_or(2_000);
    let seed = number_from_env("KVS_TEST_SEED").unwrap_or_else(|| SeededRng::from_time().number());
    println!("KVS_TEST_SEED={seed}");
    let mut witnessed = Witnessed::new();
    let mut rng = SeededRng::new(seed);
    let mut resident = 0;
    let warm = count / 3;
    for number in 0..count {
        if number == warm {
            // By now the bounded histories are full, such as that of 1000 past applications.
            resident = witnessed.env.server.resident_kib();
        }
        let mut app = witnessed.env.raw_v2();
        let mut bytes = harmless(&mut rng);
        bytes.extend(broken(&mut rng));
        bytes.extend(encode_put(1, b"stored", b"nothing"));
        bytes.extend((0..rng.below(2000)).map(|_| rng.number() as u8));
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = if rng.one_in(3) { 30 } else { 5000 };
            let (piece, later) = rest.split_at(1 + rng.below(most.min(rest.len())));
            rest = later;
            if rng.one_in(30) {
                // Without this piece, the rest would be a different stream.
                let _ = app.callback.try_send(piece);
                break;
            }
            if app.main.try_send(piece).is_err() {
                break;
            }
        }
        if rng.one_in(2) {
            expect_closed(app);
        } else {
            drop(app);
        }
        witnessed.expect_served(&format!("sequence {number} with KVS_TEST_SEED={seed}"));
        if number % 100 == 0 {
            witnessed
                .expect_nothing_stored(&format!("sequence {number} with KVS_TEST_SEED={seed}"));
        }
    }
    witnessed.expect_nothing_left();
    let grown = witnessed.env.server.resident_kib().saturating_sub(resident);
    println!("{count} sequences; the server grew by {grown} KiB over the last {}", count - warm);
    assert!(grown < 4096, "the server grew by {grown} KiB with KVS_TEST_SEED={seed}");
    assert_eq!(witnessed.env.server.status().last().map(|app| app.group.as_str()), Some(GROUP));
}
