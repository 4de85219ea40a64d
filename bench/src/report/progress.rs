//! The progress of a run: a bar on a terminal, plain lines elsewhere, nothing with `--quiet`. It
//! goes to standard error, so that standard output has the table only.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::measure::label::Label;
use crate::options::{Options, Scenario};

/// Shows the progress.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: Shown,
    rounds: u32,
    last: Cell<Option<(Scenario, u32)>>,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Progress {
    /// Chooses the display by the options and standard error.
    pub(crate) fn new(options: &Options) -> Self {
        let shown = match (options.quiet, std::io::stderr().is_terminal()) {
            (true, _) => Shown::Nothing,
            (false, false) => Shown::Lines,
            (false, true) => {
                let steps = options.scenarios.len() as u64 * u64::from(options.rounds);
                let bar = ProgressBar::new(steps);
                let template = "{elapsed:>4} {bar:32} {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(Duration::from_millis(500));
                Shown::Bar(bar)
            }
        };
        Self { shown, rounds: options.rounds, last: Cell::new(None) }
    }

    /// Shows nothing.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { shown: Shown::Nothing, rounds: 1, last: Cell::new(None) }
    }

    /// Reports the number of completed scenarios.
    pub(crate) fn completed(&self, scenarios: usize) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_position(scenarios as u64 * u64::from(self.rounds));
        }
    }

    /// Reports that the measurement of a cell begins.
    pub(crate) fn measures(&self, round: u32, label: &Label) {
        let scenario = label.scenario.name();
        let is_new =
            self.last.replace(Some((label.scenario, round))) != Some((label.scenario, round));
        let first = self.rounds > 0 && round == 0;
        match &self.shown {
            Shown::Bar(bar) => {
                if is_new && !first {
                    bar.inc(1);
                }
                let round = round + 1;
                bar.set_message(format!("{scenario}, round {round}: {}", label.system));
            }
            Shown::Lines if is_new => {
                eprintln!("{scenario}: round {} of {}", round + 1, self.rounds);
            }
            Shown::Lines | Shown::Nothing => {}
        }
    }

    /// Reports that a scenario starts its servers.
    pub(crate) fn prepares(&self, scenario: Scenario) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_message(format!("{}: starting servers", scenario.name())),
            Shown::Lines => eprintln!("{}: starting servers", scenario.name()),
            Shown::Nothing => {}
        }
    }

    /// Prints a line above the bar.
    pub(crate) fn print(&self, line: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.println(line),
            Shown::Lines => eprintln!("{line}"),
            Shown::Nothing => {}
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
