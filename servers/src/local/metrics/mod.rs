//! What the server counts, and the pages that show it: `/metrics` for Prometheus, `/` for people.
//!
//! All of it is off unless `--metrics` names an address. Then there are:
//!
//! - `counts`: the counters. Each reactor has its own, which it alone writes, so that counting takes no lock and no
//!   instruction that other processors have to wait for (but for changes, which are counted where a lock is held anyway). Sessions name what has happened, and know nothing of
//!   Prometheus. With metrics off there is nothing behind their [`Metrics`]: they pay a branch, and read no clock.
//! - `snapshot`: how things stand, counters and groups, gathered when somebody asks. `exposition` and `status` put it
//!   into words: the text format of Prometheus, and JSON for the page.
//! - `http`: the thread that answers. `page/`: what a browser is given.
//!
//! **Who may read it.** Only a loopback address is accepted, as there are neither passwords nor encryption: but on this
//! machine everybody can. So nothing of a pair is shown, neither key nor value, and no secret: group names, process ids,
//! times and numbers.
//!
//! **The one asynchronous runtime.** The rest of this project has none, as its protocols are two, and its own. HTTP is
//! neither: a server for it is written in years, not in an afternoon, and those who attack one know the corners. So
//! hyper speaks it, on tokio, in one thread ("metrics"), which is there only with the option. Nobody waits for
//! that thread; when it fails, that is logged, and the applications notice nothing.

mod counts;
mod exposition;
mod http;
mod snapshot;
mod status;

use std::sync::Arc;

pub(crate) use counts::{AuthCounts, ChangeCounts, Login, Metrics, Tally};
pub(crate) use http::{DESCRIPTORS, Listener, Serving};
pub(crate) use snapshot::About;

pub use http::BindError;

use counts::Counts;

/// All counters of a server, made before its threads are; without them it counts nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct All(Option<Arc<Counts>>);

impl All {
    /// Counters for so many reactors.
    pub(crate) fn new(reactors: usize) -> Self {
        Self(Some(Arc::new(Counts::new(reactors))))
    }

    /// Those of one reactor, for its thread alone. Without them when there are not so many.
    pub(crate) fn of_reactor(&self, number: usize) -> Metrics {
        self.0.as_ref().map_or_else(Metrics::default, |all| Metrics::new(all, number))
    }

    /// Those of the link to the authentication server.
    pub(crate) fn of_auth(&self) -> AuthCounts {
        self.0.as_ref().map_or_else(AuthCounts::default, |all| all.auth.clone())
    }
}
