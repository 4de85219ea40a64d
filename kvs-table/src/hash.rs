//! The hash of a key: SipHash-1-3 with a secret seed, so keys cannot be chosen to collide.

use std::fmt;

use siphasher::sip::SipHasher13;

/// What the hash of a table is keyed with. The server draws it at random.
pub type Seed = [u8; 16];

/// Hashes keys. All hashes of one table come from the same function.
pub trait KeyHash {
    /// The hash of a key.
    fn hash(&self, key: &[u8]) -> u64;
}

/// SipHash-1-3 with a seed.
#[derive(Clone)]
pub struct SeededHash(SipHasher13);

impl SeededHash {
    /// The hash function of this seed.
    pub fn new(seed: Seed) -> Self {
        Self(SipHasher13::new_with_key(&seed))
    }
}

impl KeyHash for SeededHash {
    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash(key)
    }
}

impl fmt::Debug for SeededHash {
    /// Without the seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeededHash").finish_non_exhaustive()
    }
}
