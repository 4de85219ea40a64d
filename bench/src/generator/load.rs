//! Which requests the load generator sends.

use crate::keys::{Keys, Shape};

/// The requests of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    /// The keys.
    pub(crate) source: Source<'a>,
    /// The value to store. A get must find a value of its length.
    pub(crate) value: &'a [u8],
    /// The percentage of gets.
    pub(crate) reads: u32,
}

/// The order of the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// In random order.
    Drawn(&'a Keys),
    /// Each once, in ascending order.
    Each(Shape),
}

impl Source<'_> {
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Drawn(keys) => keys.shape,
            Self::Each(shape) => shape,
        }
    }

    pub(super) fn at(self, position: u64) -> u32 {
        match self {
            Self::Drawn(keys) => keys.at(position),
            // The number of keys fits into `u32`.
            Self::Each(_) => position as u32,
        }
    }
}

impl Load<'_> {
    /// Whether the request at this position is a get: the same for every system, and evenly mixed.
    pub(super) fn is_get(&self, position: u64) -> bool {
        // 61 and 100 are coprime: a hundred consecutive positions give all remainders.
        (position % 100) * 61 % 100 < u64::from(self.reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gets_have_their_percentage_and_are_evenly_mixed() {
        for reads in [0, 1, 50, 90, 100] {
            let load = Load { source: Source::Each(Shape::SHORT), value: b"", reads };
            let gets = |places: std::ops::Range<u64>| places.filter(|&n| load.is_get(n)).count();
            assert_eq!(gets(0..100), reads as usize);
            assert_eq!(gets(37..137), reads as usize);
            assert!(gets(0..20).abs_diff(reads as usize / 5) <= 2, "{reads}");
        }
    }
}
