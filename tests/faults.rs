//! The effect on the other programs when one is killed or stopped: the table of faults in the
//! documentation, row by row.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use kvs_testkit::{
    AT_ONCE, AuthServer, Channel, Delivery, Driver, InteractiveApp, LocalServer, Protocol,
    RawLocalServer, Relay, Sockets, TestEnv, application_paths, on_both_protocols,
};
use nix::sys::signal::Signal;

/// Stores a value and waits until it is visible: the response to a later call shows that it has
/// been stored.
fn store(connection: &kvs::Connection, key: &str, value: &str) {
    connection.put(key, value).expect("it is connected");
    let stored = connection.get(key).expect("it is connected");
    assert_eq!(stored.as_deref(), Some(value.as_bytes()));
}

/// A day, a date and a time as the console prints them.
fn is_time(text: &str) -> bool {
    let pattern = "Sun 22-11-2026 06:26:08";
    text.len() == pattern.len()
        && text.chars().zip(pattern.chars()).all(|(seen, example)| match example {
            'A'..='Z' => seen.is_ascii_uppercase(),
            'a'..='z' => seen.is_ascii_lowercase(),
            '0'..='9' => seen.is_ascii_digit(),
            other => seen == other,
        })
}

// The local server dies.

#[test]
fn next_call_returns_its_code_at_once_after_a_server_crash() {
    let env = TestEnv::start();
    let idle = env.driver();
    idle.store("k", "v");
    let blocked = env.driver();
    assert_eq!(blocked.call("register_blocked_callback k"), 1);
    let wrapper = env.connect();
    assert_eq!(idle.put("k", "w"), 1);
    blocked.expect_log("its callback", |line| line == "blocked k");

    env.server.kill();
    for (app, call) in [(&idle, "get_value k"), (&blocked, "put_value k x")] {
        let (code, _) = app.call_within(AT_ONCE, call);
        assert!([-3, -4].contains(&code), "{call} returned {code}\n{}", app.report());
        for call in ["put_value k v", "get_value k", "register_callback k", "close_connection"] {
            assert_eq!(app.call_within(AT_ONCE, call).0, -2, "{call}");
        }
        assert_eq!(app.establish("g", env.secret()), -12, "there is no server");
        for path in application_paths(app.pid()) {
            assert!(!path.exists(), "{} was left behind", path.display());
        }
    }
    let code = wrapper.put("k", "v").map_err(|error| error.code());
    assert!([Err(-3), Err(-4)].contains(&code), "put returned {code:?}");
    assert_eq!(wrapper.put("k", "v").map_err(|error| error.code()), Err(-2));

    // The programs print nothing, receive no signal, and exit normally.
    assert_eq!(idle.log_lines(), [""; 0]);
    assert_eq!(blocked.log_lines(), ["blocked k"]);
    blocked.call("release");
    for app in [idle, blocked] {
        app.end_input();
        assert_eq!(app.wait_exit().code(), Some(0), "{}", app.report());
    }
}

on_both_protocols! {
    fn call_in_progress_returns_when_the_local_server_dies(protocol: Protocol) {
        let env = TestEnv::start();
        let app = Driver::spawn(Driver::program().served_by(&env.server).protocol(protocol));
        assert_eq!(app.establish("g", env.secret()), 0);
        env.server.stop();
        // The stopped server cannot respond: the call is in progress, or will be when the server is
        // killed.
        app.send("put_value k v");
        env.server.kill();
        let answer = app.expect_line_within(AT_ONCE, "the return of put_value", |_| true);
        // Either the ready flag or the response is missing.
        let missing = if protocol == Protocol::V1 { "put_value -4" } else { "put_value -8" };
        assert!(["put_value -3", missing].contains(&answer.as_str()), "{answer}");
        assert_eq!(app.put("k", "v"), -2);
    }
}

#[test]
fn interactive_program_survives_a_server_crash() {
    let env = TestEnv::start();
    let app = InteractiveApp::connected(&env.server, "g", env.secret());
    assert!(app.put("k", "v"));
    env.server.kill();
    // Either the command detects the loss, or the program has detected it earlier and has exited.
    app.end_input_with("close_connection");
    let ended = app.finish();
    assert_eq!(ended.stdout.last().map(String::as_str), Some("Exiting the app..."));
    assert!(ended.status.code().is_some(), "no signal ended it: {}", ended.status);
}

