//! Numbers that look random and can be had again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Numbers that look random and follow from a seed alone (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Other numbers for every seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other numbers each time: for seeds.
    pub fn from_time() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(now.as_nanos() as u64)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// Whether something comes true that has this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        // 53 bits fit into an f64.
        ((self.number() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// One time in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A time shorter than `end`, to the microsecond.
    pub fn time(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.number() % end.as_micros() as u64)
    }
}
