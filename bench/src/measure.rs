//! Rounds, times and medians.
//!
//! What is measured is a [`Cell`]: one subject doing one thing. In each round every cell has one turn, in an order that is
//! drawn anew; so whatever the machine does besides meets all of them alike, and no cell always follows the same other
//! one. Each turn gives one figure (of latencies, the median of its operations). A result is the median of these
//! figures over the rounds; two results are compared by the ratio of their medians. The spread of a ratio is that of the ratios within the rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::error::{Error, Result, failed};
use crate::options::{Options, Scenario};
use crate::report::progress::Progress;
use crate::subject::Subject;

/// So far apart in the sequence of keys do two rounds begin.
const PLACES_BETWEEN_ROUNDS: u64 = 100_003;

/// What the figures of a series are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Of one operation.
    Nanoseconds,
    /// Throughput.
    OperationsPerSecond,
    /// Memory.
    Bytes,
    /// Memory.
    Mebibytes,
}

/// Who did what, where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Label {
    /// In which scenario.
    pub(crate) scenario: Scenario,
    /// What was done: `get`, `put`, …
    pub(crate) operation: String,
    /// By whom: a subject's name, or that of a program which measures one.
    pub(crate) who: String,
    /// The number of clients, keys, or idle applications.
    pub(crate) at: Option<u32>,
}

impl Label {
    /// One without a number.
    pub(crate) fn new(scenario: Scenario, operation: &str, who: Subject) -> Self {
        Self { scenario, operation: operation.to_owned(), who: who.name().to_owned(), at: None }
    }

    /// With a number.
    pub(crate) fn at(self, at: u32) -> Self {
        Self { at: Some(at), ..self }
    }
}

/// Everything that was measured of a cell.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    /// Of whom.
    #[serde(flatten)]
    pub(crate) label: Label,
    /// In what.
    pub(crate) unit: Unit,
    /// The median over the rounds.
    pub(crate) median: f64,
    /// A figure for each round.
    pub(crate) rounds: Vec<f64>,
    /// How single operations were spread, over all rounds, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) percentiles: Option<Percentiles>,
    /// The processor time of the server for each operation, in nanoseconds, over all rounds together: the kernel
    /// counts it in steps too coarse for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_time: Option<f64>,
}

/// Of a histogram.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)] // The names are the documentation.
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
    pub(crate) operations: u64,
}

impl Percentiles {
    fn of(times: &Histogram<u64>) -> Self {
        Self {
            p50: times.value_at_quantile(0.5),
            p90: times.value_at_quantile(0.9),
            p99: times.value_at_quantile(0.99),
            p999: times.value_at_quantile(0.999),
            max: times.max(),
            operations: times.len(),
        }
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, middle) if len % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// One series compared with another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ratio {
    /// Of the medians.
    pub(crate) of_medians: f64,
    /// The smallest within one round.
    pub(crate) least: f64,
    /// The greatest within one round.
    pub(crate) most: f64,
    /// The median of those within the rounds. Where the machine is busy in some rounds and not in others, it may
    /// differ much from the ratio of the medians; then neither is to be relied on.
    pub(crate) paired: f64,
}

/// The ratio within each round.
pub(crate) fn ratios<'a>(these: &'a [f64], those: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    these.iter().zip(those).map(|(this, that)| this / that)
}

impl Ratio {
    /// `None` when there is nothing to be compared.
    pub(crate) fn of(these: &[f64], those: &[f64]) -> Option<Self> {
        let of_medians = median(these) / median(those);
        let each = || ratios(these, those);
        of_medians.is_finite().then(|| Self {
            of_medians,
            least: each().fold(f64::INFINITY, f64::min),
            most: each().fold(f64::NEG_INFINITY, f64::max),
            paired: median(&each().collect::<Vec<_>>()),
        })
    }
}

/// Whether the user wants the run to end. Looked at between operations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(pub(crate) Arc<AtomicBool>);

impl Interrupt {
    /// An error when so.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// When a measurement is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// After so long.
    Time(Duration),
    /// After so many operations.
    Operations(u64),
}

impl Limit {
    /// Of the measurement.
    pub(crate) fn of(options: &Options) -> Self {
        match options.operations {
            Some(operations) => Self::Operations(operations),
            None => Self::Time(Duration::from_secs_f64(options.seconds)),
        }
    }

    /// A fifth, to warm up.
    fn fifth(self) -> Self {
        match self {
            Self::Time(time) => Self::Time(time / 5),
            Self::Operations(operations) => Self::Operations(operations.div_ceil(5)),
        }
    }

    /// Whether it has come.
    pub(crate) fn is_over(self, begun: Instant, now: Instant, operations: u64) -> bool {
        match self {
            Self::Time(time) => now.duration_since(begun) >= time,
            Self::Operations(most) => operations >= most,
        }
    }
}

/// One turn of a cell.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    /// How long it takes.
    pub(crate) limit: Limit,
    /// How long it warms up before.
    pub(crate) warm_up: Limit,
    /// Where in the sequence of keys it begins: the same place for every cell of a round.
    pub(crate) place: u64,
    /// To be looked at.
    pub(crate) interrupt: Interrupt,
}

