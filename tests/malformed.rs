//! Malformed input of protocol v1, on either channel and at any point: the server stores none of
//! it, serves all other applications, and keeps neither descriptors nor memory of the sender.
//!
//! First a table of everything that can be wrong at each point, each entry with the required
//! result; then random sequences from a seed that a failure prints. `KVS_TEST_SEQUENCES` sets their
//! number (`make test-isolation`: 100,000).

#![forbid(unsafe_code)]

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kvs_testkit::{
    Channel, RawV1App, SeededRng, Sockets, StopOnDrop, TestEnv, connect, number_from_env,
};

/// Its name is a function code that does not exist, so that a second login is nothing but one.
const GROUP: &str = "team";

/// A server, and a witness that it serves and has stored what it should.
struct Witnessed {
    env: TestEnv,
    witness: kvs::Connection,
    descriptors: usize,
    rounds: usize,
}

impl Witnessed {
    fn new() -> Self {
        let env = TestEnv::builder().group(GROUP).start();
        let witness = env.connect();
        witness.put("k", "0").expect("it is connected");
        // The answer to a later call shows that it is stored.
        assert!(witness.get("k").expect("it is connected").is_some());
        assert_eq!(env.pairs(), 1);
        let descriptors = env.server.open_descriptors();
        Self { env, witness, descriptors, rounds: 0 }
    }

    /// The witness is served.
    fn expect_served(&mut self) {
        self.rounds += 1;
        let value = self.rounds.to_string();
        self.witness.put("k", &value).expect("it is connected");
        let seen = self.witness.get("k").expect("it is connected");
        assert_eq!(seen.as_deref(), Some(value.as_bytes()));
    }

    /// There is the witness' pair and no other.
    fn expect_nothing_stored(&self, what: &str) {
        assert_eq!(self.env.pairs(), 1, "{what}");
    }

    /// All is as before.
    fn expect_nothing_left(&self) {
        self.expect_nothing_stored("at the end");
        self.env.server.expect_open_descriptors(self.descriptors);
        // There is no event to wait for: that nothing happens is the promise.
        let before = self.env.server.cpu_ticks();
        thread::sleep(Duration::from_millis(500));
        let used = self.env.server.cpu_ticks() - before;
        assert!(used <= 5, "a server with nothing to do used {used} clock ticks in half a second");
    }

    /// An application that has come to this point.
    fn abuser(&self, at: At, number: usize) -> Abuser {
        let name = number.to_string();
        let connect_main =
            || Channel::connect_as("main", self.env.server.socket(), self.env.dir(), &name);
        let connect_callback = || {
            let path = self.env.server.callback_socket();
            Channel::connect_as("callback", path, self.env.dir(), &name)
        };
        if at == At::Unclaimed {
            // Before its login: what it sends there waits for the login that claims it.
            return Abuser { main: connect_main(), callback: Some(connect_callback()) };
        }
        if matches!(at, At::Group | At::Secret | At::Verdict) {
            let mut main = connect_main();
            if at == At::Verdict {
                main.begin_login(GROUP, self.env.secret());
            } else {
                main.expect_int(1);
            }
            if at == At::Secret {
                main.send(GROUP.as_bytes());
                main.expect_int(1);
            }
            return Abuser { main, callback: None };
        }
        let RawV1App { mut main, mut callback } =
            RawV1App::login_as(&self.env.server, self.env.dir(), &name, GROUP, self.env.secret());
        match at {
            At::Key(code) => {
                main.send_int(code);
                main.expect_int(1);
            }
            At::Value => {
                main.send_int(0);
                main.expect_int(1);
                main.send(b"key");
                main.expect_int(1);
            }
            At::Announced => {
                let mut app = RawV1App { main, callback };
                assert!(app.register("k"));
                self.witness.put("k", "changed").expect("it is connected");
                app.callback.expect_int(1);
                (main, callback) = (app.main, app.callback);
            }
            _ => {}
        }
        Abuser { main, callback: Some(callback) }
    }
}

/// Where an application is when it begins to misbehave, and on which channel it does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// On the main channel: it should send the group.
    Group,
    /// It should send the secret.
    Secret,
    /// It should connect the callback channel and wait for the verdict.
    Verdict,
    /// It is in, and may send a function code.
    Code,
    /// It has sent this function code and should send the key.
    Key(i32),
    /// It should send the value.
    Value,
    /// On the callback channel, which no login has claimed yet.
    Unclaimed,
    /// On the callback channel, with nothing announced.
    Idle,
    /// A change is announced: it should say that it is ready.
    Announced,
}

