//! The limits of a local server on one user, one process and one secret, and that they protect
//! others.
//!
//! Several tests need a second user and so must run as root; otherwise they report that they are
//! skipped, or use one user.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{
    AuthServer, Channel, Driver, LocalServer, Process, Program, RawV1App, Sockets, StopOnDrop,
    TestEnv, compile_c, connect, is_root, private_dir, until,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// The uid of an unprivileged user.
const OTHER_USER: &str = "65534";

/// `tests/c/crowd.c`: many connections that send nothing. Returns once it has printed "connected".
fn crowd(arguments: &[&str]) -> Process {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    let program = Program::new(PROGRAM.get_or_init(|| compile_c("tests/c/crowd.c")));
    let crowd = program.args(arguments).spawn();
    crowd.expect_line_where("`connected` or `listening`", |line| {
        line == "connected" || line == "listening"
    });
    crowd
}

/// Numbers of connections of a [`crowd`] that were admitted, refused, and closed without a
/// greeting.
fn greeted(crowd: &Process) -> [usize; 3] {
    let line = crowd.expect_line_where("`admitted …`", |line| line.starts_with("admitted "));
    let numbers: Vec<usize> = line
        .split(|c: char| !c.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().expect("digits"))
        .collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{line:?}"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are ASCII")
}

/// Opens the directory of the server's sockets to other users. The mode of the sockets must allow
/// it, too.
fn open_directory_to_all(server: &LocalServer) {
    let dir = server.socket().parent().expect("it is in a directory");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
}

/// Connects by the library with protocol v1.
fn connect_v1(server: &LocalServer, group: &str, secret: &str) -> kvs::Connection {
    kvs::Connection::builder()
        .socket(server.socket())
        .callback_socket(server.callback_socket())
        .protocol(kvs::Protocol::V1)
        .open(group, secret)
        .expect("the secret is right")
}

/// The code of a login that must fail.
fn code_of_login(server: &LocalServer, group: &str, secret: &str) -> i32 {
    connect(server, group, secret).expect_err("it is refused").code()
}

fn try_login(server: &LocalServer, group: &str, secret: &str) -> Result<RawV1App, String> {
    RawV1App::try_login(server, group, secret)
}

/// The log lines that contain `words`.
fn logged(process: &Process, words: &str) -> Vec<String> {
    process.log_lines().into_iter().filter(|line| line.contains(words)).collect()
}

/// Waits for a log line that contains `words`, and asserts that there is only one.
fn expect_logged_once(process: &Process, words: &str) {
    until(words, || (!logged(process, words).is_empty()).then_some(()));
    assert_eq!(logged(process, words).len(), 1, "{}", process.report());
}

fn put_and_get(connection: &kvs::Connection, rounds: usize) {
    for round in 0..rounds {
        let value = round.to_string();
        connection.put("key", &value).expect("it is connected");
        let seen = connection.get("key").expect("it is connected");
        assert_eq!(seen.as_deref(), Some(value.as_bytes()));
    }
}

// --- who may connect

#[test]
fn socket_mode_applies_to_both_paths_despite_umask() {
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    let modes = |server: &LocalServer| {
        [server.socket(), server.callback_socket()]
            .map(|path| fs::symlink_metadata(path).expect("it serves").mode() & 0o7777)
    };
    let server = LocalServer::builder(auth.addr())
        .socket(&socket)
        .umask("077")
        .env("KVS_SOCKET_MODE", "0620")
        .start();
    assert_eq!(modes(&server), [0o620; 2]);
    server.quit();
    // The option takes precedence over the variable.
    let server = LocalServer::builder(auth.addr())
        .socket(&socket)
        .env("KVS_SOCKET_MODE", "600")
        .args(["--socket-mode", "777"])
        .umask("027")
        .start();
    assert_eq!(modes(&server), [0o777; 2]);
}

#[test]
fn umask_applies_without_socket_mode() {
    let env = TestEnv::builder().configure(|server| server.umask("027")).start();
    for path in [env.server.socket(), env.server.callback_socket()] {
        assert_eq!(fs::symlink_metadata(path).expect("it serves").mode() & 0o7777, 0o750);
    }
}

#[test]
fn invalid_socket_mode_is_explained() {
    for mode in ["1777", "888", "rw", ""] {
        let server = LocalServer::builder("127.0.0.1:1").args(["--socket-mode", mode]).spawn();
        let finished = server.finish();
        assert_eq!(finished.status.code(), Some(2), "{}", server.report());
        let message = finished.stderr.join(" ");
        assert!(message.contains("octal, from 0 to 777"), "{message}");
    }
}

