//! What the local server shows over HTTP when it is started with `--metrics`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};

use crate::{DEADLINE, LocalServer, Process, until};

/// The pages of one server.
#[derive(Debug, Clone)]
pub struct Site {
    address: SocketAddr,
    agent: ureq::Agent,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its status code.
    pub status: u16,
    /// Its headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What it says.
    pub body: String,
}

/// What `/metrics` says at one moment: the values by name and labels, as they are written there.
#[derive(Debug, Clone)]
pub struct Scrape(BTreeMap<String, f64>);

impl Site {
    /// That of a server which was started with `--metrics 127.0.0.1:0`, or another port. Waits until it says where.
    ///
    /// # Panics
    /// When it does not.
    pub fn of(server: &LocalServer) -> Self {
        let line =
            server.expect_log("`metrics on …`", |line| line.contains("metrics on http://"));
        let address = line.split("http://").nth(1).and_then(|rest| rest.strip_suffix('/'));
        let address = address.and_then(|address| address.parse().ok());
        Self::at(address.unwrap_or_else(|| panic!("an address in {line:?}")))
    }

    /// That at an address.
    pub fn at(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .build();
        Self { address, agent: config.into() }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks for a path.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn get(&self, path: &str) -> Page {
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
        Page { status, headers, body }
    }

    /// All metrics, now.
    ///
    /// # Panics
    /// When they are not what they should be.
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
        assert_eq!(scrape.0.len(), count, "a metric stands there twice:\n{}", page.body);
        scrape
    }

    /// Waits until a metric has this value: what happens after an answer is out is not told by any event.
    ///
    /// # Panics
    /// When it does not come to that.
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

    /// What the page asks for.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn status(&self) -> serde_json::Value {
        let page = self.get("/api/status");
        assert_eq!(page.status, 200, "{}", page.body);
        serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{error}: {}", page.body))
    }

    /// A connection, for whoever wants to speak HTTP byte by byte, or badly.
    ///
    /// # Panics
    /// When the system does not let it be set up.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream =
            TcpStream::connect_timeout(&self.address, std::time::Duration::from_millis(200))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(stream)
    }
}

impl Scrape {
    /// The value of a metric, as in `kvs_groups` or `kvs_group_pairs{group="g"}`.
    pub fn find(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The value of a metric that must be there.
    ///
    /// # Panics
    /// When it is not.
    pub fn get(&self, name: &str) -> f64 {
        self.find(name).unwrap_or_else(|| panic!("there is no {name} among {:#?}", self.0))
    }

    /// All metrics whose name begins with this.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let named = self.0.iter().map(|(name, value)| (name.as_str(), *value));
        named.filter(move |(name, _)| name.starts_with(prefix))
    }
}

impl Process {
    /// The names of its threads, as the kernel has them.
    ///
    /// # Panics
    /// When it has ended.
    pub fn thread_names(&self) -> Vec<String> {
        let path = format!("/proc/{}/task", self.pid());
        let tasks = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // One that has ended meanwhile has no name any more.
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect()
    }

    /// How many TCP sockets it has, listening or not.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tcp_sockets(&self) -> usize {
        let tables: String = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| std::fs::read_to_string(table).ok())
            .collect();
        // The tenth field is the inode.
        let inodes: Vec<&str> =
            tables.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
        let path = format!("/proc/{}/fd", self.pid());
        let open = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets
            .filter(|target| {
                let target = target.to_string_lossy();
                let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
                inode.is_some_and(|inode| inodes.contains(&inode))
            })
            .count()
    }
}
