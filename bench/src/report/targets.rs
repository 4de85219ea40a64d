//! The ratios that kvs aims at, and what has become of them.
//!
//! A target that is missed fails nothing: it is a figure like the others. One that was not measured is not shown as
//! missed.

use serde::Serialize;

use crate::measure::{Ratio, Series, ratios};
use crate::options::Scenario;
use crate::scenario::callback::OPERATION as TELL;
use crate::scenario::memory::PER_PAIR;
use crate::scenario::pipeline::REDIS_BENCHMARK;
use crate::subject::Subject;

/// On which side of a figure a ratio should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    /// Times and memory.
    AtMost(f64),
    /// Throughput.
    AtLeast(f64),
}

impl Aim {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

/// A target, and the ratio that was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    /// Of what to what.
    pub(crate) what: String,
    /// Where it should be.
    pub(crate) aim: Aim,
    /// Where it is; `None`: one of the two was not measured.
    pub(crate) ratio: Option<Ratio>,
    /// Whether that is where it should be.
    pub(crate) met: Option<bool>,
    /// Whether three quarters of the rounds say the same. If not, the verdict may be another the next time.
    pub(crate) certain: bool,
    /// In how many rounds it was there.
    pub(crate) rounds_met: usize,
    /// Of how many.
    pub(crate) rounds: usize,
}

/// Whether three quarters of the rounds say what the verdict says.
fn agree(met: bool, rounds_met: usize, rounds: usize) -> bool {
    let agreeing = if met { rounds_met } else { rounds - rounds_met };
    4 * agreeing >= 3 * rounds
}

/// Who did what, in short.
type Who<'a> = (Scenario, &'a str, &'a str, Option<u32>);

/// The series of somebody.
pub(crate) fn find<'a>(
    results: &'a [Series],
    (scenario, operation, who, at): Who<'_>,
) -> Option<&'a Series> {
    results.iter().find(|series| {
        let label = &series.label;
        let is_it = label.scenario == scenario && label.operation == operation;
        is_it && label.who == who && label.at == at
    })
}

/// Of Redis and memcached the one with the shorter time.
pub(crate) fn faster<'a>(
    results: &'a [Series],
    scenario: Scenario,
    operation: &str,
) -> Option<&'a Series> {
    let both = [Subject::Redis, Subject::Memcached].map(Subject::name);
    let found = both.iter().filter_map(|who| find(results, (scenario, operation, who, None)));
    found.min_by(|a, b| a.median.total_cmp(&b.median))
}

