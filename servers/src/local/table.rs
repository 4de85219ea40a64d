//! The pairs of one group: the only place that knows how they are kept.
//!
//! It does no I/O and takes no lock; whoever owns the table holds the group's, so nothing here may take long,
//! however many pairs there are and whatever the keys look like: the hash is seeded at random, so keys cannot
//! be chosen to collide.
//!
//! A pair is found by the hash of its key in an [`Index`] of handles of four bytes. A small pair is in a slot of a
//! [`Slab`]: a head of 14 bytes, the key, the value, and nothing else. A large one (a value of more than
//! [`SHORT`] bytes, or too much for a slot) has memory of its own; its value is shared, so that nobody
//! copies megabytes under the lock, and one that is replaced or deleted is handed out, so that nobody frees
//! them there either. A pair keeps its handle until it is replaced or deleted, or until the slab moves its slot
//! because another was freed: then the index is corrected. Nobody else may keep a handle. Who pays for a pair is said by the number of an account ([`GroupUsage`]).
//!
//! The keys are listed in the order of their hashes. A page ends at a hash, and the next begins after it: so
//! it does not matter what happens to the table between the two.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use kvs_proto::v2::MAX_PAGE;

use crate::local::index::Index;
use crate::local::limits::quota::UserQuota;
use crate::local::limits::usage::GroupUsage;
use crate::local::slab::{HANDLES, LARGEST, Moved, Slab};

/// Longer values are shared.
pub(crate) const SHORT: usize = 1024;

/// The most keys in a page.
const MOST_KEYS: usize = MAX_PAGE as usize;

/// A page ends when its keys have so many bytes, or when so many pairs were looked at.
const MOST_BYTES: usize = 256 * 1024;
const MOST_COMPARED: usize = 1 << 20;
const MOST_VISITS: usize = if cfg!(test) { 60 } else { 16_384 };

/// A value, as it is handed in or out. Long ones are shared.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    /// At most [`SHORT`] bytes.
    Short(&'a [u8]),
    /// More.
    Long(Arc<[u8]>),
}

impl<'a> Value<'a> {
    /// These bytes; many are copied.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        if bytes.len() > SHORT { Self::Long(bytes.into()) } else { Self::Short(bytes) }
    }

    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.as_bytes().len()
    }
}

/// What the table has under a key.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// The value.
    pub(crate) value: Value<'a>,
    /// Of the put that stored it.
    pub(crate) version: u64,
}

/// What a put did.
#[must_use = "to be dropped when the lock is free"]
#[derive(Debug)]
pub(crate) struct Stored {
    /// The new version of the key.
    pub(crate) version: u64,
    /// The value that was replaced, if it was a shared one.
    pub(crate) before: Option<Arc<[u8]>>,
}

/// What a delete took out.
#[must_use = "to be dropped when the lock is free"]
#[derive(Debug)]
pub(crate) struct Removed {
    /// The value, if it was a shared one.
    pub(crate) value: Option<Arc<[u8]>>,
}

/// The table has as many pairs as it can number, or 32 GiB of small ones.
#[derive(Debug)]
pub(crate) struct Full;

/// Some of the keys.
#[derive(Default)]
pub(crate) struct Page {
    /// One after the other.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// The cursor of the next page; 0: that was the last.
    pub(crate) next: u64,
}

impl Page {
    /// Its keys.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.bytes[std::mem::replace(&mut start, *end)..*end])
    }

    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }
}

/// Keys and their values.
#[derive(Default)]
pub(crate) struct Table<S = RandomState> {
    index: Index<u32>,
    pairs: Pairs,
    accounts: GroupUsage,
    last_version: u64,
    hash: S,
}

impl<S> fmt::Debug for Table<S> {
    /// Without its keys and values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("count", &self.index.count()).finish_non_exhaustive()
    }
}

