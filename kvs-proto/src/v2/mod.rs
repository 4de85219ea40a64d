//! Protocol v2: application ↔ local server, over the two UNIX stream sockets of [`v1`](crate::v1)
//! (`docs/PROTOCOL.md` §7).
//!
//! The login of v1 negotiates it, by an [offer](OFFER) after the group name. After the verdict both
//! channels carry frames: a [`FrameHeader`] of fixed length, and a body. [`request`] defines the
//! frames of an application, [`response`] those of the server on the main channel, and [`event`]
//! those on the callback channel, each in both roles. [`FrameDecoder`] finds the frames in a
//! stream.
//!
//! Nothing here allocates by a length that the peer has announced: memory for an incomplete frame
//! grows with the bytes received.

mod decoder;
pub mod event;
mod fields;
mod header;
mod limits;
mod malformed;
pub(crate) mod negotiation;
pub mod request;
pub mod response;

pub use decoder::{Decoded, FrameDecoder};
pub use header::{FrameHeader, HEADER_LEN, NO_VERSION, Version};
pub use limits::{DEFAULT_MAX_VALUE, MAX_KEY, MAX_PAGE, MAX_VALUE, PUT_MANY_OVERHEAD};
pub use malformed::Malformed;
pub use negotiation::{MAX_NAME_AND_OFFER, OFFER, OFFER_PREFIX, YES_V2};
