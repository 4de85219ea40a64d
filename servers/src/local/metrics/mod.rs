//! Counters of the server, and the pages that show them: `/metrics` for Prometheus, `/` for people.
//!
//! All of it is off unless `--metrics` names an address.
//!
//! | module | what it does |
//! |---|---|
//! | `recorder` | the counters of one reactor, and `OpRecorder`, which counts operations |
//! | `events`, `link` | the counters of change events and of the link |
//! | `counters` | all of them, and each thread's access to its own |
//! | `labels` | the label values, which are part of the interface |
//! | `snapshot` | counters, groups and users at one moment, copied on request |
//! | `exposition`, `status` | a snapshot in the Prometheus text format, and as JSON for the page |
//! | `site` | the pages that the HTTP server serves |
//! | `http` | the thread that serves HTTP |
//! | `page/` | the files for the browser |
//!
//! Each reactor has its own counters, which only its thread writes: counting takes no lock and no
//! instruction that other processors wait for. The exception are change events, which are counted
//! while a lock is held anyway. Sessions report what has happened and know nothing of Prometheus.
//! With metrics off there are no counters behind `Metrics`: a session pays one branch and reads no
//! clock.
//!
//! **Access.** There are no passwords and no encryption, so only a loopback address is accepted;
//! but every user of this machine can read the pages. So they show group names, process ids, times
//! and numbers, and neither keys, values nor secrets.
//!
//! **The only asynchronous runtime.** The project speaks its own protocols without one. HTTP is a
//! protocol whose servers take years to get right, so hyper speaks it, on tokio, in one thread
//! ("metrics") that exists only with the option. No other thread waits for it; when it fails, the
//! failure is logged and applications are not affected.

pub(crate) mod counters;
pub(crate) mod events;
mod exposition;
pub(crate) mod http;
pub(crate) mod labels;
pub(crate) mod link;
pub(crate) mod recorder;
mod site;
pub(crate) mod snapshot;
mod status;
