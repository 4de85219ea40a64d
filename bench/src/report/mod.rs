//! The output of a run: the progress, then a table, JSON, and plots.
//!
//! These only present. The figures are in [`Series`], and the [`targets`] are evaluated once for
//! all of them.

pub(crate) mod json;
pub(crate) mod machine;
pub(crate) mod progress;
pub(crate) mod svg;
pub(crate) mod table;
pub(crate) mod targets;

use serde::Serialize;

use crate::measure::Series;
use crate::options::Options;

/// The content of all reports.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// The machine.
    pub(crate) machine: machine::Machine,
    /// The options of the run.
    pub(crate) settings: &'a Options,
    /// The measured series.
    pub(crate) results: &'a [Series],
    /// The targets and their results.
    pub(crate) targets: Vec<targets::TargetResult>,
    /// The skipped systems, with the reasons.
    #[serde(rename = "left_out")]
    pub(crate) skipped: &'a [String],
    /// Why the run ended early, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended_by: Option<String>,
}