impl At {
    /// The last one only where it matters: the server keeps such a connection for a while.
    const ALL: [Self; 12] = [
        Self::Group,
        Self::Secret,
        Self::Verdict,
        Self::Code,
        Self::Key(0),
        Self::Key(1),
        Self::Key(2),
        Self::Key(3),
        Self::Value,
        Self::Idle,
        Self::Announced,
        Self::Unclaimed,
    ];

    /// All but the last.
    fn claimed() -> &'static [Self] {
        &Self::ALL[..Self::ALL.len() - 1]
    }

    fn is_callback(self) -> bool {
        matches!(self, Self::Unclaimed | Self::Idle | Self::Announced)
    }

    /// A string is due.
    fn is_text(self) -> bool {
        matches!(self, Self::Group | Self::Secret | Self::Key(_) | Self::Value)
    }

    /// It is in: it can be served when it behaves again.
    fn is_member(self) -> bool {
        !matches!(self, Self::Group | Self::Secret | Self::Verdict | Self::Unclaimed)
    }
}

struct Abuser {
    main: Channel,
    callback: Option<Channel>,
}

impl Abuser {
    fn channel(&mut self, at: At) -> &mut Channel {
        match &mut self.callback {
            Some(callback) if at.is_callback() => callback,
            _ => &mut self.main,
        }
    }

    /// Sends although the server may have hung up.
    fn send(&mut self, at: At, bytes: &[u8]) {
        let channel = self.channel(at);
        // The server stops reading at the first wrong byte, and closes.
        let _ = channel.try_send(bytes);
    }

    /// The server ends both connections.
    fn expect_closed(mut self) {
        self.main.rest();
        if let Some(mut callback) = self.callback {
            callback.rest();
        }
    }

    /// The server still serves it. What it says on the callback channel is not listened to.
    fn expect_served(self) {
        let Self { main, callback } = self;
        let callback = callback.expect("it is in");
        let mut app = RawV1App { main, callback };
        assert_eq!(app.get("no such key"), None);
        assert!(app.register("k"));
        app.close();
    }
}

/// What must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The server closes both connections.
    Closed,
    /// It is as if nothing had been sent.
    Ignored,
}

fn ints(ints: &[i32]) -> Vec<u8> {
    ints.iter().flat_map(|int| int.to_ne_bytes()).collect()
}

/// `text` and these integers, in one piece.
fn glued(text: &str, codes: &[i32]) -> Vec<u8> {
    [text.as_bytes(), &ints(codes)].concat()
}

const MIB: usize = 1 << 20;