#[test]
fn other_users_connect_only_if_socket_mode_allows() {
    if !is_root("other_users_connect_only_if_socket_mode_allows") {
        return;
    }
    for (mode, allowed) in [("600", false), ("666", true)] {
        let env = TestEnv::builder().no_group().args(["--socket-mode", mode]).start();
        open_directory_to_all(&env.server);
        let program = compile_c("tests/c/crowd.c");
        let other = Program::new(program).args(["-u", OTHER_USER, path(env.server.socket()), "1"]);
        let other = other.spawn();
        if allowed {
            assert_eq!(greeted(&other), [1, 0, 0]);
        } else {
            let finished = other.finish();
            assert!(finished.stderr.join(" ").contains("Permission denied"), "{}", other.report());
        }
    }
}

#[test]
fn server_starts_although_another_user_holds_its_guard() {
    if !is_root("server_starts_although_another_user_holds_its_guard") {
        return;
    }
    let auth = AuthServer::start();
    let dir = private_dir();
    let socket = dir.path().join("sock");
    // The same hash as in `listener.rs`.
    let hash = path(&socket).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let name = format!("kvs-local-server-{hash:016x}");
    let _holder = crowd(&["-u", OTHER_USER, "-a", &name]);
    let server = LocalServer::builder(auth.addr()).socket(&socket).start();
    expect_logged_once(&server, "another user has bound the abstract socket");
    // A second server refuses to start while the first one serves the path.
    let second = LocalServer::builder(auth.addr()).socket(&socket).spawn();
    let finished = second.finish();
    assert!(finished.stderr.join(" ").contains("another KVS-LocalServer"), "{}", second.report());
    assert!(server.socket().exists());
}

// --- identity

/// Begins a login from a socket that is bound to this name; its callback connection is missing.
fn half_login(server: &LocalServer, own: &Path, group: &str, secret: &str) -> Channel {
    let mut main = Channel::connect_from("main", own, server.socket()).expect("it listens");
    main.begin_login(group, secret);
    main
}

#[test]
fn callback_connection_of_another_process_is_never_paired() {
    let env = TestEnv::with_args(["--socket-mode", "777", "--login-timeout", "3"]);
    open_directory_to_all(&env.server);
    let dir = private_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    // The forger binds the name of our process in a directory of its own.
    let own = |folder: &str, name: &str| {
        let folder = dir.path().join(folder);
        if !folder.exists() {
            fs::create_dir(&folder).expect("the directory is ours");
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("it is ours");
        }
        folder.join(name)
    };
    let mut others = vec![vec![]];
    if is_root("a callback connection of another user") {
        others.push(vec!["-u", OTHER_USER]);
    }
    for (n, user) in others.iter().enumerate() {
        let forged = own(&format!("theirs{n}"), "app_socket_cb_77");
        let mut arguments = user.clone();
        arguments.extend(["-b", path(&forged), path(env.server.callback_socket()), "1"]);
        // The forger connects before the login, and again while the login waits for its callback
        // connection.
        let before = crowd(&arguments);
        let mut main =
            half_login(&env.server, &own(&format!("ours{n}"), "app_socket_77"), "g", env.secret());
        fs::remove_file(&forged).expect("it is bound");
        let meanwhile = crowd(&arguments);
        // Our own callback connection completes the login.
        let ours = own(&format!("ours{n}"), "app_socket_cb_77");
        let mut callback = Channel::connect_from("callback", &ours, env.server.callback_socket())
            .expect("it listens");
        callback.expect_int(1);
        main.expect_int(1);
        // The forger's connections get no greeting and are closed after the login timeout.
        assert_eq!(greeted(&before), [0, 0, 1]);
        assert_eq!(greeted(&meanwhile), [0, 0, 1]);
        main.send_int(4);
    }
}

#[test]
fn status_shows_the_pid_of_the_kernel() {
    let env = TestEnv::start();
    let dir = private_dir();
    let mut main = half_login(&env.server, &dir.path().join("app_socket_1"), "g", env.secret());
    let own = dir.path().join("app_socket_cb_1");
    let mut callback =
        Channel::connect_from("callback", &own, env.server.callback_socket()).expect("it listens");
    callback.expect_int(1);
    main.expect_int(1);
    let pids: Vec<u32> = env.server.status().iter().map(|app| app.pid.unsigned_abs()).collect();
    assert_eq!(pids, [std::process::id()]);
}

