//! The store without persistence: the only copy of the data is the table of the group.

use crate::batch::Batch;
use crate::store::{Apply, Stamp, Store, StoreError, StoreLimits, Submitted, Ticket};
use crate::version::Version;

/// Commits every batch at once, and keeps only the counters of commits and versions. The data is
/// lost when the process ends.
#[derive(Debug, Default)]
pub struct MemoryStore {
    sequence: u64,
    /// Records store 56 bits of it, which suffice for two thousand years of a million puts a
    /// second.
    version: Version,
}

impl Store for MemoryStore {
    fn submit(&mut self, batch: Batch<'_>, _: &mut dyn FnMut() -> Ticket) -> Submitted {
        let first_version = self.version + 1;
        self.sequence += 1;
        self.version += batch.versions();
        Submitted::Done(Stamp { sequence: self.sequence, first_version })
    }

    fn limits(&self) -> StoreLimits {
        StoreLimits {
            max_value: usize::MAX,
            max_changes: usize::MAX,
            commits_at_once: true,
            is_durable: false,
        }
    }

    fn recover(&mut self, _: &mut dyn Apply) -> Result<Version, StoreError> {
        Ok(self.version)
    }
}

#[cfg(test)]
mod tests {
    use kvs_table::Value;

    use super::*;
    use crate::batch::{Change, Operation};
    use crate::store::Commit;

    struct NoRecovery;

    impl Apply for NoRecovery {
        fn apply(&mut self, _: &Commit<'_>) {
            panic!("a memory store has nothing to recover");
        }
    }

    #[test]
    fn versions_never_repeat_and_sequence_has_no_gap() {
        let mut store = MemoryStore::default();
        assert_eq!(store.recover(&mut NoRecovery), Ok(0));
        let put = Change { key: b"k", operation: Operation::Put(Value::new(b"")), expected: None };
        let delete = Change { key: b"k", operation: Operation::Delete, expected: None };
        let batches = [vec![put.clone()], vec![put.clone(), put.clone()], vec![delete], vec![put]];
        let stamps: Vec<_> = batches
            .iter()
            .map(|changes| {
                let mut ticket = || panic!("the memory store needs no ticket");
                let Submitted::Done(stamp) = store.submit(Batch { owner: 0, changes }, &mut ticket)
                else {
                    panic!("the memory store decides at once")
                };
                (stamp.sequence, stamp.first_version)
            })
            .collect();
        assert_eq!(stamps, [(1, 1), (2, 2), (3, 4), (4, 4)]);
    }
}
