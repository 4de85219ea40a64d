//! Which HTTP requests are accepted, and that slow and hostile clients have no effect.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{
    AT_ONCE, AuthServer, GROUP, LocalServer, MetricsClient, StopOnDrop, TestEnv, until,
};

use crate::metrics_env;

/// The maximum number of connections that are served concurrently.
const CONNECTIONS: usize = 64;

/// The allowed growth of the server during an attack, in KiB: some buffers for each connection.
const GROWTH: u64 = 16 * 1024;

/// Sends these bytes on a new connection. Returns all bytes up to its end.
fn answer_to(site: &MetricsClient, request: &[u8]) -> String {
    let mut stream = site.connect().expect("there is room");
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(request);
    read_all(&mut stream)
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends the connection, too.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(site: &MetricsClient, path: &str, host: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    answer_to(site, request.as_bytes())
}

#[test]
fn metrics_thread_and_port_exist_only_with_the_option() {
    let auth = AuthServer::start();
    let off = LocalServer::start(&auth);
    off.create_group(GROUP);
    assert!(!off.thread_names().contains(&"metrics".to_owned()));
    assert_eq!(off.tcp_sockets(), 0);
    assert!(!off.log_lines().iter().any(|line| line.contains("metrics")));
    // The same check finds the thread and the port when metrics are on.
    let env = metrics_env();
    assert_eq!(env.server.thread_names().iter().filter(|name| *name == "metrics").count(), 1);
    assert_eq!(env.server.tcp_sockets(), 1);
}

#[test]
fn only_loopback_addresses_are_accepted() {
    let auth = AuthServer::start();
    for address in ["0.0.0.0:1", "192.0.2.1:9464", "[::]:9464"] {
        let server = LocalServer::builder(auth.addr()).args(["--metrics", address]).spawn();
        assert_eq!(server.wait_exit().code(), Some(2), "{address}");
        let said = server.finish().stderr.join("\n");
        for part in [address, "only a loopback address", "ssh -L", "reverse proxy"] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }
    for address in ["127.0.0.1", "example.org:9464", "127.0.0.1:x", ":9464"] {
        let server = LocalServer::builder(auth.addr()).args(["--metrics", address]).spawn();
        assert_eq!(server.wait_exit().code(), Some(2), "{address}");
    }
    let server = LocalServer::builder(auth.addr()).env("KVS_METRICS", "localhost:0").start();
    assert_eq!(MetricsClient::of(&server).get("/metrics").status, 200);
}

#[test]
fn metrics_port_in_use_fails_the_start() {
    let env = metrics_env();
    let address = env.metrics().address().to_string();
    let other = LocalServer::builder("127.0.0.1:1").args(["--metrics", &address]).spawn();
    assert_eq!(other.wait_exit().code(), Some(1));
    let said = other.finish().stderr.join("\n");
    assert!(
        said.starts_with(&format!("KVS-LocalServer: cannot serve metrics on {address}: ")),
        "{said}"
    );
}

#[test]
fn only_get_and_head_with_a_local_host_name_are_accepted() {
    let env = metrics_env();
    let site = env.metrics();
    let port = site.address().port();
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        &format!("localhost:{port}"),
        &format!("127.0.0.1:{port}"),
    ] {
        assert!(get(site, "/api/status", host).starts_with("HTTP/1.1 200 "), "{host}");
    }
    // A foreign name that resolves to this host (DNS rebinding).
    for host in
        ["example.org", "localhost.example.org", "192.0.2.1", "127.0.0.1.example.org:80", ""]
    {
        for path in ["/", "/metrics", "/api/status"] {
            let answer = get(site, path, host);
            assert!(
                answer.starts_with("HTTP/1.1 403 ") && !answer.contains("kvs_"),
                "{host}: {answer}"
            );
        }
    }
    let none = answer_to(site, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    let two =
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\nConnection: close\r\n\r\n";
    for answer in [none, answer_to(site, two)] {
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let request =
            format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = answer_to(site, request.as_bytes());
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET, HEAD\r\n"),
            "{answer}"
        );
    }
    let head =
        answer_to(site, b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(site.get("/nothing").status, 404);
}

#[test]
fn every_response_has_a_strict_content_policy() {
    let env = metrics_env();
    for path in ["/", "/metrics", "/api/status", "/nothing"] {
        let headers = env.metrics().get(path).headers;
        assert!(
            headers["content-security-policy"].starts_with("default-src 'self'; "),
            "{headers:?}"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
        assert!(!headers.keys().any(|name| name.starts_with("access-control")), "{headers:?}");
    }
}

/// The threads, descriptors and memory of the server.
fn taken(server: &LocalServer) -> (usize, usize, u64) {
    (server.threads(), server.open_descriptors(), server.resident_kib())
}

/// Runs an attack while an application works, and asserts that the application is served and that
/// the server does not grow. The result of the attack stays open until then.
fn attack<T>(env: &TestEnv, attack: impl FnOnce(&MetricsClient) -> T) {
    let app = env.connect();
    app.put("k", "v").expect("there is room");
    // The first scrape makes the allocations that are made only once.
    env.metrics().scrape();
    let before = taken(&env.server);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let ending = StopOnDrop(&ended);
        let worker = scope.spawn(|| {
            let (mut slowest, mut count) = (Duration::ZERO, 0);
            while !ended.load(Ordering::Relaxed) || count < 1000 {
                let begin = Instant::now();
                assert_eq!(app.get("k").expect("it is served"), Some(b"v".to_vec()));
                slowest = slowest.max(begin.elapsed());
                count += 1;
            }
            (slowest, count)
        });
        let kept = attack(env.metrics());
        let during = taken(&env.server);
        drop(ending);
        let (slowest, count) = worker.join().expect("the application is served");
        println!(
            "{count} operations, the slowest {slowest:?}; before {before:?}, during {during:?}"
        );
        assert!(slowest < AT_ONCE, "an operation took {slowest:?}");
        assert_eq!(during.0, before.0, "threads");
        assert!(during.1 <= before.1 + CONNECTIONS, "{} descriptors after {}", during.1, before.1);
        assert!(during.2 <= before.2 + GROWTH, "{} KiB after {}", during.2, before.2);
        drop(kept);
    });
    // The server recovers as soon as the attackers have closed.
    assert_eq!(env.metrics().get("/metrics").status, 200);
}