impl<S: BuildHasher> Table<S> {
    /// Creates the pair, or replaces the value of a key that exists, at the expense of `user`.
    ///
    /// # Errors
    /// [`Full`]; nothing was changed.
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        value: Value<'_>,
        user: &Arc<UserQuota>,
    ) -> Result<Stored, Full> {
        let hash = hash_of(&self.hash, key);
        let bytes = key.len() + value.len();
        // Counted with 56 bits: enough for two thousand years of a million puts a second.
        let version = self.last_version + 1;
        let Self { index, pairs, accounts, .. } = self;
        let before = match index.find_mut(hash, |handle| pairs.key(*handle) == key) {
            Some(handle) => {
                let old = *handle;
                let head = pairs.head(old);
                let new = if pairs.suits(old, key, &value) {
                    old
                } else {
                    pairs.allocate(key, &value)?
                };
                let account = accounts.replace(head.account, head.bytes(), user, bytes);
                let before = pairs.write(new, hash, version, account, key, value);
                *handle = new;
                if new == old { before } else { self.free(old) }
            }
            None => {
                let handle = pairs.allocate(key, &value)?;
                let account = accounts.add(user, bytes);
                let before = pairs.write(handle, hash, version, account, key, value);
                index.insert(hash, handle, |handle| pairs.hash(*handle, &self.hash));
                before
            }
        };
        self.last_version = version;
        Ok(Stored { version, before })
    }

    /// The value of a key, and its version.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Found<'_>> {
        self.find(key).map(|handle| self.pairs.found(handle))
    }

    /// The version of a key: greater than all that were given before; 0 when there is no such key.
    pub(crate) fn version(&self, key: &[u8]) -> u64 {
        self.find(key).map_or(0, |handle| self.pairs.head(handle).version)
    }

    /// How many pairs and bytes more `user` would have with a value of `len` bytes under this key.
    pub(crate) fn growth(&self, key: &[u8], len: usize, user: &Arc<UserQuota>) -> (u64, u64) {
        let own = self.find(key).map(|handle| self.pairs.head(handle));
        match own.filter(|head| self.accounts.is_of(head.account, user)) {
            Some(head) => (0, len.saturating_sub(head.value) as u64),
            None => (1, (key.len() + len) as u64),
        }
    }

    /// Removes a pair; `None` when there is none.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Option<Removed> {
        let Self { index, pairs, hash, .. } = self;
        let handle = index.remove(
            hash_of(hash, key),
            |handle| pairs.key(*handle) == key,
            |handle| pairs.hash(*handle, hash),
        )?;
        let head = pairs.head(handle);
        self.accounts.remove(head.account, head.bytes());
        Some(Removed { value: self.free(handle) })
    }

    /// Whether there is room for so many pairs more; not if it could only just be.
    pub(crate) fn has_room(&self, pairs: usize) -> bool {
        self.pairs.has_room(pairs)
    }

    /// How many pairs there are.
    pub(crate) fn count(&self) -> usize {
        self.index.count()
    }

    /// The bytes of their keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.accounts.bytes()
    }

    /// About `limit` of the keys that begin with `prefix` (0, or more than 10,000: 10,000), and where the next
    /// ones begin. `cursor` is 0 for the first page, and then what the page before says.
    ///
    /// A key that is there from the first page to the last is in just one of them, whatever is put and
    /// deleted meanwhile. A page may have no keys although others follow: it is made in a bounded time.
    pub(crate) fn keys(&self, prefix: &[u8], cursor: u64, limit: usize) -> Page {
        let limit = if limit == 0 { MOST_KEYS } else { limit.min(MOST_KEYS) };
        let (mut page, mut visits, mut compared, mut next) = (Page::default(), 0, 0, Some(cursor));
        'parts: while let Some(start) = next
            && page.ends.len() < limit
            && page.bytes.len() < MOST_BYTES
            && visits < MOST_VISITS
        {
            let (handles, after) = self.index.part(start);
            visits += handles.len();
            next = after;
            // Of long keys no more is looked at than can be told.
            let mut found: Vec<(u64, u32)> = handles
                .map(|handle| (self.pairs.hash(*handle, &self.hash), *handle))
                .filter(|(hash, _)| *hash >= start)
                .collect();
            found.sort_unstable_by_key(|(hash, _)| *hash);
            let mut last = None;
            for (hash, handle) in found {
                let is_enough = page.ends.len() >= limit
                    || page.bytes.len() >= MOST_BYTES
                    || compared >= MOST_COMPARED;
                // Keys of the same hash stay together: the next page begins with another.
                if is_enough && last.is_none_or(|last| last < hash) {
                    next = Some(hash);
                    break 'parts;
                }
                let key = self.pairs.key(handle);
                compared += prefix.len().min(key.len());
                if key.starts_with(prefix) {
                    page.push(key);
                }
                last = Some(hash);
            }
        }
        // Only the first page begins with the lowest hash of all.
        page.next = next.unwrap_or(0);
        page
    }

    /// Takes out a pair that the index does not name any more, and returns its value if it is a shared one.
    fn free(&mut self, handle: u32) -> Option<Arc<[u8]>> {
        let Self { index, pairs, hash, .. } = self;
        let (value, moved) = pairs.free(handle);
        if let Some(Moved { from, to }) = moved {
            let handle = index.find_mut(pairs.hash(to, hash), |handle| *handle == from);
            *handle.expect("the index has every pair") = to;
        }
        value
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = hash_of(&self.hash, key);
        self.index.find(hash, |handle| self.pairs.key(*handle) == key).copied()
    }
}

