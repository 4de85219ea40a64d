//! The metrics of the local server (`--metrics`), and its resistance to hostile HTTP clients.
//!
//! - `counts.rs`: every metric, by real programs in both protocols.
//! - `http.rs`: who may send requests, and that slow and hostile clients have no effect.
//! - `page.rs`: the page for people, in a real browser.

#![forbid(unsafe_code)]

mod counts;
mod http;
mod page;

use kvs_testkit::TestEnv;

/// Both servers with metrics over HTTP.
fn metrics_env() -> TestEnv {
    TestEnv::builder().metrics().start()
}
