//! Numbers that distinguish the logins of one process.
//!
//! The number is part of the paths of a client's sockets. Small numbers are reused; when they are
//! exhausted, or their paths are taken, random ones are used. The set of small numbers in use is
//! one atomic rather than a set behind a lock, because a fork at the wrong moment would leave a
//! lock locked in the child.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::generation::generation;
use crate::sys;

/// The small numbers in use, one bit each.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// Frees all small numbers. Called in a forked child, which has no login of its own in progress;
/// async-signal-safe.
pub(crate) fn release_all() {
    IN_USE.store(0, Ordering::Relaxed);
}

/// A number that no other login of this process has at the same time.
#[derive(Debug)]
pub(crate) struct ClientNumber {
    generation: u32,
    number: u64,
}

impl ClientNumber {
    /// Numbers below this one are reused.
    const SMALL: u64 = u64::BITS as u64;

    /// Claims the lowest free number, so that it usually is 0; a random one when all small numbers
    /// are in use.
    pub(crate) fn claim() -> Result<Self, Error> {
        let is_free = |number: &u64| {
            let bit = 1 << number;
            IN_USE.fetch_or(bit, Ordering::Relaxed) & bit == 0
        };
        match (0..Self::SMALL).find(is_free) {
            Some(number) => Ok(Self { generation: generation(), number }),
            None => Self::random(),
        }
    }

    /// Claims a number that other users cannot predict.
    pub(crate) fn random() -> Result<Self, Error> {
        let number = sys::random().map_err(Error::System)?;
        // A small number is never random: its bit in `IN_USE` must be claimed.
        Ok(Self { generation: generation(), number: number.max(Self::SMALL) })
    }

    /// The path of a client socket: `/tmp/<stem>_<pid>`, followed by `_<number>` unless that is 0.
    pub(crate) fn path(&self, stem: &str) -> PathBuf {
        let pid = std::process::id();
        match self.number {
            0 => format!("/tmp/{stem}_{pid}"),
            number => format!("/tmp/{stem}_{pid}_{number}"),
        }
        .into()
    }
}

impl Drop for ClientNumber {
    fn drop(&mut self) {
        // A number that a forked child inherited was freed by `release_all`.
        if self.number < Self::SMALL && self.generation == generation() {
            IN_USE.fetch_and(!(1 << self.number), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_reused() {
        let claim = || ClientNumber::claim().unwrap();
        let (first, second) = (claim(), claim());
        assert_ne!(first.number, second.number);
        let number = first.number;
        drop(first);
        // Other tests claim numbers, too; one of the next claims must get the freed number.
        let claimed: Vec<_> = (0..64).map(|_| claim()).collect();
        assert!(claimed.iter().any(|claimed| claimed.number == number));
        // The last claims get random numbers, which are unique all the same.
        let mut numbers: Vec<_> = claimed.iter().map(|claimed| claimed.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), claimed.len());
    }
}
