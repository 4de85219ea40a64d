//! Decodes the events that the server sends on the callback channel.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::v1::CHANGED_KEY_LEN;
use kvs_proto::v1::client::{CallbackEvent, CallbackListener, CallbackStep};
use kvs_proto::v2::event::{MatchedBy, ServerEvent};
use kvs_proto::v2::{Decoded, FrameDecoder, MAX_KEY, NO_VERSION, Version};

use crate::channel::ClientChannel;
use crate::deadline::Deadline;
use crate::panic_points::panic_point;

/// The maximum number of bytes received with one system call in a v2 session.
const MAX_READ: usize = 16 * 1024;

/// An event, in the same form for both protocols.
#[derive(Debug)]
pub(crate) enum ReceivedEvent {
    /// A watched key has changed.
    Changed { key: Arc<[u8]>, version: Version, matched_by: MatchedBy },
    /// The server closes the connection.
    Close,
}

/// The receiving end of the callback channel.
#[derive(Debug)]
pub(crate) enum EventReader {
    V1(CallbackListener),
    V2(EventBuffer),
}

/// The frames of a v2 session as they arrive.
#[derive(Debug)]
pub(crate) struct EventBuffer {
    decoder: FrameDecoder,
    /// The bytes from `next` to `end` were received and are not decoded yet.
    bytes: Box<[u8]>,
    next: usize,
    end: usize,
}

impl EventReader {
    pub(crate) fn v1() -> Self {
        Self::V1(CallbackListener::default())
    }

    pub(crate) fn v2() -> Self {
        Self::V2(EventBuffer {
            decoder: FrameDecoder::default(),
            bytes: vec![0; MAX_READ].into(),
            next: 0,
            end: 0,
        })
    }

    /// Waits for the next event. The `timeout` limits an exchange that the server has begun. After
    /// an error no event can be received.
    pub(crate) fn receive(
        &mut self,
        channel: &ClientChannel,
        timeout: Duration,
    ) -> io::Result<ReceivedEvent> {
        match self {
            Self::V1(listener) => receive_v1(listener, channel, timeout),
            Self::V2(buffer) => loop {
                if let Some(event) = buffer.decode_next()? {
                    return Ok(event);
                }
                panic_point!("listen step");
                buffer.end = channel.receive_some(&mut buffer.bytes, None)?;
                buffer.next = 0;
            },
        }
    }
}

impl EventBuffer {
    /// Decodes the next event; `None` if it is incomplete, and all bytes are decoded.
    fn decode_next(&mut self) -> io::Result<Option<ReceivedEvent>> {
        let mut bytes = &self.bytes[self.next..self.end];
        let decoded = self
            .decoder
            .next(&mut bytes, |header, _| header.body_len as usize <= MAX_KEY)
            .map_err(io::Error::other)?;
        let event = match decoded {
            Decoded::Incomplete => None,
            Decoded::Rejected(_) => return Err(io::ErrorKind::InvalidData.into()),
            Decoded::Frame(header, body) => {
                Some(match ServerEvent::decode(&header, body).map_err(io::Error::other)? {
                    ServerEvent::Changed { key, version, matched_by } => {
                        ReceivedEvent::Changed { key: key.into(), version, matched_by }
                    }
                    ServerEvent::Close => ReceivedEvent::Close,
                })
            }
        };
        self.next = self.end - bytes.len();
        Ok(event)
    }
}

fn receive_v1(
    listener: &mut CallbackListener,
    channel: &ClientChannel,
    timeout: Duration,
) -> io::Result<ReceivedEvent> {
    let mut buffer = [0; CHANGED_KEY_LEN];
    let mut deadline = None;
    loop {
        panic_point!("listen step");
        match listener.next() {
            CallbackStep::Receive(len) => {
                channel.receive(&mut buffer[..len], deadline)?;
                match listener.received(&buffer[..len]).map_err(io::Error::other)? {
                    None => {}
                    Some(CallbackEvent::Close) => return Ok(ReceivedEvent::Close),
                    Some(CallbackEvent::Changed(key)) => {
                        return Ok(ReceivedEvent::Changed {
                            key: key.as_bytes().into(),
                            version: NO_VERSION,
                            matched_by: MatchedBy { key: true, prefix: false },
                        });
                    }
                }
            }
            CallbackStep::Send(bytes) => {
                // The server has announced a change: the key must follow within the timeout.
                let begun = Deadline::after(timeout);
                channel.send(&bytes, begun)?;
                deadline = Some(begun);
                listener.sent();
            }
        }
    }
}
