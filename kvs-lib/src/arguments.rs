//! Checks of arguments that need no connection: what fits in a message of either protocol.

use kvs_proto::Text;
use kvs_proto::v2::MAX_KEY;

use crate::error::{Error, Invalid};

/// A text of protocol v1 that must not be empty: a group name, a secret or a key.
pub(crate) fn text(what: &'static str, bytes: &[u8]) -> Result<Text, Error> {
    if bytes.is_empty() {
        return Err(Error::Invalid { what, why: Invalid::Empty });
    }
    text_or_empty(what, bytes)
}

/// A text of protocol v1 that may be empty: a value.
pub(crate) fn text_or_empty(what: &'static str, bytes: &[u8]) -> Result<Text, Error> {
    Text::new(bytes).map_err(|error| Error::Invalid { what, why: error.into() })
}

/// Checks a key of protocol v2.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    let why = match key.len() {
        0 => Invalid::Empty,
        1..=MAX_KEY => return Ok(()),
        len => Invalid::TooLong { len, max: MAX_KEY },
    };
    Err(Error::Invalid { what: "key", why })
}

/// Checks a prefix of protocol v2. Every key begins with the empty prefix.
pub(crate) fn check_prefix(prefix: &[u8]) -> Result<(), Error> {
    match prefix.is_empty() {
        true => Ok(()),
        false => check_key(prefix),
    }
}

/// Checks a value of protocol v2 for a server that accepts values of at most `max` bytes.
pub(crate) fn check_value(value: &[u8], max: usize) -> Result<(), Error> {
    if value.len() <= max {
        return Ok(());
    }
    let why = Invalid::TooLong { len: value.len(), max };
    Err(Error::Invalid { what: "value", why })
}
