//! The pages that the HTTP server serves.
//!
//! The groups are read at most once in [`SNAPSHOT_INTERVAL`], however many requests arrive:
//! requests that arrive in between wait for the next snapshot and share it.
//!
//! **Browsers.** Any page of the Internet may make a browser on this machine send requests here. It
//! cannot read the responses, which have no CORS headers. A name of its own that it resolves to
//! this machine (DNS rebinding) appears in the Host header, where only `localhost` and loopback
//! addresses are accepted. HTTP changes nothing: there is only GET and HEAD. The page may load
//! nothing from elsewhere (Content-Security-Policy).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::counters::AllCounters;
use super::snapshot::{ServerInfo, Snapshot};
use super::{exposition, status};
use crate::local::group::registry::Groups;
use crate::local::limits::quota::Quotas;

/// The least time between two snapshots.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(100);

/// The headers of every response.
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

/// The pages, and what they show.
#[derive(Debug)]
pub(super) struct Site {
    info: Arc<ServerInfo>,
    counters: Arc<AllCounters>,
    groups: Arc<Groups>,
    quotas: Arc<Quotas>,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Site {
    pub(super) fn new(
        info: ServerInfo,
        counters: Arc<AllCounters>,
        groups: Arc<Groups>,
        quotas: Arc<Quotas>,
    ) -> Self {
        Self { info: Arc::new(info), counters, groups, quotas, last: Mutex::default() }
    }

    /// The response to a request.
    pub(super) async fn respond(&self, request: &Request<Incoming>) -> Response<String> {
        let method = request.method();
        let mut response = if !is_for_this_machine(request) {
            refusal(
                StatusCode::FORBIDDEN,
                "Use a loopback name of this machine, with the port: http://localhost, 127.0.0.1 \
                 or [::1].",
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
            _ => return refusal(StatusCode::NOT_FOUND, "No such page. Try / or /metrics."),
        };
        with_type(StatusCode::OK, kind, body)
    }

    /// A snapshot taken after this call.
    async fn snapshot(&self) -> Arc<Snapshot> {
        let requested = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((taken, snapshot)) = &*last {
            if *taken >= requested {
                return Arc::clone(snapshot);
            }
            sleep_until(*taken + SNAPSHOT_INTERVAL).await;
        }
        let taken = Instant::now();
        let snapshot = Snapshot::take(&self.info, &self.counters, &self.groups, &self.quotas);
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

fn refusal(status: StatusCode, reason: &str) -> Response<String> {
    with_type(status, "text/plain; charset=utf-8", format!("{reason}\n"))
}

fn failure(error: &dyn std::error::Error) -> Response<String> {
    tracing::error!("cannot format metrics: {error}");
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The response could not be formatted; the log of the server has the reason.",
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

/// Whether `host`, with or without a port, is a loopback name.
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
    fn only_loopback_names_are_accepted() {
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