#[test]
fn local_server_can_be_restarted_after_a_crash() {
    let env = TestEnv::start();
    let app = env.driver();
    assert_eq!(app.put("k", "v"), 1);
    env.server.kill();
    assert!(env.server.socket().exists() && env.server.callback_socket().exists(), "stale paths");
    assert!([-3, -4].contains(&app.put("k", "v")));

    // The authentication server still runs and knows the group of the killed server.
    let again = LocalServer::builder(env.auth.addr()).socket(env.server.socket()).start();
    assert_eq!(app.establish("g", env.secret()), -7, "a restarted server starts empty");
    let new_secret = again.create_group("g");
    assert_eq!(app.establish("g", env.secret()), -9, "the old secret is nothing any more");
    assert_eq!(app.establish("g", &new_secret), 0);
    assert_eq!(app.get("k"), Err(-7));
    assert_eq!(app.put("k", "w"), 1);
    assert_eq!(app.get("k").as_deref(), Ok("w"));
}

#[test]
fn idle_application_notices_a_server_crash_and_reconnects() {
    let env = TestEnv::start();
    let app = env.driver();
    // An invalid call, which sends nothing.
    assert_eq!(app.call("put_value"), -15);

    env.server.kill();
    let end = Instant::now() + AT_ONCE;
    while app.call("put_value") != -2 {
        assert!(Instant::now() < end, "still connected, {AT_ONCE:?} after the server was killed");
    }
    let again = LocalServer::builder(env.auth.addr()).socket(env.server.socket()).start();
    let secret = again.create_group("new");
    let login = format!("establish_connection new {secret}");
    assert_eq!(app.call_within(AT_ONCE, &login).0, 0, "{}", app.report());
    app.store("k", "v");
}

// An application dies.

#[test]
fn killed_application_is_closed_in_the_status_at_once() {
    let env = TestEnv::start();
    let other = env.driver();
    other.store("k", "v");
    let doomed = env.driver();
    assert_eq!(doomed.call("register_callback k"), 1);
    let find = |status: &[kvs_testkit::AppStatus], pid| {
        status
            .iter()
            .find(|app| app.pid == pid)
            .expect("every application is in the status")
            .clone()
    };
    let before = find(&env.server.status(), doomed.pid());
    assert_eq!((before.status.as_str(), before.closed_at.as_str()), ("Connected", "-"));
    assert_eq!(before.watched, ["k"]);

    doomed.kill();
    let status = env.server.status_within(AT_ONCE, "the dead application is closed", |status| {
        find(status, doomed.pid()).status == "Closed"
    });
    let after = find(&status, doomed.pid());
    assert!(is_time(&after.closed_at), "closed at {:?}", after.closed_at);
    assert_eq!((after.number, &after.connected_at), (before.number, &before.connected_at));
    assert!(after.interval >= before.interval);
    // The interval no longer grows.
    assert_eq!(
        find(&env.server.status(), doomed.pid()).interval.to_bits(),
        after.interval.to_bits()
    );

    assert_eq!(find(&status, other.pid()).status, "Connected");
    assert_eq!(other.put("k", "w"), 1);
    assert_eq!(other.get("k").as_deref(), Ok("w"));
}

#[test]
fn application_killed_during_an_operation_stores_nothing() {
    let env = TestEnv::start();
    let other = env.driver();
    let mut dying = env.server.raw_app("g", env.secret());
    dying.main.send_int(0);
    dying.main.expect_int(1);
    dying.main.send(b"k");
    dying.main.expect_int(1);
    drop(dying);
    env.server.status_within(AT_ONCE, "it is closed", |status| {
        status.iter().any(|app| app.status == "Closed")
    });
    assert_eq!(other.get("k"), Err(-7));
}

// The authentication server dies.

/// The console reports in time that the authentication server does not answer, and then the
/// response to the command, which was typed before.
fn expect_complaint(server: &LocalServer, auth: &AuthServer, answer: &str) {
    let complaint = format!("Authentication server {} does not answer", auth.addr());
    server.expect_line_within(AT_ONCE, &format!("`{complaint}…`"), |line| {
        line.starts_with(&complaint)
    });
    server.expect_line_where(&format!("`{answer}…`"), |line| line.starts_with(answer));
}

