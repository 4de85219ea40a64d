//! The pairs of one group: the only place that knows how they are kept.
//!
//! It does no I/O and takes no lock; whoever owns the table holds the group's. Look-ups take the same time
//! however many pairs there are and whatever the keys look like: the hash is seeded at random, so keys
//! cannot be chosen to collide.

use std::collections::HashMap;

/// Keys and their values.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pairs: HashMap<Box<[u8]>, Box<[u8]>>,
}

impl Table {
    /// Creates the pair, or replaces the value of a key that exists.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        match self.pairs.get_mut(key) {
            Some(present) if present.len() == value.len() => present.copy_from_slice(value),
            Some(present) => *present = value.into(),
            None => {
                self.pairs.insert(key.into(), value.into());
            }
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs.get(key).map(AsRef::as_ref)
    }

    /// Whether the key exists.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.pairs.contains_key(key)
    }

    /// Removes a pair; `false` when there is none.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        self.pairs.remove(key).is_some()
    }

    /// How many pairs there are.
    pub(crate) fn count(&self) -> usize {
        self.pairs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone)]
    enum Step {
        Put(Vec<u8>, Vec<u8>),
        Delete(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || prop::collection::vec(0u8..3, 1..3);
        prop_oneof![
            (key(), prop::collection::vec(any::<u8>(), 0..5)).prop_map(|(k, v)| Step::Put(k, v)),
            key().prop_map(Step::Delete),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map(steps in prop::collection::vec(step(), 0..60)) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        table.put(&key, &value);
                        model.insert(key, value);
                    }
                    Step::Delete(key) => {
                        prop_assert_eq!(table.delete(&key), model.remove(&key).is_some());
                        prop_assert!(!table.contains(&key));
                    }
                }
                prop_assert_eq!(table.count(), model.len());
                for (key, value) in &model {
                    prop_assert_eq!(table.get(key), Some(value.as_slice()));
                }
            }
        }
    }
}
