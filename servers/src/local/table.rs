//! The pairs of one group: the only place that knows how they are kept.
//!
//! It does no I/O and takes no lock; whoever owns the table holds the group's. Look-ups take the same time
//! however many pairs there are and whatever the keys look like: the hash is seeded at random, so keys
//! cannot be chosen to collide.

use std::collections::HashMap;
use std::sync::Arc;

use super::quota::{Charge, User};

/// A table with room for so many pairs is not made smaller.
const KEPT: usize = 1024;

/// Keys and their values.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pairs: HashMap<Box<[u8]>, Stored>,
}

#[derive(Debug)]
struct Stored {
    value: Box<[u8]>,
    /// To whoever stored this value.
    charge: Charge,
}

impl Table {
    /// Creates the pair, or replaces the value of a key that exists, at the expense of `user`.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], user: &Arc<User>) {
        let bytes = key.len() + value.len();
        match self.pairs.get_mut(key) {
            Some(stored) => {
                if stored.value.len() == value.len() {
                    stored.value.copy_from_slice(value);
                } else {
                    stored.value = value.into();
                }
                stored.charge.stored_anew(user, bytes);
            }
            None => {
                let stored = Stored { value: value.into(), charge: Charge::pair(user, bytes) };
                self.pairs.insert(key.into(), stored);
            }
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs.get(key).map(|stored| stored.value.as_ref())
    }

    /// How many pairs and bytes more `user` would have with a value of `len` bytes under this key.
    pub(crate) fn growth(&self, key: &[u8], len: usize, user: &Arc<User>) -> (u64, u64) {
        match self.pairs.get(key).filter(|stored| stored.charge.is_of(user)) {
            Some(stored) => (0, len.saturating_sub(stored.value.len()) as u64),
            None => (1, (key.len() + len) as u64),
        }
    }

    /// Whether the key exists.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.pairs.contains_key(key)
    }

    /// Removes a pair; `false` when there is none.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let found = self.pairs.remove(key).is_some();
        // What it once needed goes back, a part at a time, so that it costs nothing to speak of.
        if self.pairs.capacity() > KEPT && self.pairs.len() < self.pairs.capacity() / 4 {
            self.pairs.shrink_to(self.pairs.len() * 2);
        }
        found
    }

    /// How many pairs there are.
    pub(crate) fn count(&self) -> usize {
        self.pairs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::quota::Quotas;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone)]
    enum Step {
        Put(Vec<u8>, Vec<u8>, usize),
        Delete(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || prop::collection::vec(0u8..3, 1..3);
        prop_oneof![
            (key(), prop::collection::vec(any::<u8>(), 0..5), 0..2usize)
                .prop_map(|(k, v, user)| Step::Put(k, v, user)),
            key().prop_map(Step::Delete),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map_and_charges_who_stored_the_value(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            let users = [Quotas::user_with(0, 0), Quotas::user_with(0, 0)];
            for step in steps {
                match step {
                    Step::Put(key, value, user) => {
                        let before = users[user].taken();
                        let growth = table.growth(&key, value.len(), &users[user]);
                        table.put(&key, &value, &users[user]);
                        let after = users[user].taken();
                        prop_assert_eq!(after.0, before.0 + growth.0);
                        prop_assert!(after.1 <= before.1 + growth.1);
                        model.insert(key, (value, user));
                    }
                    Step::Delete(key) => {
                        prop_assert_eq!(table.delete(&key), model.remove(&key).is_some());
                        prop_assert!(!table.contains(&key));
                    }
                }
                prop_assert_eq!(table.count(), model.len());
                let mut taken = [(0, 0); 2];
                for (key, (value, user)) in &model {
                    prop_assert_eq!(table.get(key), Some(value.as_slice()));
                    taken[*user].0 += 1;
                    taken[*user].1 += (key.len() + value.len()) as u64;
                }
                prop_assert_eq!([users[0].taken(), users[1].taken()], taken);
            }
            drop(table);
            prop_assert_eq!([users[0].taken(), users[1].taken()], [(0, 0); 2]);
        }
    }
}
