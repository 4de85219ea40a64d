//! Protocol errors of v2.

/// The peer violated the protocol. Close the connection and ignore the frame. An incomplete frame
/// is not malformed: the [decoder](super::FrameDecoder) waits for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A header with contradictory or unknown fields.
    #[error("malformed frame header: {0}")]
    Header(&'static str),
    /// A body that its kind of frame cannot have.
    #[error("malformed body of a frame of kind {kind}: {why}")]
    Body {
        /// The kind of the frame.
        kind: u8,
        /// The broken rule.
        why: &'static str,
    },
    /// A kind of frame that a server does not send on this channel.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// A response to no pending request, or one that its request cannot have.
    #[error("unexpected response to request {0}")]
    Unexpected(u32),
}
