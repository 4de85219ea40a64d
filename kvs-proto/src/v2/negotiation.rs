//! Negotiation of v2 in the login of [`v1`](crate::v1).

use crate::integer::Int;

/// The offer of an application. It follows the group name and a NUL.
pub const OFFER: &[u8] = b"kvs2";

/// The prefix of every offer. One ASCII digit follows it for each protocol that the application
/// supports besides v1.
pub const OFFER_PREFIX: &[u8] = b"kvs";

/// The response to a group name that accepts the offer: the group exists, and the session uses v2.
pub const YES_V2: Int = 2;

/// The maximum length of a group name with an offer, in bytes.
pub const MAX_NAME_AND_OFFER: usize = 100;
