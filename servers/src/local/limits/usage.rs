//! Who stored how many of the pairs of one group.
//!
//! A pair does not stand for itself, as a connection or a watch does: it names an *account*, by a number, and
//! the account stands for all pairs of its user. So a pair costs four bytes for that, not a pointer and a
//! count. An account whose last pair goes is closed, and its number is used again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::local::limits::quota::{UserHoldings, UserQuota};

/// The accounts of one group.
#[derive(Default)]
pub(crate) struct GroupUsage {
    /// By number. None is empty.
    accounts: Vec<Option<UserHoldings>>,
    /// The numbers without an account.
    vacant: Vec<u32>,
    /// By where the user is; there it stays as long as the account is open.
    by_user: HashMap<usize, u32>,
    /// The one that was looked for last.
    last: u32,
}

impl GroupUsage {
    /// The user stores a pair of so many bytes. Returns the number of the account.
    pub(crate) fn add(&mut self, user: &Arc<UserQuota>, bytes: usize) -> u32 {
        let number = self.find_or_open(user);
        self.holdings(number).add(bytes);
        number
    }

    /// A pair of so many bytes, of this account, is no more.
    pub(crate) fn remove(&mut self, number: u32, bytes: usize) {
        let holdings = self.holdings(number);
        holdings.remove(bytes);
        if !holdings.are_empty() {
            return;
        }
        let user = address(holdings.user());
        self.by_user.remove(&user);
        self.accounts[number as usize] = None;
        self.vacant.push(number);
        if self.by_user.is_empty() {
            *self = Self::default();
        }
    }

    /// The user stores a pair of so many bytes where one of `before` bytes, of this account, was. Returns the
    /// number of its own.
    pub(crate) fn replace(
        &mut self,
        number: u32,
        before: usize,
        user: &Arc<UserQuota>,
        bytes: usize,
    ) -> u32 {
        if self.is_of(number, user) {
            self.holdings(number).resize(before, bytes);
            return number;
        }
        let own = self.add(user, bytes);
        self.remove(number, before);
        own
    }

    /// The bytes of all pairs.
    pub(crate) fn bytes(&self) -> u64 {
        self.accounts.iter().flatten().map(UserHoldings::bytes).sum()
    }

    /// Whether the account is this user's.
    pub(crate) fn is_of(&self, number: u32, user: &Arc<UserQuota>) -> bool {
        let account = self.accounts.get(number as usize).and_then(Option::as_ref);
        account.is_some_and(|holdings| Arc::ptr_eq(holdings.user(), user))
    }

    fn holdings(&mut self, number: u32) -> &mut UserHoldings {
        self.accounts[number as usize].as_mut().expect("a pair names an account that is open")
    }

    fn find_or_open(&mut self, user: &Arc<UserQuota>) -> u32 {
        if !self.is_of(self.last, user) {
            self.last = match self.by_user.get(&address(user)) {
                Some(number) => *number,
                None => self.open(user),
            };
        }
        self.last
    }

    fn open(&mut self, user: &Arc<UserQuota>) -> u32 {
        let holdings = Some(UserHoldings::new(user));
        let number = match self.vacant.pop() {
            Some(number) => {
                self.accounts[number as usize] = holdings;
                number
            }
            None => {
                self.accounts.push(holdings);
                // Each but the last has a pair, and pairs are numbered with 32 bits, too.
                self.accounts.len() as u32 - 1
            }
        };
        self.by_user.insert(address(user), number);
        number
    }
}

fn address(user: &Arc<UserQuota>) -> usize {
    Arc::as_ptr(user).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::limits::quota::Quotas;

    #[test]
    fn an_account_is_closed_with_its_last_pair_and_its_number_is_used_again() {
        let mut accounts = GroupUsage::default();
        let users: Vec<_> = (0..1000).map(|_| Quotas::user_with(0, 0)).collect();
        // One that stays, so that there are always accounts.
        let guest = Quotas::user_with(0, 0);
        let own = accounts.add(&guest, 7);
        for _ in 0..3 {
            let numbers: Vec<_> = users.iter().map(|user| accounts.add(user, 10)).collect();
            for (user, number) in users.iter().zip(numbers) {
                assert_eq!(accounts.add(user, 5), number, "one for each user");
                assert_eq!((user.taken(), Arc::strong_count(user)), ((2, 15), 2));
                accounts.remove(number, 10);
                accounts.remove(number, 5);
                assert_eq!((user.taken(), Arc::strong_count(user)), ((0, 0), 1));
                assert!(!accounts.is_of(number, user));
            }
            assert_eq!(accounts.accounts.len(), 1 + users.len());
        }
        assert!(accounts.is_of(own, &guest) && guest.taken() == (1, 7));
        accounts.remove(own, 7);
        assert!(accounts.accounts.is_empty() && accounts.vacant.is_empty());
    }
}
