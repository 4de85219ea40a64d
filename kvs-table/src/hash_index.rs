//! A hash index that grows and shrinks bucket by bucket, and can be walked in hash order.
//!
//! A plain hash table moves all its entries when it grows, and every client would wait meanwhile.
//! This index uses *extendible hashing*: many *buckets*, each a small hash table for a range of
//! hashes, and a *directory* that finds the bucket by the highest bits of a hash. A full bucket is
//! split by the next bit; two nearly empty buckets are merged. No step moves more than the entries
//! of one bucket. A walk can stop after any bucket and continue later from a hash, whatever was
//! split or merged meanwhile.
//!
//! - The buckets partition the hashes: bucket `b` has those whose highest `b.depth` bits are those
//!   of `b.first`, and `2^(depth - b.depth)` entries of the directory name it.
//! - The index stores no hashes: the caller computes the hash of an entry.
//! - Clients must not be able to predict hashes; otherwise they could fill a single bucket with
//!   their keys.

use std::fmt;
use std::mem;

use hashbrown::HashTable;

/// A bucket with this many entries is split: the maximum load of a hash table with 2048 slots. Unit
/// tests use a small capacity, so that few entries fill several buckets.
const BUCKET_CAPACITY: usize = if cfg!(test) { 14 } else { 1792 };

/// Two buckets with fewer entries together are merged. Far below [`BUCKET_CAPACITY`], so that a
/// merge is not soon followed by a split.
const MERGE_BELOW: usize = BUCKET_CAPACITY / 4;

/// Only a bucket with a larger capacity is shrunk.
const SHRINK_ABOVE: usize = 112;

/// The maximum number of hash bits that the directory uses. Beyond about 10^9 entries the buckets
/// grow instead.
const MAX_DEPTH: u32 = if cfg!(test) { 7 } else { 20 };

/// A hash index of entries of type `T`.
pub struct HashIndex<T> {
    /// The number of the bucket for each value of the highest `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    buckets: Vec<Bucket<T>>,
    count: usize,
}

struct Bucket<T> {
    /// The lowest hash of its range.
    first: u64,
    depth: u32,
    entries: HashTable<T>,
}

impl<T> Default for HashIndex<T> {
    fn default() -> Self {
        let bucket = Bucket { first: 0, depth: 0, entries: HashTable::new() };
        Self { directory: vec![0], depth: 0, buckets: vec![bucket], count: 0 }
    }
}

impl<T> fmt::Debug for HashIndex<T> {
    /// Without the entries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashIndex").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<T> HashIndex<T> {
    /// The number of entries.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Finds the entry with this hash for which `matches` returns `true`.
    #[inline]
    pub fn find(&self, hash: u64, matches: impl Fn(&T) -> bool) -> Option<&T> {
        let bucket = &self.buckets[self.bucket_of(hash)];
        bucket.entries.find(bucket_hash(hash), matches)
    }

    /// Finds an entry like [`find`](Self::find), for modification. Its hash must not change.
    #[inline]
    pub fn find_mut(&mut self, hash: u64, matches: impl Fn(&T) -> bool) -> Option<&mut T> {
        let number = self.bucket_of(hash);
        self.buckets[number].entries.find_mut(bucket_hash(hash), matches)
    }

    /// Adds an entry with this hash. `hash_of` computes the hash of another entry.
    pub fn insert(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        let mut number = self.bucket_of(hash);
        while self.buckets[number].entries.len() >= BUCKET_CAPACITY
            && self.buckets[number].depth < MAX_DEPTH
        {
            self.split(number, &hash_of);
            number = self.bucket_of(hash);
        }
        let entries = &mut self.buckets[number].entries;
        entries.insert_unique(bucket_hash(hash), entry, |entry| bucket_hash(hash_of(entry)));
        self.count += 1;
    }

