//! Nothing waits for an authentication server that does not answer, or for a failed link thread:
//! `Quit` completes in bounded time, whatever waits for a response, and a group whose creation was
//! abandoned half-way is removed.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{
    AuthServer, Channel, DEADLINE, Delivery, Driver, LocalServer, Process, RawLocalServer,
    RawV1App, Relay, Sockets, TestEnv, compile_preload, private_dir,
};
use nix::sys::signal::Signal;

/// The server assigns applications to its threads in rotation: with as many applications as there
/// may be threads, each thread has one.
const ON_ALL_THREADS: usize = 4;

/// Logins that wait for the authentication server: both channels are connected, the result is
/// pending.
fn pending_logins(server: &LocalServer, group: &str, dir: &Path) -> Vec<RawV1App> {
    let login =
        |n: usize| RawV1App::login_before_verdict_as(server, dir, &n.to_string(), group, "abcde");
    (0..ON_ALL_THREADS).map(login).collect()
}

fn expect_no_result(logins: Vec<RawV1App>) {
    for mut app in logins {
        app.main.expect_end();
        app.callback.expect_end();
    }
}

/// Asserts that the server exits with this code and removes its sockets.
fn expect_end(server: &LocalServer, code: i32) {
    server.expect_line("Exiting Local Server...");
    assert_eq!(server.wait_exit().code(), Some(code), "{}", server.report());
    assert!(!server.socket().exists() && !server.callback_socket().exists());
}

#[test]
fn quit_completes_while_logins_wait_for_a_dead_auth_server() {
    for disable in [Process::kill, Process::stop] {
        let env = TestEnv::start();
        let app = env.driver();
        disable(&env.auth);
        let dir = private_dir();
        let logins = pending_logins(&env.server, "g", dir.path());
        // A console command waits as well.
        env.server.send("Show group info");
        env.server.expect_line("Insert group id:");
        env.server.send("g");
        env.server.send("Quit");
        expect_end(&env.server, 0);
        expect_no_result(logins);
        assert_eq!(app.put("k", "v"), -2);
    }
}

#[test]
fn restart_that_keeps_local_servers_loses_nothing() {
    let mut env = TestEnv::builder().auth_arg("--keep-local-servers").start();
    let app = env.driver();
    app.store("k", "v");
    env.auth.signal(Signal::SIGTERM);
    assert!(env.auth.restart().success());
    // The restarted server knows no groups. The local server reconnects and registers its group
    // without a request.
    env.auth.expect_line("New Local Server Connected");
    env.auth.expect_line("Group created!");
    let other = LocalServer::start(&env.auth);
    assert_eq!(other.ask("Create group", "g"), "Group id already exists");
    other.quit();
    assert_eq!(Driver::start(&env.server).establish("g", env.secret()), 0);
    assert_eq!(app.get("k").as_deref(), Ok("v"));
    env.server.quit();
    // `Quit` on the console ends the local servers in any case.
    let env = TestEnv::builder().auth_arg("--keep-local-servers").no_group().start();
    // Before that, the authentication server does not know where to send the close flag.
    env.auth.expect_line("New Local Server Connected");
    env.auth.send("Quit");
    expect_end(&env.server, 0);
    assert!(env.auth.wait_exit().success());
}

/// The first deletion may wait for its timeout; the others must not.
#[test]
fn quit_with_many_groups_waits_for_one_timeout_only() {
    const GROUPS: usize = 200;
    let env = TestEnv::without_group();
    for n in 0..GROUPS {
        env.server.create_group(&format!("g{n}"));
    }
    // The server is stopped, not killed: for a closed port the kernel would report an error at once
    // for each group.
    env.auth.stop();
    env.server.send("Quit");
    expect_end(&env.server, 0);
    let log = env.server.finish().stderr;
    let remains = log.iter().filter(|line| line.contains("remains registered"));
    assert_eq!(remains.clone().count(), GROUPS, "{}", env.server.report());
    // Only the attempted deletion has a reason.
    let tried = remains.filter(|line| line.contains("remains registered:")).count();
    assert_eq!(tried, 1, "{}", env.server.report());
}

