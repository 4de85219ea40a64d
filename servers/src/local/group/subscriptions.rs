//! Who is subscribed to what in one group: to single keys, and to all keys with a prefix.
//!
//! A change of a key looks up its subscriptions. For prefixes that takes one pass over the key
//! ([fingerprints](crate::local::group::fingerprint)) and one lookup for each length of a prefix
//! with subscriptions, up to the length of the key: however many prefixes and keys there are, it
//! takes time in proportion to the key.
//!
//! Keys and prefixes are in a [`HashIndex`] each: a plain hash table of millions of them would
//! rehash as a whole now and then, and the group would be locked meanwhile.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use kvs_proto::v2::event::MatchedBy;
use kvs_proto::v2::request::WatchTarget;
use kvs_table::HashIndex;

use crate::local::group::fingerprint::{Fingerprint, Points};
use crate::local::group::subscriber::Key;

/// The subscription of one application.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexedSubscription {
    /// The number of a connected application.
    pub(crate) client: u64,
    /// Where the application has it among its own.
    pub(crate) position: u64,
}

/// All subscriptions of one group.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionIndex {
    keys: HashIndex<IndexEntry<()>>,
    prefixes: HashIndex<IndexEntry<Fingerprint>>,
    hash: RandomState,
    points: Points,
    /// The number of prefixes of each length.
    lengths: BTreeMap<usize, usize>,
}

/// The subscriptions to one key or prefix.
#[derive(Debug)]
struct IndexEntry<I> {
    /// What identifies a prefix; a key is identified by itself.
    id: I,
    /// The key, or the prefix.
    key: Key,
    subscriptions: Vec<IndexedSubscription>,
}

impl SubscriptionIndex {
    /// Adds a subscription, and returns its key or prefix; `None`: the application has it already.
    pub(crate) fn add(
        &mut self,
        target: WatchTarget<'_>,
        subscription: IndexedSubscription,
    ) -> Option<Key> {
        let Self { keys, prefixes, hash, points, lengths } = self;
        let (key, subscriptions) = match target {
            WatchTarget::Key(bytes) => {
                let number = hash.hash_one(bytes);
                if keys.find(number, |entry| *entry.key == *bytes).is_none() {
                    let entry =
                        IndexEntry { id: (), key: Key::from(bytes), subscriptions: Vec::new() };
                    keys.insert(number, entry, |entry| hash.hash_one(&*entry.key));
                }
                let entry = keys.find_mut(number, |entry| *entry.key == *bytes)?;
                (&entry.key, &mut entry.subscriptions)
            }
            WatchTarget::Prefix(bytes) => {
                let id = points.of(bytes);
                let number = hash.hash_one(id);
                if prefixes.find(number, |entry| entry.id == id).is_none() {
                    *lengths.entry(bytes.len()).or_default() += 1;
                    let entry = IndexEntry { id, key: Key::from(bytes), subscriptions: Vec::new() };
                    prefixes.insert(number, entry, |entry| hash.hash_one(entry.id));
                }
                let entry = prefixes.find_mut(number, |entry| entry.id == id)?;
                (&entry.key, &mut entry.subscriptions)
            }
        };
        if subscriptions.iter().any(|other| other.client == subscription.client) {
            return None;
        }
        subscriptions.push(subscription);
        Some(Arc::clone(key))
    }

    /// Removes a subscription of an application; `None`: there is none.
    pub(crate) fn remove(
        &mut self,
        target: WatchTarget<'_>,
        client: u64,
    ) -> Option<IndexedSubscription> {
        let take = |subscriptions: &mut Vec<IndexedSubscription>| {
            let at = subscriptions.iter().position(|subscription| subscription.client == client)?;
            Some((subscriptions.remove(at), subscriptions.is_empty()))
        };
        let Self { keys, prefixes, hash, points, lengths } = self;
        match target {
            WatchTarget::Key(key) => {
                let entry = keys.find_mut(hash.hash_one(key), |entry| *entry.key == *key)?;
                let (subscription, was_last) = take(&mut entry.subscriptions)?;
                if was_last {
                    self.remove_key(key);
                }
                Some(subscription)
            }
            WatchTarget::Prefix(prefix) => {
                let id = points.of(prefix);
                let number = hash.hash_one(id);
                let entry = prefixes.find_mut(number, |entry| entry.id == id)?;
                let (subscription, was_last) = take(&mut entry.subscriptions)?;
                if was_last {
                    let hash_of = |entry: &IndexEntry<Fingerprint>| hash.hash_one(entry.id);
                    prefixes.remove(number, |entry| entry.id == id, hash_of);
                    if let Some(count) = lengths.get_mut(&prefix.len()) {
                        *count -= 1;
                        if *count == 0 {
                            lengths.remove(&prefix.len());
                        }
                    }
                }
                Some(subscription)
            }
        }
    }

