//! Who watches what in one group: single keys, and all keys that begin with a prefix.
//!
//! A change of a key asks for its watches. By prefix that takes one look-up for each length of a prefix that is
//! watched and not longer than the key, however many prefixes and keys there are, and one pass over
//! the key ([fingerprints](super::fingerprint)): so it takes no longer, by a factor, than the key to arrive.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use kvs_proto::framed::change::Watches;
use kvs_proto::framed::request::Watched;

use super::fingerprint::{Fingerprint, Points};
use super::watcher::Key;

/// A list with room for so many is not made smaller.
const KEPT: usize = 1024;

/// One application that watches something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// The number of an application that is connected.
    pub(super) application: u64,
    /// Where it has the key or prefix among those that it watches.
    pub(super) place: u64,
}

/// All watches.
#[derive(Debug, Default)]
pub(super) struct WatchList {
    keys: HashMap<Key, Vec<Watch>>,
    prefixes: HashMap<Fingerprint, (Key, Vec<Watch>)>,
    points: Points,
    /// How many of the prefixes have a length.
    lengths: BTreeMap<usize, usize>,
}

impl WatchList {
    /// Adds a watch and returns what it is of; `None`: the application watches that already.
    pub(super) fn add(&mut self, what: Watched<'_>, watch: Watch) -> Option<Key> {
        let (key, watches) = match what {
            Watched::Key(bytes) => {
                let known = self.keys.get_key_value(bytes).map(|(key, _)| Arc::clone(key));
                let key = known.unwrap_or_else(|| Key::from(bytes));
                (Arc::clone(&key), self.keys.entry(key).or_default())
            }
            Watched::Prefix(bytes) => {
                let lengths = &mut self.lengths;
                let (key, watches) =
                    self.prefixes.entry(self.points.of(bytes)).or_insert_with(|| {
                        *lengths.entry(bytes.len()).or_default() += 1;
                        (Key::from(bytes), Vec::new())
                    });
                (Arc::clone(key), watches)
            }
        };
        if watches.iter().any(|other| other.application == watch.application) {
            return None;
        }
        watches.push(watch);
        Some(key)
    }

    /// Removes the watch of an application; `None`: there is none.
    pub(super) fn remove(&mut self, what: Watched<'_>, application: u64) -> Option<Watch> {
        let take = |watches: &mut Vec<Watch>| {
            let at = watches.iter().position(|watch| watch.application == application)?;
            Some((watches.remove(at), watches.is_empty()))
        };
        match what {
            Watched::Key(key) => {
                let (watch, was_last) = take(self.keys.get_mut(key)?)?;
                if was_last {
                    self.remove_key(key);
                }
                Some(watch)
            }
            Watched::Prefix(prefix) => {
                let fingerprint = self.points.of(prefix);
                let (watch, was_last) = take(&mut self.prefixes.get_mut(&fingerprint)?.1)?;
                if was_last {
                    self.prefixes.remove(&fingerprint);
                    give_back(&mut self.prefixes);
                    if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                        *count -= 1;
                        if *count == 0 {
                            self.lengths.remove(&prefix.len());
                        }
                    }
                }
                Some(watch)
            }
        }
    }

    /// Removes all watches of a key that is deleted, but not those of its prefixes.
    pub(super) fn remove_key(&mut self, key: &[u8]) -> Vec<Watch> {
        let removed = self.keys.remove(key).unwrap_or_default();
        give_back(&mut self.keys);
        removed
    }

    /// All applications that watch `key`, each once, and by what. The key is shared by all of them.
    pub(super) fn of(&self, key: &[u8]) -> Vec<(u64, Key, Watches)> {
        let by_key = self.keys.get_key_value(key);
        if self.prefixes.is_empty() && by_key.is_none() {
            return Vec::new();
        }
        let shared = by_key.map_or_else(|| Key::from(key), |(key, _)| Arc::clone(key));
        let by_key = by_key.into_iter().flat_map(|(_, watches)| watches);
        let by_key = by_key.map(|watch| (watch.application, Watches { key: true, prefix: false }));
        let mut fingerprints = self.points.prefixes(key);
        let lengths = self.lengths.range(..=key.len());
        let by_prefix =
            lengths.filter_map(|(&len, _)| self.prefixes.get(&fingerprints.of_len(len)));
        let by_prefix = by_prefix.flat_map(|(_, watches)| watches);
        let by_prefix =
            by_prefix.map(|watch| (watch.application, Watches { key: false, prefix: true }));
        let mut all: Vec<_> = by_key.chain(by_prefix).collect();
        if !self.prefixes.is_empty() {
            // Stable, so that those come first who have watched first.
            all.sort_by_key(|(application, _)| *application);
            all.dedup_by(|later, first| {
                let same = later.0 == first.0;
                if same {
                    first.1 = first.1.or(later.1);
                }
                same
            });
        }
        all.into_iter()
            .map(|(application, watches)| (application, Arc::clone(&shared), watches))
            .collect()
    }

    /// About how much work it is to find and note the watches of one key, when so many applications are connected.
    pub(super) fn most_work(&self, connected: usize) -> usize {
        let watched = self.keys.len() + self.prefixes.len();
        let applications = if watched == 0 { 0 } else { connected };
        applications + self.lengths.len()
    }

    /// How many there are.
    #[cfg(any(test, fuzzing))]
    pub(super) fn count(&self) -> usize {
        let by_prefix = self.prefixes.values().map(|(_, watches)| watches);
        self.keys.values().chain(by_prefix).map(Vec::len).sum()
    }
}

/// Of what has become much smaller the room is given back.
fn give_back<K: Eq + Hash, V>(list: &mut HashMap<K, V>) {
    if list.capacity() > KEPT && list.len() < list.capacity() / 8 {
        list.shrink_to(list.len() * 2);
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
            let (mut list, mut model) = (WatchList::default(), BTreeSet::new());
            for (add, bytes, application, is_prefix) in steps {
                if bytes.is_empty() && !is_prefix {
                    continue;
                }
                let what = if is_prefix { Watched::Prefix(&bytes) } else { Watched::Key(&bytes) };
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
                let mut expected = BTreeMap::<u64, Watches>::new();
                for (bytes, is_prefix, application) in &model {
                    let hit = if *is_prefix { key.starts_with(bytes) } else { key == *bytes };
                    if hit {
                        let watches = Watches { key: !is_prefix, prefix: *is_prefix };
                        let all = expected.entry(*application).or_default();
                        *all = all.or(watches);
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
            prop_assert_eq!(kept, list.prefixes.len());
        }
    }
}
