//! Who commits the changes of a group.
//!
//! A [`Store`] is the source of truth of one group. The group submits a [`Batch`]; the store says
//! when the batch is committed, and where in the order of all commits of the group it stands
//! ([`Stamp`]). Only then does the group apply it ([`Apply`]): to its table, to the usage of its
//! owner, and to its subscribers.
//!
//! - A store never blocks its caller. A store that commits at once ([`MemoryStore`]) answers
//!   [`Submitted::Done`]; any other answers [`Submitted::Pending`] and completes a [`Ticket`]
//!   later.
//! - A batch is committed as a whole or not at all.
//! - Batches of one group are committed in the order in which they were submitted. Their tickets
//!   may be completed in any order; the stamps tell the order of the commits.
//! - A refused batch has no stamp, so the sequence of stamps has no gap.
//! - Versions of a group never repeat and never go back.
//!
//! The crate knows no sessions, no users beyond their uid, and no sockets.

#![forbid(unsafe_code)]

mod batch;
mod memory;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod version;

pub use batch::{Batch, Change, Operation, OwnedBatch};
pub use memory::MemoryStore;
pub use store::{
    Apply, Commit, Completions, Stamp, Store, StoreError, StoreLimits, Submitted, Ticket,
};
pub use version::Version;
