//! A client of the HTTP pages that the local server has with `--metrics`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::process::Process;
use crate::wait::{DEADLINE, until};

/// The HTTP pages of one local server.
#[derive(Debug, Clone)]
pub struct MetricsClient {
    address: SocketAddr,
    agent: ureq::Agent,
}

/// A response.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

/// All values of `/metrics` at one moment, by name and labels as written there.
#[derive(Debug, Clone)]
pub struct Scrape(BTreeMap<String, f64>);

impl MetricsClient {
    /// The pages of a server that was started with `--metrics`. Waits until it logs their address.
    ///
    /// # Panics
    /// If it does not log the address.
    pub fn of(server: &Process) -> Self {
        let line =
            server.expect_log("`metrics on …`", |line| line.contains("metrics on http://"));
        let address = line.split("http://").nth(1).and_then(|rest| rest.strip_suffix('/'));
        let address = address.and_then(|address| address.parse().ok());
        Self::at(address.unwrap_or_else(|| panic!("an address in {line:?}")))
    }

    /// The pages at this address.
    pub fn at(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .build();
        Self { address, agent: config.into() }
    }

    /// Their address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Requests a path.
    ///
    /// # Panics
    /// If there is no response.
    pub fn get(&self, path: &str) -> HttpResponse {
        let url = self.url(path);
        let fail = |error: ureq::Error| -> ! { panic!("{url}: {error}") };
        let mut response = self.agent.get(&url).call().unwrap_or_else(|error| fail(error));
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().unwrap_or_else(|error| fail(error));
        HttpResponse { status, headers, body }
    }

    /// Requests all metrics.
    ///
    /// # Panics
    /// If the page is malformed.
    pub fn scrape(&self) -> Scrape {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200, "{}", page.body);
        let lines = page.body.lines().filter(|line| !line.starts_with('#'));
        let parse = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let value = value.parse().unwrap_or_else(|_| panic!("a number in {line:?}"));
            (name.to_owned(), value)
        };
        let values: Vec<(String, f64)> = lines.map(parse).collect();
        let count = values.len();
        let scrape = Scrape(values.into_iter().collect());
        assert_eq!(scrape.0.len(), count, "a metric occurs twice:\n{}", page.body);
        scrape
    }

    /// Waits until a metric has this value: the server may count after it has sent its response.
    ///
    /// # Panics
    /// If the metric keeps another value.
    pub fn expect(&self, name: &str, value: f64) {
        let mut last = None;
        let what = format!("{name} is {value}");
        until(&what, || {
            let now = self.scrape().find(name);
            if now != last {
                println!("{name}: {now:?}");
                last = now;
            }
            (now == Some(value)).then_some(())
        });
    }

    /// Requests the status that the page displays.
    ///
    /// # Panics
    /// If the response is not JSON.
    pub fn status(&self) -> serde_json::Value {
        let page = self.get("/api/status");
        assert_eq!(page.status, 200, "{}", page.body);
        serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{error}: {}", page.body))
    }

    /// Opens a connection for raw or malformed HTTP.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(stream)
    }
}

impl Scrape {
    /// The value of a metric, such as `kvs_groups` or `kvs_group_pairs{group="g"}`.
    pub fn find(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The value of an existing metric.
    ///
    /// # Panics
    /// If it does not exist.
    pub fn get(&self, name: &str) -> f64 {
        self.find(name).unwrap_or_else(|| panic!("there is no {name} among {:#?}", self.0))
    }

    /// All metrics whose names begin with `prefix`.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let named = self.0.iter().map(|(name, value)| (name.as_str(), *value));
        named.filter(move |(name, _)| name.starts_with(prefix))
    }
}
