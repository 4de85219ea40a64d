//! The pairs of a PUT_MANY.

use crate::v2::fields::{LENGTH_LEN, length, take, take_u32};

/// The encoded pairs of a [`Request::PutMany`](super::message::Request::PutMany): at least one, all
/// of them well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entries<'a>(pub(super) &'a [u8]);

impl<'a> Entries<'a> {
    /// The key and the value of each pair.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || next_entry(&mut rest))
    }
}

/// Encodes the pairs of a [`Request::PutMany`](super::message::Request::PutMany).
#[derive(Debug, Clone, Default)]
pub struct EntriesBuilder(Vec<u8>);

impl EntriesBuilder {
    /// Adds a pair. The key is not empty.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.0.extend_from_slice(&length(key).to_le_bytes());
        self.0.extend_from_slice(&length(value).to_le_bytes());
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(value);
    }

    /// The length of an encoded pair, in bytes.
    pub fn entry_len(key: &[u8], value: &[u8]) -> usize {
        2 * LENGTH_LEN + key.len() + value.len()
    }

    /// The length of all encoded pairs, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no pairs. A request has at least one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pairs for a request.
    pub fn entries(&self) -> Entries<'_> {
        Entries(&self.0)
    }
}

/// Removes a pair from the front; `None` when it is cut off.
pub(super) fn next_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (key, value) = (take_u32(rest)?, take_u32(rest)?);
    Some((take(rest, key)?, take(rest, value)?))
}
