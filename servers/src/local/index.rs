//! Finds things by their hashes, and goes through them in the order of the hashes: the handles of the pairs of one group,
//! and who watches what.
//!
//! One large hash table would now and then move all its entries at once, and everybody would wait meanwhile. So
//! this is *extendible hashing*: many *parts*, each a small hash table for a range of hashes, and a *directory*
//! that tells the part by the highest bits of a hash. A part that is full is split in two by the next bit;
//! two that are nearly empty become one again. No step moves more than the entries of one part, and a walk
//! can stop after any part and go on later from a hash, whatever was split or joined meanwhile.
//!
//! - The parts divide all hashes among them: part `p` has those whose highest `p.depth` bits are those of `p.first`,
//!   and the directory names it in each of its `2^(depth - p.depth)` places.
//! - It keeps no hashes. Who calls knows that of a thing.
//! - It relies on hashes that nobody can choose: among others, one part could get them all.

use std::fmt;
use std::mem;

use hashbrown::HashTable;

/// A part with so many things is split: as many as a hash table with 2048 places takes. A group with few pairs
/// in a test shall have several, too.
const MOST: usize = if cfg!(test) { 14 } else { 1792 };

/// Two parts with fewer than this together are joined. Far from [`MOST`], so that not every few steps bring
/// another split.
const FEWEST: usize = MOST / 4;

/// A part with room for so many things is not made smaller.
const KEPT: usize = 112;

/// Into how many bits the directory looks at most. More than a thousand million pairs are needed for more; then
/// the parts grow.
const DEEPEST: u32 = if cfg!(test) { 7 } else { 20 };

/// Things by hash.
pub(crate) struct Index<T> {
    /// The number of the part for each value of the highest `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    parts: Vec<Part<T>>,
    count: usize,
}

struct Part<T> {
    /// The lowest of its hashes.
    first: u64,
    depth: u32,
    things: HashTable<T>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        let part = Part { first: 0, depth: 0, things: HashTable::new() };
        Self { directory: vec![0], depth: 0, parts: vec![part], count: 0 }
    }
}

impl<T> fmt::Debug for Index<T> {
    /// Without what is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<T> Index<T> {
    /// How many things there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The thing with this hash that is the right one.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        let part = &self.parts[self.number_of(hash)];
        part.things.find(within(hash), is_it)
    }

    /// The same, to replace it.
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let number = self.number_of(hash);
        self.parts[number].things.find_mut(within(hash), is_it)
    }

    /// Adds a thing with this hash. `hash_of` tells those of the others.
    pub(crate) fn insert(&mut self, hash: u64, thing: T, hash_of: impl Fn(&T) -> u64) {
        let mut number = self.number_of(hash);
        while self.parts[number].things.len() >= MOST && self.parts[number].depth < DEEPEST {
            self.split(number, &hash_of);
            number = self.number_of(hash);
        }
        let things = &mut self.parts[number].things;
        things.insert_unique(within(hash), thing, |thing| within(hash_of(thing)));
        self.count += 1;
    }

    /// Takes out the thing with this hash that is the right one. `hash_of` tells those of the others.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        is_it: impl Fn(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let number = self.number_of(hash);
        let things = &mut self.parts[number].things;
        let entry = things.find_entry(within(hash), is_it).ok()?;
        let (removed, _) = entry.remove();
        self.count -= 1;
        if things.capacity() > KEPT && things.len() < things.capacity() / 4 {
            things.shrink_to(things.len() * 2, |thing| within(hash_of(thing)));
        }
        self.join(hash, hash_of);
        Some(removed)
    }

    /// The things of the part that this hash belongs to, and the lowest hash of the next part; `None` after the
    /// last one.
    pub(crate) fn part(&self, hash: u64) -> (impl ExactSizeIterator<Item = &T>, Option<u64>) {
        let part = &self.parts[self.number_of(hash)];
        let last = part.first | (u64::MAX >> part.depth);
        (part.things.iter(), last.checked_add(1))
    }

    fn place_of(&self, hash: u64) -> usize {
        // In two steps: all bits go at depth 0.
        ((hash >> 1) >> (63 - self.depth)) as usize
    }

    fn number_of(&self, hash: u64) -> usize {
        self.directory[self.place_of(hash)] as usize
    }

    /// Writes a part into its places of the directory.
    fn enter(&mut self, number: usize) {
        let part = &self.parts[number];
        let (start, places) = (self.place_of(part.first), 1 << (self.depth - part.depth));
        // There are at most as many parts as places, and those are 2^DEEPEST.
        self.directory[start..start + places].fill(number as u32);
    }

    fn split(&mut self, number: usize, hash_of: impl Fn(&T) -> u64) {
        let lower = &mut self.parts[number];
        let bit = 1 << (63 - lower.depth);
        lower.depth += 1;
        let things: Vec<_> = lower.things.drain().map(|thing| (hash_of(&thing), thing)).collect();
        let mut upper = Part {
            first: lower.first | bit,
            depth: lower.depth,
            things: HashTable::with_capacity(MOST),
        };
        for (hash, thing) in things {
            let part = if hash & bit == 0 { &mut *lower } else { &mut upper };
            part.things.insert_unique(within(hash), thing, |thing| within(hash_of(thing)));
        }
        if upper.depth > self.depth {
            self.directory = self.directory.iter().flat_map(|number| [*number; 2]).collect();
            self.depth += 1;
        }
        self.parts.push(upper);
        self.enter(self.parts.len() - 1);
    }

    /// Makes one part of that to which this hash belongs and its other half, as long as both have few things.
    fn join(&mut self, hash: u64, hash_of: impl Fn(&T) -> u64) {
        loop {
            let number = self.number_of(hash);
            let part = &self.parts[number];
            if part.depth == 0 || part.things.len() >= FEWEST {
                return;
            }
            let other = self.number_of(part.first ^ (1 << (64 - part.depth)));
            let half = &self.parts[other];
            if half.depth != part.depth || part.things.len() + half.things.len() >= FEWEST {
                return;
            }
            let (lower, upper) =
                if part.first < half.first { (number, other) } else { (other, number) };
            let moved = mem::take(&mut self.parts[upper].things);
            let part = &mut self.parts[lower];
            for thing in moved {
                let hash = within(hash_of(&thing));
                part.things.insert_unique(hash, thing, |thing| within(hash_of(thing)));
            }
            part.depth -= 1;
            self.enter(lower);
            self.parts.swap_remove(upper);
            if upper < self.parts.len() {
                self.enter(upper);
            }
            if self.parts.capacity() / 4 > self.parts.len() {
                self.parts.shrink_to(self.parts.len() * 2);
            }
            if self.parts.iter().all(|part| part.depth < self.depth) {
                self.directory = self.directory.iter().step_by(2).copied().collect();
                self.depth -= 1;
            }
        }
    }
}

