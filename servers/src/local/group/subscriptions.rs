//! Who watches what in one group: single keys, and all keys that begin with a prefix.
//!
//! A change of a key asks for its watches. By prefix that takes one look-up for each length of a prefix that is
//! watched and not longer than the key, however many prefixes and keys there are, and one pass over
//! the key ([fingerprints](crate::local::group::fingerprint)): so it takes no longer, by a factor, than the key to arrive.
//!
//! Both kinds are in an [`HashIndex`], as one hash table for millions of them would now and then hold everybody up.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use kvs_proto::v2::event::MatchedBy;
use kvs_proto::v2::request::WatchTarget;

use crate::local::group::fingerprint::{Fingerprint, Points};
use crate::local::group::subscriber::Key;
use kvs_table::HashIndex;

/// One application that watches something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    /// The number of an application that is connected.
    pub(crate) application: u64,
    /// Where it has the key or prefix among those that it watches.
    pub(crate) place: u64,
}

/// All watches.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionIndex {
    keys: HashIndex<Entry<()>>,
    prefixes: HashIndex<Entry<Fingerprint>>,
    hash: RandomState,
    points: Points,
    /// How many of the prefixes have a length.
    lengths: BTreeMap<usize, usize>,
}

/// What is watched.
#[derive(Debug)]
struct Entry<K> {
    /// By this a prefix is known, a key by itself.
    id: K,
    /// The key, or the prefix.
    key: Key,
    watches: Vec<Watch>,
}

impl SubscriptionIndex {
    /// Adds a watch and returns what it is of; `None`: the application watches that already.
    pub(crate) fn add(&mut self, what: WatchTarget<'_>, watch: Watch) -> Option<Key> {
        let Self { keys, prefixes, hash, points, lengths } = self;
        let (key, watches) = match what {
            WatchTarget::Key(bytes) => {
                let number = hash.hash_one(bytes);
                if keys.find(number, |entry| *entry.key == *bytes).is_none() {
                    let entry = Entry { id: (), key: Key::from(bytes), watches: Vec::new() };
                    keys.insert(number, entry, |entry| hash.hash_one(&*entry.key));
                }
                let entry = keys.find_mut(number, |entry| *entry.key == *bytes)?;
                (&entry.key, &mut entry.watches)
            }
            WatchTarget::Prefix(bytes) => {
                let id = points.of(bytes);
                let number = hash.hash_one(id);
                if prefixes.find(number, |entry| entry.id == id).is_none() {
                    *lengths.entry(bytes.len()).or_default() += 1;
                    let entry = Entry { id, key: Key::from(bytes), watches: Vec::new() };
                    prefixes.insert(number, entry, |entry| hash.hash_one(entry.id));
                }
                let entry = prefixes.find_mut(number, |entry| entry.id == id)?;
                (&entry.key, &mut entry.watches)
            }
        };
        if watches.iter().any(|other| other.application == watch.application) {
            return None;
        }
        watches.push(watch);
        Some(Arc::clone(key))
    }

    /// Removes the watch of an application; `None`: there is none.
    pub(crate) fn remove(&mut self, what: WatchTarget<'_>, application: u64) -> Option<Watch> {
        let take = |watches: &mut Vec<Watch>| {
            let at = watches.iter().position(|watch| watch.application == application)?;
            Some((watches.remove(at), watches.is_empty()))
        };
        let Self { keys, prefixes, hash, points, lengths } = self;
        match what {
            WatchTarget::Key(key) => {
                let entry = keys.find_mut(hash.hash_one(key), |entry| *entry.key == *key)?;
                let (watch, was_last) = take(&mut entry.watches)?;
                if was_last {
                    self.remove_key(key);
                }
                Some(watch)
            }
            WatchTarget::Prefix(prefix) => {
                let id = points.of(prefix);
                let number = hash.hash_one(id);
                let entry = prefixes.find_mut(number, |entry| entry.id == id)?;
                let (watch, was_last) = take(&mut entry.watches)?;
                if was_last {
                    let hash_of = |entry: &Entry<Fingerprint>| hash.hash_one(entry.id);
                    prefixes.remove(number, |entry| entry.id == id, hash_of);
                    if let Some(count) = lengths.get_mut(&prefix.len()) {
                        *count -= 1;
                        if *count == 0 {
                            lengths.remove(&prefix.len());
                        }
                    }
                }
                Some(watch)
            }
        }
    }

    /// Removes all watches of a key that is deleted, but not those of its prefixes.
    pub(crate) fn remove_key(&mut self, key: &[u8]) -> Vec<Watch> {
        let Self { keys, hash, .. } = self;
        let hash_of = |entry: &Entry<()>| hash.hash_one(&*entry.key);
        let removed = keys.remove(hash.hash_one(key), |entry| *entry.key == *key, hash_of);
        removed.map_or_else(Vec::new, |entry| entry.watches)
    }