/// What came of a turn.
#[derive(Debug)]
pub(crate) struct Sample {
    figure: f64,
    times: Option<Histogram<u64>>,
    server: Option<(Duration, u64)>,
}

impl Sample {
    /// A single figure.
    pub(crate) fn new(figure: f64) -> Self {
        Self { figure, times: None, server: None }
    }

    /// The median of these times.
    pub(crate) fn latency(times: Histogram<u64>) -> Self {
        // A time is far from 2^53 ns.
        Self { figure: times.value_at_quantile(0.5) as f64, times: Some(times), server: None }
    }

    /// With the times of single operations.
    pub(crate) fn with_times(self, times: Histogram<u64>) -> Self {
        Self { times: Some(times), ..self }
    }

    /// With the processor time that the server has used for so many operations.
    pub(crate) fn with_server_time(self, time: Duration, operations: u64) -> Self {
        Self { server: Some((time, operations)), ..self }
    }
}

/// Does one turn.
pub(crate) type Act<'a> = Box<dyn FnMut(&Turn) -> Result<Sample> + 'a>;

/// One subject doing one thing.
pub(crate) struct Cell<'a> {
    label: Label,
    unit: Unit,
    act: Act<'a>,
    samples: Vec<Sample>,
}

impl<'a> Cell<'a> {
    /// One that has had no turn.
    pub(crate) fn new(
        label: Label,
        unit: Unit,
        act: impl FnMut(&Turn) -> Result<Sample> + 'a,
    ) -> Self {
        Self { label, unit, act: Box::new(act), samples: Vec::new() }
    }

    /// With a number.
    pub(crate) fn at(mut self, at: u32) -> Self {
        self.label = self.label.at(at);
        self
    }

    /// Takes what came of a turn. Nothing takes no time, and nothing is done infinitely often: such a figure is a mistake of the
    /// measurement, which must not come out as a target that was met.
    fn add(&mut self, sample: Sample) -> Result<()> {
        if !(sample.figure.is_finite() && sample.figure > 0.0) {
            let Label { scenario, operation, who, .. } = &self.label;
            let (scenario, figure) = (scenario.name(), sample.figure);
            return failed(format!("{scenario}: {who}: {operation}: {figure} is no measurement"));
        }
        self.samples.push(sample);
        Ok(())
    }

    /// What was measured; `None` when nothing was.
    fn finish(self) -> Option<Series> {
        let rounds: Vec<_> = self.samples.iter().map(|sample| sample.figure).collect();
        let server = self.samples.iter().filter_map(|sample| sample.server);
        let server =
            server.reduce(|(time, operations), (more, others)| (time + more, operations + others));
        let mut all: Option<Histogram<u64>> = None;
        for times in self.samples.into_iter().filter_map(|sample| sample.times) {
            match &mut all {
                // Both have the same bounds.
                Some(all) => all.add(&times).ok()?,
                None => all = Some(times),
            }
        }
        (!rounds.is_empty()).then(|| Series {
            label: self.label,
            unit: self.unit,
            median: median(&rounds),
            rounds,
            percentiles: all.as_ref().map(Percentiles::of),
            server_time: server
                .map(|(time, operations)| time.as_nanos() as f64 / operations.max(1) as f64),
        })
    }
}

/// Gives every cell its turn in each round, and adds what was measured to `results`, also when an error ends it
/// early.
pub(crate) fn interleave(
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
    cells: Vec<Cell<'_>>,
    results: &mut Vec<Series>,
) -> Result<()> {
    interleave_stages(options, progress, interrupt, vec![cells], |_| Ok(()), results)
}

/// The same for cells whose turns need something that takes long to make ready: each round goes through all
/// stages, every second one backwards, and `prepare` is called with the number of a stage before its cells have their turns.
pub(crate) fn interleave_stages(
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
    mut stages: Vec<Vec<Cell<'_>>>,
    mut prepare: impl FnMut(usize) -> Result<()>,
    results: &mut Vec<Series>,
) -> Result<()> {
    let mut dice = SmallRng::seed_from_u64(options.seed);
    let limit = Limit::of(options);
    let mut rounds = || {
        for round in 0..options.rounds {
            let mut order: Vec<usize> = (0..stages.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let place = u64::from(round) * PLACES_BETWEEN_ROUNDS;
            let turn = Turn { limit, warm_up: limit.fifth(), place, interrupt: interrupt.clone() };
            for stage in order {
                prepare(stage)?;
                let mut cells: Vec<_> = stages[stage].iter_mut().collect();
                cells.shuffle(&mut dice);
                for cell in cells {
                    progress.turn(round, &cell.label);
                    interrupt.check()?;
                    let sample = (cell.act)(&turn)?;
                    cell.add(sample)?;
                }
            }
        }
        Ok(())
    };
    let result = rounds();
    results.extend(stages.into_iter().flatten().filter_map(Cell::finish));
    result
}

/// Where the times of single operations go: three digits of each, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds and digits are legal")
}