/// The hash by which a part finds a thing: it looks at the highest and the lowest bits, and the highest are the
/// same for all its things.
fn within(hash: u64) -> u64 {
    hash.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What the head of this module says.
    fn check(index: &Index<u32>) {
        assert_eq!(index.directory.len(), 1 << index.depth);
        assert!(index.parts.iter().any(|part| part.depth == index.depth));
        let mut places = 0;
        for (number, part) in index.parts.iter().enumerate() {
            let own: Vec<_> = (0..index.directory.len())
                .filter(|place| index.directory[*place] as usize == number)
                .collect();
            assert_eq!(own.len(), 1 << (index.depth - part.depth));
            assert_eq!(own[0], index.place_of(part.first));
            assert_eq!(own.len() - 1, own[own.len() - 1] - own[0]);
            assert!(part.things.len() <= MOST || part.depth == DEEPEST);
            places += own.len();
        }
        assert_eq!(places, index.directory.len());
    }

    proptest! {
        #[test]
        fn every_handle_is_found_in_the_part_of_its_hash(
            // Few of the highest bits, and few of the hashes, are different.
            hashes in prop::collection::vec((0u64..64, 0u64..4, prop::bool::weighted(0.2)), 1..600),
            order in any::<u64>(),
        ) {
            let hashes: Vec<u64> = hashes.into_iter().map(|(high, low, last)| {
                if last { u64::MAX - low } else { high.pow(2) << 52 | low }
            }).collect();
            let hash_of = |handle: &u32| hashes[*handle as usize];
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for (handle, hash) in (0u32..).zip(&hashes) {
                index.insert(*hash, handle, hash_of);
                model.insert((*hash, handle), ());
            }
            check(&index);
            prop_assert!(hashes.len() <= MOST || index.parts.len() > 1);
            let mut left: Vec<u32> = (0..hashes.len() as u32).collect();
            left.sort_by_key(|handle| (u64::from(*handle) + 1).wrapping_mul(order | 1));
            for (number, handle) in left.into_iter().enumerate() {
                if number % 16 == 0 {
                    let (mut walked, mut next) = (Vec::new(), Some(0));
                    while let Some(hash) = next {
                        let (part, after) = index.part(hash);
                        let mut part: Vec<_> = part.map(|handle| (hash_of(handle), *handle)).collect();
                        part.sort();
                        prop_assert!(part.iter().all(|(own, _)| *own >= hash));
                        prop_assert!(after.is_none_or(|after| part.iter().all(|(own, _)| *own < after)));
                        walked.extend(part);
                        next = after;
                    }
                    prop_assert_eq!(walked, model.keys().copied().collect::<Vec<_>>());
                }
                let hash = hash_of(&handle);
                prop_assert_eq!(index.find(hash, |other| *other == handle), Some(&handle));
                prop_assert_eq!(index.find_mut(hash, |other| *other == handle).copied(), Some(handle));
                prop_assert_eq!(index.remove(hash, |other| *other == handle, hash_of), Some(handle));
                prop_assert_eq!(index.remove(hash, |other| *other == handle, hash_of), None);
                model.remove(&(hash, handle));
                prop_assert_eq!(index.count(), model.len());
                check(&index);
            }
        }
    }

    #[test]
    fn what_it_needed_for_many_goes_back() {
        let hash_of = |handle: &u32| u64::from(*handle).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = Index::default();
        for handle in 0..1000 {
            index.insert(hash_of(&handle), handle, hash_of);
        }
        assert!(index.parts.len() > 64 && index.depth == DEEPEST);
        for handle in 0..998 {
            index.remove(hash_of(&handle), |other| *other == handle, hash_of);
        }
        assert_eq!((index.parts.len(), index.directory.len(), index.count()), (1, 1, 2));
        assert!(index.parts[0].things.capacity() <= KEPT);
    }
}