fn expect_answers_again(server: &LocalServer, auth: &AuthServer) {
    let line = format!("Authentication server {} answers again", auth.addr());
    server.expect_line_where(&format!("`{line}…`"), |seen| seen.starts_with(&line));
}

/// Disables the authentication server, and checks what fails and what continues to work.
fn without_authentication_server(disable: impl Fn(&AuthServer)) {
    let env = TestEnv::start();
    let app = env.driver();
    assert_eq!(app.put("k", "v"), 1);
    assert_eq!(app.call("register_callback k"), 1);

    disable(&env.auth);
    env.server.send("Create group");
    env.server.expect_line("Insert group id:");
    env.server.send("new");
    expect_complaint(&env.server, &env.auth, "Group not created: ");

    // No data is lost, and calls that need no authentication server work.
    assert_eq!(app.get("k").as_deref(), Ok("v"));
    let refusal = env.server.ask("Delete group", "g");
    assert!(refusal.starts_with("Group not deleted: "), "{refusal}");
    let refusal = env.server.ask("Show group info", "g");
    assert!(refusal.starts_with("Group info not available: "), "{refusal}");
    assert_eq!(env.server.ask("Delete group", "none"), "Group id doesn't exist");
    assert_eq!(env.server.ask("Show group info", "none"), "Group id not found!");
    assert_eq!(env.server.ask("Create group", "g"), "Group id already exists");
    assert_eq!(env.server.status().len(), 1);

    // The login has no result.
    let late = Driver::start(&env.server);
    assert_eq!(late.establish("g", env.secret()), -8, "{}", env.server.report());
    assert_eq!(late.establish("none", env.secret()), -7, "this one needs no secret");

    assert_eq!(app.put("k", "w"), 1);
    app.expect_change("k");
    assert_eq!(app.get("k").as_deref(), Ok("w"));
}

#[test]
fn killed_auth_server_affects_groups_and_logins_only() {
    without_authentication_server(|auth| auth.kill());
}

#[test]
fn stopped_auth_server_affects_groups_and_logins_only() {
    without_authentication_server(|auth| auth.stop());
}

#[test]
fn login_waiting_for_the_auth_server_delays_no_application() {
    let env = TestEnv::start();
    let app = env.driver();
    env.auth.stop();
    let mut waiting = Channel::connect("main", env.server.socket()).unwrap();
    waiting.expect_int(1);
    waiting.send(b"g");
    waiting.expect_int(1);
    waiting.send(env.secret().as_bytes());
    let mut callback = Channel::connect("callback", env.server.callback_socket()).unwrap();
    callback.expect_int(1);
    for n in 0..50 {
        assert_eq!(app.call_within(AT_ONCE, &format!("put_value k {n}")).0, 1);
    }
    env.auth.signal(Signal::SIGCONT);
    // The login succeeds or, when it took too long, ends without a result.
    let verdict = waiting.text();
    assert!(verdict.is_empty() || verdict == 1i32.to_ne_bytes(), "{}", verdict.escape_ascii());
}

