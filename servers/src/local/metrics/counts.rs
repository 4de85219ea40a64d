//! The counters.
//!
//! Those of a reactor have one writer, its thread, and any number of readers. So one more is a load and a store, both
//! relaxed: nothing is lost, as nobody else stores, and a reader sees each counter as it was a moment ago. Counters
//! are not read all at the same moment: a reader may find an operation counted, and its latency not yet.
//!
//! Changes are counted in one place for all, with atomic additions: whoever makes a change counts it for whoever is
//! told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use kvs_proto::v2::request::RequestKind;
use kvs_proto::v2::response::Status;

use crate::local::session::close_reason::CloseReason;

/// One counter of a reactor, written by its thread only.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The kinds of operations, in the order of their counters.
pub(super) const OPERATIONS: [&str; 8] =
    ["get", "put", "delete", "put_many", "keys", "watch", "unwatch", "unknown"];

fn operation(kind: RequestKind) -> usize {
    match kind {
        RequestKind::Get => 0,
        RequestKind::Put => 1,
        RequestKind::Delete => 2,
        RequestKind::PutMany => 3,
        RequestKind::Keys => 4,
        RequestKind::Watch => 5,
        RequestKind::Unwatch => 6,
        RequestKind::Close | RequestKind::Unknown => 7,
    }
}

/// How operations go, in the order of their counters.
pub(super) const RESULTS: [&str; 6] =
    ["ok", "not_found", "conflict", "too_large", "limit", "unknown"];

fn result(status: Status) -> usize {
    match status {
        Status::Ok | Status::Welcome => 0,
        Status::NoSuchKey => 1,
        Status::Conflict => 2,
        Status::TooLarge => 3,
        Status::Limit => 4,
        Status::Unknown => 5,
    }
}

/// Whether such an operation can end so.
pub(super) fn is_possible(operation: usize, result: usize) -> bool {
    let (operation, result) = (OPERATIONS[operation], RESULTS[result]);
    match result {
        "ok" => operation != "unknown",
        "not_found" => matches!(operation, "get" | "delete" | "watch" | "unwatch"),
        "conflict" => matches!(operation, "put" | "delete"),
        "limit" => matches!(operation, "get" | "put" | "put_many" | "watch"),
        "too_large" => true,
        _ => operation == "unknown",
    }
}

/// The upper bounds of the buckets, in nanoseconds: 1, 2, 5 times each power of ten from 1 µs to 1 s.
pub(super) const BUCKETS: [u64; 19] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

/// How long operations of one kind have taken.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// By bucket; the last one is that without an upper bound.
    pub(super) buckets: [Count; BUCKETS.len() + 1],
    pub(super) nanoseconds: Count,
}

impl Latencies {
    fn observe(&self, took: Duration, operations: u64) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < nanoseconds);
        self.buckets[bucket].add(operations);
        self.nanoseconds.add(nanoseconds.saturating_mul(operations));
    }
}

/// How a login went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    /// The application is in.
    Ok,
    /// Its user or process has too many connections.
    Limit,
    NoSuchGroup,
    WrongSecret,
    TooManyGuesses,
    TimedOut,
    AuthUnavailable,
    GroupDeleted,
    Malformed,
    /// It went away before the verdict.
    Abandoned,
    /// The server quits.
    Closed,
}

/// In the order of [`Login`].
pub(super) const LOGINS: [&str; 11] = [
    "ok",
    "limit",
    "no_such_group",
    "wrong_secret",
    "too_many_guesses",
    "timed_out",
    "auth_unavailable",
    "group_deleted",
    "malformed",
    "abandoned",
    "closed",
];

const _: () = assert!(LOGINS.len() == Login::Closed as usize + 1);

/// Why a session ends after the login.
pub(super) const ENDS: [&str; 7] =
    ["goodbye", "gone", "malformed", "too_many_changes", "closed", "unresponsive", "no_room"];

fn login_end(why: &CloseReason) -> Login {
    match why {
        CloseReason::NoSuchGroup => Login::NoSuchGroup,
        CloseReason::WrongSecret => Login::WrongSecret,
        CloseReason::TooManyFailedLogins => Login::TooManyGuesses,
        CloseReason::LoginTimeout(_) => Login::TimedOut,
        CloseReason::Unavailable(_) => Login::AuthUnavailable,
        CloseReason::GroupDeleted => Login::GroupDeleted,
        CloseReason::Malformed(_)
        | CloseReason::UnexpectedReply(_)
        | CloseReason::MalformedFrame(_)
        | CloseReason::UnexpectedBytes
        | CloseReason::NotLoggedIn => Login::Malformed,
        CloseReason::ClosedByClient
        | CloseReason::ConnectionLost
        | CloseReason::TableFull
        | CloseReason::TooManyEvents => Login::Abandoned,
        CloseReason::ClosedByServer | CloseReason::CloseTimeout => Login::Closed,
    }
}

