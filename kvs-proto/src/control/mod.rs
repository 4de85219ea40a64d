//! The control protocol: administrator ↔ local server, lines of JSON over a UNIX stream socket
//! (`docs/PROTOCOL.md` §8).
//!
//! A request is one line, and so is its response. Only the response to [`AdminRequest::Status`] can
//! have several lines, each but the last with `"more": true`, so neither side buffers a whole
//! status. Every line carries the [`VERSION`] of the protocol.
//!
//! Group names and keys are bytes ([`Bytes`]): a JSON string if they are UTF-8, else an object with
//! their bytes in hexadecimal.
//!
//! Decoding is total: every line is a message or a [`DecodeError`]. Readers must stop at
//! [`MAX_REQUEST_LEN`] and [`MAX_RESPONSE_LEN`] bytes.

mod bytes;
mod codec;
mod message;

#[cfg(test)]
mod tests;

pub use bytes::Bytes;
pub use codec::{DecodeError, MAX_REQUEST_LEN, MAX_RESPONSE_LEN, VERSION};
pub use message::{
    AdminErrorKind, AdminRequest, AdminResponse, ApplicationStatus, GroupStatus, WatchedItem,
};
