//! How the network delivers a datagram.

use std::time::Duration;

use crate::rng::SeededRng;

/// How a datagram is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Once, without delay.
    OnTime,
    /// The datagram is lost.
    Dropped,
    /// Duplicated, without delay.
    Duplicated,
    /// After two later datagrams of the same direction.
    Reordered,
    /// The datagram and a copy of it, each delayed, or `None` if it is dropped.
    Custom {
        /// The delay of the datagram.
        original: Option<Delay>,
        /// The delay of its copy.
        copy: Option<Delay>,
    },
}

/// How long a datagram is delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// The delay after it was sent.
    pub after: Duration,
    /// Whether the datagram is delivered earlier, once two later datagrams of the same direction
    /// have arrived.
    pub or_overtaken: bool,
}

impl Delay {
    pub(crate) const NONE: Self = Self { after: Duration::ZERO, or_overtaken: false };
}

/// Random faults. Which datagrams are affected, and how, follows from the seed and their number.
#[derive(Debug, Clone, Copy)]
pub struct RandomFaults {
    seed: u64,
    together: bool,
}

impl RandomFaults {
    /// The percentage of datagrams that are affected.
    pub const SHARE: f64 = 30.0;

    /// The longest delay of a datagram, of its copy, and of a reordered one.
    pub const MAX_DELAY: Duration = Duration::from_millis(200);

    /// One fault for each affected datagram, a quarter of them each: dropped; delivered and
    /// duplicated within [`MAX_DELAY`](Self::MAX_DELAY); delayed up to that; reordered behind two
    /// others.
    pub fn one_by_one(seed: u64) -> Self {
        Self { seed, together: false }
    }

    /// The four faults independently of each other, with the same probability (8.5 %) each, so that
    /// the same percentage is affected: a datagram may be duplicated, one of the two dropped, and
    /// the other delayed.
    pub fn all_together(seed: u64) -> Self {
        Self { seed, together: true }
    }

    /// The delivery of datagram `number`.
    pub fn delivery(self, number: usize) -> Delivery {
        let mut rng =
            SeededRng::new(self.seed ^ (number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let share = Self::SHARE / 100.0;
        let [lost, twice, delayed, overtaken] = if self.together {
            let each = 1.0 - (1.0 - share).powf(0.25);
            [(); 4].map(|()| rng.chance(each))
        } else {
            let hit = rng.chance(share).then(|| rng.below(4));
            [0, 1, 2, 3].map(|fault| hit == Some(fault))
        };
        if ![lost, twice, delayed, overtaken].contains(&true) {
            return Delivery::OnTime;
        }
        let mut late = || rng.time(Self::MAX_DELAY);
        let when = Delay {
            after: match (overtaken, delayed) {
                (true, _) => Self::MAX_DELAY,
                (false, true) => late(),
                (false, false) => Duration::ZERO,
            },
            or_overtaken: overtaken,
        };
        Delivery::Custom {
            original: (!lost).then_some(when),
            copy: twice.then(|| Delay { after: late(), or_overtaken: false }),
        }
    }
}