    /// Removes the entry with this hash that matches. `hash_of` computes the hash of another entry.
    pub fn remove(
        &mut self,
        hash: u64,
        matches: impl Fn(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let number = self.bucket_of(hash);
        let entries = &mut self.buckets[number].entries;
        let entry = entries.find_entry(bucket_hash(hash), matches).ok()?;
        let (removed, _) = entry.remove();
        self.count -= 1;
        if entries.capacity() > SHRINK_ABOVE && entries.len() < entries.capacity() / 4 {
            entries.shrink_to(entries.len() * 2, |entry| bucket_hash(hash_of(entry)));
        }
        self.merge(hash, hash_of);
        Some(removed)
    }

    /// The entries of the bucket that this hash belongs to, and the lowest hash of the next bucket,
    /// or `None` for the last bucket.
    pub fn bucket(&self, hash: u64) -> (impl ExactSizeIterator<Item = &T>, Option<u64>) {
        let bucket = &self.buckets[self.bucket_of(hash)];
        let last = bucket.first | (u64::MAX >> bucket.depth);
        (bucket.entries.iter(), last.checked_add(1))
    }

    fn position_of(&self, hash: u64) -> usize {
        // At depth 0 a single shift would be by 64 bits, which overflows.
        ((hash >> 1) >> (63 - self.depth)) as usize
    }

    #[inline]
    fn bucket_of(&self, hash: u64) -> usize {
        self.directory[self.position_of(hash)] as usize
    }

    /// Writes the number of a bucket to its positions in the directory.
    fn register(&mut self, number: usize) {
        let bucket = &self.buckets[number];
        let (start, positions) = (self.position_of(bucket.first), 1 << (self.depth - bucket.depth));
        // There are at most as many buckets as positions, and those are 2^MAX_DEPTH.
        self.directory[start..start + positions].fill(number as u32);
    }

    fn split(&mut self, number: usize, hash_of: impl Fn(&T) -> u64) {
        let lower = &mut self.buckets[number];
        let bit = 1 << (63 - lower.depth);
        lower.depth += 1;
        let entries: Vec<_> = lower.entries.drain().map(|entry| (hash_of(&entry), entry)).collect();
        let mut upper = Bucket {
            first: lower.first | bit,
            depth: lower.depth,
            entries: HashTable::with_capacity(BUCKET_CAPACITY),
        };
        for (hash, entry) in entries {
            let bucket = if hash & bit == 0 { &mut *lower } else { &mut upper };
            bucket
                .entries
                .insert_unique(bucket_hash(hash), entry, |entry| bucket_hash(hash_of(entry)));
        }
        if upper.depth > self.depth {
            self.directory = self.directory.iter().flat_map(|number| [*number; 2]).collect();
            self.depth += 1;
        }
        self.buckets.push(upper);
        self.register(self.buckets.len() - 1);
    }

    /// Merges the bucket of this hash with its sibling, as long as both have few entries.
    fn merge(&mut self, hash: u64, hash_of: impl Fn(&T) -> u64) {
        loop {
            let number = self.bucket_of(hash);
            let bucket = &self.buckets[number];
            if bucket.depth == 0 || bucket.entries.len() >= MERGE_BELOW {
                return;
            }
            let other = self.bucket_of(bucket.first ^ (1 << (64 - bucket.depth)));
            let half = &self.buckets[other];
            if half.depth != bucket.depth
                || bucket.entries.len() + half.entries.len() >= MERGE_BELOW
            {
                return;
            }
            let (lower, upper) =
                if bucket.first < half.first { (number, other) } else { (other, number) };
            let moved = mem::take(&mut self.buckets[upper].entries);
            let bucket = &mut self.buckets[lower];
            for entry in moved {
                let hash = bucket_hash(hash_of(&entry));
                bucket.entries.insert_unique(hash, entry, |entry| bucket_hash(hash_of(entry)));
            }
            bucket.depth -= 1;
            self.register(lower);
            self.buckets.swap_remove(upper);
            if upper < self.buckets.len() {
                self.register(upper);
            }
            if self.buckets.capacity() / 4 > self.buckets.len() {
                self.buckets.shrink_to(self.buckets.len() * 2);
            }
            if self.buckets.iter().all(|bucket| bucket.depth < self.depth) {
                self.directory = self.directory.iter().step_by(2).copied().collect();
                self.depth -= 1;
            }
        }
    }
}

/// The hash that a bucket's own table uses. That table uses the highest and the lowest bits, and
/// the highest bits are the same for all entries of a bucket.
fn bucket_hash(hash: u64) -> u64 {
    hash.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Checks the invariants in the module head.
    fn check(index: &HashIndex<u32>) {
        assert_eq!(index.directory.len(), 1 << index.depth);
        assert!(index.buckets.iter().any(|bucket| bucket.depth == index.depth));
        let mut positions = 0;
        for (number, bucket) in index.buckets.iter().enumerate() {
            let own: Vec<_> = (0..index.directory.len())
                .filter(|position| index.directory[*position] as usize == number)
                .collect();
            assert_eq!(own.len(), 1 << (index.depth - bucket.depth));
            assert_eq!(own[0], index.position_of(bucket.first));
            assert_eq!(own.len() - 1, own[own.len() - 1] - own[0]);
            assert!(bucket.entries.len() <= BUCKET_CAPACITY || bucket.depth == MAX_DEPTH);
            positions += own.len();
        }
        assert_eq!(positions, index.directory.len());
    }

    proptest! {
        #[test]
        fn entry_is_found_in_the_bucket_of_its_hash(
            // Few different highest bits, and few different hashes.
            hashes in prop::collection::vec((0u64..64, 0u64..4, prop::bool::weighted(0.2)), 1..600),
            order in any::<u64>(),
        ) {
            let hashes: Vec<u64> = hashes.into_iter().map(|(high, low, last)| {
                if last { u64::MAX - low } else { high.pow(2) << 52 | low }
            }).collect();
            let hash_of = |handle: &u32| hashes[*handle as usize];
            let (mut index, mut model) = (HashIndex::default(), BTreeMap::new());
            for (handle, hash) in (0u32..).zip(&hashes) {
                index.insert(*hash, handle, hash_of);
                model.insert((*hash, handle), ());
            }
            check(&index);
            prop_assert!(hashes.len() <= BUCKET_CAPACITY || index.buckets.len() > 1);
            let mut left: Vec<u32> = (0..hashes.len() as u32).collect();
            left.sort_by_key(|handle| (u64::from(*handle) + 1).wrapping_mul(order | 1));
            for (number, handle) in left.into_iter().enumerate() {
                if number % 16 == 0 {
                    let (mut walked, mut next) = (Vec::new(), Some(0));
                    while let Some(hash) = next {
                        let (bucket, after) = index.bucket(hash);
                        let bucket = bucket.map(|handle| (hash_of(handle), *handle));
                        let mut bucket: Vec<_> = bucket.collect();
                        bucket.sort();
                        prop_assert!(bucket.iter().all(|(own, _)| *own >= hash));
                        let is_below = |after| bucket.iter().all(|(own, _)| *own < after);
                        prop_assert!(after.is_none_or(is_below));
                        walked.extend(bucket);
                        next = after;
                    }
                    prop_assert_eq!(walked, model.keys().copied().collect::<Vec<_>>());
                }
                let hash = hash_of(&handle);
                prop_assert_eq!(index.find(hash, |other| *other == handle), Some(&handle));
                let found = index.find_mut(hash, |other| *other == handle).copied();
                prop_assert_eq!(found, Some(handle));
                let removed = index.remove(hash, |other| *other == handle, hash_of);
                prop_assert_eq!(removed, Some(handle));
                prop_assert_eq!(index.remove(hash, |other| *other == handle, hash_of), None);
                model.remove(&(hash, handle));
                prop_assert_eq!(index.count(), model.len());
                check(&index);
            }
        }
    }

    #[test]
    fn memory_of_removed_entries_is_released() {
        let hash_of = |handle: &u32| u64::from(*handle).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = HashIndex::default();
        for handle in 0..1000 {
            index.insert(hash_of(&handle), handle, hash_of);
        }
        assert!(index.buckets.len() > 64 && index.depth == MAX_DEPTH);
        for handle in 0..998 {
            index.remove(hash_of(&handle), |other| *other == handle, hash_of);
        }
        assert_eq!((index.buckets.len(), index.directory.len(), index.count()), (1, 1, 2));
        assert!(index.buckets[0].entries.capacity() <= SHRINK_ABOVE);
    }
}
