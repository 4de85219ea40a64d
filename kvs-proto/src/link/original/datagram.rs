//! Datagrams other than commands: integers, names and secrets.

use crate::integer::{INT_LEN, Int};
use crate::text::Text;

/// The length in bytes of the secret of a new group, padded with NULs.
pub const SECRET_LEN: usize = 8;

/// On the close port: the authentication server orders the local server to quit.
pub const CLOSE: Int = -10;

/// On the close port, an extension of kvs: the authentication server ends alone, and the local
/// server reconnects to its successor.
pub const RECONNECT: Int = -11;

pub(super) const YES: Int = 1;
pub(super) const NO: Int = -1;

/// Encodes an integer.
pub fn encode_int(value: Int) -> [u8; INT_LEN] {
    value.to_ne_bytes()
}

/// Decodes an integer; `None` unless `datagram` has exactly four bytes.
pub fn decode_int(datagram: &[u8]) -> Option<Int> {
    Some(Int::from_ne_bytes(datagram.try_into().ok()?))
}

/// Whether `NewGroup` can carry `secret`: 1 to 7 bytes, so that at least one NUL follows in
/// [`SECRET_LEN`] bytes.
pub fn is_storable_secret(secret: &Text) -> bool {
    (1..SECRET_LEN).contains(&secret.as_bytes().len())
}

/// Encodes the secret of a new group. Cuts a secret that is not [storable](is_storable_secret).
pub fn encode_secret(secret: &Text) -> [u8; SECRET_LEN] {
    let mut datagram = [0; SECRET_LEN];
    for (to, from) in datagram[..SECRET_LEN - 1].iter_mut().zip(secret.as_bytes()) {
        *to = *from;
    }
    datagram
}

pub(super) fn decode_secret(datagram: &[u8]) -> Option<Text> {
    if datagram.len() != SECRET_LEN {
        return None;
    }
    Text::from_padded(datagram).filter(is_storable_secret)
}

pub(super) fn decode_name(datagram: &[u8]) -> Option<Text> {
    Text::new(datagram).ok().filter(|name| !name.is_empty())
}