    /// Removes all subscriptions to a key that is deleted, but not those to its prefixes.
    pub(crate) fn remove_key(&mut self, key: &[u8]) -> Vec<IndexedSubscription> {
        let Self { keys, hash, .. } = self;
        let hash_of = |entry: &IndexEntry<()>| hash.hash_one(&*entry.key);
        let removed = keys.remove(hash.hash_one(key), |entry| *entry.key == *key, hash_of);
        removed.map_or_else(Vec::new, |entry| entry.subscriptions)
    }

    /// The applications that are subscribed to `key`, each once, and by what. The key is shared.
    pub(crate) fn of(&self, key: &[u8]) -> Vec<(u64, Key, MatchedBy)> {
        if self.keys.count() == 0 && self.prefixes.count() == 0 {
            // Without a hash of the key: most groups have no subscriptions.
            return Vec::new();
        }
        let by_key = self.keys.find(self.hash.hash_one(key), |entry| *entry.key == *key);
        if self.prefixes.count() == 0 && by_key.is_none() {
            return Vec::new();
        }
        let shared = by_key.map_or_else(|| Key::from(key), |entry| Arc::clone(&entry.key));
        let by_key = by_key.into_iter().flat_map(|entry| &entry.subscriptions);
        let by_key = by_key
            .map(|subscription| (subscription.client, MatchedBy { key: true, prefix: false }));
        let mut fingerprints = self.points.prefixes(key);
        let lengths = self.lengths.range(..=key.len());
        let by_prefix = lengths.filter_map(|(&len, _)| {
            let id = fingerprints.of_len(len);
            self.prefixes.find(self.hash.hash_one(id), |entry| entry.id == id)
        });
        let by_prefix = by_prefix.flat_map(|entry| &entry.subscriptions);
        let by_prefix = by_prefix
            .map(|subscription| (subscription.client, MatchedBy { key: false, prefix: true }));
        let mut all: Vec<_> = by_key.chain(by_prefix).collect();
        if self.prefixes.count() > 0 {
            // By number, so an application that joined earlier comes first.
            all.sort_by_key(|(client, _)| *client);
            all.dedup_by(|later, first| {
                let same = later.0 == first.0;
                if same {
                    first.1 = first.1.union(later.1);
                }
                same
            });
        }
        all.into_iter()
            .map(|(client, subscriptions)| (client, Arc::clone(&shared), subscriptions))
            .collect()
    }

    /// About the most work of looking up and enqueueing one event, with so many connected
    /// applications.
    pub(crate) fn fan_out(&self, connected: usize) -> usize {
        let entries = self.keys.count() + self.prefixes.count();
        let applications = if entries == 0 { 0 } else { connected };
        applications + self.lengths.len()
    }

    /// The number of subscriptions.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn count(&self) -> usize {
        fn all<K>(entries: &HashIndex<IndexEntry<K>>) -> usize {
            let (mut count, mut next) = (0, Some(0));
            while let Some(hash) = next {
                let (part, after) = entries.bucket(hash);
                count += part.map(|entry| entry.subscriptions.len()).sum::<usize>();
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
        fn index_finds_what_a_linear_search_finds(
            steps in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(0u8..2, 0..5), 0u64..3, any::<bool>()),
                0..60,
            ),
            asked in prop::collection::vec(prop::collection::vec(0u8..2, 1..6), 1..6),
        ) {
            let (mut list, mut model) = (SubscriptionIndex::default(), BTreeSet::new());
            for (add, bytes, client, is_prefix) in steps {
                if bytes.is_empty() && !is_prefix {
                    continue;
                }
                let target = match is_prefix {
                    true => WatchTarget::Prefix(&bytes),
                    false => WatchTarget::Key(&bytes),
                };
                let entry = (bytes.clone(), is_prefix, client);
                if add {
                    let added = list.add(target, IndexedSubscription { client, position: 1 });
                    prop_assert_eq!(added.as_deref(), model.insert(entry).then_some(&bytes[..]));
                } else {
                    let removed = list.remove(target, client);
                    prop_assert_eq!(removed.is_some(), model.remove(&entry));
                }
                prop_assert_eq!(list.count(), model.len());
            }
            for key in asked {
                let mut expected = BTreeMap::<u64, MatchedBy>::new();
                for (bytes, is_prefix, client) in &model {
                    let hit = if *is_prefix { key.starts_with(bytes) } else { key == *bytes };
                    if hit {
                        let subscriptions = MatchedBy { key: !is_prefix, prefix: *is_prefix };
                        let all = expected.entry(*client).or_default();
                        *all = all.union(subscriptions);
                    }
                }
                let mut found = list.of(&key);
                found.sort_by_key(|(client, ..)| *client);
                prop_assert!(found.iter().all(|(_, shared, _)| **shared == key[..]));
                let found: Vec<_> = found.into_iter().map(|(who, _, by)| (who, by)).collect();
                prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
                for subscription in list.remove_key(&key) {
                    prop_assert!(model.remove(&(key.clone(), false, subscription.client)));
                }
            }
            let kept = list.lengths.values().sum::<usize>();
            prop_assert_eq!(kept, list.prefixes.count());
        }
    }
}