// --- connections

#[test]
fn connection_limit_applies_per_user_and_process() {
    let env = TestEnv::with_args(["--max-connections-per-user", "8", "--socket-mode", "777"]);
    open_directory_to_all(&env.server);
    // This process holds half of its user's connections.
    let apps: Vec<_> = (0..4).map(|_| env.server.raw_app("g", env.secret())).collect();
    for _ in 0..3 {
        let mut main = Channel::connect("main", env.server.socket()).expect("it listens");
        assert_eq!(main.rest(), 0i32.to_ne_bytes());
        let mut callback =
            Channel::connect("callback", env.server.callback_socket()).expect("it listens");
        assert_eq!(callback.rest(), 0i32.to_ne_bytes());
    }
    assert_eq!(code_of_login(&env.server, "g", env.secret()), -14);
    expect_logged_once(&env.server, "half of what its user may have (--max-connections-per-user");
    // A second process of the same user gets the other half, and a third process gets none.
    let second = crowd(&[path(env.server.socket()), "10"]);
    assert_eq!(greeted(&second), [4, 6, 0]);
    let third = Driver::start(&env.server);
    assert_eq!(third.establish("g", env.secret()), -14);
    expect_logged_once(&env.server, "its user has 8 connections (--max-connections-per-user");
    if is_root("another user finds a place") {
        let other = crowd(&["-u", OTHER_USER, path(env.server.socket()), "10"]);
        assert_eq!(greeted(&other), [4, 6, 0]);
    }
    // When a process ends, its connections are released.
    second.kill();
    until("there is room again", || (third.establish("g", env.secret()) == 0).then_some(()));
    drop(apps);
    until("there is room again", || connect(&env.server, "g", env.secret()).ok());
}

#[test]
fn silent_connections_time_out_and_free_their_resources() {
    let env = TestEnv::with_args(["--login-timeout", "1"]);
    let app = env.connect();
    let before = env.server.open_descriptors();
    let main = crowd(&[path(env.server.socket()), "200"]);
    assert_eq!(greeted(&main), [200, 0, 0]);
    let callback = crowd(&[path(env.server.callback_socket()), "200"]);
    main.expect_line("all ended");
    assert_eq!(greeted(&callback), [0, 0, 200]);
    env.server.expect_open_descriptors(before);
    put_and_get(&app, 10);
    // The log is rate-limited.
    let lines = logged(&env.server, "the login was not finished within 1 s");
    assert!((1..=20).contains(&lines.len()), "{}", env.server.report());
}

/// Ten thousand concurrent connections from four processes. As root, the flood belongs to another
/// user, and new applications must be admitted during it.
#[test]
fn others_are_served_during_10000_connections() {
    const PROCESSES: usize = 4;
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let each = 2500.min(hard.saturating_sub(50));
    let env = TestEnv::builder()
        .args(["--socket-mode", "777"])
        .configure(|server| server.descriptors(256))
        .start();
    open_directory_to_all(&env.server);
    let app = env.connect();
    let count = each.to_string();
    let mut arguments = vec![path(env.server.socket()), count.as_str()];
    let floods_as_another = is_root("the flood of another user");
    if floods_as_another {
        arguments.splice(0..0, ["-u", OTHER_USER]);
    }
    let ended = AtomicBool::new(false);
    let ending = StopOnDrop(&ended);
    let flood: Vec<Process> = thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) {
                put_and_get(&app, 50);
                rounds += 50;
            }
            rounds
        });
        let flood: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(|| crowd(&arguments))).collect();
        let flood = flood.into_iter().map(|thread| thread.join().expect("they connect")).collect();
        drop(ending);
        println!("{} rounds during the flood", served.join().expect("it is served"));
        flood
    });
    let mut admitted = 0;
    for crowd in &flood {
        let [in_, out, ended] = greeted(crowd);
        assert_eq!((in_ + out + ended) as u64, each);
        admitted += in_;
    }
    // 256 descriptors allow three quarters of this; more are admitted once the first are closed.
    println!("{admitted} of {} connections admitted", each * PROCESSES as u64);
    assert!(admitted >= 39, "{admitted}");
    assert!(env.server.open_descriptors() < 256);
    if floods_as_another {
        let apps: Vec<_> = (0..8).map(|_| connect(&env.server, "g", env.secret())).collect();
        assert!(apps.iter().all(Result::is_ok), "others find a place\n{}", env.server.report());
    }
    // Waiting connections use no processor time.
    let before = env.server.cpu_ticks();
    thread::sleep(Duration::from_secs(1));
    let used = env.server.cpu_ticks() - before;
    assert!(used <= 10, "{used} ticks in a second without work");
    put_and_get(&app, 50);
    drop(flood);
    until("everything is free again", || {
        let apps: Option<Vec<_>> =
            (0..20).map(|_| connect(&env.server, "g", env.secret()).ok()).collect();
        apps
    });
    assert_eq!(
        logged(&env.server, "cannot be accepted for now").len(),
        0,
        "{}",
        env.server.report()
    );
}

