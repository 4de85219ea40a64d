//! The sequence of keys, and the form of keys and values.
//!
//! The sequence is drawn once, before any measurement, from the seed. So every system gets the same
//! keys in the same order, and no measurement includes the cost of drawing them. It is long enough
//! that a measurement does not repeat it soon, and it wraps around at its end.

use std::fmt;
use std::str::FromStr;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};

/// The length of the sequence.
const SEQUENCE: usize = 1 << 20;

/// The distribution of the keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distribution {
    /// All keys are equally frequent.
    Uniform,
    /// The probability of the n-th key is proportional to n to the power of minus this.
    Zipf(f64),
}

impl FromStr for Distribution {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, exponent) = text.split_once(':').unwrap_or((text, "1"));
        match (name, exponent.parse::<f64>()) {
            ("uniform", _) if name == text => Ok(Self::Uniform),
            ("zipf", Ok(exponent)) if exponent.is_finite() && exponent >= 0.0 => {
                Ok(Self::Zipf(exponent))
            }
            _ => Err("expected `uniform`, `zipf` or `zipf:EXPONENT`".into()),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => write!(f, "uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// The form of a key: a prefix, and its number in digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    prefix: &'static str,
    digits: usize,
}

impl Shape {
    /// Ten bytes, a typical length.
    pub(crate) const SHORT: Self = Self { prefix: "k", digits: 9 };
    /// The sixteen bytes that redis-benchmark sends.
    pub(crate) const REDIS_BENCHMARK: Self = Self { prefix: "key:", digits: 12 };

    /// The length of each key in bytes.
    pub(crate) const fn len(self) -> usize {
        self.prefix.len() + self.digits
    }

    /// A buffer for [`write`](Self::write).
    pub(crate) fn buffer(self) -> Vec<u8> {
        let mut key = self.prefix.as_bytes().to_vec();
        key.resize(self.len(), b'0');
        key
    }

    /// Writes the number into a key from [`buffer`](Self::buffer).
    pub(crate) fn write(self, mut number: u32, key: &mut [u8]) {
        for byte in key[self.prefix.len()..].iter_mut().rev() {
            // A remainder of 10 is a digit.
            *byte = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }

    /// The key with this number.
    pub(crate) fn key(self, number: u32) -> Vec<u8> {
        let mut key = self.buffer();
        self.write(number, &mut key);
        key
    }
}

/// The keys of a scenario, in the order of their use.
#[derive(Debug)]
pub(crate) struct Keys {
    /// The form of the keys.
    pub(crate) shape: Shape,
    /// The number of keys.
    pub(crate) count: u32,
    sequence: Vec<u32>,
}

impl Keys {
    /// Draws the sequence.
    pub(crate) fn draw(shape: Shape, count: u32, distribution: Distribution, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let count = count.max(1);
        let sequence = match distribution {
            Distribution::Uniform => (0..SEQUENCE).map(|_| rng.random_range(0..count)).collect(),
            Distribution::Zipf(exponent) => {
                let zipf = Zipf::new(f64::from(count), exponent)
                    .expect("the count is at least 1 and the exponent is not negative");
                // A rank is between 1 and the count.
                (0..SEQUENCE).map(|_| (zipf.sample(&mut rng) as u32 - 1).min(count - 1)).collect()
            }
        };
        Self { shape, count, sequence }
    }

    /// The number of the key at this position of the sequence, which wraps around.
    pub(crate) fn at(&self, position: u64) -> u32 {
        // The remainder is less than the length.
        self.sequence[(position % self.sequence.len() as u64) as usize]
    }
}

/// A printable value of this length, the same for all systems.
pub(crate) fn value(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(b'a'..=b'z')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_has_its_number_in_digits() {
        assert_eq!(Shape::SHORT.key(0), b"k000000000");
        assert_eq!(Shape::SHORT.key(1_000_000), b"k001000000");
        assert_eq!(Shape::SHORT.len(), 10);
        assert_eq!(Shape::REDIS_BENCHMARK.key(42), b"key:000000000042");
        assert_eq!(Shape::REDIS_BENCHMARK.len(), 16);
    }

    #[test]
    fn seed_determines_the_keys() {
        let draw = |seed| Keys::draw(Shape::SHORT, 1000, Distribution::Uniform, seed).sequence;
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn uniform_keys_are_equally_frequent() {
        let keys = Keys::draw(Shape::SHORT, 16, Distribution::Uniform, 7);
        let mut seen = [0u32; 16];
        keys.sequence.iter().for_each(|&key| seen[key as usize] += 1);
        let mean = SEQUENCE as u32 / 16;
        assert!(seen.iter().all(|&n| n.abs_diff(mean) < mean / 20), "{seen:?}");
    }

    #[test]
    fn zipf_keys_have_the_frequency_of_their_rank() {
        let keys = Keys::draw(Shape::SHORT, 1000, Distribution::Zipf(1.0), 7);
        let mut seen = vec![0u32; 1000];
        keys.sequence.iter().for_each(|&key| seen[key as usize] += 1);
        // 1 / (1 + 1/2 + … + 1/1000) of all, the second half of that, the tenth a tenth.
        let harmonic: f64 = (1..=1000).map(|n| 1.0 / f64::from(n)).sum();
        for rank in [1u32, 2, 10] {
            let expected = SEQUENCE as f64 / harmonic / f64::from(rank);
            let found = f64::from(seen[rank as usize - 1]);
            assert!((found / expected - 1.0).abs() < 0.05, "rank {rank}: {found} of {expected}");
        }
        assert!(seen[999] > 0, "the last key never occurs");
    }

    #[test]
    fn distributions_round_trip_as_text() {
        for text in ["uniform", "zipf:1", "zipf:0.99"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf(1.0)));
        for text in ["", "uniform:1", "zipf:-1", "zipf:x", "normal"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }
}
