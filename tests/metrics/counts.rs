//! Every metric counts the events of its description.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvs::Swap;
use kvs_proto::v2::request::Request;
use kvs_proto::v2::response::Status;
use kvs_testkit::{
    AuthServer, Channel, Delivery, Driver, GROUP, HttpResponse, LocalServer, MetricsClient,
    Protocol, RawFrame, RawV2App, Relay, Scrape, Sockets, TestEnv, are_installed,
    on_both_protocols, until,
};
use nix::sys::signal::Signal;

use crate::metrics_env;

fn driver(env: &TestEnv, protocol: Protocol) -> Driver {
    let driver = Driver::spawn(Driver::program().served_by(&env.server).protocol(protocol));
    assert_eq!(driver.establish(GROUP, env.secret()), 0, "establish_connection");
    driver
}

/// The operations with a count above zero.
fn operations(scrape: &Scrape) -> Vec<(String, u64)> {
    let prefix = "kvs_operations_total";
    let counted = scrape.with_prefix(prefix).filter(|(_, count)| *count > 0.0);
    counted
        .map(|(name, count)| {
            let labels = name[prefix.len()..].replace("operation=", "").replace("result=", "");
            (labels.replace(['{', '}', '"'], "").replace(',', " "), count as u64)
        })
        .collect()
}

fn expect_operations(env: &TestEnv, expected: &[(&str, u64)]) {
    let counted = operations(&env.metrics().scrape());
    let counted: Vec<(&str, u64)> = counted.iter().map(|(name, count)| (&**name, *count)).collect();
    assert_eq!(counted, expected);
}