fn session_end(why: &CloseReason) -> usize {
    match why {
        CloseReason::ClosedByClient => 0,
        CloseReason::ConnectionLost
        | CloseReason::Unavailable(_)
        | CloseReason::LoginTimeout(_)
        | CloseReason::GroupDeleted => 1,
        CloseReason::Malformed(_)
        | CloseReason::UnexpectedReply(_)
        | CloseReason::MalformedFrame(_)
        | CloseReason::UnexpectedBytes
        | CloseReason::NotLoggedIn
        | CloseReason::NoSuchGroup
        | CloseReason::WrongSecret
        | CloseReason::TooManyFailedLogins => 2,
        CloseReason::TooManyEvents => 3,
        CloseReason::ClosedByServer => 4,
        CloseReason::CloseTimeout => 5,
        CloseReason::TableFull => 6,
    }
}

/// What one reactor counts. No two share a line of a cache.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ReactorCounts {
    pub(super) operations: [[Count; RESULTS.len()]; OPERATIONS.len()],
    pub(super) latencies: [Latencies; OPERATIONS.len()],
    pub(super) logins: [Count; LOGINS.len()],
    pub(super) ends: [Count; ENDS.len()],
}

/// Changes of keys that are watched.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) noted: AtomicU64,
    pub(super) merged: AtomicU64,
    pub(super) sent: AtomicU64,
}

/// The link to the authentication server.
#[derive(Debug, Default)]
pub(super) struct Auth {
    pub(super) is_up: AtomicBool,
    pub(super) retries: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(super) started: SystemTime,
    pub(super) reactors: Box<[ReactorCounts]>,
    pub(super) changes: ChangeCounts,
    pub(super) auth: AuthCounts,
}

impl Counts {
    pub(super) fn new(reactors: usize) -> Self {
        Self {
            started: SystemTime::now(),
            reactors: (0..reactors).map(|_| ReactorCounts::default()).collect(),
            changes: ChangeCounts(Some(Arc::default())),
            auth: AuthCounts(Some(Arc::default())),
        }
    }
}

/// Where one reactor, its sessions and its acceptor count; nothing with metrics off.
///
/// Only the thread of the reactor may count with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(Option<(Arc<Counts>, usize)>);

impl Metrics {
    pub(super) fn new(all: &Arc<Counts>, reactor: usize) -> Self {
        Self((reactor < all.reactors.len()).then(|| (Arc::clone(all), reactor)))
    }

    fn own(&self) -> Option<&ReactorCounts> {
        self.0.as_ref().and_then(|(all, reactor)| all.reactors.get(*reactor))
    }

    /// A login has come to its end.
    pub(crate) fn login(&self, login: Login) {
        if let Some(counts) = self.own() {
            counts.logins[login as usize].add(1);
        }
    }

    /// A session ends, before (`false`) or after its login.
    pub(crate) fn end(&self, why: &CloseReason, is_in: bool) {
        let Some(counts) = self.own() else { return };
        match is_in {
            true => counts.ends[session_end(why)].add(1),
            false => counts.logins[login_end(why) as usize].add(1),
        }
    }

    /// For one turn of a session.
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { counts: self.own(), since: None, served: [0; OPERATIONS.len()], any: false }
    }

    /// For the changes that an application is to be told.
    pub(crate) fn changes(&self) -> ChangeCounts {
        self.0.as_ref().map_or_else(ChangeCounts::default, |(all, _)| all.changes.clone())
    }
}

/// The operations that were carried out and whose answers are not out yet. The clock is read for all of them together: when
/// the requests were read, which the session does anyway, and when the answers are out, or when it is dropped.
#[derive(Debug)]
pub(crate) struct Tally<'a> {
    counts: Option<&'a ReactorCounts>,
    since: Option<Instant>,
    served: [u32; OPERATIONS.len()],
    any: bool,
}