fn hash_of(hash: &impl BuildHasher, key: &[u8]) -> u64 {
    let mut hasher = hash.build_hasher();
    // Without its length, as nothing follows.
    hasher.write(key);
    hasher.finish()
}

/// Where the pairs are.
#[derive(Default)]
struct Pairs {
    slab: Slab,
    large: Vec<Option<Box<Large>>>,
    /// Where there is none.
    vacant: Vec<u32>,
}

/// Of the handle of a large pair.
const LARGE: u32 = HANDLES;

/// The head of a pair in a slot: version (7 bytes), account (4), and the lengths of key and value (12 bits
/// each).
const HEAD: usize = 14;

/// What is known of a pair besides its key and its value.
struct Head {
    version: u64,
    account: u32,
    /// The length of the key.
    key: usize,
    /// The length of the value.
    value: usize,
}

impl Head {
    fn bytes(&self) -> usize {
        self.key + self.value
    }

    fn write(&self, slot: &mut [u8]) {
        // Both are shorter than a slot.
        let lens = self.key as u32 | (self.value as u32) << 12;
        slot[..7].copy_from_slice(&self.version.to_le_bytes()[..7]);
        slot[7..11].copy_from_slice(&self.account.to_le_bytes());
        slot[11..HEAD].copy_from_slice(&lens.to_le_bytes()[..3]);
    }

    fn read(slot: &[u8]) -> Self {
        let (mut version, mut account, mut lens) = ([0; 8], [0; 4], [0; 4]);
        version[..7].copy_from_slice(&slot[..7]);
        account.copy_from_slice(&slot[7..11]);
        lens[..3].copy_from_slice(&slot[11..HEAD]);
        let lens = u32::from_le_bytes(lens) as usize;
        Self {
            version: u64::from_le_bytes(version),
            account: u32::from_le_bytes(account),
            key: lens & 0xfff,
            value: lens >> 12,
        }
    }
}

/// A pair that does not fit into a slot.
struct Large {
    /// Of its key, which may be long.
    hash: u64,
    version: u64,
    account: u32,
    key: Box<[u8]>,
    value: Content,
}

enum Content {
    /// Not long, but its key is.
    Own(Box<[u8]>),
    Shared(Arc<[u8]>),
}

impl Content {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    fn shared(self) -> Option<Arc<[u8]>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(bytes) => Some(bytes),
        }
    }
}

impl From<Value<'_>> for Content {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Short(bytes) => Self::Own(bytes.into()),
            Value::Long(bytes) => Self::Shared(bytes),
        }
    }
}

impl Pairs {
    /// How long a slot must be for this pair; `None`: it is a large one.
    fn slot_len(key: &[u8], value: &Value<'_>) -> Option<usize> {
        let Value::Short(value) = value else { return None };
        let len = HEAD + key.len() + value.len();
        (len <= LARGEST).then_some(len)
    }

    /// Whether there is room for so many pairs, if each needs a page for itself.
    fn has_room(&self, pairs: usize) -> bool {
        self.slab.free_pages() >= pairs && LARGE as usize - self.large.len() >= pairs
    }

