//! The counters of one reactor, and how its thread counts operations.
//!
//! The thread of the reactor is the only writer of its counters; any number of threads read them.
//! So an increment is a load and a store, both relaxed: no update is lost, and no other processor
//! waits. A reader sees each counter as it was a moment ago, and not all of them at the same
//! moment: it may find an operation counted and its latency not yet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvs_proto::v2::request::RequestKind;
use kvs_proto::v2::response::Status;

use super::labels::{ENDS, LOGINS, OPERATIONS, RESULTS, operation_index, result_index};

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`. Only the thread of the reactor may call it.
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper bounds of the latency buckets in nanoseconds: 1, 2 and 5 times each power of ten from
/// 1 µs to 1 s.
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

/// A histogram of the latencies of one kind of operation.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// The last bucket has no upper bound.
    pub(super) buckets: [Counter; BUCKETS.len() + 1],
    pub(super) nanoseconds: Counter,
}

impl Latencies {
    fn observe(&self, latency: Duration, operations: u64) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < nanoseconds);
        self.buckets[bucket].add(operations);
        self.nanoseconds.add(nanoseconds.saturating_mul(operations));
    }
}

/// The counters of one reactor. The alignment keeps those of two reactors on different cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ReactorCounters {
    pub(super) operations: [[Counter; RESULTS.len()]; OPERATIONS.len()],
    pub(super) latencies: [Latencies; OPERATIONS.len()],
    pub(super) logins: [Counter; LOGINS.len()],
    pub(super) ends: [Counter; ENDS.len()],
}

/// Counts the operations of one time slice of a session.
///
/// Two clock reads measure the latencies of all operations whose requests were read together: when
/// the requests are read, which the session needs anyway, and when the responses are written or the
/// recorder is dropped. With metrics off, the recorder reads no clock.
#[derive(Debug)]
pub(crate) struct OpRecorder<'a> {
    counters: Option<&'a ReactorCounters>,
    since: Option<Instant>,
    /// The operations whose responses are not written yet.
    served: [u32; OPERATIONS.len()],
    any: bool,
}

impl<'a> OpRecorder<'a> {
    pub(super) fn new(counters: Option<&'a ReactorCounters>) -> Self {
        Self { counters, since: None, served: [0; OPERATIONS.len()], any: false }
    }

    /// Requests were read, at `now` if the caller knows the time.
    pub(crate) fn read(&mut self, now: Option<Instant>) {
        if self.counters.is_some() {
            self.since = Some(now.unwrap_or_else(Instant::now));
        }
    }

    /// When the requests were read.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The next requests were read at `since`, in an earlier time slice.
    pub(crate) fn resume(&mut self, since: Option<Instant>) {
        self.since = since;
    }

    /// An operation was carried out.
    pub(crate) fn count(&mut self, kind: RequestKind, status: Status) {
        if let Some(counters) = self.counters {
            let operation = operation_index(kind);
            counters.operations[operation][result_index(status)].add(1);
            self.served[operation] += 1;
            self.any = true;
        }
    }

    /// The responses are with the kernel, or in the session's queue for it.
    pub(crate) fn written(&mut self) {
        if !self.any {
            return;
        }
        let (Some(counters), Some(since)) = (self.counters, self.since) else { return };
        let latency = since.elapsed();
        for (operation, served) in self.served.iter_mut().enumerate() {
            if *served > 0 {
                counters.latencies[operation].observe(latency, u64::from(*served));
                *served = 0;
            }
        }
        self.any = false;
    }
}

impl Drop for OpRecorder<'_> {
    fn drop(&mut self) {
        self.written();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_counts_once_and_its_latency_when_written() {
        let own = ReactorCounters::default();
        let observed = |operation: usize| -> u64 {
            own.latencies[operation].buckets.iter().map(Counter::get).sum()
        };
        let mut recorder = OpRecorder::new(Some(&own));
        recorder.read(None);
        recorder.count(RequestKind::Get, Status::Ok);
        recorder.count(RequestKind::Get, Status::NoSuchKey);
        recorder.count(RequestKind::Put, Status::Conflict);
        assert_eq!((own.operations[0][0].get(), own.operations[0][1].get()), (1, 1));
        assert_eq!((observed(0), observed(1)), (0, 0));
        recorder.written();
        recorder.written();
        assert_eq!((observed(0), observed(1)), (2, 1));
        // A session that is closed before its responses are written.
        recorder.read(None);
        recorder.count(RequestKind::Delete, Status::Ok);
        drop(recorder);
        assert_eq!(observed(2), 1);
    }

    #[test]
    fn latency_is_in_the_first_bucket_whose_bound_it_fits() {
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
    fn recorder_without_metrics_counts_nothing_and_reads_no_clock() {
        let mut recorder = OpRecorder::new(None);
        recorder.read(None);
        recorder.count(RequestKind::Get, Status::Ok);
        assert!(recorder.since().is_none() && !recorder.any);
    }
}
