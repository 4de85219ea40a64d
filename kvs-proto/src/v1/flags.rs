//! Integers with a fixed meaning, and the fixed lengths of protocol v1.

use crate::integer::Int;

/// Success: connected, group exists, ready, done. On the callback channel: a key has changed.
pub const YES: Int = 1;

/// Refusal in place of a connection flag, a ready flag or a response of the login (no such group,
/// wrong secret).
pub const REFUSED: Int = 0;

/// The response to an operation on a key that does not exist.
pub const NO_SUCH_KEY: Int = -1;

/// On the callback channel: close the connection.
pub const CLOSE: Int = -1;

/// The length of a key on the callback channel, in bytes: the key is padded with NULs.
pub const CHANGED_KEY_LEN: usize = 100;

/// Appends an integer.
pub(crate) fn put_int(out: &mut Vec<u8>, value: Int) {
    out.extend_from_slice(&value.to_ne_bytes());
}
