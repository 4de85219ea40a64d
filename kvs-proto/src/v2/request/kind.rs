//! The kinds of requests.

use crate::v2::header::FrameHeader;

pub(super) const GET: u8 = 1;
pub(super) const PUT: u8 = 2;
pub(super) const DELETE: u8 = 3;
pub(super) const PUT_MANY: u8 = 4;
pub(super) const KEYS: u8 = 5;
pub(super) const WATCH: u8 = 6;
pub(super) const UNWATCH: u8 = 7;
pub(super) const CLOSE: u8 = 8;

/// The kind of a request, whether or not the request is well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // `Request` documents them.
pub enum RequestKind {
    Get,
    Put,
    Delete,
    PutMany,
    Keys,
    Watch,
    Unwatch,
    Close,
    /// A kind that this version of the protocol does not define.
    Unknown,
}

impl RequestKind {
    /// The kind of the request with this header.
    pub fn of(header: &FrameHeader) -> Self {
        match header.kind {
            GET => Self::Get,
            PUT => Self::Put,
            DELETE => Self::Delete,
            PUT_MANY => Self::PutMany,
            KEYS => Self::Keys,
            WATCH => Self::Watch,
            UNWATCH => Self::Unwatch,
            CLOSE => Self::Close,
            _ => Self::Unknown,
        }
    }
}
