//! The target ratios of kvs, and their results.
//!
//! A missed target is no failure, but a figure like the others. A target without measurements is
//! not shown as missed.

use serde::Serialize;

use crate::measure::{Ratio, Series, ratios};
use crate::options::Scenario;
use crate::scenario::callback::OPERATION as NOTIFY;
use crate::scenario::memory::PER_PAIR;
use crate::scenario::pipeline::REDIS_BENCHMARK;
use crate::system::System;

/// The bound of a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// For times and memory.
    AtMost(f64),
    /// For throughput.
    AtLeast(f64),
}

impl Bound {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(max) => ratio <= max,
            Self::AtLeast(min) => ratio >= min,
        }
    }
}

/// A target and its measured ratio.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TargetResult {
    /// The two compared series.
    pub(crate) what: String,
    /// The target.
    #[serde(rename = "aim")]
    pub(crate) bound: Bound,
    /// The measured ratio; `None` if one of the series was not measured.
    pub(crate) ratio: Option<Ratio>,
    /// Whether the ratio meets the target.
    pub(crate) met: Option<bool>,
    /// Whether three quarters of the rounds agree. If not, the next run may give the opposite.
    pub(crate) certain: bool,
    /// The number of rounds that meet the target.
    pub(crate) rounds_met: usize,
    /// The number of rounds.
    pub(crate) rounds: usize,
}

/// Whether three quarters of the rounds agree with the overall result.
fn agree(met: bool, rounds_met: usize, rounds: usize) -> bool {
    let agreeing = if met { rounds_met } else { rounds - rounds_met };
    4 * agreeing >= 3 * rounds
}

/// The key of a series: scenario, operation, system, number.
type SeriesKey<'a> = (Scenario, &'a str, &'a str, Option<u32>);

/// The series with this key.
pub(crate) fn find<'a>(
    results: &'a [Series],
    (scenario, operation, system, at): SeriesKey<'_>,
) -> Option<&'a Series> {
    results.iter().find(|series| {
        let label = &series.label;
        let is_it = label.scenario == scenario && label.operation == operation;
        is_it && label.system == system && label.at == at
    })
}

/// The series of the faster of Redis and memcached.
pub(crate) fn faster<'a>(
    results: &'a [Series],
    scenario: Scenario,
    operation: &str,
) -> Option<&'a Series> {
    let both = [System::Redis, System::Memcached].map(System::name);
    let found = both.iter().filter_map(|system| find(results, (scenario, operation, system, None)));
    found.min_by(|a, b| a.median.total_cmp(&b.median))
}

