//! The write access to a table.

use std::fmt;

use crate::extents::ExtentRef;
use crate::hash::{KeyHash, Seed, SeededHash};
use crate::hash_index::HashIndex;
use crate::reader::TableReader;
use crate::records::{Full, NewRecord, Records};
use crate::slots::Moved;
use crate::value::Value;

/// The pairs of one group.
pub struct Table<H = SeededHash> {
    index: HashIndex<u32>,
    records: Records,
    hash: H,
}

/// A pair that was replaced or deleted.
#[must_use = "drop it after the lock is released"]
#[derive(Debug)]
pub struct Replaced {
    /// The uid of the user who had stored the value.
    pub owner: u32,
    /// The length of key and value together, in bytes.
    pub bytes: usize,
    /// The value, if it was shared. It may be long, so drop it after the lock is released.
    pub value: Option<ExtentRef>,
}

impl Table {
    /// An empty table whose hash is keyed with `seed`.
    pub fn new(seed: Seed) -> Self {
        Self::with_hash(SeededHash::new(seed))
    }
}

impl<H> Table<H> {
    /// An empty table that uses this hash function.
    pub fn with_hash(hash: H) -> Self {
        Self { index: HashIndex::default(), records: Records::default(), hash }
    }

    /// Read access to the table.
    pub fn reader(&self) -> TableReader<'_, H> {
        TableReader { index: &self.index, records: &self.records, hash: &self.hash }
    }
}

impl<H: KeyHash> Table<H> {
    /// Stores a pair with this version and owner. Returns the pair that it replaces.
    ///
    /// # Errors
    /// [`Full`] when there is no slot for the record; the table is unchanged.
    #[inline]
    pub fn put(
        &mut self,
        key: &[u8],
        value: &Value<'_>,
        version: u64,
        owner: u32,
    ) -> Result<Option<Replaced>, Full> {
        let hash = self.hash.hash(key);
        let Self { index, records, hash: key_hash } = self;
        let found = index.find_mut(hash, |handle| records.key(*handle) == key);
        let Some(handle) = found else {
            let handle = records.store(NewRecord { hash, version, owner, key, value })?;
            index.insert(hash, handle, |handle| records.hash(*handle, key_hash));
            return Ok(None);
        };
        let old = *handle;
        let header = records.header(old);
        let fits = records.fits_in_place(old, key, value);
        let record = NewRecord { hash, version, owner, key, value };
        let value = if fits {
            records.overwrite(old, record)
        } else {
            *handle = records.store(record)?;
            self.free(old)
        };
        Ok(Some(Replaced { owner: header.owner, bytes: header.key_len + header.value_len, value }))
    }

    /// Deletes a pair and returns it, or returns `None` if the key does not exist.
    pub fn delete(&mut self, key: &[u8]) -> Option<Replaced> {
        let Self { index, records, hash } = self;
        let handle = index.remove(
            hash.hash(key),
            |handle| records.key(*handle) == key,
            |handle| records.hash(*handle, hash),
        )?;
        let header = records.header(handle);
        let value = self.free(handle);
        Some(Replaced { owner: header.owner, bytes: header.key_len + header.value_len, value })
    }

    /// Whether [`put`](Self::put) would succeed.
    pub fn can_put(&self, key: &[u8], value: &Value<'_>) -> bool {
        // The first check is the cheapest, and nearly always succeeds.
        self.records.has_room(1)
            || self.records.can_store(key, value)
            || self
                .reader()
                .find(key)
                .is_some_and(|handle| self.records.fits_in_place(handle, key, value))
    }

    /// Whether `puts` puts of any size would succeed. The check is conservative: `false` does not
    /// mean that they would fail.
    pub fn has_room(&self, puts: usize) -> bool {
        self.records.has_room(puts)
    }

    /// Frees a record that the index no longer names, and corrects the handle of the record that
    /// moved to its slot.
    fn free(&mut self, handle: u32) -> Option<ExtentRef> {
        let Self { index, records, hash } = self;
        let (value, moved) = records.free(handle);
        if let Some(Moved { from, to }) = moved {
            let handle = index.find_mut(records.hash(to, hash), |handle| *handle == from);
            *handle.expect("the index names every record") = to;
        }
        value
    }
}

impl<H> fmt::Debug for Table<H> {
    /// Without keys and values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("count", &self.index.count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::keys::MAX_PAGE_BYTES;
    use crate::reader::{Entry, RecordInfo};
    use crate::records::HEADER_LEN;
    use crate::slots::MAX_SLOT;
    use crate::value::MAX_INLINE;