#[test]
fn groups_are_registered_again_with_an_empty_auth_server() {
    let mut env = TestEnv::without_group();
    let second = LocalServer::start(&env.auth);
    let secrets = [env.server.create_group("one"), second.create_group("two")];
    let apps = [
        Driver::connected(&env.server, "one", &secrets[0]),
        Driver::connected(&second, "two", &secrets[1]),
    ];
    apps[0].store("k", "v");

    env.auth.kill();
    // Each local server detects the loss at its next command.
    for server in [&env.server, &second] {
        server.send("Create group");
        server.expect_line("Insert group id:");
        server.send("new");
        expect_complaint(server, &env.auth, "Group not created: ");
    }
    env.auth.restart();
    // The link is restored without a command.
    for server in [&env.server, &second] {
        expect_answers_again(server, &env.auth);
    }
    let observer = RawLocalServer::connect(env.auth.addr());
    for (name, secret) in ["one", "two"].iter().zip(&secrets) {
        assert_eq!(observer.get_secret(name).as_ref(), Some(secret));
    }

    // Names are unique again, the old secrets are valid, and nothing was lost.
    assert_eq!(second.ask("Create group", "one"), "Group id already exists");
    assert_eq!(Driver::start(&env.server).establish("one", &secrets[0]), 0);
    assert_eq!(Driver::start(&second).establish("two", &secrets[1]), 0);
    assert_eq!(Driver::start(&env.server).establish("one", "wrong"), -9);
    assert_eq!(
        env.server.group_info("one").map(|info| (info.secret, info.pairs)),
        Ok((secrets[0].clone(), 1))
    );
    assert_eq!(apps[0].get("k").as_deref(), Ok("v"));
    assert_eq!(apps[1].put("k", "v"), 1);

    // Operations that were refused during the outage work now.
    env.server.create_group("new");
    env.server.delete_group("one");
    assert_eq!(apps[0].put("k", "v"), -2);
    assert_eq!(observer.get_secret("one"), None);
}

#[test]
fn unnoticed_restart_of_the_auth_server_costs_no_login() {
    let mut env = TestEnv::without_group();
    let second = LocalServer::start(&env.auth);
    let secrets = [env.server.create_group("one"), second.create_group("two")];

    env.auth.kill_and_restart();
    // The port of the first link now belongs to another local server.
    let stranger = RawLocalServer::connect(env.auth.addr());
    assert_eq!(stranger.port, env.server.port());

    assert_eq!(
        Driver::start(&env.server).establish("one", &secrets[0]),
        0,
        "{}",
        env.server.report()
    );
    assert_eq!(Driver::start(&second).establish("two", &secrets[1]), 0, "{}", second.report());
    assert_eq!(stranger.get_secret("one").as_ref(), Some(&secrets[0]));
    assert_eq!(stranger.get_secret("two").as_ref(), Some(&secrets[1]));
    assert_eq!(env.server.ask("Create group", "two"), "Group id already exists");
}

#[test]
fn local_server_quits_without_the_auth_server() {
    let env = TestEnv::start();
    let app = env.driver();
    env.auth.kill();
    env.server.quit();
    assert!(!env.server.socket().exists() && !env.server.callback_socket().exists());
    assert_eq!(app.put("k", "v"), -2);
}

#[test]
fn exit_on_auth_loss_ends_the_server_at_its_next_request() {
    for by_environment in [false, true] {
        let env = TestEnv::builder()
            .configure(move |server| match by_environment {
                true => server.env("KVS_EXIT_ON_AUTH_LOSS", "1"),
                false => server.arg("--exit-on-auth-loss"),
            })
            .start();
        let app = env.driver();
        assert_eq!(app.put("k", "v"), 1);
        env.auth.kill();
        assert_eq!(app.get("k").as_deref(), Ok("v"), "no request yet");
        env.server.send("Show group info");
        env.server.expect_line("Insert group id:");
        env.server.send("g");
        let complaint = format!("Authentication server {} does not answer", env.auth.addr());
        env.server
            .expect_line_within(AT_ONCE, "the complaint", |line| line.starts_with(&complaint));
        let status = env.server.wait_exit();
        assert_eq!(status.code(), Some(1), "{}", env.server.report());
        assert!(!env.server.socket().exists() && !env.server.callback_socket().exists());
        assert!(app.put("k", "v") < 0);
    }
}

// A datagram between the two servers is lost, duplicated, or late.

/// Runs every operation that needs the authentication server while datagram number `n` has this
/// fate. Returns whether there was such a datagram.
fn everything_works_although(n: usize, fate: Delivery) -> bool {
    let auth = AuthServer::start();
    let relay =
        Relay::start(&auth, move |number| if number == n { fate } else { Delivery::OnTime });
    let server = LocalServer::builder(relay.addr()).start();
    let secret = server.create_group("g");
    assert_eq!(server.ask("Create group", "g"), "Group id already exists");
    assert_eq!(Driver::start(&server).establish("g", "wrong"), -9);
    let app = Driver::connected(&server, "g", &secret);
    assert_eq!(server.group_info("g").map(|info| info.secret), Ok(secret.clone()));
    let other_secret = server.create_group("other");
    // A duplicated response may be taken for the next one, which then arrives a moment later.
    auth.expect_line("Group created!");
    auth.expect_line("Group created!");
    let observer = RawLocalServer::connect(auth.addr());
    assert_eq!(observer.get_secret("g"), Some(secret));
    assert_eq!(observer.get_secret("other"), Some(other_secret));
    server.delete_group("g");
    assert_eq!(app.put("k", "v"), -2);
    auth.expect_line("Group deleted!");
    assert!(!observer.find_group("g"));
    server.quit();
    auth.expect_line("Group deleted!");
    assert!(!observer.find_group("other"));
    relay.count() > n
}

