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

/// The bytes of the name are an unknown function code, so that a second login is only an unknown
/// request.
const GROUP: &str = "team";

/// A server, and a witness application that checks its service and its content.
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

    /// Asserts that the witness is served.
    fn expect_served(&mut self) {
        self.rounds += 1;
        let value = self.rounds.to_string();
        self.witness.put("k", &value).expect("it is connected");
        let seen = self.witness.get("k").expect("it is connected");
        assert_eq!(seen.as_deref(), Some(value.as_bytes()));
    }

    /// Asserts that only the witness's pair is stored.
    fn expect_nothing_stored(&self, what: &str) {
        assert_eq!(self.env.pairs(), 1, "{what}");
    }

    /// Asserts that the server is as idle and as small as before.
    fn expect_nothing_left(&self) {
        self.expect_nothing_stored("at the end");
        self.env.server.expect_open_descriptors(self.descriptors);
        // The promise is that nothing happens, so there is no event to wait for.
        let before = self.env.server.cpu_ticks();
        thread::sleep(Duration::from_millis(500));
        let used = self.env.server.cpu_ticks() - before;
        assert!(used <= 5, "a server with nothing to do used {used} clock ticks in half a second");
    }

    /// Brings a new application to this point.
    fn abuser(&self, at: At, number: usize) -> Abuser {
        let name = number.to_string();
        let connect_main =
            || Channel::connect_as("main", self.env.server.socket(), self.env.dir(), &name);
        let connect_callback = || {
            let path = self.env.server.callback_socket();
            Channel::connect_as("callback", path, self.env.dir(), &name)
        };
        if at == At::Unclaimed {
            // An unclaimed callback channel: its bytes wait for the login that claims it.
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

/// The point at which an application misbehaves, and the channel on which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Main channel: the server expects the group.
    Group,
    /// Main channel: the server expects the secret.
    Secret,
    /// Main channel: the server expects the callback connection.
    Verdict,
    /// Main channel after the login: the server expects a function code.
    Code,
    /// Main channel: the server expects the key for this function code.
    Key(i32),
    /// Main channel: the server expects the value.
    Value,
    /// Callback channel that no login has claimed yet.
    Unclaimed,
    /// Callback channel without an announced event.
    Idle,
    /// Callback channel: an event is announced, and the server expects the ready flag.
    Announced,
}

impl At {
    /// `Unclaimed` is used only where it matters, as the server keeps such connections for a while.
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

    /// All points but `Unclaimed`.
    fn claimed() -> &'static [Self] {
        &Self::ALL[..Self::ALL.len() - 1]
    }

    fn is_callback(self) -> bool {
        matches!(self, Self::Unclaimed | Self::Idle | Self::Announced)
    }

    /// Whether the server expects a string.
    fn is_text(self) -> bool {
        matches!(self, Self::Group | Self::Secret | Self::Key(_) | Self::Value)
    }

    /// Whether the login is complete, so that the application can be served again.
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

    /// Sends, although the server may have closed the connection.
    fn send(&mut self, at: At, bytes: &[u8]) {
        let channel = self.channel(at);
        // The server closes at the first wrong byte, so this may fail.
        let _ = channel.try_send(bytes);
    }

    /// Asserts that the server closes both connections.
    fn expect_closed(mut self) {
        self.main.rest();
        if let Some(mut callback) = self.callback {
            callback.rest();
        }
    }

    /// Asserts that the server still serves the application. Its bytes on the callback channel are
    /// ignored.
    fn expect_served(self) {
        let Self { main, callback } = self;
        let callback = callback.expect("it is in");
        let mut app = RawV1App { main, callback };
        assert_eq!(app.get("no such key"), None);
        assert!(app.register("k"));
        app.close();
    }
}

/// The required result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The server closes both connections.
    Closed,
    /// The server ignores the bytes.
    Ignored,
}

fn ints(ints: &[i32]) -> Vec<u8> {
    ints.iter().flat_map(|int| int.to_ne_bytes()).collect()
}

