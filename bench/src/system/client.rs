//! The operations that scenarios need of a client.

use crate::error::{Result, failed};

/// A client that sends a batch of requests at once.
pub(crate) trait Pipelined {
    /// Performs gets, each of which must find a value of this length, or puts of this value.
    fn batch(&mut self, keys: &[Vec<u8>], value: &[u8], is_get: bool) -> Result<()>;
}

/// One client of a system.
pub(crate) trait Client {
    /// Gets the value of an existing key. The value must have this length.
    fn get(&mut self, key: &[u8], len: usize) -> Result<()>;

    /// Stores a value, and waits for the response if the system has one.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
}

/// Checks that a get has found the stored value.
pub(crate) fn check(system: &str, key: &[u8], found: Option<usize>, len: usize) -> Result<()> {
    match found {
        Some(found) if found == len => Ok(()),
        Some(found) => failed(format!(
            "{system}: the value of {} has {found} bytes instead of {len}",
            key.escape_ascii()
        )),
        None => failed(format!(
            "{system}: {} does not exist, although it was stored",
            key.escape_ascii()
        )),
    }
}
