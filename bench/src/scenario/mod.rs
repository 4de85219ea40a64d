//! The scenarios, one module each, and what they share.
//!
//! Each scenario starts its own servers, so that none is affected by the data of another, and
//! measures a list of cells interleaved. A system that cannot perform a scenario is skipped, with a
//! line that says why. Any other error ends the run.

mod applications;
mod bench;
pub(crate) mod callback;
mod cells;
pub(crate) mod clients;
mod fleet;
mod keys;
mod latency;
pub(crate) mod memory;
pub(crate) mod pipeline;

pub(crate) use bench::Bench;

use crate::error::Result;
use crate::options::Scenario;

/// Runs one scenario.
pub(crate) fn run(bench: &mut Bench<'_>, scenario: Scenario) -> Result<()> {
    match scenario {
        Scenario::Latency => latency::run(bench),
        Scenario::Clients => clients::run(bench),
        Scenario::Pipeline => pipeline::run(bench),
        Scenario::Callback => callback::run(bench),
        Scenario::Memory => memory::run(bench),
        Scenario::Keys => keys::run(bench),
        Scenario::Applications => applications::run(bench),
    }
}