/// `text` followed by these integers.
fn glued(text: &str, codes: &[i32]) -> Vec<u8> {
    [text.as_bytes(), &ints(codes)].concat()
}

const MIB: usize = 1 << 20;

/// All malformed input at a point, each with a name for failure messages.
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
                ("a close and more", ints(&[4, 1]), Closed),
                ("a close and 1 MiB", [ints(&[4]), vec![b'x'; MIB]].concat(), Closed),
            ]);
        }
        // The application must wait here, so any bytes are wrong.
        At::Verdict => {
            all.extend(huge);
            all.extend([
                ("a code before the verdict", ints(&[1]), Closed),
                ("half a code before the verdict", vec![0], Closed),
                ("the secret again, padded", b"abcde\0\0\0".to_vec(), Closed),
            ]);
        }
        // The server has requested nothing.
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
            // The wrong bytes alone; then, where it matters, followed by valid ones.
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
            // One byte without a NUL is a valid value.
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
                        // This fails if the server has closed the connection already.
                        let _ = abuser.channel(at).stream().shutdown(how);
                        // Two bytes that are wrong at every point, if they can still be sent.
                        abuser.send(at, &[7, 0]);
                        if at.is_callback() && at.is_member() && how == Shutdown::Write {
                            // The application can acknowledge no event, so it receives none. It is
                            // served unless it has sent wrong bytes before.
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

/// Out-of-band data is not part of the stream and affects only its sender.
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
                // The kernel lacks out-of-band data, or the server has closed.
                assert!(number > 1, "this kernel has no out-of-band data on UNIX sockets");
            }
            abuser.send(at, after);
            if !after.is_empty() {
                // The previous byte then joins the stream, where it would be a legal text.
                let _ = abuser.channel(at).try_send_out_of_band(b"!!");
            }
            witnessed.expect_served();
            drop(abuser);
            witnessed.expect_nothing_stored(&format!("{after:?} at {at:?}"));
        }
    }
    witnessed.expect_nothing_left();
}

/// Passed descriptors would fill the server's table if it accepted them.
#[test]
fn passed_descriptors_are_closed_by_the_server() {
    const ROUNDS: usize = 50;
    let mut witnessed = Witnessed::new();
    let (one, other) = std::os::unix::net::UnixStream::pair().expect("there are descriptors");
    let null = std::fs::File::open("/dev/null").expect("it is there");
    let few = [one.as_fd(), other.as_fd(), null.as_fd()];
    let many = vec![null.as_fd(); 253];
    for number in 0..ROUNDS {
        // Every message of this application carries descriptors, and the application is served.
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
            // The server never reads these last descriptors.
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
        // Small numbers resemble codes and flags.
        bytes.iter_mut().for_each(|byte| *byte = if *byte < 128 { 0 } else { *byte % 6 });
    }
    bytes
}

/// Bytes that are neither a string nor a value: too long, or with a NUL before the end.
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
            // By now the bounded histories are full, such as that of 1000 past applications.
            resident = witnessed.env.server.resident_kib();
        }
        let at = At::claimed()[rng.below(At::claimed().len())];
        let mut abuser = witnessed.abuser(at, number);
        // The first bytes must be malformed, as the server would rightly store legal ones.
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

/// Unknown codes get no response, so nothing slows an application that sends only these.
#[test]
fn flood_of_unknown_codes_does_not_starve_others() {
    /// More than one flood for each thread of the server.
    const FLOODS: usize = 8;
    let mut witnessed = Witnessed::new();
    let stop = AtomicBool::new(false);
    let apps: Vec<_> = (0..FLOODS).map(|n| witnessed.abuser(At::Code, n)).collect();
    // The other applications are distributed over all threads.
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
            // Two writers keep the socket full while one of them is not scheduled.
            for _ in 0..2 {
                let (stop, mut stream) = (&stop, app.main.stream());
                scope.spawn(move || {
                    let codes = vec![0xff; 1 << 16];
                    while !stop.load(Ordering::Relaxed) {
                        // The flood ends by its timeout when the server does not read it.
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
        // New applications are admitted, too.
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
