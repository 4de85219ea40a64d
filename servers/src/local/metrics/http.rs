//! The thread that answers over HTTP.
//!
//! Whoever asks is a program or a browser of this machine, and may be slow or hostile: so everything is bounded.
//! [`CONNECTIONS`] at once, the oldest of which is closed for another one, so that nobody can keep others out; a head of [`MOST_HEAD`] bytes, within [`HEAD_PATIENCE`], which is
//! also how long a connection may do nothing; [`CONNECTION_LIFE`] for all of it, so that one that does not take its
//! answer ends, too. The groups are looked at once in [`PAUSE`] at most, however many ask: who comes in between
//! waits for the next look, and all who wait get the same one. While nobody asks, the thread sleeps.
//!
//! **Browsers.** Any page of the Internet may make a browser on this machine send requests here. It may not read the
//! answers, as they come without CORS headers; and a name of its own that it lets lead here (DNS rebinding) stands in
//! the Host header, where only `localhost` and loopback addresses are accepted. Nothing can be changed over HTTP: there
//! is only GET and HEAD. The page may load nothing from elsewhere (Content-Security-Policy).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::counts::Counts;
use super::snapshot::{About, Snapshot};
use super::{All, exposition, status};
use crate::local::group::registry::Groups;
use crate::local::limits::quota::Quotas;
use crate::log_limiter::LogLimiter;

/// Connections at once.
const CONNECTIONS: usize = 64;

/// The descriptors that this thread needs.
pub(crate) const DESCRIPTORS: u64 = CONNECTIONS as u64 + 8;

/// The bytes of the request line and all headers.
const MOST_HEAD: usize = 16 * 1024;

/// The headers of a request.
const MOST_HEADERS: usize = 64;

/// How long a request may take to come, from when it may.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long one connection is served.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// How long the answer under way may take after that, or when the server ends.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// The time between two looks at the groups.
const PAUSE: Duration = Duration::from_millis(100);

/// How long accepting pauses when the system has no descriptor or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Sent with every answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "metrics cannot be served on {address}: {source}. Choose another --metrics address, or port 0 for a free one"
)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// A listening socket that nobody serves yet.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// When the address is taken, or is none of this machine's.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bind = || {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|source| BindError { address, source })
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub(crate) fn serve(
        self,
        about: About,
        counts: All,
        groups: Arc<Groups>,
        quotas: Arc<Quotas>,
    ) -> io::Result<Serving> {
        let (stop, stopped) = watch::channel(());
        let counts = counts.0.unwrap_or_else(|| Arc::new(Counts::new(0)));
        let site = Site { about: Arc::new(about), counts, groups, quotas, last: Mutex::default() };
        let Self { socket, address } = self;
        let thread = thread::Builder::new().name("metrics".into()).spawn(move || {
            // Nobody shares anything with it that a panic could leave half done: it only reads.
            match catch_unwind(AssertUnwindSafe(|| run(socket, address, site, stopped))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("no more metrics: {error}"),
                Err(_) => tracing::error!("no more metrics: their thread has ended by a panic"),
            }
        })?;
        Ok(Serving { stop, thread })
    }
}

/// The thread, as the server sees it. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
}

impl Serving {
    /// Ends it, after the answers that are under way.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // A panic was caught in it, and logged.
        let _ = self.thread.join();
    }
}