/// Does an operation again and again, by itself to warm up, then measured. The argument is its place in the sequence.
pub(crate) fn time_each(
    turn: &Turn,
    mut operation: impl FnMut(u64) -> Result<()>,
) -> Result<Histogram<u64>> {
    let mut place = turn.place;
    let mut repeat = |limit: Limit, mut times: Option<&mut Histogram<u64>>| {
        let (begun, mut count) = (Instant::now(), 0);
        loop {
            let before = Instant::now();
            operation(place)?;
            let now = Instant::now();
            place += 1;
            count += 1;
            if let Some(times) = &mut times {
                times.saturating_record(nanos(now.duration_since(before)));
            }
            if limit.is_over(begun, now, count) {
                return Ok(());
            }
            turn.interrupt.check()?;
        }
    };
    repeat(turn.warm_up, None)?;
    let mut times = histogram();
    repeat(turn.limit, Some(&mut times))?;
    Ok(times)
}

/// In nanoseconds, at least one.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
        assert_eq!(median(&[5.0]), 5.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_the_medians_and_not_the_median_of_the_ratios() {
        let ratio = Ratio::of(&[1.0, 2.0, 9.0], &[4.0, 1.0, 3.0]).unwrap();
        // Within the rounds: 0.25, 2 and 3.
        assert_eq!(ratio, Ratio { of_medians: 2.0 / 3.0, least: 0.25, most: 3.0, paired: 2.0 });
    }

    #[test]
    fn there_is_no_ratio_to_nothing() {
        assert_eq!(Ratio::of(&[1.0], &[]), None);
        assert_eq!(Ratio::of(&[1.0], &[0.0]), None);
    }

    #[test]
    fn every_cell_has_one_turn_in_each_round_and_stages_go_up_and_down() {
        use clap::Parser;
        let arguments =
            crate::options::Arguments::parse_from(["kvs-bench", "--rounds", "3", "-n1"]);
        let (options, progress) = (arguments.settle(), Progress::none());
        let (turns, prepared) = (std::cell::RefCell::new(Vec::new()), std::cell::Cell::new(9));
        let stage = |stage: usize| {
            let cell = |n: u32| {
                let (turns, prepared) = (&turns, &prepared);
                let label = Label::new(Scenario::Latency, "get", Subject::Kvs).at(n);
                Cell::new(label, Unit::Nanoseconds, move |_: &Turn| {
                    assert_eq!(prepared.get(), stage, "this stage was prepared");
                    turns.borrow_mut().push((stage, n));
                    Ok(Sample::new(f64::from(n) + 1.0))
                })
            };
            vec![cell(0), cell(1), cell(2)]
        };
        let mut order = Vec::new();
        let mut results = Vec::new();
        let prepare = |stage| {
            prepared.set(stage);
            order.push(stage);
            Ok(())
        };
        let interrupt = Interrupt::default();
        let stages = vec![stage(0), stage(1)];
        interleave_stages(&options, &progress, &interrupt, stages, prepare, &mut results).unwrap();
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        for round in turns.borrow().chunks(6) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
        }
        assert_eq!(results.len(), 6);
        assert!(results.iter().all(|series| series.rounds.len() == 3));
    }

    #[test]
    fn a_figure_that_cannot_be_is_an_error_and_no_result() {
        let label = Label::new(Scenario::Latency, "get", Subject::Kvs);
        let mut cell = Cell::new(label, Unit::Nanoseconds, |_| Ok(Sample::new(1.0)));
        for figure in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(cell.add(Sample::new(figure)).is_err(), "{figure}");
        }
        assert!(cell.finish().is_none());
    }

    fn turn(limit: Limit) -> Turn {
        Turn { limit, warm_up: limit.fifth(), place: 10, interrupt: Interrupt::default() }
    }

    #[test]
    fn what_warms_up_is_not_recorded_and_the_sequence_goes_on() {
        let mut places = Vec::new();
        let times = time_each(&turn(Limit::Operations(10)), |place| {
            places.push(place);
            Ok(())
        });
        assert_eq!(times.unwrap().len(), 10);
        assert_eq!(places, (10..22).collect::<Vec<_>>());
    }

    #[test]
    fn an_interrupt_ends_a_measurement() {
        let turn = turn(Limit::Time(Duration::from_secs(600)));
        let result = time_each(&turn, |_| {
            turn.interrupt.0.store(true, Ordering::Relaxed);
            Ok(())
        });
        assert!(matches!(result, Err(Error::Interrupted)));
    }

    #[test]
    fn a_cell_sums_its_rounds_up() {
        let label = Label::new(Scenario::Latency, "get", Subject::Kvs);
        let mut cell = Cell::new(label, Unit::Nanoseconds, |_| Ok(Sample::new(0.0)));
        for time in [100, 300, 200] {
            let mut times = histogram();
            times.record(time).unwrap();
            let sample = Sample::latency(times).with_server_time(Duration::from_nanos(time), 10);
            cell.samples.push(sample);
        }
        let series = cell.finish().unwrap();
        assert_eq!((series.median, series.server_time), (200.0, Some(20.0)));
        let percentiles = series.percentiles.unwrap();
        assert_eq!((percentiles.operations, percentiles.max), (3, 300));
    }
}