    /// Makes room for a pair; it must be written next.
    fn allocate(&mut self, key: &[u8], value: &Value<'_>) -> Result<u32, Full> {
        if let Some(len) = Self::slot_len(key, value) {
            return self.slab.allocate(len).ok_or(Full);
        }
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                let next = u32::try_from(self.large.len()).map_err(|_| Full)?;
                if next >= LARGE {
                    return Err(Full);
                }
                self.large.push(None);
                next
            }
        };
        Ok(LARGE | number)
    }

    /// Whether this pair can be written where the handle's is.
    fn suits(&self, handle: u32, key: &[u8], value: &Value<'_>) -> bool {
        match Self::slot_len(key, value) {
            Some(len) => handle & LARGE == 0 && self.slab.suits(handle, len),
            None => handle & LARGE != 0,
        }
    }

    /// Writes a pair, and returns the shared value that was there.
    fn write(
        &mut self,
        handle: u32,
        hash: u64,
        version: u64,
        account: u32,
        key: &[u8],
        value: Value<'_>,
    ) -> Option<Arc<[u8]>> {
        if handle & LARGE != 0 {
            let place = &mut self.large[(handle ^ LARGE) as usize];
            let large = Large { hash, version, account, key: key.into(), value: value.into() };
            return place.replace(Box::new(large)).and_then(|before| before.value.shared());
        }
        let value = value.as_bytes();
        let head = Head { version, account, key: key.len(), value: value.len() };
        let slot = self.slab.slot_mut(handle);
        head.write(slot);
        let (own, rest) = slot[HEAD..].split_at_mut(key.len());
        own.copy_from_slice(key);
        rest[..value.len()].copy_from_slice(value);
        None
    }

    /// Takes a pair out. Returns its value if it is a shared one, and which other pair has its handle now.
    fn free(&mut self, handle: u32) -> (Option<Arc<[u8]>>, Option<Moved>) {
        if handle & LARGE == 0 {
            return (None, self.slab.free(handle));
        }
        let number = handle ^ LARGE;
        let large = self.large[number as usize].take();
        self.vacant.push(number);
        if self.vacant.len() == self.large.len() {
            self.large = Vec::new();
            self.vacant = Vec::new();
        }
        (large.and_then(|large| large.value.shared()), None)
    }

    /// The hash of the key of a pair.
    fn hash(&self, handle: u32, hash: &impl BuildHasher) -> u64 {
        match handle & LARGE {
            0 => hash_of(hash, self.key(handle)),
            _ => self.large(handle).hash,
        }
    }

    fn large(&self, handle: u32) -> &Large {
        self.large[(handle ^ LARGE) as usize].as_ref().expect("a handle in the index has a pair")
    }

    fn head(&self, handle: u32) -> Head {
        if handle & LARGE == 0 {
            return Head::read(self.slab.slot(handle));
        }
        let Large { version, account, key, value, .. } = self.large(handle);
        let (key, value) = (key.len(), value.as_bytes().len());
        Head { version: *version, account: *account, key, value }
    }

    fn key(&self, handle: u32) -> &[u8] {
        if handle & LARGE != 0 {
            return &self.large(handle).key;
        }
        let slot = self.slab.slot(handle);
        &slot[HEAD..HEAD + Head::read(slot).key]
    }

    fn found(&self, handle: u32) -> Found<'_> {
        if handle & LARGE != 0 {
            let large = self.large(handle);
            let value = match &large.value {
                Content::Own(bytes) => Value::Short(bytes),
                Content::Shared(bytes) => Value::Long(Arc::clone(bytes)),
            };
            return Found { value, version: large.version };
        }
        let slot = self.slab.slot(handle);
        let head = Head::read(slot);
        let start = HEAD + head.key;
        Found { value: Value::Short(&slot[start..start + head.value]), version: head.version }
    }
}