/// The whole life of the thread.
fn run(
    socket: TcpListener,
    address: SocketAddr,
    site: Site,
    mut stopped: watch::Receiver<()>,
) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(socket)?;
        tracing::info!("metrics on http://{address}/");
        let site = Arc::new(site);
        let mut tasks = JoinSet::new();
        // The oldest in front.
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        let (mut logged, mut crowd) = (LogLimiter::default(), LogLimiter::default());
        loop {
            let next = tokio::select! {
                next = listener.accept() => next,
                _ = stopped.changed() => break,
            };
            match next {
                Ok((stream, _)) => {
                    while tasks.try_join_next().is_some() {}
                    open.retain(|connection| !connection.is_finished());
                    if open.len() >= CONNECTIONS {
                        if crowd.allow(std::time::Instant::now()) {
                            tracing::warn!(
                                "{CONNECTIONS} connections for metrics at once: the oldest are closed for new ones"
                            );
                        }
                        open.drain(..=open.len() - CONNECTIONS).for_each(|oldest| oldest.abort());
                    }
                    let site = Arc::clone(&site);
                    open.push_back(tasks.spawn(connection(stream, site, stopped.clone())));
                }
                Err(error) => {
                    if logged.allow(std::time::Instant::now()) {
                        tracing::warn!("no more connections for metrics for now: {error}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // All of them are on their way out. Those that are not by then are dropped with the runtime.
        let _ = timeout(LAST_ANSWER * 2, async { while tasks.join_next().await.is_some() {} }).await;
        Ok(())
    })
}

async fn connection(stream: TcpStream, site: Arc<Site>, mut stopped: watch::Receiver<()>) {
    let service = service_fn(|request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MOST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // How it ends is its own affair: peers come and go, and send what they like.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(CONNECTION_LIFE) => {}
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
}

/// What can be asked for.
#[derive(Debug)]
struct Site {
    about: Arc<About>,
    counts: Arc<Counts>,
    groups: Arc<Groups>,
    quotas: Arc<Quotas>,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let method = request.method();
        let mut response = if !is_for_this_machine(request) {
            refusal(
                StatusCode::FORBIDDEN,
                "Only for names of this machine: use http://localhost, 127.0.0.1 or [::1], with the port.",
            )
        } else if method == Method::GET || method == Method::HEAD {
            self.page(request.uri().path()).await
        } else {
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        };
        for (name, value) in HEADERS {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn page(&self, path: &str) -> Response<String> {
        let (kind, body) = match path {
            "/" => ("text/html; charset=utf-8", include_str!("page/index.html").to_owned()),
            "/style.css" => ("text/css; charset=utf-8", include_str!("page/style.css").to_owned()),
            "/script.js" => {
                ("text/javascript; charset=utf-8", include_str!("page/script.js").to_owned())
            }
            "/icon.svg" => ("image/svg+xml", include_str!("page/icon.svg").to_owned()),
            "/metrics" => match exposition::text(&self.snapshot().await) {
                Ok(text) => (exposition::CONTENT_TYPE, text),
                Err(error) => return failure(&error),
            },
            "/api/status" => match status::json(&*self.snapshot().await) {
                Ok(text) => ("application/json", text),
                Err(error) => return failure(&error),
            },
            _ => return refusal(StatusCode::NOT_FOUND, "Nothing here. Try / or /metrics."),
        };
        with_type(StatusCode::OK, kind, body)
    }

    /// How things stand, at some moment since this was asked.
    async fn snapshot(&self) -> Arc<Snapshot> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((taken, snapshot)) = &*last {
            if *taken >= asked {
                return Arc::clone(snapshot);
            }
            sleep_until(*taken + PAUSE).await;
        }
        let taken = Instant::now();
        let snapshot = Snapshot::take(&self.about, &self.counts, &self.groups, &self.quotas);
        let snapshot = Arc::new(snapshot);
        *last = Some((taken, Arc::clone(&snapshot)));
        snapshot
    }
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn refusal(status: StatusCode, why: &str) -> Response<String> {
    with_type(status, "text/plain; charset=utf-8", format!("{why}\n"))
}

fn failure(error: &dyn std::error::Error) -> Response<String> {
    tracing::error!("metrics could not be written: {error}");
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "This answer could not be written; the log says why.",
    )
}

/// Whether the one Host header names this machine itself.
fn is_for_this_machine(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_loopback),
        _ => false,
    }
}

/// `host`, with or without a port.
fn is_loopback(host: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_this_machine_are_accepted() {
        for host in [
            "localhost",
            "LocalHost:9464",
            "127.0.0.1",
            "127.0.0.1:9464",
            "127.9.8.7:1",
            "[::1]",
            "[::1]:9464",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org:9464",
            "192.0.2.1",
            "[::2]:9464",
            "[::1",
            "[::1]x",
            "::1",
            "localhost:x",
            "localhost:",
            "127.1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
