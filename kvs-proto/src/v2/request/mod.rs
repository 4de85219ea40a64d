//! Requests of an application, on the main channel.

mod codec;
mod entries;
mod kind;
mod limits;
mod message;

#[cfg(test)]
mod tests;

pub use crate::v2::limits::MAX_ENTRIES;
pub use entries::{Entries, EntriesBuilder};
pub use kind::RequestKind;
pub use limits::FrameLimits;
pub use message::{Request, WatchTarget};