#[cfg(test)]
impl<S> Table<S> {
    /// How much memory its slots have.
    fn slot_bytes(&self) -> usize {
        self.pairs.slab.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::limits::quota::Quotas;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The hash is in the first byte of the key: many keys have the same one, the lowest and the highest
    /// among them.
    #[derive(Default)]
    struct Poor(u64);

    impl Hasher for Poor {
        fn finish(&self) -> u64 {
            self.0
        }

        fn write(&mut self, bytes: &[u8]) {
            let low = u64::from(bytes[0] % 4);
            self.0 = match bytes[0] {
                0 => 0,
                255 => u64::MAX,
                byte if byte % 2 == 0 => u64::from(byte) << 56 | low,
                byte => u64::from(byte) << 48 | low,
            };
        }
    }

    #[derive(Default)]
    struct PoorHash;

    impl BuildHasher for PoorHash {
        type Hasher = Poor;

        fn build_hasher(&self) -> Poor {
            Poor::default()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(Vec<u8>, Vec<u8>, usize, bool),
        Delete(Vec<u8>),
    }

    /// Short ones mostly, and those where something changes: the size of the slot, slot or not, shared or not.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![
            4 => 0..5usize,
            2 => 0..70usize,
            1 => prop::sample::select(vec![240, 241, 242, 243, 600, 1000, 1023, 1024, 1025, 5000]),
        ];
        (len, any::<u8>()).prop_map(|(len, first)| (0..len).map(|n| first ^ n as u8).collect())
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let key = || prop::collection::vec(0u8..3, 1..4);
        // A head, such a key, and a value of 1000 to 1024 bytes, fit into a slot or do not.
        let long = || {
            prop::sample::select(vec![
                1009usize, 1010, 1011, 1033, 1034, 1035, 2033, 2034, 2035, 65_536,
            ])
        };
        prop_oneof![
            8 => key(),
            1 => (key(), long()).prop_map(|(mut key, len)| { key.resize(len, 9); key }),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (key(), value(), 0..3usize, prop::bool::weighted(0.1))
                .prop_map(|(k, v, user, odd)| Step::Put(k, v, user, odd)),
            1 => key().prop_map(Step::Delete),
        ]
    }

    fn behaves_like_a_map<S: BuildHasher + Default>(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let (mut table, mut model) = (Table::<S>::default(), BTreeMap::new());
        let users: [_; 3] = std::array::from_fn(|_| Quotas::user_with(0, 0));
        let mut last_version = 0;
        for step in steps {
            match step {
                Step::Put(key, value, user, odd) => {
                    let before = users[user].taken();
                    let growth = table.growth(&key, value.len(), &users[user]);
                    let content = match odd {
                        // As nobody does: a long one that is not shared, or a short one that is.
                        true if value.len() > SHORT => Value::Short(&value),
                        true => Value::Long(value.as_slice().into()),
                        false => Value::of(&value),
                    };
                    let shared = matches!(content, Value::Long(_));
                    prop_assert_eq!(content.as_bytes(), value.as_slice());
                    let stored = table.put(&key, content, &users[user]).unwrap();
                    let after = users[user].taken();
                    prop_assert_eq!(after.0, before.0 + growth.0);
                    prop_assert!(after.1 <= before.1 + growth.1);
                    prop_assert!(stored.version > last_version);
                    last_version = stored.version;
                    let old = model.insert(key, (value, user, last_version, shared));
                    let old = old.and_then(|(value, .., shared)| shared.then_some(value));
                    prop_assert_eq!(stored.before.as_deref(), old.as_deref());
                }
                Step::Delete(key) => {
                    let (removed, old) = (table.delete(&key), model.remove(&key));
                    prop_assert_eq!(removed.is_some(), old.is_some());
                    let old = old.and_then(|(value, .., shared)| shared.then_some(value));
                    let removed = removed.and_then(|removed| removed.value);
                    prop_assert_eq!(removed.as_deref(), old.as_deref());
                    prop_assert!(table.version(&key) == 0 && table.get(&key).is_none());
                    prop_assert_eq!(table.version(&key), 0);
                }
            }
            prop_assert_eq!(table.count(), model.len());
            let mut taken = [(0, 0); 3];
            for (key, (value, user, version, shared)) in &model {
                let found = table.get(key).unwrap();
                prop_assert_eq!(found.value.as_bytes(), value.as_slice());
                prop_assert_eq!(found.value.len(), value.len());
                prop_assert_eq!(matches!(found.value, Value::Long(_)), *shared);
                prop_assert_eq!((found.version, table.version(key)), (*version, *version));
                prop_assert!(table.version(key) != 0);
                taken[*user].0 += 1;
                taken[*user].1 += (key.len() + value.len()) as u64;
            }
            prop_assert_eq!([users[0].taken(), users[1].taken(), users[2].taken()], taken);
        }
        for key in model.keys().take(model.len() / 2) {
            prop_assert!(table.delete(key).is_some());
        }
        drop(table);
        prop_assert!(
            users.iter().all(|user| user.taken() == (0, 0) && Arc::strong_count(user) == 1)
        );
        Ok(())
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_map_and_charges_who_stored_the_value(
            steps in prop::collection::vec(step(), 0..100)
        ) {
            behaves_like_a_map::<RandomState>(steps.clone())?;
            behaves_like_a_map::<PoorHash>(steps)?;
        }
    }