#[test]
fn accepting_pauses_and_recovers_without_descriptors() {
    let env = TestEnv::start();
    let app = env.connect();
    let pid = Pid::from_raw(env.server.pid());
    let most = env.server.open_descriptors() as u64 + 4;
    let limit = Rlimit { current: Some(most), ..getrlimit(Resource::Nofile) };
    let before = prlimit(pid, Resource::Nofile, limit).expect("it is our child");
    let waiting = crowd(&[path(env.server.socket()), "100"]);
    env.server.expect_log("the shortage of descriptors", |line| {
        line.contains("connections of applications cannot be accepted for now")
    });
    // A connection that arrives meanwhile wakes the server, which must not retry `accept` for each.
    let coming = crowd(&["-c", path(env.server.socket())]);
    let used = env.server.cpu_ticks();
    for _ in 0..10 {
        put_and_get(&app, 10);
        thread::sleep(Duration::from_millis(100));
    }
    let used = env.server.cpu_ticks() - used;
    println!("{used} ticks while accepting paused");
    assert!(used <= 50, "{used} ticks in a second");
    coming.kill();
    prlimit(pid, Resource::Nofile, before).expect("it is our child");
    // The waiting connections were greeted, and new ones are.
    assert_eq!(greeted(&waiting), [100, 0, 0]);
    env.connect();
    assert_eq!(
        logged(&env.server, "cannot be accepted for now").len(),
        1,
        "{}",
        env.server.report()
    );
}

#[test]
fn short_connections_do_not_starve_others() {
    let env = TestEnv::without_group();
    let (secret, other) = (env.server.create_group("g"), env.server.create_group("other"));
    let mut app = env.server.raw_app("g", &secret);
    app.put("k", "v");
    let mut floods: Vec<_> = [env.server.socket(), env.server.callback_socket()]
        .map(|socket| crowd(&["-c", path(socket)]))
        .into();
    let ended = AtomicBool::new(false);
    let ending = StopOnDrop(&ended);
    thread::scope(|scope| {
        // Logins that are aborted at once; each causes a request to the authentication server.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let mut main = Channel::connect("main", env.server.socket()).expect("it listens");
                if main.int_or_end() == Some(1) && main.try_send(b"other").is_ok() {
                    let _ = main.int_or_end();
                    let _ = main.try_send(other.as_bytes());
                }
            }
        });
        for _ in 0..300 {
            assert_eq!(app.get("k").as_deref(), Some("v"));
        }
        for _ in 0..10 {
            let new = connect(&env.server, "g", &secret).expect("there is room");
            put_and_get(&new, 3);
        }
        drop(ending);
    });
    for flood in floods.drain(..) {
        flood.end_input();
        let line = flood.expect_line_where("`N connections`", |line| line.contains("connections"));
        println!("{line} came and went");
        assert!(flood.wait_exit().success());
    }
}

// --- pairs and bytes

/// Sends a put that the server refuses after the key.
fn expect_put_refused(app: &mut RawV1App, key: &str) {
    app.main.send_int(0);
    app.main.expect_int(1);
    app.main.send(key.as_bytes());
    app.main.expect_int(0);
}

