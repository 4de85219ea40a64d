//! Everything that was measured, as one JSON document: figures in nanoseconds, operations per second, or bytes, as
//! each series says.

use std::fs;
use std::path::Path;

use super::Report;
use crate::error::{Doing, Error, Result};

/// Writes it.
pub(crate) fn write(report: &Report<'_>, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|error| Error::Failed(format!("making JSON: {error}")))?;
    text.push('\n');
    fs::write(path, text).doing(|| format!("writing {}", path.display()))
}