    /// Slots of many sizes, with many of each, so that nearly every free moves another.
    fn finds_every_pair_wherever_it_is_moved<S: BuildHasher + Default>(
        steps: Vec<(u8, u8, usize, u8)>,
    ) -> Result<(), TestCaseError> {
        let (mut table, mut model) = (Table::<S>::default(), BTreeMap::new());
        let users: [_; 3] = std::array::from_fn(|_| Quotas::user_with(0, 0));
        let many = steps.len();
        for (number, (first, second, len, kind)) in steps.into_iter().enumerate() {
            let (key, user) = ([first, second % 4], usize::from(kind % 3));
            // Now it grows, now it shrinks.
            if kind % 8 < if number % 1000 < 600 { 7 } else { 2 } {
                let value = vec![number as u8; len];
                let stored = table.put(&key, Value::of(&value), &users[user]).unwrap();
                model.insert(key, (value, stored.version, user));
            } else {
                prop_assert_eq!(table.delete(&key).is_some(), model.remove(&key).is_some());
            }
            if number % 100 != 99 && number + 1 != many {
                continue;
            }
            prop_assert_eq!(table.count(), model.len());
            let mut slots = 0;
            for (key, (value, version, user)) in &model {
                let handle = table.find(key).unwrap();
                let (head, found) = (table.pairs.head(handle), table.pairs.found(handle));
                prop_assert_eq!((table.pairs.key(handle), head.version), (&key[..], *version));
                prop_assert_eq!(found.value.as_bytes(), value.as_slice());
                prop_assert!(table.accounts.is_of(head.account, &users[*user]));
                slots += if handle & LARGE == 0 { table.pairs.slab.slot(handle).len() } else { 0 };
            }
            prop_assert!(table.slot_bytes() <= slots * 4 + 64 * 2048, "for {}", slots);
            let (mut keys, mut cursor) = (Vec::new(), 0);
            loop {
                let page = table.keys(b"", cursor, 0);
                keys.extend(page.keys().map(<[u8]>::to_vec));
                cursor = page.next;
                if cursor == 0 {
                    break;
                }
            }
            keys.sort();
            prop_assert!(keys.iter().eq(model.keys()));
        }
        for key in model.into_keys() {
            prop_assert!(table.delete(&key).is_some());
        }
        prop_assert_eq!((table.count(), table.slot_bytes()), (0, 0));
        prop_assert!(users.iter().all(|user| user.taken() == (0, 0)));
        Ok(())
    }

    proptest! {
        #[test]
        fn every_pair_is_found_wherever_it_is_moved(
            steps in prop::collection::vec(
                (any::<u8>(), any::<u8>(), prop_oneof![8 => 0..64usize, 2 => 0..1100usize], any::<u8>()),
                0..3000,
            )
        ) {
            finds_every_pair_wherever_it_is_moved::<RandomState>(steps.clone())?;
            finds_every_pair_wherever_it_is_moved::<PoorHash>(steps)?;
        }
    }

