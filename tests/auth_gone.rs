//! Nobody waits for an authentication server, or for the thread that asks it, once it is gone: `Quit` ends
//! in bounded time, whoever waits for an answer; and a group whose creation was given up half-way does not
//! stay behind.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{
    AuthServer, Channel, DEADLINE, Delivery, Driver, LocalServer, Process, RawLocalServer,
    RawV1App, Relay, Sockets, compile_preload, private_dir,
};
use nix::sys::signal::Signal;

/// Applications are spread over the server's threads in turn: with as many as there may be threads, each
/// thread has one.
const ON_ALL_THREADS: usize = 4;

/// Logins that wait for the answer of the authentication server: both channels stand, no verdict comes.
fn parked(server: &LocalServer, group: &str, dir: &Path) -> Vec<RawV1App> {
    let login =
        |n: usize| RawV1App::login_before_verdict_as(server, dir, &n.to_string(), group, "abcde");
    (0..ON_ALL_THREADS).map(login).collect()
}

fn expect_no_verdict(parked: Vec<RawV1App>) {
    for mut app in parked {
        app.main.expect_end();
        app.callback.expect_end();
    }
}

/// It has ended, and nothing of it is left.
fn expect_end(server: &LocalServer, code: i32) {
    server.expect_line("Exiting Local Server...");
    assert_eq!(server.wait_exit().code(), Some(code), "{}", server.report());
    assert!(!server.socket().exists() && !server.callback_socket().exists());
}

#[test]
fn quit_ends_while_logins_wait_for_an_authentication_server_that_is_gone() {
    for put_out in [Process::kill, Process::stop] {
        let auth = AuthServer::start();
        let server = LocalServer::start(&auth);
        let secret = server.create_group("g");
        let app = Driver::connected(&server, "g", &secret);
        put_out(&auth);
        let dir = private_dir();
        let parked = parked(&server, "g", dir.path());
        // A command waits, too.
        server.send("Show group info");
        server.expect_line("Insert group id:");
        server.send("g");
        server.send("Quit");
        expect_end(&server, 0);
        expect_no_verdict(parked);
        assert_eq!(app.put("k", "v"), -2);
    }
}

#[test]
fn one_that_keeps_its_local_servers_is_restarted_and_nobody_notices() {
    let mut auth = AuthServer::builder().arg("--keep-local-servers").start();
    let server = LocalServer::start(&auth);
    let secret = server.create_group("g");
    let app = Driver::connected(&server, "g", &secret);
    app.store("k", "v");
    auth.signal(Signal::SIGTERM);
    assert!(auth.restart().success());
    // Its table was empty, and nobody has asked the local server for anything: it comes by itself.
    auth.expect_line("New Local Server Connected");
    auth.expect_line("Group created!");
    let other = LocalServer::start(&auth);
    assert_eq!(other.ask("Create group", "g"), "Group id already exists");
    other.quit();
    assert_eq!(Driver::start(&server).establish("g", &secret), 0);
    assert_eq!(app.get("k").as_deref(), Ok("v"));
    server.quit();
    // At the console it has the last word in any case.
    let auth = AuthServer::builder().arg("--keep-local-servers").start();
    let server = LocalServer::start(&auth);
    auth.send("Quit");
    expect_end(&server, 0);
    assert!(auth.wait_exit().success());
}

/// One group may take a while to learn that nobody answers. Not each.
#[test]
fn quit_does_not_take_longer_with_many_groups_whose_authentication_server_is_gone() {
    const GROUPS: usize = 200;
    let auth = AuthServer::start();
    let server = LocalServer::start(&auth);
    for n in 0..GROUPS {
        server.create_group(&format!("g{n}"));
    }
    // Not killed: the system would say at once, for each group, that nobody is there.
    auth.stop();
    server.send("Quit");
    expect_end(&server, 0);
    let log = server.finish().stderr;
    let remains = log.iter().filter(|line| line.contains("remains registered"));
    assert_eq!(remains.clone().count(), GROUPS, "{}", server.report());
    // Only where the deletion was tried there is a reason.
    let tried = remains.filter(|line| line.contains("remains registered:")).count();
    assert_eq!(tried, 1, "{}", server.report());
}

