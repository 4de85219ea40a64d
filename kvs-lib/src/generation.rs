//! The fork generation: a number that every forked child increments.
//!
//! An object that stores the generation in which it was created can tell whether it was inherited
//! by `fork`. Such an object must not be used: its descriptors are closed, and threads that do not
//! exist in the child may hold its locks.

use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The generation of the calling process.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Starts a new generation. Called in a forked child; async-signal-safe.
pub(crate) fn advance() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