    /// All applications that watch `key`, each once, and by what. The key is shared by all of them.
    pub(crate) fn of(&self, key: &[u8]) -> Vec<(u64, Key, MatchedBy)> {
        let by_key = self.keys.find(self.hash.hash_one(key), |entry| *entry.key == *key);
        if self.prefixes.count() == 0 && by_key.is_none() {
            return Vec::new();
        }
        let shared = by_key.map_or_else(|| Key::from(key), |entry| Arc::clone(&entry.key));
        let by_key = by_key.into_iter().flat_map(|entry| &entry.watches);
        let by_key =
            by_key.map(|watch| (watch.application, MatchedBy { key: true, prefix: false }));
        let mut fingerprints = self.points.prefixes(key);
        let lengths = self.lengths.range(..=key.len());
        let by_prefix = lengths.filter_map(|(&len, _)| {
            let id = fingerprints.of_len(len);
            self.prefixes.find(self.hash.hash_one(id), |entry| entry.id == id)
        });
        let by_prefix = by_prefix.flat_map(|entry| &entry.watches);
        let by_prefix =
            by_prefix.map(|watch| (watch.application, MatchedBy { key: false, prefix: true }));
        let mut all: Vec<_> = by_key.chain(by_prefix).collect();
        if self.prefixes.count() > 0 {
            // Stable, so that those come first who have watched first.
            all.sort_by_key(|(application, _)| *application);
            all.dedup_by(|later, first| {
                let same = later.0 == first.0;
                if same {
                    first.1 = first.1.union(later.1);
                }
                same
            });
        }
        all.into_iter()
            .map(|(application, watches)| (application, Arc::clone(&shared), watches))
            .collect()
    }

    /// About how much work it is to find and note the watches of one key, when so many applications are connected.
    pub(crate) fn fan_out(&self, connected: usize) -> usize {
        let watched = self.keys.count() + self.prefixes.count();
        let applications = if watched == 0 { 0 } else { connected };
        applications + self.lengths.len()
    }

    /// How many there are.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn count(&self) -> usize {
        fn all<K>(entries: &HashIndex<Entry<K>>) -> usize {
            let (mut count, mut next) = (0, Some(0));
            while let Some(hash) = next {
                let (part, after) = entries.bucket(hash);
                count += part.map(|entry| entry.watches.len()).sum::<usize>();
                next = after;
            }
            count
        }
        all(&self.keys) + all(&self.prefixes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_who_a_slow_search_finds(
            steps in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(0u8..2, 0..5), 0u64..3, any::<bool>()),
                0..60,
            ),
            asked in prop::collection::vec(prop::collection::vec(0u8..2, 1..6), 1..6),
        ) {
            let (mut list, mut model) = (SubscriptionIndex::default(), BTreeSet::new());
            for (add, bytes, application, is_prefix) in steps {
                if bytes.is_empty() && !is_prefix {
                    continue;
                }
                let what = if is_prefix { WatchTarget::Prefix(&bytes) } else { WatchTarget::Key(&bytes) };
                let entry = (bytes.clone(), is_prefix, application);
                if add {
                    let added = list.add(what, Watch { application, place: 1 });
                    prop_assert_eq!(added.as_deref(), model.insert(entry).then_some(&bytes[..]));
                } else {
                    let removed = list.remove(what, application);
                    prop_assert_eq!(removed.is_some(), model.remove(&entry));
                }
                prop_assert_eq!(list.count(), model.len());
            }
            for key in asked {
                let mut expected = BTreeMap::<u64, MatchedBy>::new();
                for (bytes, is_prefix, application) in &model {
                    let hit = if *is_prefix { key.starts_with(bytes) } else { key == *bytes };
                    if hit {
                        let watches = MatchedBy { key: !is_prefix, prefix: *is_prefix };
                        let all = expected.entry(*application).or_default();
                        *all = all.union(watches);
                    }
                }
                let mut found = list.of(&key);
                found.sort_by_key(|(application, ..)| *application);
                prop_assert!(found.iter().all(|(_, shared, _)| **shared == key[..]));
                let found: Vec<_> = found.into_iter().map(|(who, _, by)| (who, by)).collect();
                prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
                for watch in list.remove_key(&key) {
                    prop_assert!(model.remove(&(key.clone(), false, watch.application)));
                }
            }
            let kept = list.lengths.values().sum::<usize>();
            prop_assert_eq!(kept, list.prefixes.count());
        }
    }
}