/// All targets.
pub(crate) fn outcomes(results: &[Series]) -> Vec<Outcome> {
    use Aim::{AtLeast, AtMost};
    let [kvs, original, redis, floor] =
        [Subject::Kvs, Subject::KvsOriginal, Subject::Redis, Subject::Floor].map(Subject::name);
    let mut outcomes = Vec::new();
    let mut add = |what: String, aim: Aim, this: Option<&Series>, that: Option<&Series>| {
        let ratio = this.zip(that).and_then(|(this, that)| Ratio::of(&this.rounds, &that.rounds));
        let met = ratio.map(|ratio| aim.is_met(ratio.of_medians));
        let each: Vec<f64> =
            this.zip(that).map(|(a, b)| ratios(&a.rounds, &b.rounds).collect()).unwrap_or_default();
        let rounds_met = each.iter().filter(|&&ratio| aim.is_met(ratio)).count();
        let rounds = each.len();
        let certain = met.is_some_and(|met| agree(met, rounds_met, rounds));
        outcomes.push(Outcome { what, aim, ratio, met, certain, rounds_met, rounds });
    };
    let find =
        |scenario, operation: &str, who: &str, at| find(results, (scenario, operation, who, at));
    for operation in ["get", "put"] {
        let of = |who| find(Scenario::Latency, operation, who, None);
        let ours = of(kvs);
        add(format!("{operation}, kvs : floor"), AtMost(1.25), ours, of(floor));
        let fastest = faster(results, Scenario::Latency, operation);
        let name = fastest.map_or("faster of redis and memcached", |series| &series.label.who);
        add(format!("{operation}, kvs : {name}"), AtMost(0.85), ours, fastest);
    }
    let get = |who| find(Scenario::Latency, "get", who, None);
    add("get, kvs-original : floor".into(), AtMost(2.3), get(original), get(floor));
    for (clients, least) in [(50, 1.3), (500, 1.5)] {
        for operation in ["get", "put"] {
            let of = |who| find(Scenario::Clients, operation, who, Some(clients));
            let what = format!("{operation}s in a second, {clients} clients, kvs : redis");
            add(what, AtLeast(least), of(kvs), of(redis));
        }
    }
    for operation in ["get", "put"] {
        let of = |who| find(Scenario::Pipeline, operation, who, None);
        let what = format!("{operation}s in a second, pipelined, kvs : {REDIS_BENCHMARK}");
        add(what, AtLeast(1.5), of(kvs), of(REDIS_BENCHMARK));
    }
    let told = |who| find(Scenario::Callback, TELL, who, None);
    add(
        "put to callback, kvs : redis publish to message".into(),
        AtMost(0.8),
        told(kvs),
        told(redis),
    );
    let pair = |who| find(Scenario::Memory, PER_PAIR, who, None);
    add("memory per pair, kvs : redis".into(), AtMost(0.7), pair(kvs), pair(redis));
    let get = |keys| find(Scenario::Keys, "get", kvs, Some(keys));
    add("get, kvs, 1000000 keys : 1000".into(), AtMost(1.3), get(1_000_000), get(1000));
    for operation in ["get", "put"] {
        let of = |idle| find(Scenario::Applications, operation, kvs, Some(idle));
        let what = format!("{operation}, kvs, 1000 idle applications : none");
        add(what, AtMost(1.05), of(1000), of(0));
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Label, Unit};

    fn series(operation: &str, who: Subject, rounds: &[f64]) -> Series {
        Series {
            label: Label::new(Scenario::Latency, operation, who),
            unit: Unit::Nanoseconds,
            median: crate::measure::median(rounds),
            rounds: rounds.to_vec(),
            percentiles: None,
            server_time: None,
        }
    }

    #[test]
    fn a_target_is_met_by_the_ratio_of_the_medians_on_its_side() {
        let results = [
            series("get", Subject::Kvs, &[110.0, 120.0, 500.0]),
            series("get", Subject::Floor, &[100.0, 100.0, 100.0]),
            series("get", Subject::Redis, &[200.0, 150.0, 100.0]),
            series("get", Subject::Memcached, &[140.0, 130.0, 900.0]),
        ];
        let outcomes = outcomes(&results);
        let of = |what: &str| outcomes.iter().find(|outcome| outcome.what == what).unwrap();
        let floor = of("get, kvs : floor");
        assert_eq!((floor.met, floor.rounds_met, floor.rounds), (Some(true), 2, 3));
        assert_eq!(of("get, kvs : memcached").met, Some(false), "120 of 140");
        assert_eq!(of("put, kvs : floor").met, None, "not measured");
    }

    #[test]
    fn a_verdict_that_many_rounds_contradict_is_not_certain() {
        // A ratio of medians that most rounds contradict.
        assert!(!agree(true, 3, 15));
        assert!(agree(false, 3, 15));
        assert!(!agree(true, 11, 15) && agree(true, 12, 15));
        assert!(!agree(false, 4, 15) && agree(true, 1, 1));
    }

    #[test]
    fn times_aim_low_and_throughput_aims_high() {
        assert!(Aim::AtMost(0.85).is_met(0.85) && !Aim::AtMost(0.85).is_met(0.86));
        assert!(Aim::AtLeast(1.5).is_met(1.5) && !Aim::AtLeast(1.5).is_met(1.49));
    }
}
