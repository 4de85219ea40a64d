//! Application ↔ local server, over two UNIX stream sockets (`docs/PROTOCOL.md` §1–§3).
//!
//! The *main* channel carries the login and one operation at a time, the *callback* channel the news
//! that a watched key has changed. [`server`] is the local server's role on both, [`client`] the
//! application's.
//!
//! Strings have neither a length nor a terminator on this wire. What makes them readable all the same
//! is that each is written by one `send` and that the peer waits for an answer before it goes on; the one
//! exception, the value of a put, is sorted out by the rule in [`server`].
//!
//! The login belongs to both kinds of session; that which follows it, to the original one only. The other kind is
//! [`v2`].

pub mod client;
pub mod server;

#[cfg(test)]
mod grouping_tests;

use crate::{Int, Protocol, Text, v2};

/// What an application sends first: the group it wants into, and the session that it can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The group.
    pub group: Text,
    /// What it offers. An original session it can speak in any case.
    pub offer: Protocol,
}

impl Hello {
    /// The bytes on the wire. For a name that leaves no room for it the offer is left out.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.group.as_bytes().to_vec();
        let offered = bytes.len() + 1 + v2::OFFER.len();
        if self.offer == Protocol::V2 && offered <= v2::MAX_NAME_AND_OFFER {
            bytes.push(0);
            bytes.extend_from_slice(v2::OFFER);
        }
        bytes
    }

    /// The inverse.
    ///
    /// # Errors
    /// A name that breaks the rules; that means also anything behind a NUL that is no offer.
    fn decode(bytes: &[u8]) -> Result<Self, crate::TextError> {
        let name_and_offer = || {
            let nul = bytes.iter().position(|&byte| byte == 0)?;
            let kinds = bytes[nul + 1..].strip_prefix(v2::OFFER_PREFIX)?;
            (bytes.len() <= v2::MAX_NAME_AND_OFFER).then_some((&bytes[..nul], kinds))
        };
        let (name, kinds) = name_and_offer().unwrap_or((bytes, &[]));
        let ours = v2::OFFER[v2::OFFER_PREFIX.len()];
        let offer = match kinds.contains(&ours) {
            true => Protocol::V2,
            false => Protocol::V1,
        };
        Ok(Self { group: Text::new(name)?, offer })
    }
}

/// "Yes": connected, found, ready, done; and on the callback channel "a key has changed".
pub const YES: Int = 1;
/// "No" in place of a greeting, an answer of the login (no such group, wrong secret) or a ready flag.
pub const REFUSED: Int = 0;
/// "No" to an operation: no such key.
pub const NO_SUCH_KEY: Int = -1;
/// On the callback channel: close the connection.
pub const CLOSE: Int = -1;

/// The bytes in which the callback channel carries a key: NUL-padded.
pub const CHANGED_KEY_LEN: usize = 100;

/// The function codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the documentation.
pub enum FunctionCode {
    Put = 0,
    Get = 1,
    Delete = 2,
    Watch = 3,
    Close = 4,
}

impl FunctionCode {
    /// The function of a code; `None` for an unknown one.
    pub fn from_code(code: Int) -> Option<Self> {
        Some(match code {
            0 => Self::Put,
            1 => Self::Get,
            2 => Self::Delete,
            3 => Self::Watch,
            4 => Self::Close,
            _ => return None,
        })
    }

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; crate::INT_LEN] {
        (self as Int).to_ne_bytes()
    }
}