/// The results of all targets.
pub(crate) fn results(results: &[Series]) -> Vec<TargetResult> {
    use Bound::{AtLeast, AtMost};
    let [kvs, original, redis, floor] =
        [System::Kvs, System::KvsOriginal, System::Redis, System::Floor].map(System::name);
    let mut targets = Vec::new();
    let mut add = |what: String, bound: Bound, this: Option<&Series>, that: Option<&Series>| {
        let ratio = this.zip(that).and_then(|(this, that)| Ratio::of(&this.rounds, &that.rounds));
        let met = ratio.map(|ratio| bound.is_met(ratio.of_medians));
        let each: Vec<f64> =
            this.zip(that).map(|(a, b)| ratios(&a.rounds, &b.rounds).collect()).unwrap_or_default();
        let rounds_met = each.iter().filter(|&&ratio| bound.is_met(ratio)).count();
        let rounds = each.len();
        let certain = met.is_some_and(|met| agree(met, rounds_met, rounds));
        targets.push(TargetResult { what, bound, ratio, met, certain, rounds_met, rounds });
    };
    let find = |scenario, operation: &str, system: &str, at| {
        find(results, (scenario, operation, system, at))
    };
    for operation in ["get", "put"] {
        let of = |system| find(Scenario::Latency, operation, system, None);
        let ours = of(kvs);
        add(format!("{operation}, kvs : floor"), AtMost(1.25), ours, of(floor));
        let fastest = faster(results, Scenario::Latency, operation);
        let name = fastest.map_or("faster of redis and memcached", |series| &series.label.system);
        add(format!("{operation}, kvs : {name}"), AtMost(0.85), ours, fastest);
    }
    let get = |system| find(Scenario::Latency, "get", system, None);
    add("get, kvs-original : floor".into(), AtMost(2.3), get(original), get(floor));
    for (clients, least) in [(50, 1.3), (500, 1.5)] {
        for operation in ["get", "put"] {
            let of = |system| find(Scenario::Clients, operation, system, Some(clients));
            let what = format!("{operation}s per second, {clients} clients, kvs : redis");
            add(what, AtLeast(least), of(kvs), of(redis));
        }
    }
    for operation in ["get", "put"] {
        let of = |system| find(Scenario::Pipeline, operation, system, None);
        let what = format!("{operation}s per second, pipelined, kvs : {REDIS_BENCHMARK}");
        add(what, AtLeast(1.5), of(kvs), of(REDIS_BENCHMARK));
    }
    let notified = |system| find(Scenario::Callback, NOTIFY, system, None);
    add(
        "put to callback, kvs : redis publish to message".into(),
        AtMost(0.8),
        notified(kvs),
        notified(redis),
    );
    let pair = |system| find(Scenario::Memory, PER_PAIR, system, None);
    add("memory per pair, kvs : redis".into(), AtMost(0.7), pair(kvs), pair(redis));
    let get = |keys| find(Scenario::Keys, "get", kvs, Some(keys));
    add("get, kvs, 1000000 keys : 1000".into(), AtMost(1.3), get(1_000_000), get(1000));
    for operation in ["get", "put"] {
        let of = |idle| find(Scenario::Applications, operation, kvs, Some(idle));
        let what = format!("{operation}, kvs, 1000 idle applications : none");
        add(what, AtMost(1.05), of(1000), of(0));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Label, Unit};

    fn series(operation: &str, system: System, rounds: &[f64]) -> Series {
        Series {
            label: Label::new(Scenario::Latency, operation, system),
            unit: Unit::Nanoseconds,
            median: crate::measure::median(rounds),
            rounds: rounds.to_vec(),
            percentiles: None,
            server_time: None,
        }
    }

    #[test]
    fn ratio_of_medians_decides_a_target() {
        let results = [
            series("get", System::Kvs, &[110.0, 120.0, 500.0]),
            series("get", System::Floor, &[100.0, 100.0, 100.0]),
            series("get", System::Redis, &[200.0, 150.0, 100.0]),
            series("get", System::Memcached, &[140.0, 130.0, 900.0]),
        ];
        let targets = super::results(&results);
        let of = |what: &str| targets.iter().find(|target| target.what == what).unwrap();
        let floor = of("get, kvs : floor");
        assert_eq!((floor.met, floor.rounds_met, floor.rounds), (Some(true), 2, 3));
        assert_eq!(of("get, kvs : memcached").met, Some(false), "120 of 140");
        assert_eq!(of("put, kvs : floor").met, None, "not measured");
    }

    #[test]
    fn result_that_many_rounds_contradict_is_uncertain() {
        // Most rounds contradict the ratio of the medians.
        assert!(!agree(true, 3, 15));
        assert!(agree(false, 3, 15));
        assert!(!agree(true, 11, 15) && agree(true, 12, 15));
        assert!(!agree(false, 4, 15) && agree(true, 1, 1));
    }

    #[test]
    fn times_have_upper_and_throughput_lower_bounds() {
        assert!(Bound::AtMost(0.85).is_met(0.85) && !Bound::AtMost(0.85).is_met(0.86));
        assert!(Bound::AtLeast(1.5).is_met(1.5) && !Bound::AtLeast(1.5).is_met(1.49));
    }
}