/// Asserts that the server exits when one of its threads fails, and that nothing waits for that
/// thread.
fn ends_when_a_thread_fails(thread: &str, quit: bool) {
    let dir = private_dir();
    let broken = dir.path().join("broken");
    let settings = [
        ("LD_PRELOAD", compile_preload("tests/c/break_poll.c")),
        ("KVS_BREAK_FILE", broken.clone()),
        ("KVS_BREAK_THREAD", thread.into()),
    ];
    let env = TestEnv::builder()
        .configure(move |server| {
            settings.into_iter().fold(server, |server, (name, value)| {
                server.env(name, value.to_str().expect("test paths are UTF-8"))
            })
        })
        .start();
    let app = env.driver();
    env.auth.stop();
    let logins = pending_logins(&env.server, "g", dir.path());
    env.server.send("Show group info");
    env.server.expect_line("Insert group id:");
    env.server.send("g");
    std::fs::write(&broken, "").expect("the directory is the test's");
    if quit {
        env.server.send("Quit");
    } else {
        // This wakes the thread, which then fails, unless something else has woken it before.
        if let Ok(mut woken) = Channel::connect("main", env.server.socket()) {
            let _ = woken.try_send(b"none");
        }
    }
    env.server.expect_line("Exiting Local Server...");
    let status = env.server.wait_exit();
    // `Quit` may complete before the thread fails.
    let codes: &[i32] = if quit { &[0, 1] } else { &[1] };
    assert!(status.code().is_some_and(|code| codes.contains(&code)), "{}", env.server.report());
    expect_no_result(logins);
    assert!(app.put("k", "v") < 0);
    assert!(!env.server.socket().exists() && !env.server.callback_socket().exists());
}

#[test]
fn failed_link_thread_ends_the_server_despite_pending_logins() {
    ends_when_a_thread_fails("auth-link", false);
}

#[test]
fn quit_completes_when_the_link_thread_fails_meanwhile() {
    ends_when_a_thread_fails("auth-link", true);
}

#[test]
fn failed_reactor_ends_the_server() {
    ends_when_a_thread_fails("reactor-0", false);
}

/// The step that follows an abandoned creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextStep {
    /// Nothing: the server reconnects on its own.
    Wait,
    /// The administrator creates the group again.
    CreateAgain,
    /// The server quits as soon as the network works again; it has another group.
    Quit,
    /// The server quits and has no other group.
    QuitWithoutGroups,
}

/// Creates a group while the network loses every datagram from number `first` on. Returns whether
/// the creation was abandoned.
fn abandoned_from(first: usize, next: NextStep) -> bool {
    let auth = AuthServer::start();
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let count = AtomicUsize::new(0);
    let relay = Relay::start(&auth, move |_| {
        let lost = is_down.load(Ordering::SeqCst) && count.fetch_add(1, Ordering::SeqCst) >= first;
        if lost { Delivery::Dropped } else { Delivery::OnTime }
    });
    let server = LocalServer::builder(relay.addr()).start();
    if next == NextStep::Quit {
        server.create_group("other");
    }
    down.store(true, Ordering::SeqCst);
    let answer = server.ask("Create group", "g");
    let abandoned = answer.starts_with("Group not created: ");
    assert!(abandoned || answer.starts_with("Group created "), "{answer}\n{}", server.report());
    down.store(false, Ordering::SeqCst);
    println!("from datagram {first} on, then {next:?}: {answer}");

    let observer = RawLocalServer::connect(auth.addr());
    match next {
        NextStep::Wait if abandoned => await_no_group(&observer, &server),
        NextStep::CreateAgain if abandoned => {
            let secret = server.create_group("g");
            assert_eq!(observer.get_secret("g"), Some(secret));
        }
        NextStep::Quit | NextStep::QuitWithoutGroups => {
            server.quit();
            await_no_group(&observer, &server);
            assert!(!observer.find_group("other"));
        }
        NextStep::Wait | NextStep::CreateAgain => {}
    }
    abandoned
}

/// The observer gets no event when a group is removed, so it polls.
fn await_no_group(observer: &RawLocalServer, server: &LocalServer) {
    let end = Instant::now() + DEADLINE;
    while observer.find_group("g") {
        assert!(Instant::now() < end, "the group remains\n{}", server.report());
        thread::sleep(Duration::from_millis(20));
    }
}

/// The datagrams of one creation, in both directions. (There are more when one is late.)
const CREATION: Range<usize> = 0..10;

/// The datagrams around the one that stores the group, which is the last but one.
const STORING: Range<usize> = 7..10;

/// Abandons a creation at each of these datagrams; no group must remain.
fn assert_nothing_remains(datagrams: Range<usize>, next: NextStep) {
    let abandoned: Vec<bool> = thread::scope(|scope| {
        let runs: Vec<_> =
            datagrams.map(|first| scope.spawn(move || abandoned_from(first, next))).collect();
        runs.into_iter().map(|run| run.join().expect("no group remains")).collect()
    });
    assert!(!abandoned.contains(&false), "{abandoned:?}");
}

#[test]
fn group_of_an_abandoned_creation_is_removed_without_a_command() {
    assert_nothing_remains(CREATION, NextStep::Wait);
}

#[test]
fn group_of_an_abandoned_creation_can_be_created_again() {
    assert_nothing_remains(STORING, NextStep::CreateAgain);
}

#[test]
fn abandoned_group_is_removed_at_quit() {
    assert_nothing_remains(STORING, NextStep::Quit);
}

#[test]
fn abandoned_group_is_removed_at_quit_without_other_groups() {
    assert_nothing_remains(STORING, NextStep::QuitWithoutGroups);
}