    #[derive(Debug, Clone)]
    struct Between {
        puts: Vec<Vec<u8>>,
        /// So many of those that are there.
        deletes: Vec<prop::sample::Index>,
        limit: usize,
    }

    fn between() -> impl Strategy<Value = Between> {
        let key = || {
            prop_oneof![
                prop::collection::vec(
                    prop::sample::select(vec![0u8, 1, 2, 7, 8, 128, 254, 255]),
                    1..5
                ),
                prop::collection::vec(any::<u8>(), 1..3),
            ]
        };
        let many = prop_oneof![Just(0), 0..5usize, 0..100usize];
        let puts = many.clone().prop_flat_map(move |many| prop::collection::vec(key(), many));
        let deletes =
            many.prop_flat_map(|many| prop::collection::vec(any::<prop::sample::Index>(), many));
        let limit = prop_oneof![1..4usize, 1..60usize, Just(0), Just(20_000)];
        (puts, deletes, limit).prop_map(|(puts, deletes, limit)| Between { puts, deletes, limit })
    }

    fn lists_every_key_once<S: BuildHasher + Default>(
        prefix: &[u8],
        script: Vec<Between>,
    ) -> Result<(), TestCaseError> {
        let user = Quotas::user_with(0, 0);
        let mut table = Table::<S>::default();
        let mut all: BTreeSet<Vec<u8>> = BTreeSet::new();
        // What must be listed, and what may be.
        let (mut stayed, mut ever) = (None::<BTreeSet<Vec<u8>>>, BTreeSet::new());
        let (mut seen, mut cursor) = (BTreeSet::new(), 0);
        let quiet = Between { puts: Vec::new(), deletes: Vec::new(), limit: 3 };
        for Between { puts, deletes, limit } in script.into_iter().chain(std::iter::repeat(quiet)) {
            for key in puts {
                let _ = table.put(&key, Value::Short(b"v"), &user).unwrap();
                all.insert(key.clone());
                ever.insert(key);
            }
            for index in deletes {
                let Some(key) = all.iter().nth(index.index(all.len().max(1))).cloned() else {
                    break;
                };
                prop_assert!(table.delete(&key).is_some());
                all.remove(&key);
                if let Some(stayed) = &mut stayed {
                    stayed.remove(&key);
                }
            }
            stayed.get_or_insert_with(|| all.clone());
            let page = table.keys(prefix, cursor, limit);
            let keys = page.keys();
            // More only if their hash is the same.
            let mut hashes: Vec<_> = page.keys().map(|key| hash_of(&table.hash, key)).collect();
            prop_assert!(hashes.is_sorted() && hashes.iter().all(|hash| *hash >= cursor));
            prop_assert!(page.next == 0 || hashes.iter().all(|hash| *hash < page.next));
            hashes.dedup();
            prop_assert!(limit == 0 || hashes.len() <= limit, "{} for {}", keys.len(), limit);
            for key in keys {
                prop_assert!(key.starts_with(prefix) && all.contains(key));
                prop_assert!(seen.insert(key.to_vec()), "{:?} twice", key);
            }
            cursor = page.next;
            if cursor == 0 {
                break;
            }
        }
        let stayed = stayed.unwrap_or_default();
        let missing = stayed.iter().find(|key| key.starts_with(prefix) && !seen.contains(*key));
        prop_assert_eq!(missing, None);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_key_that_stays_is_listed_once_whatever_happens_between_the_pages(
            first in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3), 0..400),
            script in prop::collection::vec(between(), 1..20),
            prefix in prop_oneof![
                Just(Vec::new()),
                any::<u8>().prop_map(|byte| vec![byte]),
                prop::sample::select(vec![vec![0u8], vec![255u8], vec![255u8, 255], vec![8, 0]]),
            ],
        ) {
            let mut script = script;
            script[0].puts.extend(first);
            lists_every_key_once::<RandomState>(&prefix, script.clone())?;
            lists_every_key_once::<PoorHash>(&prefix, script)?;
        }
    }

    #[test]
    fn a_page_is_bounded_in_keys_in_bytes_and_in_what_is_looked_at() {
        let user = Quotas::user_with(0, 0);
        let mut table = Table::<RandomState>::default();
        for number in 0..200u32 {
            let mut key = number.to_le_bytes().to_vec();
            key.resize(65_536, 1);
            let _ = table.put(&key, Value::Short(b""), &user).unwrap();
        }
        let page = table.keys(b"", 0, 0);
        assert!(page.bytes.len() < MOST_BYTES + 65_536 && page.next != 0);
        let page = table.keys(b"no such key", 0, 0);
        assert!(page.keys().len() == 0 && page.next != 0);
        assert_eq!(table.keys(b"", u64::MAX, 1).next, 0);
        assert_eq!(Table::<RandomState>::default().keys(b"", 0, 0).next, 0);
    }

    #[test]
    fn a_value_of_the_same_size_is_written_in_place() {
        let user = Quotas::user_with(0, 0);
        let mut table = Table::<RandomState>::default();
        let _ = table.put(b"key", Value::Short(&[1; 20]), &user).unwrap();
        let handle = table.find(b"key");
        // 14 + 3 + 23 are 40 bytes.
        for len in [17, 20, 23] {
            let _ = table.put(b"key", Value::Short(&[2; 23][..len]), &user).unwrap();
            assert_eq!((table.find(b"key"), table.slot_bytes()), (handle, 520));
        }
        let _ = table.put(b"key", Value::of(&[3; 2000]), &user).unwrap();
        assert_eq!(table.slot_bytes(), 0);
    }

    #[test]
    fn a_long_value_is_not_copied() {
        let user = Quotas::user_with(0, 0);
        let mut table = Table::<RandomState>::default();
        let value = Value::of(&[1; SHORT + 1]);
        let Value::Long(shared) = value.clone() else { panic!("it is long") };
        let _ = table.put(b"key", value, &user).unwrap();
        let Some(Found { value: Value::Long(found), .. }) = table.get(b"key") else { panic!() };
        assert!(Arc::ptr_eq(&found, &shared));
        let removed = table.delete(b"key").unwrap();
        assert!(removed.value.is_some_and(|value| Arc::ptr_eq(&value, &shared)));
    }

    #[test]
    fn a_put_that_finds_no_room_changes_nothing() {
        let (user, other) = (Quotas::user_with(0, 0), Quotas::user_with(0, 0));
        let mut table = Table::<RandomState>::default();
        let _ = table.put(b"key", Value::Short(b"value"), &user).unwrap();
        table.pairs.slab.end_here();
        for key in [&b"key"[..], b"another"] {
            assert!(table.put(key, Value::Short(&[1; 100]), &other).is_err());
        }
        let found = table.get(b"key").unwrap();
        assert_eq!((found.value.as_bytes(), found.version), (&b"value"[..], 1));
        assert_eq!((user.taken(), other.taken(), table.count()), ((1, 8), (0, 0), 1));
        // What needs no new slot is stored all the same.
        assert_eq!(table.put(b"key", Value::Short(b"other"), &other).unwrap().version, 2);
        assert_eq!((user.taken(), other.taken()), ((0, 0), (1, 8)));
    }

    #[test]
    fn a_version_is_not_given_twice() {
        let user = Quotas::user_with(0, 0);
        let mut table = Table::<RandomState>::default();
        for version in 1..=100 {
            let stored = table.put(b"key", Value::Short(b""), &user).unwrap();
            assert_eq!((stored.version, table.version(b"key")), (version, version));
            assert!(table.delete(b"key").is_some());
        }
        // The head has room for it to the last bit, and for the longest of everything else.
        table.last_version = (1 << 56) - 2;
        table.pairs.slab = Slab::default();
        let stored = table.put(&[7; LARGEST - HEAD], Value::Short(b""), &user).unwrap();
        assert_eq!(table.version(&[7; LARGEST - HEAD]), stored.version);
        assert_eq!(stored.version, (1 << 56) - 1);
        let head = Head { version: stored.version, account: u32::MAX, key: 2034, value: 0xfff };
        let mut slot = [0; HEAD];
        head.write(&mut slot);
        let Head { version, account, key, value } = Head::read(&slot);
        assert_eq!((version, account, key, value), (stored.version, u32::MAX, 2034, 0xfff));
    }
}
