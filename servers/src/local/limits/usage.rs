//! How many pairs and bytes of one group each user owns.
//!
//! A table names the owner of a pair by uid. [`GroupUsage`] keeps, beside the table, one
//! [`PairCharge`] for each owner, and updates it with what each commit did: so a pair costs the
//! four bytes of a uid, not a pointer and a count, and a put allocates nothing. A charge is dropped
//! with the last pair of its user.

use std::collections::HashMap;
use std::sync::Arc;

use kvs_table::Replaced;

use crate::local::limits::charge::PairCharge;
use crate::local::limits::quota::UserQuota;

/// The usage of one group.
#[derive(Debug, Default)]
pub(crate) struct GroupUsage {
    /// No charge is empty.
    charges: Vec<Option<PairCharge>>,
    /// The positions in `charges` that are not in use.
    free_list: Vec<usize>,
    /// The position of a user's charge.
    by_uid: HashMap<u32, usize>,
    /// The position that was looked up last: most puts in a row are of one user.
    last: usize,
}

impl GroupUsage {
    /// `user` has stored a pair of `bytes` bytes, in place of `replaced`.
    #[inline]
    pub(crate) fn record_put(
        &mut self,
        user: &Arc<UserQuota>,
        bytes: usize,
        replaced: Option<&Replaced>,
    ) {
        match replaced {
            Some(replaced) if replaced.owner == user.uid => {
                self.charge_of(user).resize(replaced.bytes, bytes);
            }
            _ => self.charge_of(user).add(bytes),
        }
        if let Some(other) = replaced.filter(|replaced| replaced.owner != user.uid) {
            self.record_delete(other);
        }
    }

    /// A pair was deleted.
    pub(crate) fn record_delete(&mut self, deleted: &Replaced) {
        let Some(position) = self.find(deleted.owner) else { return };
        let Some(charge) = &mut self.charges[position] else { return };
        charge.remove(deleted.bytes);
        if !charge.is_empty() {
            return;
        }
        self.charges[position] = None;
        self.by_uid.remove(&deleted.owner);
        self.free_list.push(position);
        if self.by_uid.is_empty() {
            *self = Self::default();
        }
    }

    /// The bytes of all pairs.
    pub(crate) fn bytes(&self) -> u64 {
        self.charges.iter().flatten().map(PairCharge::bytes).sum()
    }

    #[inline]
    fn find(&mut self, uid: u32) -> Option<usize> {
        let last = self.charges.get(self.last).and_then(Option::as_ref);
        if last.is_none_or(|charge| charge.user().uid != uid) {
            self.last = *self.by_uid.get(&uid)?;
        }
        Some(self.last)
    }

    fn charge_of(&mut self, user: &Arc<UserQuota>) -> &mut PairCharge {
        let position = match self.find(user.uid) {
            Some(position) => position,
            None => {
                let position = self.free_list.pop().unwrap_or_else(|| {
                    self.charges.push(None);
                    self.charges.len() - 1
                });
                self.by_uid.insert(user.uid, position);
                self.last = position;
                position
            }
        };
        self.charges[position].get_or_insert_with(|| PairCharge::new(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::limits::quota::Quotas;

    fn pair(user: &UserQuota, bytes: usize) -> Replaced {
        Replaced { owner: user.uid, bytes, value: None }
    }

    #[test]
    fn charge_is_dropped_with_the_last_pair_of_its_user() {
        let mut usage = GroupUsage::default();
        let users: Vec<_> = (0..1000).map(|_| Quotas::user_with(0, 0)).collect();
        // A user whose pair stays, so that the usage is never empty.
        let guest = Quotas::user_with(0, 0);
        usage.record_put(&guest, 7, None);
        for _ in 0..3 {
            users.iter().for_each(|user| usage.record_put(user, 10, None));
            for user in &users {
                usage.record_put(user, 5, None);
                assert_eq!((user.taken(), Arc::strong_count(user)), ((2, 15), 2));
                usage.record_delete(&pair(user, 10));
                usage.record_delete(&pair(user, 5));
                assert_eq!((user.taken(), Arc::strong_count(user)), ((0, 0), 1));
                assert!(!usage.by_uid.contains_key(&user.uid));
            }
            assert_eq!(usage.charges.len(), 1 + users.len());
        }
        assert_eq!((guest.taken(), usage.bytes()), ((1, 7), 7));
        usage.record_delete(&pair(&guest, 7));
        assert!(usage.charges.is_empty() && usage.free_list.is_empty());
    }

    #[test]
    fn replaced_pair_moves_to_the_user_who_stored_the_value() {
        let mut usage = GroupUsage::default();
        let (one, other) = (Quotas::user_with(0, 0), Quotas::user_with(0, 0));
        usage.record_put(&one, 10, None);
        usage.record_put(&one, 30, Some(&pair(&one, 10)));
        assert_eq!((one.taken(), other.taken()), ((1, 30), (0, 0)));
        usage.record_put(&other, 20, Some(&pair(&one, 30)));
        assert_eq!((one.taken(), other.taken(), usage.bytes()), ((0, 0), (1, 20), 20));
        drop(usage);
        assert_eq!((other.taken(), Arc::strong_count(&other)), ((0, 0), 1));
    }
}
