//! Fingerprints of the prefixes of a key, in time that grows with the length of the key and not
//! with its square.
//!
//! A *fingerprint* is the value of a string as a polynomial at two random points, modulo a prime.
//! The fingerprint of a longer prefix continues from that of a shorter one. Two different strings
//! of at most 65,536 bytes have the same fingerprint with a probability below 2^-90, even if an
//! attacker chooses them: only this process knows the points.

use std::hash::{BuildHasher, RandomState};

/// A prime.
const P: u64 = (1 << 61) - 1;

/// The bytes of a digit. With a mark above them a digit is less than [`P`].
const DIGIT: usize = 7;

/// Identifies a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint {
    len: usize,
    at: [u64; 2],
}

/// The points at which polynomials are evaluated.
#[derive(Debug)]
pub(crate) struct Points([u64; 2]);

/// The fingerprints of the prefixes of a key, the shortest first.
#[derive(Debug)]
pub(crate) struct Prefixes<'a> {
    key: &'a [u8],
    points: [u64; 2],
    /// The value of all whole digits before `from`.
    at: [u64; 2],
    from: usize,
}

impl Default for Points {
    fn default() -> Self {
        Self([0, 1].map(|n| RandomState::new().hash_one(n) % P))
    }
}

impl Points {
    /// The fingerprints of the prefixes of `key`.
    pub(crate) fn prefixes<'a>(&self, key: &'a [u8]) -> Prefixes<'a> {
        Prefixes { key, points: self.0, at: [0; 2], from: 0 }
    }

    /// The fingerprint of a whole string.
    pub(crate) fn of(&self, bytes: &[u8]) -> Fingerprint {
        self.prefixes(bytes).of_len(bytes.len())
    }
}

impl Prefixes<'_> {
    /// The fingerprint of the first `len` bytes. `len` must not decrease from one call to the next.
    pub(crate) fn of_len(&mut self, len: usize) -> Fingerprint {
        while let Some(digit) = self.key[self.from..len].first_chunk::<DIGIT>() {
            self.at = append(self.at, self.points, digit);
            self.from += DIGIT;
        }
        Fingerprint { len, at: append(self.at, self.points, &self.key[self.from..len]) }
    }
}

/// Appends a digit. Its mark encodes the number of bytes.
fn append(at: [u64; 2], points: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    let digit = bytes.iter().fold(1, |digit, byte| digit << 8 | u64::from(*byte));
    let add = |n: usize| {
        let product = u128::from(at[n]) * u128::from(points[n]) + u128::from(digit);
        // Modulo 2^61 - 1 the bits above 61 are added below. Both parts fit.
        let sum = (product as u64 & P) + (product >> 61) as u64;
        if sum >= P { sum - P } else { sum }
    };
    [add(0), add(1)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_strings_and_no_others_have_equal_fingerprints(
            one in prop::collection::vec(0u8..3, 0..40),
            other in prop::collection::vec(0u8..3, 0..40),
        ) {
            let points = Points::default();
            prop_assert_eq!(points.of(&one) == points.of(&other), one == other);
            let mut prefixes = points.prefixes(&one);
            for len in 0..=one.len() {
                prop_assert_eq!(prefixes.of_len(len), points.of(&one[..len]));
                prop_assert_eq!(prefixes.of_len(len), points.of(&one[..len]));
            }
        }
    }

    #[test]
    fn sums_stay_below_the_prime() {
        let points = Points([P - 1, P - 2]);
        let fingerprint = points.of(&[0xff; 1000]);
        assert!(fingerprint.at.iter().all(|at| *at < P));
        // The same, digit by digit and with plain arithmetic.
        let mut expected = [0u128; 2];
        for chunk in [0xff; 1000].chunks(DIGIT).map(<[u8]>::len).chain((1000 % 7 == 0).then_some(0))
        {
            let digit = (1u128 << (8 * chunk)) + (1u128 << (8 * chunk)) - 1;
            for (sum, point) in expected.iter_mut().zip(points.0) {
                *sum = (*sum * u128::from(point) + digit) % u128::from(P);
            }
        }
        assert_eq!(fingerprint.at.map(u128::from), expected);
    }
}