/// When a thread of the server fails, the server ends, and nobody waits for that thread.
fn ends_when_a_thread_fails(thread: &str, quit: bool) {
    let auth = AuthServer::start();
    let dir = private_dir();
    let broken = dir.path().join("broken");
    let server = LocalServer::builder(auth.addr())
        .env("LD_PRELOAD", compile_preload("tests/c/break_poll.c").to_str().expect("it is text"))
        .env("KVS_BREAK_THREAD", thread)
        .env("KVS_BREAK_FILE", broken.to_str().expect("it is text"))
        .start();
    let secret = server.create_group("g");
    let app = Driver::connected(&server, "g", &secret);
    auth.stop();
    let parked = parked(&server, "g", dir.path());
    server.send("Show group info");
    server.expect_line("Insert group id:");
    server.send("g");
    std::fs::write(&broken, "").expect("the directory is the test's");
    if quit {
        server.send("Quit");
    } else {
        // It is woken, and finds out: at once, or something else had woken it before.
        if let Ok(mut woken) = Channel::connect("main", server.socket()) {
            let _ = woken.try_send(b"none");
        }
    }
    server.expect_line("Exiting Local Server...");
    let status = server.wait_exit();
    // `Quit` may have been first.
    let codes: &[i32] = if quit { &[0, 1] } else { &[1] };
    assert!(status.code().is_some_and(|code| codes.contains(&code)), "{}", server.report());
    expect_no_verdict(parked);
    assert!(app.put("k", "v") < 0);
    assert!(!server.socket().exists() && !server.callback_socket().exists());
}

#[test]
fn a_server_whose_link_thread_fails_ends_although_logins_and_commands_wait_for_it() {
    ends_when_a_thread_fails("auth-link", false);
}

#[test]
fn quit_ends_when_the_link_thread_fails_meanwhile() {
    ends_when_a_thread_fails("auth-link", true);
}

#[test]
fn a_server_whose_first_reactor_fails_ends() {
    ends_when_a_thread_fails("reactor-0", false);
}

/// How a server goes on after a creation that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It connects again by itself.
    Waits,
    /// The administrator tries again.
    CreatesAgain,
    /// It quits as soon as the network works again; it has another group.
    Quits,
    /// It quits, and has no group.
    QuitsEmpty,
}

/// From datagram number `first` on the network loses everything, until the creation of a group was given
/// up. Whether it was.
fn given_up_from(first: usize, then: Then) -> bool {
    let auth = AuthServer::start();
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let count = AtomicUsize::new(0);
    let relay = Relay::start(&auth, move |_| {
        let lost = is_down.load(Ordering::SeqCst) && count.fetch_add(1, Ordering::SeqCst) >= first;
        if lost { Delivery::Dropped } else { Delivery::OnTime }
    });
    let server = LocalServer::builder(relay.addr()).start();
    if then == Then::Quits {
        server.create_group("other");
    }
    down.store(true, Ordering::SeqCst);
    let answer = server.ask("Create group", "g");
    let given_up = answer.starts_with("Group not created: ");
    assert!(given_up || answer.starts_with("Group created "), "{answer}\n{}", server.report());
    down.store(false, Ordering::SeqCst);
    println!("from datagram {first} on, then {then:?}: {answer}");

    let observer = RawLocalServer::connect(auth.addr());
    match then {
        Then::Waits if given_up => await_no_group(&observer, &server),
        Then::CreatesAgain if given_up => {
            let secret = server.create_group("g");
            assert_eq!(observer.get_secret("g"), Some(secret));
        }
        Then::Quits | Then::QuitsEmpty => {
            server.quit();
            await_no_group(&observer, &server);
            assert!(!observer.find_group("other"));
        }
        Then::Waits | Then::CreatesAgain => {}
    }
    given_up
}

/// No event tells the observer that a group has gone.
fn await_no_group(observer: &RawLocalServer, server: &LocalServer) {
    let end = Instant::now() + DEADLINE;
    while observer.find_group("g") {
        assert!(Instant::now() < end, "the group stays behind\n{}", server.report());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The datagrams of one creation, in both directions. (There are more when one comes late.)
const CREATION: Range<usize> = 0..10;

/// Those around the one that has the group stored, which is the last but one.
const STORING: Range<usize> = 7..10;

/// Once for each of these.
fn nothing_stays_behind(datagrams: Range<usize>, then: Then) {
    let given_up: Vec<bool> = thread::scope(|scope| {
        let runs: Vec<_> =
            datagrams.map(|first| scope.spawn(move || given_up_from(first, then))).collect();
        runs.into_iter().map(|run| run.join().expect("it does not stay behind")).collect()
    });
    assert!(!given_up.contains(&false), "{given_up:?}");
}

#[test]
fn a_group_whose_creation_was_given_up_is_forgotten_although_nobody_asks() {
    nothing_stays_behind(CREATION, Then::Waits);
}

#[test]
fn a_group_whose_creation_was_given_up_can_be_created_again() {
    nothing_stays_behind(STORING, Then::CreatesAgain);
}

#[test]
fn a_group_whose_creation_was_given_up_is_forgotten_at_quit() {
    nothing_stays_behind(STORING, Then::Quits);
}

#[test]
fn a_group_whose_creation_was_given_up_is_forgotten_at_quit_without_other_groups() {
    nothing_stays_behind(STORING, Then::QuitsEmpty);
}
