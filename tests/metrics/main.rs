//! What the local server counts and shows with `--metrics`, and that it costs and harms nobody.
//!
//! - `counts.rs`: every metric changes as it should, by real programs in both kinds of session.
//! - `http.rs`: who may ask, and what slow and hostile clients can do: nothing.
//! - `page.rs`: the page for people, in a real browser.

#![forbid(unsafe_code)]

mod counts;
mod http;
mod page;

use kvs_testkit::{AuthServer, LocalServer, LocalServerBuilder, MetricsClient, Sockets};

/// A server with metrics and one group.
struct Scene {
    server: LocalServer,
    auth: AuthServer,
    secret: String,
    site: MetricsClient,
}

const GROUP: &str = "g";

impl Scene {
    fn new() -> Self {
        Self::with(|server| server)
    }

    fn with(configure: impl FnOnce(LocalServerBuilder) -> LocalServerBuilder) -> Self {
        let auth = AuthServer::start();
        let server = LocalServer::builder(auth.addr()).args(["--metrics", "127.0.0.1:0"]);
        let server = configure(server).start();
        let secret = server.create_group(GROUP);
        let site = MetricsClient::of(&server);
        Self { server, auth, secret, site }
    }

    /// A Rust program.
    fn connect(&self) -> kvs::Connection {
        self.try_connect(GROUP, &self.secret).expect("the secret is right")
    }

    fn try_connect(&self, group: &str, secret: &str) -> Result<kvs::Connection, kvs::Error> {
        kvs::Connection::builder()
            .socket(self.server.socket())
            .callback_socket(self.server.callback_socket())
            .open(group, secret)
    }
}