#[test]
fn slow_http_connections_are_harmless() {
    let env = metrics_env();
    attack(&env, |site| {
        // The kernel refuses connections beyond its backlog.
        let mut all: Vec<_> = (0..200).filter_map(|_| site.connect().ok()).collect();
        assert!(all.len() > CONNECTIONS);
        for part in ["GET / HT", "TP/1.1\r\nHo", "st: localhost\r\nX-Slow: "] {
            for stream in &mut all {
                let _ = stream.write_all(part.as_bytes());
            }
        }
        until("as many as there are places are served", || {
            (env.server.tcp_sockets() == CONNECTIONS + 1).then_some(())
        });
        all
    });
}

#[test]
fn incomplete_requests_and_idle_connections_time_out() {
    let env = metrics_env();
    let begin = Instant::now();
    let mut slow = env.metrics().connect().expect("there is room");
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").expect("it is open");
    let mut idle = env.metrics().connect().expect("there is room");
    idle.write_all(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    let served = read_all(&mut idle);
    assert!(served.starts_with("HTTP/1.1 200 "), "{served}");
    read_all(&mut slow);
    let took = begin.elapsed();
    assert!((3..15).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn large_heads_and_bodies_are_not_buffered() {
    let env = metrics_env();
    attack(&env, |site| {
        for _ in 0..20 {
            let long =
                [&b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "[..], &vec![b'x'; 1 << 20]].concat();
            let answer = answer_to(site, &long);
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
            let many =
                format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1000));
            let answer = answer_to(site, many.as_bytes());
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
            let body = [
                &b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
                    [..],
                &vec![b'x'; 1 << 20],
            ];
            let answer = answer_to(site, &body.concat());
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 405 "), "{answer}");
            answer_to(site, &[0xff; 10_000]);
        }
    });
}

#[test]
fn http_clients_that_do_not_read_are_harmless() {
    let env = metrics_env();
    for n in 0..100 {
        env.server.create_group(&format!("group number {n} {}", "x".repeat(60)));
    }
    attack(&env, |site| {
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
        let mut all: Vec<_> = (0..CONNECTIONS).filter_map(|_| site.connect().ok()).collect();
        for stream in &mut all {
            let timeout = Some(Duration::from_millis(50));
            stream.set_write_timeout(timeout).expect("it is not zero");
            let _ = stream.write_all(&request);
        }
        until("all are served", || (env.server.tcp_sockets() == CONNECTIONS + 1).then_some(()));
        // Any number of such connections leaves other clients served.
        all.extend((0..100).filter_map(|_| site.connect().ok()));
        assert!(site.scrape().get("kvs_groups") > 100.0);
        all
    });
}

#[test]
fn concurrent_requests_share_one_snapshot() {
    let env = metrics_env();
    let app = env.connect();
    app.put("k", "v").expect("there is room");
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(env.metrics().scrape().get("kvs_pairs"), 1.0);
                }
            });
        }
    });
    // Sequential scrapes of a tenth of a second each would take 9.6 s.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // Each response reflects a moment after its request.
    for n in 2..20 {
        app.put(format!("k{n}"), "v").expect("there is room");
        assert_eq!(env.metrics().scrape().get("kvs_pairs"), f64::from(n));
    }
}