/// Waits until this many latencies of an operation were observed, and checks their buckets.
fn expect_latencies(site: &MetricsClient, operation: &str, count: u64) {
    let name = format!("kvs_operation_duration_seconds_count{{operation=\"{operation}\"}}");
    site.expect(&name, count as f64);
    let scrape = site.scrape();
    let prefix = format!("kvs_operation_duration_seconds_bucket{{operation=\"{operation}\",le=\"");
    let mut buckets: Vec<(f64, f64)> = scrape
        .with_prefix(&prefix)
        .map(|(name, count)| {
            let bound = name[prefix.len()..].trim_end_matches("\"}");
            (bound.parse().unwrap_or_else(|_| panic!("a bound in {name}")), count)
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert_eq!((buckets.len(), buckets[0].0, buckets[18].0), (20, 1e-6, 1.0), "{buckets:?}");
    assert!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{buckets:?}");
    assert_eq!(buckets[19], (f64::INFINITY, count as f64));
    let sum =
        scrape.get(&format!("kvs_operation_duration_seconds_sum{{operation=\"{operation}\"}}"));
    assert!(sum > 0.0 && sum < count as f64, "{count} took {sum} s");
}

on_both_protocols! {
    fn every_operation_is_counted_once(protocol: Protocol) {
        let env = metrics_env();
        let app = driver(&env, protocol);
        for (key, value) in [("a", "1"), ("b", "22"), ("c", "333")] {
            assert_eq!(app.put(key, value), 1);
        }
        assert_eq!((app.get("a").as_deref(), app.get("b").as_deref()), (Ok("1"), Ok("22")));
        assert_eq!(app.get("none"), Err(-7));
        assert_eq!((app.call("delete_value c"), app.call("delete_value none")), (1, -7));
        assert_eq!((app.call("register_callback a"), app.call("register_callback none")), (1, -7));
        expect_operations(&env, &[
            ("delete not_found", 1), ("delete ok", 1), ("get not_found", 1), ("get ok", 2),
            ("put ok", 3),
            ("watch not_found", 1), ("watch ok", 1),
        ]);
        for (operation, count) in [("get", 3), ("put", 3), ("delete", 2), ("watch", 2)] {
            expect_latencies(env.metrics(), operation, count);
        }

        let scrape = env.metrics().scrape();
        let of_group = |name: &str| scrape.get(&format!("{name}{{group=\"g\"}}"));
        assert_eq!((of_group("kvs_group_pairs"), of_group("kvs_group_bytes")), (2.0, 5.0));
        assert_eq!((scrape.get("kvs_pairs"), scrape.get("kvs_pairs_bytes")), (2.0, 5.0));
        let (own, other) = match protocol {
            Protocol::V1 => ("original", "framed"),
            Protocol::V2 => ("framed", "original"),
        };
        let connected =
            |session| {
                let labels = format!("group=\"g\",session=\"{session}\"");
                scrape.get(&format!("kvs_group_applications{{{labels}}}"))
            };
        assert_eq!((connected(own), connected(other)), (1.0, 0.0));
        assert_eq!(scrape.get(&format!("kvs_applications{{session=\"{own}\"}}")), 1.0);
        assert_eq!(scrape.get("kvs_logins_total{result=\"ok\"}"), 1.0);

        assert_eq!(app.call("close_connection"), 1);
        env.metrics().expect(&format!("kvs_applications{{session=\"{own}\"}}"), 0.0);
        env.metrics().expect("kvs_sessions_ended_total{reason=\"goodbye\"}", 1.0);
    }

    fn refusals_are_counted_by_limit(protocol: Protocol) {
        let env = TestEnv::builder().metrics().args(["--max-pairs-per-user", "2"]).start();
        let app = driver(&env, protocol);
        assert_eq!((app.put("a", "1"), app.put("b", "2")), (1, 1));
        assert_eq!(app.get("b").as_deref(), Ok("2"));
        let scrape = env.metrics().scrape();
        let uid = rustix::process::getuid().as_raw();
        let own = |what: &str| scrape.get(&format!("kvs_user_{what}{{uid=\"{uid}\"}}"));
        assert_eq!((own("pairs"), own("bytes"), own("connections")), (2.0, 4.0, 1.0));
        assert_eq!(scrape.get("kvs_user_limit_pairs"), 2.0);
        assert_eq!(app.put("c", "3"), -5);
        expect_operations(&env, &[("get ok", 1), ("put limit", 1), ("put ok", 2)]);
        assert_eq!(env.metrics().scrape().get("kvs_pairs"), 2.0);
    }

    fn coalesced_events_are_counted(protocol: Protocol) {
        let env = metrics_env();
        let (subscriber, app) = (driver(&env, protocol), env.connect());
        app.put("k", "0").expect("there is room");
        assert_eq!(subscriber.call("register_callback k"), 1);
        subscriber.stop();
        // A stopped v1 subscriber does not finish its handshake, so the second event is pending
        // already; the socket of a v2 subscriber must fill up first.
        let puts = match protocol {
            Protocol::V1 => 10,
            Protocol::V2 => 20_000,
        };
        for n in 0..puts {
            app.put("k", n.to_string()).expect("there is room");
        }
        env.metrics().expect("kvs_changes_noted_total", f64::from(puts));
        let scrape = env.metrics().scrape();
        let merged = scrape.get("kvs_callbacks_merged_total");
        match protocol {
            Protocol::V1 => {
                env.metrics().expect("kvs_callbacks_sent_total", 1.0);
                assert_eq!(merged, 8.0);
            }
            Protocol::V2 => {
                assert!(merged > 0.0 && merged < f64::from(puts - 1), "{merged} merged");
            }
        }
        subscriber.signal(Signal::SIGCONT);
        // Each event was sent or coalesced.
        until("all events were sent", || {
            let now = env.metrics().scrape();
            let sent = now.get("kvs_callbacks_sent_total") + now.get("kvs_callbacks_merged_total");
            (sent == f64::from(puts)).then_some(())
        });
    }
}

#[test]
fn operations_of_v2_only_are_counted() {
    let env = TestEnv::builder().metrics().args(["--max-value-bytes", "200"]).start();
    let app = env.connect();
    assert!(matches!(app.put_if_absent("k", "1"), Ok(Swap::Done(_))));
    assert!(matches!(app.put_if_absent("k", "2"), Ok(Swap::Conflict(_))));
    app.put_many([("a", "1"), ("b", "2")]).expect("there is room");
    assert_eq!(app.keys("").filter(Result::is_ok).count(), 3);
    app.watch("a", |_| {}).expect("it exists");
    app.watch_prefix("x", |_| {}).expect("it may");
    assert!(app.unwatch("a").expect("it is framed") && app.unwatch_prefix("x").expect("it is"));
    let results = app.pipeline().and_then(|mut many| {
        for _ in 0..500 {
            many.get("k")?;
        }
        many.run()
    });
    assert_eq!(results.expect("all are answered").len(), 500);

    // Requests that the library refuses to send.
    let mut raw = RawV2App::login(&env.server, GROUP, env.secret());
    let long = raw.status_of(Request::Put { key: b"k", value: &[b'v'; 201], expected: None });
    assert_eq!(long.0, Status::TooLarge);
    raw.main.send(&RawFrame { number: 2, kind: 99, ..RawFrame::default() }.bytes());
    assert_eq!(raw.main.response().status, Status::Unknown);
    expect_operations(
        &env,
        &[
            ("get ok", 500),
            ("keys ok", 1),
            ("put conflict", 1),
            ("put ok", 1),
            ("put too_large", 1),
            ("put_many ok", 1),
            ("unknown unknown", 1),
            ("unwatch ok", 2),
            ("watch ok", 2),
        ],
    );
    for (operation, count) in
        [("get", 500), ("put", 3), ("keys", 1), ("unwatch", 2), ("unknown", 1)]
    {
        expect_latencies(env.metrics(), operation, count);
    }
    drop(raw);
    env.metrics().expect("kvs_sessions_ended_total{reason=\"gone\"}", 1.0);
}

fn login_result(env: &TestEnv, result: &str) -> f64 {
    env.metrics().scrape().get(&format!("kvs_logins_total{{result=\"{result}\"}}"))
}

#[test]
fn refused_logins_are_counted_by_reason() {
    let mut env = TestEnv::builder().metrics().args(["--login-timeout", "1"]).start();
    let code = |group: &str, secret: &str| {
        env.try_connect(group, secret).expect_err("it is refused").code()
    };
    assert_eq!((code("none", "x"), code(GROUP, "wrong")), (-7, -9));
    for result in ["no_such_group", "wrong_secret"] {
        env.metrics().expect(&format!("kvs_logins_total{{result=\"{result}\"}}"), 1.0);
    }
    let channel = || Channel::connect("main", env.server.socket()).expect("it listens");

    // A connection that sends nothing, one that closes, and one that sends garbage.
    let mut silent = channel();
    silent.expect_int(1);
    silent.expect_end();
    env.metrics().expect("kvs_logins_total{result=\"timed_out\"}", 1.0);
    drop(channel());
    env.metrics().expect("kvs_logins_total{result=\"abandoned\"}", 1.0);
    let mut confused = channel();
    confused.expect_int(1);
    confused.send(&[b'x'; 300]);
    confused.expect_end();
    env.metrics().expect("kvs_logins_total{result=\"malformed\"}", 1.0);

    env.auth.kill();
    assert_eq!(env.try_connect(GROUP, env.secret()).expect_err("the secret is unknown").code(), -8);
    env.metrics().expect("kvs_logins_total{result=\"auth_unavailable\"}", 1.0);
    env.auth.restart();
    env.metrics().expect("kvs_auth_up", 1.0);
    drop(env.connect());
    assert_eq!(login_result(&env, "ok"), 1.0);
    let all: f64 =
        env.metrics().scrape().with_prefix("kvs_logins_total").map(|(_, count)| count).sum();
    assert_eq!(all, 7.0, "each login is counted once");
}

#[test]
fn throttled_logins_and_wrong_secrets_are_distinguished() {
    let env = metrics_env();
    let codes: Vec<i32> = thread::scope(|scope| {
        let guess = || env.try_connect(GROUP, "wrong").expect_err("it is refused").code();
        let guesses: Vec<_> = (0..20).map(|_| scope.spawn(guess)).collect();
        guesses.into_iter().map(|guess| guess.join().expect("it is refused")).collect()
    });
    let count = |code| codes.iter().filter(|seen| **seen == code).count() as f64;
    let (wrong, too_many) = (count(-9), count(-8));
    assert!(wrong >= 5.0 && too_many >= 1.0 && wrong + too_many == 20.0, "{codes:?}");
    env.metrics().expect("kvs_logins_total{result=\"wrong_secret\"}", wrong);
    env.metrics().expect("kvs_logins_total{result=\"too_many_guesses\"}", too_many);
}

#[test]
fn connection_over_the_limit_is_a_refused_login() {
    let env = TestEnv::builder().metrics().args(["--max-connections-per-user", "1"]).start();
    let _first = env.connect();
    let refused = env.try_connect(GROUP, env.secret()).expect_err("there is no place");
    assert_eq!((refused.code(), login_result(&env, "limit")), (-14, 1.0));
}

#[test]
fn loss_and_return_of_the_authentication_server_are_shown() {
    let mut env = metrics_env();
    let before = env.metrics().scrape();
    assert_eq!((before.get("kvs_auth_up"), before.get("kvs_auth_reconnects_total")), (1.0, 0.0));
    env.auth.kill();
    // The server detects the loss at the next request.
    assert!(env.try_connect(GROUP, env.secret()).is_err());
    let lost = env.metrics().scrape();
    assert_eq!(lost.get("kvs_auth_up"), 0.0);
    assert!(lost.get("kvs_auth_reconnect_failures_total") >= 1.0);
    env.auth.restart();
    env.metrics().expect("kvs_auth_up", 1.0);
    env.metrics().expect("kvs_auth_reconnects_total", 1.0);
    drop(env.connect());
}

#[test]
fn lost_datagram_is_counted_as_retry() {
    let auth = AuthServer::start();
    let lose_next = Arc::new(AtomicBool::new(false));
    let losing = Arc::clone(&lose_next);
    let relay = Relay::start(&auth, move |_| match losing.swap(false, Ordering::SeqCst) {
        true => Delivery::Dropped,
        false => Delivery::OnTime,
    });
    let server = LocalServer::builder(relay.addr()).args(["--metrics", "127.0.0.1:0"]).start();
    server.create_group(GROUP);
    let site = MetricsClient::of(&server);
    let retries = || site.scrape().get("kvs_auth_retries_total");
    assert_eq!(retries(), 0.0);
    lose_next.store(true, Ordering::SeqCst);
    server.group_info(GROUP).expect("it is asked again");
    assert_eq!(retries(), 1.0);
    assert_eq!(site.scrape().get("kvs_auth_reconnects_total"), 0.0);
}

#[test]
fn deleted_group_disappears_from_all_metrics() {
    let env = metrics_env();
    env.server.create_group("other");
    let named = |name: &str| {
        let label = format!("group=\"{name}\"");
        let scrape = env.metrics().scrape();
        scrape.with_prefix("kvs_").filter(|(metric, _)| metric.contains(&label)).count()
    };
    assert_eq!(
        (named(GROUP), named("other"), env.metrics().scrape().get("kvs_groups")),
        (4, 4, 2.0)
    );
    env.server.delete_group(GROUP);
    assert_eq!(
        (named(GROUP), named("other"), env.metrics().scrape().get("kvs_groups")),
        (0, 4, 1.0)
    );
    assert_eq!(env.metrics().status()["groups"].as_array().map(Vec::len), Some(1));
}

/// Passes the text to `promtool check metrics`. Returns `None` if that is not installed.
fn promtool(text: &str) -> Option<()> {
    if !are_installed(&["promtool"], "promtool check metrics") {
        return None;
    }
    let mut command = Command::new("promtool");
    let spawned =
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut promtool = spawned.expect("it is installed");
    let mut input = promtool.stdin.take().expect("it is a pipe");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    Some(())
}

#[test]
fn promtool_accepts_metrics_with_any_group_name() {
    let env = metrics_env();
    let app = env.connect();
    app.put("k", "v").expect("there is room");
    for name in ["q\"uote", "back\\slash", "größe 雪", "{a=\"b\"} 1", "# HELP x"] {
        env.server.create_group(name);
    }
    for name in [&b"\xff\xfe"[..], b"\\xff\\xfe", b"\x1b[31m"] {
        env.server.send("Create group");
        env.server.send_bytes(&[name, b"\n"].concat());
        env.server.expect_line_where("the secret", |line| line.starts_with("Group created"));
    }
    let page = env.metrics().get("/metrics");
    assert_eq!(page.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for label in [
        r#"q\"uote"#,
        r"back\\\\slash",
        "größe 雪",
        r#"{a=\"b\"} 1"#,
        r"\\xff\\xfe",
        r"\\\\xff\\\\xfe",
        r"\\u{1b}[31m",
    ] {
        let line = format!("kvs_group_pairs{{group=\"{label}\"}} 0");
        assert!(page.body.lines().any(|seen| seen == line), "{line}\n{}", page.body);
    }
    promtool(&page.body);
}

#[test]
fn no_response_contains_a_secret_key_or_value() {
    let env = metrics_env();
    let app = env.connect();
    app.put("k3y-of-a-pair", "v4lue-of-a-pair").expect("there is room");
    app.watch("k3y-of-a-pair", |_| {}).expect("it exists");
    assert!(env.try_connect(GROUP, "wr0ng-secret").is_err());
    for path in ["/", "/style.css", "/script.js", "/icon.svg", "/metrics", "/api/status", "/none"] {
        let HttpResponse { headers, body, .. } = env.metrics().get(path);
        let said = format!("{headers:?}\n{body}");
        for hidden in [env.secret(), "k3y-of", "v4lue-of", "wr0ng"] {
            assert!(!said.contains(hidden), "{path} has {hidden:?}:\n{said}");
        }
    }
}

#[test]
fn status_lists_every_application() {
    let env = metrics_env();
    let app = driver(&env, Protocol::V2);
    assert_eq!((app.put("k", "v"), app.call("register_callback k")), (1, 1));
    drop(env.connect());
    let status = until("the second one has gone", || {
        let status = env.metrics().status();
        let connected = status["totals"]["applications"].as_u64();
        (connected == Some(1) && status["applications"].as_array()?.len() == 2).then_some(status)
    });
    let apps = &status["applications"];
    assert_eq!(apps[0]["pid"].as_i64(), Some(app.pid().into()));
    assert_eq!((&apps[0]["connected"], &apps[0]["closed_at"]), (&true.into(), &().into()));
    assert_eq!((&apps[0]["watches"], &apps[0]["session"]), (&1.into(), &"framed".into()));
    assert_eq!((&apps[1]["connected"], &apps[1]["watches"]), (&false.into(), &0.into()));
    for time in [&apps[0]["connected_at"], &apps[1]["closed_at"], &status["started_at"]] {
        // 2026-11-22T06:26:08Z
        let time = time.as_str().expect("it is a time");
        assert!(time.len() == 20 && &time[10..11] == "T" && time.ends_with('Z'), "{time}");
    }
    assert_eq!((&status["auth"]["up"], &status["groups"][0]["pairs"]), (&true.into(), &1.into()));
}
