//! Interleaves the measurements of all cells.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::cell::Cell;
use super::limit::{Interrupt, Limit, Measurement};
use super::series::Series;
use crate::error::Result;
use crate::options::Options;
use crate::report::progress::Progress;

/// The distance between the first positions of two rounds in the sequence of keys.
const POSITIONS_PER_ROUND: u64 = 100_003;

/// Measures every cell once per round, and adds the series to `results`, even after an error.
pub(crate) fn interleave(
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
    cells: Vec<Cell<'_>>,
    results: &mut Vec<Series>,
) -> Result<()> {
    interleave_stages(options, progress, interrupt, vec![cells], |_| Ok(()), results)
}

/// The same as [`interleave`] for cells that need slow preparation. Each round goes through all
/// stages, in reverse order in every second round, and calls `prepare` with the number of a stage
/// before its cells.
pub(crate) fn interleave_stages(
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
    mut stages: Vec<Vec<Cell<'_>>>,
    mut prepare: impl FnMut(usize) -> Result<()>,
    results: &mut Vec<Series>,
) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(options.seed);
    let limit = Limit::of(options);
    let mut rounds = || {
        for round in 0..options.rounds {
            let mut order: Vec<usize> = (0..stages.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let position = u64::from(round) * POSITIONS_PER_ROUND;
            let measurement = Measurement {
                limit,
                warm_up: limit.warm_up(),
                position,
                interrupt: interrupt.clone(),
            };
            for stage in order {
                prepare(stage)?;
                let mut cells: Vec<_> = stages[stage].iter_mut().collect();
                cells.shuffle(&mut rng);
                for cell in cells {
                    progress.measures(round, &cell.label);
                    interrupt.check()?;
                    let sample = (cell.measure)(&measurement)?;
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
