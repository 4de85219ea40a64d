//! Decodes the responses that arrive on the main channel.

use std::io;

use kvs_proto::v2::response::Response;
use kvs_proto::v2::{Decoded, FrameDecoder, MAX_VALUE, Malformed};

use crate::channel::ClientChannel;
use crate::deadline::Deadline;

use super::batch::OwnedResponse;

/// The maximum number of bytes received with one system call.
const MAX_READ: usize = 64 * 1024;

/// No response body is longer than the longest value.
const MAX_BODY: usize = MAX_VALUE;

/// The receiving end of the main channel. One thread uses it at a time.
#[derive(Debug)]
pub(super) struct ResponseReader {
    decoder: FrameDecoder,
    buffer: Box<[u8]>,
}

impl ResponseReader {
    pub(super) fn new() -> Self {
        Self { decoder: FrameDecoder::default(), buffer: vec![0; MAX_READ].into() }
    }

    /// Waits for bytes and receives them; returns how many [`decode`](Self::decode) has to decode.
    pub(super) fn receive(
        &mut self,
        channel: &ClientChannel,
        deadline: Deadline,
    ) -> io::Result<usize> {
        channel.receive_some(&mut self.buffer, Some(deadline))
    }

    /// Decodes the first `count` bytes of the buffer: the responses that are complete, with the
    /// numbers of their requests.
    pub(super) fn decode(&mut self, count: usize) -> Result<Vec<(u32, OwnedResponse)>, Malformed> {
        let mut bytes = &self.buffer[..count];
        let mut replies = Vec::new();
        loop {
            let decoded =
                self.decoder.next(&mut bytes, |header, _| header.body_len as usize <= MAX_BODY)?;
            match decoded {
                Decoded::Incomplete => return Ok(replies),
                Decoded::Rejected(_) => return Err(Malformed::Header("a body that is too long")),
                Decoded::Frame(header, body) => {
                    let Response { number, status, version, body } =
                        Response::decode(&header, body)?;
                    replies.push((number, OwnedResponse { status, version, body: body.to_vec() }));
                }
            }
        }
    }
}