#[test]
fn user_at_pair_limit_reads_overwrites_and_deletes() {
    let env =
        TestEnv::builder().configure(|server| server.env("KVS_MAX_PAIRS_PER_USER", "3")).start();
    let mut app = env.server.raw_app("g", env.secret());
    for key in ["a", "b", "c"] {
        app.put(key, "v");
    }
    // The server stores nothing, and the protocol stays in step.
    for _ in 0..3 {
        expect_put_refused(&mut app, "d");
        assert_eq!(app.get("d"), None);
    }
    app.put("a", "overwritten");
    assert_eq!(app.get("a").as_deref(), Some("overwritten"));
    assert_eq!(env.server.group_info("g").expect("it exists").pairs, 3);
    expect_logged_once(&env.server, "its user has 3 pairs (--max-pairs-per-user)");
    // The library returns the code of a limit, and other calls still work; in protocol v2 on the
    // same connection.
    let v1 = connect_v1(&env.server, "g", env.secret());
    assert_eq!(v1.put("d", "v").map_err(|error| error.code()), Err(-5));
    let connection = connect(&env.server, "g", env.secret()).expect("after -5 one connects again");
    assert_eq!(connection.put("d", "v").map_err(|error| error.code()), Err(-19));
    assert_eq!(connection.delete("b").map_err(|error| error.code()), Ok(true));
    app.put("d", "v");
    assert_eq!(app.get("d").as_deref(), Some("v"));
    expect_put_refused(&mut app, "e");
    // Deleting a group releases everything that it was charged.
    env.server.delete_group("g");
    let secret = env.server.create_group("h");
    let mut app = env.server.raw_app("h", &secret);
    for key in ["a", "b", "c"] {
        app.put(key, "v");
    }
    expect_put_refused(&mut app, "d");
}

#[test]
fn user_at_byte_limit_cannot_store_or_watch() {
    let env = TestEnv::with_args(["--max-bytes-per-user", "700"]);
    let mut app = env.server.raw_app("g", env.secret());
    app.put("k", "v");
    // The key of this registration has not arrived yet.
    assert!(app.register("k"));
    app.main.send_int(3);
    app.main.expect_int(0);
    assert_eq!(app.get("k").as_deref(), Some("v"));
    // 514 bytes are charged: one long value fits, a second one does not.
    app.put("long", &"x".repeat(99));
    expect_put_refused(&mut app, "another");
    // The server reserves the longest value, so a value that fits beside the replaced one is
    // stored.
    app.put("long", "short");
    assert_eq!(app.get("long").as_deref(), Some("short"));
    expect_logged_once(&env.server, "would exceed 700 bytes (--max-bytes-per-user)");
    // In protocol v1 the library returns -5 for either limit, in v2 the reason.
    let original = connect_v1(&env.server, "g", env.secret());
    assert_eq!(original.watch("k", |_| {}).map_err(|error| error.code()), Err(-5));
    let connection = env.connect();
    assert_eq!(connection.watch("k", |_| {}).map_err(|error| error.code()), Err(-19));
    // A watch is released when its application leaves or its key is deleted.
    app.close();
    let mut app = until("the watch is given back", || {
        let mut app = env.server.raw_app("g", env.secret());
        app.main.send_int(3);
        (app.main.int() == 1).then(|| {
            app.main.send(b"k");
            app.main.expect_int(1);
            app
        })
    });
    app.main.send_int(2);
    app.main.expect_int(1);
    app.main.send(b"k");
    app.main.expect_int(1);
    app.put("k", "again");
    assert!(app.register("k"));
}

/// A pending event outlives its watch when the key is deleted first. A subscriber that never reads
/// must not accumulate such events without limit.
#[test]
fn pending_events_of_deleted_keys_are_charged() {
    let env = TestEnv::with_args(["--max-bytes-per-user", "65536"]);
    let mut app = env.server.raw_app("g", env.secret());
    let mut rounds = 0;
    loop {
        let key = rounds.to_string();
        app.put(&key, "v");
        app.main.send_int(3);
        if app.main.int() == 0 {
            break;
        }
        app.main.send(key.as_bytes());
        app.main.expect_int(1);
        app.put(&key, "w");
        app.main.send_int(2);
        app.main.expect_int(1);
        app.main.send(key.as_bytes());
        app.main.expect_int(1);
        rounds += 1;
        assert!(rounds < 1000, "each costs memory, and none is refused");
    }
    assert!(rounds > 100, "only {rounds} changes wait");
    // Events that were read are no longer charged.
    for key in 0..rounds {
        assert_eq!(app.next_change(), key.to_string());
    }
    until("the changes are given back", || {
        app.main.send_int(3);
        (app.main.int() == 1).then(|| app.main.send(b"0"))
    });
}

// --- secrets

/// Makes `count` concurrent logins with a wrong secret. Returns how many got a verdict; the server
/// closed the others without one.
fn guess(server: &LocalServer, group: &str, count: usize) -> usize {
    thread::scope(|scope| {
        let tries: Vec<_> =
            (0..count).map(|_| scope.spawn(|| try_login(server, group, "wrong"))).collect();
        let verdicts =
            tries.into_iter().map(|login| match login.join().expect("it does not panic") {
                Ok(_) => panic!("the secret is wrong"),
                Err(end) if end == "wrong secret" => 1,
                Err(end) if end.starts_with("verdict on main did not come") => 0,
                Err(end) => panic!("{end}\n{}", server.report()),
            });
        verdicts.sum()
    })
}