    /// Makes a table that uses this hash function.
    trait TestHash: KeyHash {
        fn table() -> Table<Self>
        where
            Self: Sized;
    }

    impl TestHash for SeededHash {
        fn table() -> Table {
            Table::new([7; 16])
        }
    }

    /// A hash function that depends on the first byte of the key only: many keys collide, also with
    /// the lowest and the highest hash.
    struct PoorHash;

    impl KeyHash for PoorHash {
        fn hash(&self, key: &[u8]) -> u64 {
            let low = u64::from(key[0] % 4);
            match key[0] {
                0 => 0,
                255 => u64::MAX,
                byte if byte % 2 == 0 => u64::from(byte) << 56 | low,
                byte => u64::from(byte) << 48 | low,
            }
        }
    }

    impl TestHash for PoorHash {
        fn table() -> Table<Self> {
            Table::with_hash(Self)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Key, value, owner, and whether the value is inline although long, or shared although
        /// short.
        Put(Vec<u8>, Vec<u8>, u32, bool),
        Delete(Vec<u8>),
    }

    /// Mostly short values, and some at the limits of a size class, of a slot and of inline values.
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
        // With these lengths, a record with a value of 1000 to 1024 bytes is near the largest slot.
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
            3 => (key(), value(), 0..3u32, prop::bool::weighted(0.1))
                .prop_map(|(k, v, owner, odd)| Step::Put(k, v, owner, odd)),
            1 => key().prop_map(Step::Delete),
        ]
    }

    fn check_against_map<H: TestHash>(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let (mut table, mut model) = (H::table(), BTreeMap::new());
        for (step, version) in steps.into_iter().zip(1..) {
            // The table describes the pair that was replaced or deleted.
            let check = |replaced: Option<Replaced>,
                         key: &[u8],
                         old: Option<(Vec<u8>, u32, u64)>| {
                prop_assert_eq!(replaced.is_some(), old.is_some());
                let (Some(replaced), Some((value, owner, _))) = (replaced, old) else {
                    return Ok(());
                };
                prop_assert_eq!((replaced.owner, replaced.bytes), (owner, key.len() + value.len()));
                prop_assert_eq!(replaced.value.is_some(), value.len() > MAX_INLINE);
                prop_assert!(replaced.value.is_none_or(|extent| *extent == value[..]));
                Ok(())
            };
            match step {
                Step::Put(key, value, owner, odd) => {
                    let content = match odd {
                        // A long value that is not shared yet, or a short one that is.
                        true if value.len() > MAX_INLINE => Value::Inline(&value),
                        true => Value::Shared(value.as_slice().into()),
                        false => Value::new(&value),
                    };
                    prop_assert_eq!(content.as_bytes(), value.as_slice());
                    prop_assert!(table.can_put(&key, &content));
                    let replaced = table.put(&key, &content, version, owner).unwrap();
                    let old = model.insert(key.clone(), (value, owner, version));
                    check(replaced, &key, old)?;
                }
                Step::Delete(key) => {
                    check(table.delete(&key), &key, model.remove(&key))?;
                    let reader = table.reader();
                    prop_assert!(reader.get(&key).is_none() && reader.info(&key).is_none());
                    prop_assert_eq!(reader.version(&key), 0);
                }
            }
            let reader = table.reader();
            prop_assert_eq!(reader.count(), model.len());
            for (key, (value, owner, version)) in &model {
                let found = reader.get(key).unwrap();
                prop_assert_eq!(found.value.as_bytes(), value.as_slice());
                prop_assert_eq!(found.value.len(), value.len());
                let is_shared = matches!(found.value, Value::Shared(_));
                prop_assert_eq!(is_shared, value.len() > MAX_INLINE);
                prop_assert_eq!((found.version, reader.version(key)), (*version, *version));
                let info = RecordInfo { version: *version, owner: *owner, value_len: value.len() };
                prop_assert_eq!(reader.info(key), Some(info));
            }
        }
        for key in model.keys().take(model.len() / 2) {
            prop_assert!(table.delete(key).is_some());
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn table_behaves_like_a_map_and_reports_replaced_pairs(
            steps in prop::collection::vec(step(), 0..100)
        ) {
            check_against_map::<SeededHash>(steps.clone())?;
            check_against_map::<PoorHash>(steps)?;
        }
    }

    /// Slots of many sizes, with many of each, so that nearly every free moves another.
    fn check_pairs_after_moves<H: TestHash>(
        steps: Vec<(u8, u8, usize, u8)>,
    ) -> Result<(), TestCaseError> {
        let (mut table, mut model) = (H::table(), BTreeMap::new());
        let many = steps.len();
        for (number, (first, second, len, kind)) in steps.into_iter().enumerate() {
            let (key, owner) = ([first, second % 4], u32::from(kind % 3));
            // The table grows for a while, then shrinks.
            if kind % 8 < if number % 1000 < 600 { 7 } else { 2 } {
                let (value, version) = (vec![number as u8; len], number as u64 + 1);
                let _ = table.put(&key, &Value::new(&value), version, owner).unwrap();
                model.insert(key, (value, version, owner));
            } else {
                prop_assert_eq!(table.delete(&key).is_some(), model.remove(&key).is_some());
            }
            if number % 100 != 99 && number + 1 != many {
                continue;
            }
            let reader = table.reader();
            prop_assert_eq!(reader.count(), model.len());
            let mut slots = 0;
            for (key, (value, version, owner)) in &model {
                let handle = reader.find(key).unwrap();
                let header = table.records.header(handle);
                prop_assert_eq!((table.records.key(handle), header.version), (&key[..], *version));
                let (found, _) = table.records.value(handle);
                prop_assert_eq!(found.as_bytes(), value.as_slice());
                prop_assert_eq!(header.owner, *owner);
                slots += table.records.slot_len_of(handle);
            }
            prop_assert!(table.records.slot_bytes() <= slots * 4 + 64 * 2048, "for {}", slots);
            let (mut keys, mut cursor) = (Vec::new(), 0);
            loop {
                let page = reader.keys(b"", cursor, 0);
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
        prop_assert_eq!((table.reader().count(), table.records.slot_bytes()), (0, 0));
        Ok(())
    }

    proptest! {
        #[test]
        fn pairs_are_found_after_their_slots_have_moved(
            steps in prop::collection::vec(
                (
                    any::<u8>(),
                    any::<u8>(),
                    prop_oneof![8 => 0..64usize, 2 => 0..1100usize],
                    any::<u8>(),
                ),
                0..3000,
            )
        ) {
            check_pairs_after_moves::<SeededHash>(steps.clone())?;
            check_pairs_after_moves::<PoorHash>(steps)?;
        }
    }

    /// The changes before one page of a listing, and the limit of the page.
    #[derive(Debug, Clone)]
    struct ListingStep {
        puts: Vec<Vec<u8>>,
        /// Each selects one of the existing keys.
        deletes: Vec<prop::sample::Index>,
        limit: usize,
    }

    fn listing_step() -> impl Strategy<Value = ListingStep> {
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
        (puts, deletes, limit).prop_map(|(puts, deletes, limit)| ListingStep {
            puts,
            deletes,
            limit,
        })
    }

    fn check_listing<H: TestHash>(
        prefix: &[u8],
        script: Vec<ListingStep>,
    ) -> Result<(), TestCaseError> {
        let mut table = H::table();
        let mut all: BTreeSet<Vec<u8>> = BTreeSet::new();
        // The keys that must be listed, and those that may be listed.
        let (mut stayed, mut ever) = (None::<BTreeSet<Vec<u8>>>, BTreeSet::new());
        let (mut seen, mut cursor) = (BTreeSet::new(), 0);
        let quiet = ListingStep { puts: Vec::new(), deletes: Vec::new(), limit: 3 };
        for ListingStep { puts, deletes, limit } in
            script.into_iter().chain(std::iter::repeat(quiet))
        {
            for key in puts {
                let _ = table.put(&key, &Value::Inline(b"v"), 1, 0).unwrap();
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
            let page = table.reader().keys(prefix, cursor, limit);
            let keys = page.keys();
            // Only keys with the same hash may exceed the limit.
            let mut hashes: Vec<_> = page.keys().map(|key| table.hash.hash(key)).collect();
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
        fn key_is_listed_once_despite_concurrent_changes(
            first in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3), 0..400),
            script in prop::collection::vec(listing_step(), 1..20),
            prefix in prop_oneof![
                Just(Vec::new()),
                any::<u8>().prop_map(|byte| vec![byte]),
                prop::sample::select(vec![vec![0u8], vec![255u8], vec![255u8, 255], vec![8, 0]]),
            ],
        ) {
            let mut script = script;
            script[0].puts.extend(first);
            check_listing::<SeededHash>(&prefix, script.clone())?;
            check_listing::<PoorHash>(&prefix, script)?;
        }
    }

    #[test]
    fn page_is_bounded_in_bytes_and_in_work() {
        let mut table = SeededHash::table();
        for number in 0..200u32 {
            let mut key = number.to_le_bytes().to_vec();
            key.resize(65_536, 1);
            let _ = table.put(&key, &Value::Inline(b""), 1, 0).unwrap();
        }
        let page = table.reader().keys(b"", 0, 0);
        assert!(page.len_bytes() < MAX_PAGE_BYTES + 65_536 && page.next != 0);
        let page = table.reader().keys(b"no such key", 0, 0);
        assert!(page.keys().len() == 0 && page.next != 0);
        assert_eq!(table.reader().keys(b"", u64::MAX, 1).next, 0);
        assert_eq!(SeededHash::table().reader().keys(b"", 0, 0).next, 0);
    }

    #[test]
    fn value_of_the_same_slot_size_is_written_in_place() {
        let mut table = SeededHash::table();
        let _ = table.put(b"key", &Value::Inline(&[1; 20]), 1, 0).unwrap();
        let handle = table.reader().find(b"key");
        // 14 + 3 + 23 are 40 bytes.
        for len in [17, 20, 23] {
            let _ = table.put(b"key", &Value::Inline(&[2; 23][..len]), 1, 0).unwrap();
            assert_eq!((table.reader().find(b"key"), table.records.slot_bytes()), (handle, 520));
        }
        let _ = table.put(b"key", &Value::new(&[3; 2000]), 1, 0).unwrap();
        assert_eq!(table.records.slot_bytes(), 0);
    }

    #[test]
    fn memory_of_deleted_large_records_is_released() {
        const MANY: usize = 1000;
        let mut table = SeededHash::table();
        let value = |number: usize| vec![number as u8; MAX_INLINE + 1 + number];
        for number in 0..MANY {
            let _ = table.put(&number.to_le_bytes(), &Value::new(&value(number)), 1, 0).unwrap();
        }
        // The last ones stay, and move.
        for number in 0..MANY - 3 {
            assert!(table.delete(&number.to_le_bytes()).is_some());
            let kept = table.records.large_capacity();
            assert!(kept <= (4 * table.reader().count()).max(4), "{kept} after {number}");
        }
        for number in MANY - 3..MANY {
            let deleted = table.delete(&number.to_le_bytes()).unwrap();
            assert_eq!(deleted.value.as_deref(), Some(&value(number)[..]));
        }
        assert_eq!(table.records.large_capacity(), 0);
    }

    #[test]
    fn long_value_is_not_copied() {
        let mut table = SeededHash::table();
        let value = Value::new(&[1; MAX_INLINE + 1]);
        let Value::Shared(shared) = value.clone() else { panic!("it is long") };
        let _ = table.put(b"key", &value, 1, 0).unwrap();
        let Some(Entry { value: Value::Shared(found), .. }) = table.reader().get(b"key") else {
            panic!("it is stored")
        };
        assert!(found.ptr_eq(&shared));
        let removed = table.delete(b"key").unwrap();
        assert!(removed.value.is_some_and(|value| value.ptr_eq(&shared)));
    }

    #[test]
    fn put_without_room_changes_nothing() {
        let mut table = SeededHash::table();
        let _ = table.put(b"key", &Value::Inline(b"value"), 1, 7).unwrap();
        table.records.exhaust();
        assert!(!table.has_room(1));
        for key in [&b"key"[..], b"another"] {
            assert!(!table.can_put(key, &Value::Inline(&[1; 100])));
            assert!(table.put(key, &Value::Inline(&[1; 100]), 2, 8).is_err());
        }
        let found = table.reader().get(b"key").unwrap();
        assert_eq!((found.value.as_bytes(), found.version), (&b"value"[..], 1));
        assert_eq!((table.reader().info(b"key").unwrap().owner, table.reader().count()), (7, 1));
        // A put that needs no new slot still succeeds.
        assert!(table.can_put(b"key", &Value::Inline(b"other")));
        let replaced = table.put(b"key", &Value::Inline(b"other"), 2, 8).unwrap().unwrap();
        assert_eq!((replaced.owner, replaced.bytes), (7, 8));
        assert_eq!(table.reader().version(b"key"), 2);
    }

    #[test]
    fn record_header_keeps_every_bit_of_a_version() {
        let mut table = SeededHash::table();
        let key = [7; MAX_SLOT - HEADER_LEN];
        let _ = table.put(&key, &Value::Inline(b""), (1 << 56) - 1, u32::MAX).unwrap();
        let info = RecordInfo { version: (1 << 56) - 1, owner: u32::MAX, value_len: 0 };
        assert_eq!(table.reader().info(&key), Some(info));
    }
}
