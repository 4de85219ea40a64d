//! The figures of a cell, over all rounds.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::label::Label;

/// The unit of the figures of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// The time of one operation.
    Nanoseconds,
    /// Throughput.
    OperationsPerSecond,
    /// Memory per pair.
    Bytes,
    /// Memory of the server.
    Mebibytes,
}

/// All figures of a cell.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    /// What the figures describe.
    #[serde(flatten)]
    pub(crate) label: Label,
    /// The unit of the figures.
    pub(crate) unit: Unit,
    /// The median over the rounds.
    pub(crate) median: f64,
    /// One figure per round.
    pub(crate) rounds: Vec<f64>,
    /// The distribution of single operations over all rounds, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) percentiles: Option<Percentiles>,
    /// The processor time of the server per operation, in nanoseconds, over all rounds: the kernel
    /// counts it too coarsely for one round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_time: Option<f64>,
}

/// Percentiles of a histogram.
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
    pub(super) fn of(times: &Histogram<u64>) -> Self {
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
