//! Medians and ratios.

use serde::Serialize;

/// The median: the middle figure, or the mean of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, middle) if len % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The ratio of two series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ratio {
    /// The ratio of the medians.
    pub(crate) of_medians: f64,
    /// The smallest ratio within one round.
    #[serde(rename = "least")]
    pub(crate) min: f64,
    /// The greatest ratio within one round.
    #[serde(rename = "most")]
    pub(crate) max: f64,
    /// The median of the ratios within the rounds. If it differs much from the ratio of the
    /// medians, the machine was busy in some rounds, and neither is reliable.
    pub(crate) paired: f64,
}

/// The ratio within each round.
pub(crate) fn ratios<'a>(these: &'a [f64], those: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    these.iter().zip(those).map(|(this, that)| this / that)
}

impl Ratio {
    /// `None` without figures to compare.
    pub(crate) fn of(these: &[f64], those: &[f64]) -> Option<Self> {
        let of_medians = median(these) / median(those);
        let each = || ratios(these, those);
        of_medians.is_finite().then(|| Self {
            of_medians,
            min: each().fold(f64::INFINITY, f64::min),
            max: each().fold(f64::NEG_INFINITY, f64::max),
            paired: median(&each().collect::<Vec<_>>()),
        })
    }
}