/// What can be wrong at a point, in one piece, with a name for the message of a failure.
fn wrong_bytes(at: At) -> Vec<(&'static str, Vec<u8>, Then)> {
    use Then::{Closed, Ignored};
    let huge = [
        ("100 bytes", vec![b'x'; 100], Closed),
        ("4096 bytes", vec![b'x'; 4096], Closed),
        ("1 MiB", vec![b'x'; MIB], Closed),
        ("1 MiB of NULs", vec![0; MIB], Closed),
    ];
    let mut all: Vec<(&'static str, Vec<u8>, Then)> = Vec::new();
    if at.is_text() {
        all.extend(huge.clone());
        all.extend([
            ("a NUL", vec![0], Closed),
            ("a NUL inside", b"a\0b".to_vec(), Closed),
            ("a NUL at the end", b"ab\0".to_vec(), Closed),
            ("a padded text", [&b"ab"[..], &[0; 98]].concat(), Closed),
            ("half an integer", vec![1, 0], Closed),
            ("a text and half a code", b"ab\x01\0".to_vec(), Closed),
        ]);
    }
    match at {
        At::Group | At::Secret | At::Key(_) => {
            all.extend([
                ("a code", ints(&[1]), Closed),
                ("a text and a code", glued("ab", &[1]), Closed),
                ("99 bytes and a code", glued(&"x".repeat(99), &[1]), Closed),
            ]);
        }
        At::Value => {
            all.extend([
                ("no code", ints(&[5]), Closed),
                ("a value and no code", glued("value", &[5]), Closed),
                ("a value and a negative code", glued("value", &[0, -1]), Closed),
                ("a value and a huge code", glued("value", &[1 << 16]), Closed),
                ("a value and two codes", glued("value", &[1, 1]), Closed),
                ("two codes", ints(&[0, 0]), Closed),
                ("a value, a code and a key", [&glued("value", &[1])[..], b"k"].concat(), Closed),
                ("a value, a code and NULs", [&glued("value", &[1])[..], &[0, 0]].concat(), Closed),
                ("100 bytes and a code", glued(&"x".repeat(100), &[1]), Closed),
            ]);
        }
        At::Code => {
            all.extend([
                ("an unknown code", ints(&[5]), Ignored),
                ("negative codes", ints(&[-1, i32::MIN]), Ignored),
                ("huge codes", ints(&[i32::MAX, 1 << 24, 1 << 16, 256]), Ignored),
                ("1 MiB of unknown codes", vec![0xff; MIB], Ignored),
                ("1 MiB of NULs", vec![0; MIB], Closed),
                ("a code and half a code", [&ints(&[1])[..], &[1, 0]].concat(), Closed),
                ("a code and a key", [&ints(&[1])[..], b"k"].concat(), Closed),
                ("a put in one piece", [&ints(&[0])[..], b"key", b"value"].concat(), Closed),
                ("two codes", ints(&[0, 0]), Closed),
                ("an unknown code and two codes", ints(&[77, 1, 1]), Closed),
                ("a second login", [GROUP.as_bytes(), b"12345678"].concat(), Ignored),
                ("a goodbye and more", ints(&[4, 1]), Closed),
                ("a goodbye and 1 MiB", [ints(&[4]), vec![b'x'; MIB]].concat(), Closed),
            ]);
        }
        // It is the application's turn to wait.
        At::Verdict => {
            all.extend(huge);
            all.extend([
                ("a code before the verdict", ints(&[1]), Closed),
                ("half a code before the verdict", vec![0], Closed),
                ("the secret again, padded", b"abcde\0\0\0".to_vec(), Closed),
            ]);
        }
        // There was no request.
        At::Idle => {
            all.extend(huge);
            all.extend([
                ("a byte", vec![1], Closed),
                ("ready", ints(&[1]), Closed),
                ("a code", ints(&[4]), Closed),
            ]);
        }
        At::Announced => {
            all.extend(huge);
            all.extend([
                ("not ready", ints(&[0]), Closed),
                ("ready to close", ints(&[-1]), Closed),
                ("very ready", ints(&[2]), Closed),
                ("ready twice", ints(&[1, 1]), Closed),
                ("ready, and a byte", [&ints(&[1])[..], &[0]].concat(), Closed),
            ]);
        }
        At::Unclaimed => {}
    }
    all
}

#[test]
fn malformed_bytes_end_only_their_own_connection() {
    let mut witnessed = Witnessed::new();
    let mut number = 0;
    for at in At::ALL {
        for (what, bytes, then) in wrong_bytes(at) {
            // First all in one piece; then, where it matters, followed by what would be right.
            for tail in [&b""[..], b"value"] {
                if then == Then::Ignored && !tail.is_empty() {
                    continue;
                }
                number += 1;
                println!("{what} at {at:?}, then {} bytes", tail.len());
                let mut abuser = witnessed.abuser(at, number);
                abuser.send(at, &bytes);
                if !tail.is_empty() {
                    abuser.send(at, tail);
                }
                match then {
                    Then::Closed => abuser.expect_closed(),
                    Then::Ignored => abuser.expect_served(),
                }
                witnessed.expect_served();
                witnessed.expect_nothing_stored(&format!("{what} at {at:?}"));
            }
        }
    }
    println!("{number} wrong sequences");
    witnessed.expect_nothing_left();
}

#[test]
fn full_or_half_hang_up_anywhere_affects_no_other() {
    let mut witnessed = Witnessed::new();
    let mut number = 0;
    let half_ints: [&[u8]; 4] = [b"", &[1], &[1, 0], &[1, 0, 0]];
    for at in At::ALL {
        for before in half_ints {
            // A value of one byte without a NUL is a value.
            if at.is_text() && before == [1] {
                continue;
            }
            for how in [Some(Shutdown::Write), Some(Shutdown::Read), Some(Shutdown::Both), None] {
                number += 1;
                let mut abuser = witnessed.abuser(at, number);
                abuser.send(at, before);
                let what = format!("{} bytes at {at:?}, then {how:?}", before.len());
                match how {
                    None => drop(abuser),
                    Some(how) => {
                        // Of a connection that the server has closed already nothing is left to do.
                        let _ = abuser.channel(at).stream().shutdown(how);
                        // More, which is wrong everywhere, where it can be sent at all.
                        abuser.send(at, &[7, 0]);
                        if at.is_callback() && at.is_member() && how == Shutdown::Write {
                            // It can say nothing any more, so it is told nothing, but it is served:
                            // unless it has said something wrong before.
                            if at == At::Announced || before.is_empty() {
                                abuser.expect_served();
                            } else {
                                abuser.expect_closed();
                            }
                        } else {
                            drop(abuser);
                        }
                    }
                }
                witnessed.expect_served();
                witnessed.expect_nothing_stored(&what);
            }
        }
    }
    println!("{number} hang-ups");
    witnessed.expect_nothing_left();
}

/// What is sent out of band is no part of the stream: whatever the server makes of it, it hurts the
/// sender only.
#[test]
fn out_of_band_data_is_harmless() {
    let mut witnessed = Witnessed::new();
    let mut number = 0;
    for &at in At::claimed() {
        for after in [&b""[..], b"\0", &[0xff; 400], &[0; 300]] {
            number += 1;
            let mut abuser = witnessed.abuser(at, number);
            let channel = abuser.channel(at);
            if channel.try_send_out_of_band(b"!").is_err() {
                // A kernel without it; or the server has closed.
                assert!(number > 1, "this kernel has no out-of-band data on UNIX sockets");
            }
            abuser.send(at, after);
            if !after.is_empty() {
                // The byte before then becomes a part of the stream, where it would be a legal
                // text.
                let _ = abuser.channel(at).try_send_out_of_band(b"!!");
            }
            witnessed.expect_served();
            drop(abuser);
            witnessed.expect_nothing_stored(&format!("{after:?} at {at:?}"));
        }
    }
    witnessed.expect_nothing_left();
}

/// The kernel would put descriptors that come with a message into the server's table, if it took
/// them.
#[test]
fn passed_descriptors_are_closed_by_the_server() {
    const ROUNDS: usize = 50;
    let mut witnessed = Witnessed::new();
    let (one, other) = std::os::unix::net::UnixStream::pair().expect("there are descriptors");
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let few = [one.as_fd(), other.as_fd(), null.as_fd()];
    let many = vec![null.as_fd(); 253];
    for number in 0..ROUNDS {
        // Not its login only: everything it sends has them with it, and is served.
        let name = number.to_string();
        let dir = witnessed.env.dir();
        let mut main = Channel::connect_as("main", witnessed.env.server.socket(), dir, &name);
        main.expect_int(1);
        main.try_send_with(GROUP.as_bytes(), &few).expect("it is connected");
        main.expect_int(1);
        main.try_send_with(witnessed.env.secret().as_bytes(), &many).expect("it is connected");
        let path = witnessed.env.server.callback_socket();
        let mut callback = Channel::connect_as("callback", path, dir, &name);
        callback.expect_int(1);
        main.expect_int(1);
        for (code, text) in [(3, "k"), (1, "k"), (2, "no such key")] {
            main.try_send_with(&ints(&[code]), &few).expect("it is connected");
            main.expect_int(1);
            main.try_send_with(text.as_bytes(), &many).expect("it is connected");
            if code == 1 {
                let length = main.int();
                main.take(usize::try_from(length).expect("it is there") + 1);
            } else {
                main.expect_int(if code == 3 { 1 } else { -1 });
            }
        }
        witnessed.expect_served();
        callback.expect_int(1);
        callback.try_send_with(&ints(&[1]), &many).expect("it is connected");
        callback.take(100);
        if number % 2 == 0 {
            // Its last are never asked for.
            callback.try_send_with(&[9; 3], &few).expect("it is connected");
            let _ = main.try_send_with(b"\0\0\0\0\0\0", &many);
        }
        assert!(witnessed.env.server.open_descriptors() < witnessed.descriptors + 100);
    }
    witnessed.expect_nothing_left();
}

fn bytes(rng: &mut SeededRng, longest: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=rng.below(longest)).map(|_| rng.number() as u8).collect();
    if rng.one_in(2) {
        // Small numbers look more like codes and flags.
        bytes.iter_mut().for_each(|byte| *byte = if *byte < 128 { 0 } else { *byte % 6 });
    }
    bytes
}

