//! Requests of a protocol v2 session that were read and are not served yet.
//!
//! Served requests are not removed one by one: that would copy the rest for each of them. The rest
//! is copied when it is at most half of what is kept, so each byte is copied once on average, and
//! the memory is at most twice what waits.

use std::time::Instant;

/// What a session did not serve of its input.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// A request that was taken out of the input, but waits. It comes before the other bytes.
    pub(super) request: Vec<u8>,
    /// The number of bytes at the end of the input that were not served.
    pub(super) len: usize,
    /// Whether the first request waits until no response is pending.
    pub(super) awaits_commits: bool,
}

/// Bytes that were read and are not served yet.
#[derive(Debug, Default)]
pub(super) struct UnservedInput {
    /// Empty when all is served.
    bytes: Vec<u8>,
    /// The number of bytes at the begin of `bytes` that are served.
    served: usize,
    /// When they were read, if that is measured.
    pub(super) read_at: Option<Instant>,
    /// The first request waits until no response is pending.
    pub(super) awaits_commits: bool,
}

impl Rest {
    /// Whether all of the input was served.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.request.is_empty()
    }
}

impl UnservedInput {
    /// Keeps the rest of bytes that were just read.
    pub(super) fn copy_of(read: &[u8], rest: Rest, read_at: Option<Instant>) -> Self {
        let Rest { request: mut bytes, len, awaits_commits } = rest;
        bytes.extend_from_slice(&read[read.len() - len..]);
        Self { bytes, served: 0, read_at, awaits_commits }
    }

    /// Keeps the rest of bytes that were kept before.
    pub(super) fn keep(self, rest: Rest, read_at: Option<Instant>) -> Self {
        let served = self.bytes.len() - rest.len;
        if !rest.request.is_empty() || rest.len <= served {
            return Self::copy_of(&self.bytes, rest, read_at);
        }
        Self { bytes: self.bytes, served, read_at, awaits_commits: rest.awaits_commits }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes to serve.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.served..]
    }

    /// The bytes of memory that are kept.
    pub(super) fn buffered(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(len: usize) -> Rest {
        Rest { len, ..Rest::default() }
    }

    #[test]
    fn requests_served_one_by_one_are_copied_once_on_average() {
        const LEN: usize = 1 << 16;
        let read: Vec<_> = (0..LEN).map(|at| at as u8).collect();
        let mut unserved = UnservedInput::copy_of(&read, rest(LEN), None);
        let mut copied = 0;
        for len in (0..LEN).rev().step_by(16) {
            let before = unserved.bytes.as_ptr();
            unserved = unserved.keep(rest(len), None);
            assert_eq!(unserved.bytes(), &read[LEN - len..]);
            assert!(unserved.buffered() <= 2 * len);
            copied += if unserved.bytes.as_ptr() == before { 0 } else { len };
        }
        unserved = unserved.keep(rest(0), None);
        assert!(unserved.is_empty() && copied <= LEN, "{copied}");
    }

    #[test]
    fn request_that_waits_comes_before_the_rest() {
        let request = Rest { request: b"get".to_vec(), len: 3, awaits_commits: true };
        let unserved = UnservedInput::copy_of(b"putput", request, None);
        assert_eq!((unserved.bytes(), unserved.awaits_commits), (&b"getput"[..], true));
        let unserved = unserved.keep(rest(5), None);
        assert_eq!((unserved.bytes(), unserved.awaits_commits), (&b"etput"[..], false));
    }
}
