//! The pairs of one group: the only place that knows how they are kept.
//!
//! It does no I/O and takes no lock; whoever owns the table holds the group's. Look-ups take the same time
//! however many pairs there are and whatever the keys look like: the hash is seeded at random, so keys
//! cannot be chosen to collide.

use std::collections::HashMap;
use std::sync::Arc;

use super::quota::{Charge, User};

/// A table with room for so many pairs is not made smaller.
const KEPT: usize = 1024;

/// TEMPORARY
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Short(&'a [u8]),
    Long(Arc<[u8]>),
}

const SHORT: usize = 1024;

impl<'a> Value<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        if bytes.len() <= SHORT { Self::Short(bytes) } else { Self::Long(bytes.into()) }
    }
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
    pub(crate) fn len(&self) -> usize {
        self.as_bytes().len()
    }
}

pub(crate) struct Found<'a> {
    pub(crate) value: Value<'a>,
    pub(crate) version: u64,
}

#[derive(Debug)]
pub(crate) struct Full;

#[must_use]
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) before: Option<Arc<[u8]>>,
}

#[must_use]
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) before: Option<Arc<[u8]>>,
}

pub(crate) struct Page {
    pub(crate) keys: Vec<Box<[u8]>>,
    pub(crate) next: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    pairs: HashMap<Box<[u8]>, Pair>,
    last: u64,
}

#[derive(Debug)]
struct Pair {
    value: Arc<[u8]>,
    charge: Charge,
    version: u64,
}

impl Table {
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        value: Value<'_>,
        user: &Arc<User>,
    ) -> Result<Stored, Full> {
        self.last += 1;
        let version = self.last;
        let bytes = key.len() + value.len();
        let pair =
            Pair { value: value.as_bytes().into(), charge: Charge::pair(user, bytes), version };
        let before = self.pairs.insert(key.into(), pair).map(|pair| pair.value);
        Ok(Stored { version, before })
    }
    pub(crate) fn get(&self, key: &[u8]) -> Option<Found<'_>> {
        self.pairs.get(key).map(|pair| Found {
            value: if pair.value.len() <= SHORT {
                Value::Short(&pair.value)
            } else {
                Value::Long(Arc::clone(&pair.value))
            },
            version: pair.version,
        })
    }
    pub(crate) fn version(&self, key: &[u8]) -> u64 {
        self.pairs.get(key).map_or(0, |pair| pair.version)
    }
    pub(crate) fn growth(&self, key: &[u8], len: usize, user: &Arc<User>) -> (u64, u64) {
        match self.pairs.get(key).filter(|pair| pair.charge.is_of(user)) {
            Some(pair) => (0, len.saturating_sub(pair.value.len()) as u64),
            None => (1, (key.len() + len) as u64),
        }
    }
    pub(crate) fn delete(&mut self, key: &[u8]) -> Option<Removed> {
        self.pairs.remove(key).map(|pair| Removed { before: Some(pair.value) })
    }
    pub(crate) fn count(&self) -> usize {
        self.pairs.len()
    }
    pub(crate) fn keys(&self, prefix: &[u8], cursor: u64, limit: usize) -> Page {
        let _ = (cursor, limit);
        Page {
            keys: self.pairs.keys().filter(|key| key.starts_with(prefix)).cloned().collect(),
            next: 0,
        }
    }
}