/// No text, no value, and no value with a code: a NUL that is not at the end, or too long.
fn no_text(rng: &mut SeededRng) -> Vec<u8> {
    let mut bytes = bytes(rng, 300);
    bytes.resize(bytes.len().max(2), 7);
    let last = bytes.len() - 1;
    bytes[rng.below(last)] = 0;
    bytes[last] = 0xff;
    bytes
}

#[test]
fn random_sequences_store_and_leak_nothing() {
    let count = number_from_env("KVS_TEST_SEQUENCES").unwrap_or(3_000);
    let seed = number_from_env("KVS_TEST_SEED").unwrap_or_else(|| SeededRng::from_time().number());
    println!("KVS_TEST_SEED={seed}");
    let mut witnessed = Witnessed::new();
    let mut rng = SeededRng::new(seed);
    let mut resident = 0;
    let warm = count / 3;
    for number in 0..count {
        if number == warm {
            // All that is kept for a while is kept by now: 1000 past applications, for one.
            resident = witnessed.env.server.resident_kib();
        }
        let at = At::claimed()[rng.below(At::claimed().len())];
        let mut abuser = witnessed.abuser(at, number);
        // Nothing legal may come first, or it would be stored, and rightly so.
        let first = match at {
            At::Code if rng.below(2) == 0 => vec![0xff; rng.below(100_000)],
            _ => no_text(&mut rng),
        };
        abuser.send(at, &first);
        for _ in 0..rng.below(4) {
            let (on, bytes) = match rng.below(3) {
                0 => (At::Idle, bytes(&mut rng, 6)),
                1 => (At::Code, bytes(&mut rng, 20_000)),
                _ => (At::Code, bytes(&mut rng, 9)),
            };
            match rng.below(8) {
                0 => _ = abuser.channel(on).try_send_out_of_band(&bytes),
                1 => {
                    let how = [Shutdown::Read, Shutdown::Write][rng.below(2)];
                    let _ = abuser.channel(on).stream().shutdown(how);
                }
                2 => {
                    let passed = witnessed.env.server.socket().parent().map(std::fs::File::open);
                    let passed = passed.expect("it has a directory").expect("it is there");
                    let _ = abuser.channel(on).try_send_with(&bytes, &[passed.as_fd()]);
                }
                _ => abuser.send(on, &bytes),
            }
        }
        drop(abuser);
        witnessed.expect_served();
        if number % 100 == 0 {
            witnessed
                .expect_nothing_stored(&format!("sequence {number} with KVS_TEST_SEED={seed}"));
        }
    }
    witnessed.expect_nothing_left();
    let grown = witnessed.env.server.resident_kib().saturating_sub(resident);
    println!("{count} sequences; the server grew by {grown} KiB over the last {}", count - warm);
    assert!(grown < 4096, "the server grew by {grown} KiB with KVS_TEST_SEED={seed}");
}

