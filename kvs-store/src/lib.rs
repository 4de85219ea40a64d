//! Stores: they commit the changes of groups and define the commit order.
//!
//! A [`Store`] is the source of truth of one group. The group submits a [`Batch`]; the store
//! reports when the batch is committed, and its position in the commit order of the group
//! ([`Stamp`]). Only then does the group apply the batch ([`Apply`]): to its table, to the usage of
//! its owner, and to its subscribers.
//!
//! - A store never blocks its caller. A store that commits at once ([`MemoryStore`]) returns
//!   [`Submitted::Done`]; any other returns [`Submitted::Pending`] and completes a [`Ticket`]
//!   later.
//! - A batch is committed as a whole or not at all.
//! - Batches of one group are committed in the order in which they were submitted. Their tickets
//!   may be completed in any order; the stamps tell the order of the commits.
//! - A refused batch has no stamp, so the sequence of stamps has no gap.
//! - The versions of a group strictly increase and are never reused.
//!
//! Every group begins empty: no caller calls [`Store::recover`] or reads
//! [`StoreLimits::is_durable`] yet.
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
