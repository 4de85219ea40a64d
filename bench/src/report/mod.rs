//! What a run tells: the progress while it goes on, then a table, JSON, and plots.
//!
//! The four only show. What was measured is in [`Series`], whether the [`targets`] were met is computed
//! here, once, for all of them.

pub(crate) mod json;
pub(crate) mod machine;
pub(crate) mod progress;
pub(crate) mod svg;
pub(crate) mod table;
pub(crate) mod targets;

use serde::Serialize;

use crate::measure::Series;
use crate::options::Options;

/// Everything that is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// Where.
    pub(crate) machine: machine::Machine,
    /// How.
    pub(crate) settings: &'a Options,
    /// What was measured.
    pub(crate) results: &'a [Series],
    /// The ratios that are aimed at.
    pub(crate) targets: Vec<targets::Outcome>,
    /// What was not measured, and why.
    pub(crate) left_out: &'a [String],
    /// Whether the run was ended early, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended_by: Option<String>,
}