#[test]
fn server_quits_with_open_http_connections() {
    let env = metrics_env();
    let mut idle = env.metrics().connect().expect("there is room");
    idle.write_all(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    let mut begun = env.metrics().connect().expect("there is room");
    begun.write_all(b"GET / HT").expect("it is open");
    let mut first = [0; 15];
    idle.read_exact(&mut first).expect("it is answered");
    let begin = Instant::now();
    env.server.quit();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(env.metrics().connect().is_err(), "nothing listens");
    let log = env.server.finish().stderr.join("\n");
    assert!(!log.contains("metrics are no longer served") && !log.contains("panic"), "{log}");
}

#[test]
fn idle_metrics_use_no_processor_time() {
    let env = metrics_env();
    let app = env.connect();
    app.put("k", "v").expect("there is room");
    assert_eq!(env.metrics().get("/metrics").status, 200);
    let before = env.server.cpu_ticks();
    // The promise is the absence of events, so it is measured over real time.
    thread::sleep(Duration::from_secs(8));
    let used = env.server.cpu_ticks() - before;
    assert!(used <= 2, "{used} clock ticks");
}

#[test]
fn failure_of_the_metrics_thread_is_logged_and_harmless() {
    let auth = AuthServer::start();
    // The number of descriptors suffices for the server and not for the metrics thread, which
    // starts last.
    let failed = (10..40).rev().find_map(|descriptors| {
        let server = LocalServer::builder(auth.addr()).args(["--metrics", "127.0.0.1:0"]);
        let server = server.descriptors(descriptors).spawn();
        let is_serving = until("it serves or ends", || {
            let log = server.log_lines();
            let said = |what: &str| log.iter().any(|line| line.contains(what));
            match server.exit_status() {
                Some(_) => Some(None),
                None if said("metrics are no longer served") => Some(Some(true)),
                None if said("metrics on") => Some(Some(false)),
                None => None,
            }
        });
        (is_serving == Some(true)).then_some(server)
    });
    let server = failed.expect("there is such a number");
    let log = server.log_lines().join("\n");
    assert!(log.contains("ERROR") && log.contains("Too many open files"), "{log}");
    server.expect_line_where("`Port Number: N`", |line| line.starts_with("Port Number: "));
    assert_eq!(server.lines_of("Show application status"), [""; 0]);
    server.quit();
}