/// Repeats the conversation for each of its datagrams; several run concurrently, as they mostly
/// wait.
fn everything_works_although_one_is(fate: Delivery) {
    const AT_A_TIME: usize = 8;
    let mut failed = Vec::new();
    for first in (0..).step_by(AT_A_TIME) {
        let mut happened = first == 0;
        thread::scope(|scope| {
            let runs: Vec<_> = (first..first + AT_A_TIME)
                .map(|n| (n, scope.spawn(move || everything_works_although(n, fate))))
                .collect();
            for (n, run) in runs {
                match run.join() {
                    Ok(has_come) => happened |= has_come,
                    Err(_) => failed.push(n),
                }
            }
        });
        if !happened {
            break;
        }
    }
    assert!(
        failed.is_empty(),
        "something failed when one of the datagrams {failed:?} was {fate:?}"
    );
}

#[test]
fn lost_datagram_costs_no_operation() {
    everything_works_although_one_is(Delivery::Dropped);
}

#[test]
fn duplicated_datagram_costs_no_operation() {
    everything_works_although_one_is(Delivery::Duplicated);
}

#[test]
fn late_datagram_costs_no_operation() {
    everything_works_although_one_is(Delivery::Reordered);
}

// A process on the machine of the local server pretends to be the authentication server.

