//! Cells: one system performing one operation.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::label::Label;
use super::limit::Measurement;
use super::series::{Percentiles, Series, Unit};
use super::statistics::median;
use crate::error::{Result, failed};

/// The result of one measurement.
#[derive(Debug)]
pub(crate) struct Sample {
    figure: f64,
    times: Option<Histogram<u64>>,
    server: Option<(Duration, u64)>,
}

impl Sample {
    /// A sample of one figure.
    pub(crate) fn new(figure: f64) -> Self {
        Self { figure, times: None, server: None }
    }

    /// The median of these times, with their distribution.
    pub(crate) fn latency(times: Histogram<u64>) -> Self {
        // A time is far from 2^53 ns.
        Self { figure: times.value_at_quantile(0.5) as f64, times: Some(times), server: None }
    }

    /// Adds the times of single operations.
    pub(crate) fn with_times(self, times: Histogram<u64>) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Adds the processor time that the server has used for a number of operations.
    pub(crate) fn with_server_time(self, time: Duration, operations: u64) -> Self {
        Self { server: Some((time, operations)), ..self }
    }
}

/// Performs one measurement.
pub(crate) type MeasureFn<'a> = Box<dyn FnMut(&Measurement) -> Result<Sample> + 'a>;

/// One system performing one operation.
pub(crate) struct Cell<'a> {
    pub(super) label: Label,
    pub(super) unit: Unit,
    pub(super) measure: MeasureFn<'a>,
    pub(super) samples: Vec<Sample>,
}

impl<'a> Cell<'a> {
    /// A cell without samples.
    pub(crate) fn new(
        label: Label,
        unit: Unit,
        measure: impl FnMut(&Measurement) -> Result<Sample> + 'a,
    ) -> Self {
        Self { label, unit, measure: Box::new(measure), samples: Vec::new() }
    }

    /// The cell with this number in its label.
    pub(crate) fn at(mut self, at: u32) -> Self {
        self.label = self.label.at(at);
        self
    }

    /// Adds a sample. A figure that is not positive and finite is an error of the measurement, and
    /// must not count as a reached target.
    pub(super) fn add(&mut self, sample: Sample) -> Result<()> {
        if !(sample.figure.is_finite() && sample.figure > 0.0) {
            let Label { scenario, operation, system, .. } = &self.label;
            let (scenario, figure) = (scenario.name(), sample.figure);
            return failed(format!(
                "{scenario}: {system}: {operation}: {figure} is no valid figure"
            ));
        }
        self.samples.push(sample);
        Ok(())
    }

    /// The series of all samples; `None` without samples.
    pub(super) fn finish(self) -> Option<Series> {
        let rounds: Vec<_> = self.samples.iter().map(|sample| sample.figure).collect();
        let server = self.samples.iter().filter_map(|sample| sample.server);
        let server =
            server.reduce(|(time, operations), (more, others)| (time + more, operations + others));
        let mut all: Option<Histogram<u64>> = None;
        for times in self.samples.into_iter().filter_map(|sample| sample.times) {
            match &mut all {
                // `histogram` gives all of them the same bounds.
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