/// Unknown codes are not answered, so nothing slows down who sends nothing else.
#[test]
fn flood_of_unknown_codes_does_not_starve_others() {
    /// On each of the server's threads more than one.
    const FLOODS: usize = 8;
    let mut witnessed = Witnessed::new();
    let stop = AtomicBool::new(false);
    let apps: Vec<_> = (0..FLOODS).map(|n| witnessed.abuser(At::Code, n)).collect();
    // Where the applications of everybody else end up: on all threads.
    let others: Vec<_> = (0..FLOODS)
        .map(|_| {
            connect(&witnessed.env.server, GROUP, witnessed.env.secret())
                .expect("the server knows the group")
        })
        .collect();
    let resident = witnessed.env.server.resident_kib();
    thread::scope(|scope| {
        let _stop_on_drop = StopOnDrop(&stop);
        for app in &apps {
            // Two writers keep the socket full while one of them is away.
            for _ in 0..2 {
                let (stop, mut stream) = (&stop, app.main.stream());
                scope.spawn(move || {
                    let codes = vec![0xff; 1 << 16];
                    while !stop.load(Ordering::Relaxed) {
                        // Its time-out ends the flood when the server does not read it.
                        std::io::Write::write_all(&mut stream, &codes).expect("it is read");
                    }
                });
            }
        }
        for round in 0..20 {
            for other in &others {
                let value = format!("flooded {round}");
                other.put("k", &value).expect("it is connected");
                let seen = other.get("k").expect("it is connected");
                assert_eq!(seen.as_deref(), Some(value.as_bytes()));
            }
            witnessed.expect_served();
        }
        // A new one is let in, too.
        connect(&witnessed.env.server, GROUP, witnessed.env.secret())
            .expect("the server knows the group");
    });
    let grown = witnessed.env.server.resident_kib().saturating_sub(resident);
    assert!(grown < 4096, "the server grew by {grown} KiB");
    for app in apps {
        app.expect_served();
    }
    drop(others);
    witnessed.expect_nothing_left();
}
