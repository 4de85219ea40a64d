//! Rounds, times and medians.
//!
//! The unit of measurement is a [`Cell`]: one system performing one operation. Each round measures
//! every cell once, in a random order, so that other load on the machine affects all of them alike,
//! and no cell always follows the same other one. Each measurement gives one figure (for latencies,
//! the median of its operations). A result is the median of these figures over the rounds, and two
//! results are compared by the ratio of their medians. The spread of a ratio is that of the ratios
//! within the rounds.

mod cell;
mod interleave;
pub(crate) mod label;
mod limit;
mod series;
mod statistics;
mod times;

#[cfg(test)]
mod tests;

pub(crate) use cell::{Cell, Sample};
pub(crate) use interleave::{interleave, interleave_stages};
pub(crate) use label::Label;
pub(crate) use limit::{Interrupt, Limit, Measurement};
pub(crate) use series::{Series, Unit};
#[cfg(test)]
pub(crate) use statistics::median;
pub(crate) use statistics::{Ratio, ratios};
pub(crate) use times::{histogram, nanos, time_each};
