//! Requests that are sent together, and the replies they may get.

use kvs_proto::v2::Version;
use kvs_proto::v2::request::{Request, WatchTarget};
use kvs_proto::v2::response::Status;

/// The response to one request.
#[derive(Debug)]
pub(crate) struct OwnedResponse {
    pub(crate) status: Status,
    pub(crate) version: Version,
    pub(crate) body: Vec<u8>,
}

/// Encoded requests of one call. They are numbered from 0 until the call is registered.
#[derive(Debug, Default)]
pub(crate) struct RequestBatch {
    pub(super) frames: Vec<u8>,
    pub(super) allowed: Vec<AllowedReplies>,
}

impl RequestBatch {
    /// Adds a request that has a response.
    pub(crate) fn push(&mut self, request: &Request<'_>) {
        self.frames.reserve(request.encoded_len());
        request.encode(self.count(), &mut self.frames);
        self.allowed.push(AllowedReplies::to(request));
    }

    pub(crate) fn len(&self) -> usize {
        self.allowed.len()
    }

    /// The length as the protocol counts requests. A batch of 2^32 requests would not fit in
    /// memory.
    pub(super) fn count(&self) -> u32 {
        self.allowed.len() as u32
    }
}

/// The replies that a request may get besides a plain `OK` and a refusal.
#[derive(Debug, Clone, Copy)]
pub(super) struct AllowedReplies {
    no_such_key: bool,
    conflict: bool,
    /// A body with `OK`.
    body: bool,
}

impl AllowedReplies {
    fn to(request: &Request<'_>) -> Self {
        let (no_such_key, conflict, body) = match *request {
            Request::Get(_) => (true, false, true),
            Request::Put { expected, .. } => (false, expected.is_some(), false),
            Request::Delete { expected, .. } => (true, expected.is_some(), false),
            Request::Keys { .. } => (false, false, true),
            Request::Watch(WatchTarget::Key(_)) | Request::Unwatch(_) => (true, false, false),
            Request::Watch(WatchTarget::Prefix(_)) | Request::PutMany(_) | Request::Close => {
                (false, false, false)
            }
        };
        Self { no_such_key, conflict, body }
    }

    pub(super) fn include(self, reply: &OwnedResponse) -> bool {
        match reply.status {
            Status::Ok => self.body || reply.body.is_empty(),
            Status::NoSuchKey => self.no_such_key,
            Status::Conflict => self.conflict,
            Status::TooLarge | Status::Limit | Status::Unknown => true,
            Status::Welcome => false,
        }
    }
}