#[test]
fn failed_logins_are_throttled_and_successful_ones_are_not() {
    let env = TestEnv::without_group();
    let (secret, other) = (env.server.create_group("g"), env.server.create_group("other"));
    drop(connect(&env.server, "g", &secret).expect("the secret is right"));
    let begin = Instant::now();
    thread::scope(|scope| {
        let guesses = scope.spawn(|| guess(&env.server, "g", 40));
        // Meanwhile logins with the right secret succeed, however many wrong ones wait. A login
        // that waited too long would be closed.
        for _ in 0..50 {
            drop(connect(&env.server, "g", &secret).expect("the secret is right"));
        }
        let verdicts = guesses.join().expect("it does not panic");
        let most = 5 + begin.elapsed().as_secs() as usize;
        println!("{verdicts} verdicts on 40 guesses in {:?}", begin.elapsed());
        assert!((5..=most).contains(&verdicts), "{verdicts} verdicts in {:?}", begin.elapsed());
    });
    expect_logged_once(&env.server, "too many wrong secrets");
    // The library returns -8 without a verdict.
    let codes: Vec<i32> = thread::scope(|scope| {
        let tries: Vec<_> =
            (0..20).map(|_| scope.spawn(|| code_of_login(&env.server, "g", "wrong"))).collect();
        tries.into_iter().map(|code| code.join().expect("it is refused")).collect()
    });
    assert!(codes.contains(&-8) && codes.iter().all(|code| [-8, -9].contains(code)), "{codes:?}");
    // The other group is throttled separately.
    assert_eq!(try_login(&env.server, "other", "wrong").map(drop), Err("wrong secret".into()));
    drop(connect(&env.server, "other", &other).expect("the secret is right"));
}

/// If right secrets were answered while wrong ones wait, an attacker could find one by trying many
/// concurrently. So the first login of a throttled user waits even with the right secret.
#[test]
fn first_login_of_a_throttled_user_waits() {
    let env = TestEnv::start();
    let begin = Instant::now();
    let guesses = guess(&env.server, "g", 40);
    // Wrong and right secrets alternate. The right one waits for a token: nine were consumed, and
    // one is added each second.
    let mut refused = 0;
    until("its turn comes", || {
        let login = try_login(&env.server, "g", env.secret());
        refused += usize::from(login.is_err());
        login.ok()
    });
    let elapsed = begin.elapsed();
    assert!(guesses < 5 + elapsed.as_secs() as usize, "{guesses} in {elapsed:?}");
    println!("{guesses} verdicts, then {refused} refused, in {elapsed:?}");
    // After that success the user's logins are not delayed, whatever else arrives.
    thread::scope(|scope| {
        scope.spawn(|| guess(&env.server, "g", 20));
        for _ in 0..20 {
            drop(env.connect());
        }
    });
}

#[test]
fn secrets_are_never_logged() {
    let env = TestEnv::builder()
        .auth_arg("--verbose")
        .args(["--verbose"])
        .configure(|server| server.env("RUST_LOG", "trace"))
        .start();
    let secret = env.secret();
    let wrong = "Wr0ng-5ecret";
    drop(env.connect());
    assert_eq!(code_of_login(&env.server, "g", wrong), -9);
    // Each secret is sent in a login that ends at another step.
    for secret in [secret, wrong] {
        let main = half_login(&env.server, &private_dir().path().join("app_socket_1"), "g", secret);
        drop(main);
    }
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| connect(&env.server, "g", wrong).map(drop));
        }
    });
    // A secret that is far too long, and one with a NUL.
    for secret in [wrong.repeat(20), format!("{secret}\0{wrong}")] {
        let mut main = Channel::connect("main", env.server.socket()).expect("it listens");
        main.begin_login("g", &secret);
        main.expect_end();
    }
    env.server.delete_group("g");
    env.server.quit();
    env.auth.send("Quit");
    let logs = [env.server.finish().stderr, env.auth.finish().stderr];
    assert!(logs[0].iter().any(|line| line.contains("wrong secret")), "{}", env.server.report());
    for line in logs.iter().flatten() {
        assert!(!line.contains(secret) && !line.contains(wrong), "{line}");
    }
}
