//! Bytes that wait to be sent, and which thread sends.
//!
//! At most one thread sends at a time. It takes all bytes out of the outbox; others append theirs
//! meanwhile.

use std::mem;

use kvs_proto::v2::request::Request;

/// Requests that are not sent yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    is_sending: bool,
}

impl Outbox {
    /// Appends encoded requests.
    pub(super) fn push(&mut self, frames: Vec<u8>) {
        if self.bytes.is_empty() {
            self.bytes = frames;
        } else {
            self.bytes.extend_from_slice(&frames);
        }
    }

    /// Appends a request that has no response, and so no number.
    pub(super) fn push_unnumbered(&mut self, request: &Request<'_>) {
        request.encode(0, &mut self.bytes);
    }

    /// Makes the caller the sender, and returns all bytes. `None` if another thread sends, or there
    /// is nothing to send.
    pub(super) fn begin_sending(&mut self) -> Option<Vec<u8>> {
        if !self.has_no_sender() {
            return None;
        }
        self.is_sending = true;
        Some(mem::take(&mut self.bytes))
    }

    /// Releases the sender: another thread can [begin](Self::begin_sending).
    pub(super) fn end_sending(&mut self) {
        self.is_sending = false;
    }

    pub(super) fn is_sending(&self) -> bool {
        self.is_sending
    }

    /// Whether bytes wait that no thread is going to send.
    pub(super) fn has_no_sender(&self) -> bool {
        !self.is_sending && !self.bytes.is_empty()
    }
}