impl Tally<'_> {
    /// Requests were read, now: which is then, if the caller knows.
    pub(crate) fn read(&mut self, now: Option<Instant>) {
        if self.counts.is_some() {
            self.since = Some(now.unwrap_or_else(Instant::now));
        }
    }

    /// When that was.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The next ones were read then, in an earlier turn.
    pub(crate) fn were_read(&mut self, since: Option<Instant>) {
        self.since = since;
    }

    /// An operation was carried out.
    pub(crate) fn count(&mut self, kind: RequestKind, status: Status) {
        if let Some(counts) = self.counts {
            let operation = operation(kind);
            counts.operations[operation][result(status)].add(1);
            self.served[operation] += 1;
            self.any = true;
        }
    }

    /// The answers are with the kernel, or in the queue for it.
    pub(crate) fn written(&mut self) {
        if !self.any {
            return;
        }
        let (Some(counts), Some(since)) = (self.counts, self.since) else { return };
        let took = since.elapsed();
        for (operation, served) in self.served.iter_mut().enumerate() {
            if *served > 0 {
                counts.latencies[operation].observe(took, u64::from(*served));
                *served = 0;
            }
        }
        self.any = false;
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.written();
    }
}

/// Where changes are counted; nothing with metrics off.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangeCounts(pub(super) Option<Arc<Changes>>);

impl ChangeCounts {
    /// A change was noted for an application. `is_merged`: with one of the same key that waits.
    pub(crate) fn noted(&self, is_merged: bool) {
        if let Some(changes) = &self.0 {
            changes.noted.fetch_add(1, Ordering::Relaxed);
            if is_merged {
                changes.merged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A change is on its way to its application.
    pub(crate) fn sent(&self) {
        if let Some(changes) = &self.0 {
            changes.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where the link to the authentication server counts; nothing with metrics off.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuthCounts(pub(super) Option<Arc<Auth>>);

impl AuthCounts {
    /// It has connected for the first time.
    pub(crate) fn connected(&self) {
        if let Some(auth) = &self.0 {
            auth.is_up.store(true, Ordering::Relaxed);
        }
    }

    /// It has tried to connect again.
    pub(crate) fn reconnected(&self, is_up: bool) {
        if let Some(auth) = &self.0 {
            auth.is_up.store(is_up, Ordering::Relaxed);
            let count = if is_up { &auth.reconnects } else { &auth.failures };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It asks once more, as an answer is overdue.
    pub(crate) fn retry(&self) {
        if let Some(auth) = &self.0 {
            auth.retries.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> (Arc<Counts>, Metrics) {
        let all = Arc::new(Counts::new(1));
        let metrics = Metrics::new(&all, 0);
        (all, metrics)
    }

    #[test]
    fn each_operation_is_counted_once_and_its_latency_when_its_answer_is_out() {
        let (all, metrics) = counts();
        let own = &all.reactors[0];
        let observed = |operation: usize| -> u64 {
            own.latencies[operation].buckets.iter().map(Count::get).sum()
        };
        let mut tally = metrics.tally();
        tally.read(None);
        tally.count(RequestKind::Get, Status::Ok);
        tally.count(RequestKind::Get, Status::NoSuchKey);
        tally.count(RequestKind::Put, Status::Conflict);
        assert_eq!((own.operations[0][0].get(), own.operations[0][1].get()), (1, 1));
        assert_eq!((observed(0), observed(1)), (0, 0));
        tally.written();
        tally.written();
        assert_eq!((observed(0), observed(1)), (2, 1));
        // One that ends in the middle.
        tally.read(None);
        tally.count(RequestKind::Delete, Status::Ok);
        drop(tally);
        assert_eq!(observed(2), 1);
    }

    #[test]
    fn a_latency_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let latencies = Latencies::default();
        for (nanoseconds, bucket) in
            [(0, 0), (1_000, 0), (1_001, 1), (1_000_000_000, 18), (1_000_000_001, 19)]
        {
            let before = latencies.buckets[bucket].get();
            latencies.observe(Duration::from_nanos(nanoseconds), 3);
            assert_eq!(latencies.buckets[bucket].get(), before + 3, "{nanoseconds} ns");
        }
        assert!(BUCKETS.is_sorted());
    }

    #[test]
    fn without_metrics_nothing_is_counted_and_no_clock_is_read() {
        let metrics = Metrics::default();
        let mut tally = metrics.tally();
        tally.read(None);
        tally.count(RequestKind::Get, Status::Ok);
        assert!(tally.since().is_none() && !tally.any);
        assert!(metrics.changes().0.is_none());
    }
}
