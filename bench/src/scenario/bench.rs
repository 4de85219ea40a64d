//! A run: its options, its progress and its results.

use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::keys::value;
use crate::measure::{Cell, Interrupt, Series, interleave};
use crate::options::{Options, Scenario};
use crate::report::progress::Progress;
use crate::system::System;

/// A run.
pub(crate) struct Bench<'a> {
    /// The options of the run.
    pub(crate) options: &'a Options,
    /// The progress display.
    pub(crate) progress: &'a Progress,
    /// Whether the user has interrupted the run.
    pub(crate) interrupt: Interrupt,
    /// The temporary directory of the run.
    pub(crate) dir: &'a Path,
    /// The results so far.
    pub(crate) results: Vec<Series>,
    /// The skipped systems, with the reasons.
    pub(crate) skipped: Vec<String>,
}

impl Bench<'_> {
    pub(super) fn wants(&self, system: System) -> bool {
        self.options.systems.contains(&system)
    }

    /// `None`, and a line for the report, for an unavailable system.
    pub(super) fn available<T>(
        &mut self,
        scenario: Scenario,
        system: System,
        result: Result<T>,
    ) -> Result<Option<T>> {
        match result {
            Err(Error::Unavailable(why)) => {
                let line = format!("{} without {}: {why}", scenario.name(), system.name());
                self.progress.print(&format!("skipped: {line}"));
                self.skipped.push(line);
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Creates a directory for the sockets and files of a scenario.
    pub(super) fn dir_of(&self, scenario: Scenario) -> Result<PathBuf> {
        let dir = self.dir.join(scenario.name());
        std::fs::create_dir(&dir).io_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        value(self.options.value_size as usize, self.options.seed)
    }

    pub(super) fn measure(&mut self, cells: Vec<Cell<'_>>) -> Result<()> {
        interleave(self.options, self.progress, &self.interrupt, cells, &mut self.results)
    }
}
