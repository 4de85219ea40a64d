//! The report as one JSON document. Each series names its unit: nanoseconds, operations per second,
//! or bytes.

use std::fs;
use std::path::Path;

use super::Report;
use crate::error::{Error, IoContext, Result};

/// Writes the document.
pub(crate) fn write(report: &Report<'_>, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|error| Error::Failed(format!("making JSON: {error}")))?;
    text.push('\n');
    fs::write(path, text).io_context(|| format!("writing {}", path.display()))
}
