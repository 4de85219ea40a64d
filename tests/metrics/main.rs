//! What the local server counts and shows with `--metrics`, and that it costs and harms nobody.
//!
//! - `counts.rs`: every metric changes as it should, by real programs in both kinds of session.
//! - `http.rs`: who may ask, and what slow and hostile clients can do: nothing.
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
