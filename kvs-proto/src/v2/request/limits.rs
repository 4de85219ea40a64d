//! The size limits of a server for requests.

use super::kind::{CLOSE, DELETE, GET, KEYS, PUT, PUT_MANY, UNWATCH, WATCH};
use crate::v2::fields::LENGTH_LEN;
use crate::v2::header::FrameHeader;
use crate::v2::limits::{MAX_KEY, PUT_MANY_OVERHEAD};
use crate::v2::response::Status;

/// The size limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// The maximum length of a value in bytes, at most [`MAX_VALUE`](crate::v2::MAX_VALUE).
    pub max_value: usize,
}

impl FrameLimits {
    /// Checks the kind and the lengths of a request by its header.
    ///
    /// # Errors
    /// The status of the response. The server skips the body, whatever its length.
    pub fn check(self, header: &FrameHeader) -> Result<(), Status> {
        let (key_len, body_len) = (header.key_len as usize, header.body_len as usize);
        let max_len = match header.kind {
            GET | DELETE | WATCH | UNWATCH | CLOSE => MAX_KEY,
            KEYS => MAX_KEY + LENGTH_LEN,
            PUT => self.max_value.saturating_add(key_len),
            PUT_MANY => self.max_value.saturating_add(PUT_MANY_OVERHEAD),
            _ => return Err(Status::Unknown),
        };
        if key_len > MAX_KEY || body_len > max_len { Err(Status::TooLarge) } else { Ok(()) }
    }
}
