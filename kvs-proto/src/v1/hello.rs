//! The first message of an application: its group, and the offer of protocol v2.

use crate::protocol::Protocol;
use crate::text::{Text, TextError};
use crate::v2::negotiation::{MAX_NAME_AND_OFFER, OFFER, OFFER_PREFIX};

/// The first message of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The name of the group.
    pub group: Text,
    /// The latest protocol that the application supports. It always supports v1.
    pub offer: Protocol,
}

impl Hello {
    /// The bytes on the wire. A name that leaves no space for the offer is sent without it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.group.as_bytes().to_vec();
        let len_with_offer = bytes.len() + 1 + OFFER.len();
        if self.offer == Protocol::V2 && len_with_offer <= MAX_NAME_AND_OFFER {
            bytes.push(0);
            bytes.extend_from_slice(OFFER);
        }
        bytes
    }

    /// The inverse of [`encode`](Self::encode). Ignores offers of unknown protocols.
    ///
    /// # Errors
    /// The name is not a [`Text`]; this includes a NUL with anything but an offer after it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, TextError> {
        let name_and_offer = || {
            let nul = bytes.iter().position(|&byte| byte == 0)?;
            let digits = bytes[nul + 1..].strip_prefix(OFFER_PREFIX)?;
            (bytes.len() <= MAX_NAME_AND_OFFER).then_some((&bytes[..nul], digits))
        };
        let (name, digits) = name_and_offer().unwrap_or((bytes, &[]));
        let offer = match digits.contains(&OFFER[OFFER_PREFIX.len()]) {
            true => Protocol::V2,
            false => Protocol::V1,
        };
        Ok(Self { group: Text::new(name)?, offer })
    }
}