/// The port of 127.0.0.1 or of any address that is connected to this one, from the kernel's table.
fn udp_port_connected_to(peer: u16) -> u16 {
    let table = fs::read_to_string("/proc/net/udp").expect("Linux has this table");
    let port = |address: &str| {
        let (_, port) = address.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table
        .lines()
        .find_map(|line| {
            // `sl  local_address rem_address …`
            let mut fields = line.split_whitespace().skip(1);
            let (local, remote) = (fields.next()?, fields.next()?);
            (port(remote) == Some(peer)).then(|| port(local)).flatten()
        })
        .expect("the close port is connected")
}

#[test]
fn only_the_auth_server_can_make_a_local_server_quit() {
    let env = TestEnv::start();
    let close_port = udp_port_connected_to(env.server.port() + 1);
    let close = (-10i32).to_ne_bytes();
    for forger in ["127.0.0.1:0", "127.0.0.2:0"] {
        let forger = UdpSocket::bind(forger).expect("a port is free");
        // The socket of the local server is connected to another address: sending may even be
        // refused.
        let _ = forger.send_to(&close, ("127.0.0.1", close_port));
        let _ = forger.send_to(&close, ("127.0.0.1", close_port));
    }
    // The only address that the local server accepts is already bound.
    assert!(UdpSocket::bind(("127.0.0.1", env.server.port() + 1)).is_err());
    assert_eq!(Driver::start(&env.server).establish("g", env.secret()), 0);
    assert_eq!(env.server.group_info("g").map(|info| info.secret), Ok(env.secret().to_owned()));
    assert_eq!(env.server.exit_status(), None);
    env.auth.send("Quit");
    env.server.expect_line("Exiting Local Server...");
}

// A subscriber stops reading.

#[test]
fn stopped_subscriber_affects_no_other_and_gets_the_last_event() {
    let env = TestEnv::start();
    let writer = env.connect();
    store(&writer, "k", "0");
    let stopped = env.driver();
    assert_eq!(stopped.call("register_reading_callback k"), 1);
    let (changed, changes) = mpsc::channel();
    let awake = env.connect();
    let tell = move |_: &[u8]| {
        // The receiver is gone when the test has failed.
        let _ = changed.send(());
    };
    awake.watch("k", tell).unwrap();

    stopped.stop();
    for n in 1..=5000 {
        writer.put("k", n.to_string()).unwrap();
    }
    store(&writer, "k", "last");
    changes.recv_timeout(AT_ONCE).expect("the other subscriber gets the event at once");
    assert_eq!(awake.get("k").unwrap().as_deref(), Some(&b"last"[..]));
    let status = env.server.status();
    assert!(status.iter().all(|app| app.status == "Connected"), "{status:#?}");
    assert_eq!(stopped.log_lines().iter().filter(|line| line.ends_with("last")).count(), 0);

    stopped.signal(Signal::SIGCONT);
    stopped.expect_log("the last change", |line| line == "read k 1 last");
    assert_eq!(stopped.get("k").as_deref(), Ok("last"));
}

#[test]
fn events_of_a_subscriber_that_does_not_read_are_coalesced() {
    let env = TestEnv::start();
    let writer = env.connect();
    let keys = ["k1", "k2", "k3", "z"];
    for key in keys {
        store(&writer, key, "0");
    }
    let mut subscriber = env.server.raw_app("g", env.secret());
    for key in keys {
        assert!(subscriber.register(key));
    }

    for n in 0..3000 {
        writer.put(keys[n % 3], n.to_string()).unwrap();
    }
    // Operations of the subscriber itself still work.
    assert_eq!(writer.get("k3").unwrap().as_deref(), Some(&b"2999"[..]));
    assert_eq!(subscriber.get("k3").as_deref(), Some("2999"));
    writer.put("z", "end").unwrap();

    // One event of a key may have been sent already; all later ones are coalesced.
    let mut seen = HashMap::<String, usize>::new();
    while seen.len() < keys.len() {
        *seen.entry(subscriber.next_change()).or_default() += 1;
    }
    // Any further event would arrive before this one.
    writer.put("z", "again").unwrap();
    let before = seen["z"];
    while seen["z"] == before {
        *seen.entry(subscriber.next_change()).or_default() += 1;
    }
    for key in &keys[..3] {
        let times = seen[*key];
        assert!(times <= 2, "{key} changed 1000 times, with {times} events");
    }
}

// An application stops where the server waits for it.

#[test]
fn application_stopped_during_a_call_or_login_delays_no_other() {
    let env = TestEnv::start();
    let other_secret = env.server.create_group("other");
    let group_mate = env.driver();
    let stranger = Driver::connected(&env.server, "other", &other_secret);
    group_mate.store("k", "v");

    // Stopped after the code, after the key, after the response to the key.
    let mut stopped: Vec<_> = (0..3).map(|_| env.server.raw_app("g", env.secret())).collect();
    stopped[0].main.send_int(0);
    stopped[1].main.send_int(0);
    stopped[1].main.expect_int(1);
    stopped[1].main.send(b"k");
    stopped[2].main.send_int(1);
    stopped[2].main.expect_int(1);
    stopped[2].main.send(b"k");
    // Stopped before the group, before the secret, before the callback channel.
    let connect = || Channel::connect("main", env.server.socket()).unwrap();
    let _before_the_group = connect();
    let mut before_the_secret = connect();
    before_the_secret.expect_int(1);
    before_the_secret.send(b"g");
    before_the_secret.expect_int(1);
    let mut before_the_callback = connect();
    before_the_callback.expect_int(1);
    before_the_callback.send(b"g");
    before_the_callback.expect_int(1);
    before_the_callback.send(env.secret().as_bytes());

    for app in [&group_mate, &stranger] {
        assert_eq!(app.call_within(AT_ONCE, "put_value k w").0, 1);
        assert_eq!(app.call_within(AT_ONCE, "get_value k"), (1, "w".into()));
    }
    // This process has unfinished logins itself; another process can log in meanwhile.
    let late = Driver::start(&env.server);
    let (code, _) = late.call_within(AT_ONCE, &format!("establish_connection g {}", env.secret()));
    assert_eq!(code, 0);
    assert_eq!(env.server.group_info("g").map(|info| info.pairs), Ok(1));
    env.server.delete_group("other");
    assert_eq!(stranger.put("k", "v"), -2);
    assert_eq!(late.get("k").as_deref(), Ok("w"));
}
