//! The protocols between an application and its local server.

/// The protocol of a session, negotiated in the login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The original protocol: [`v1`](crate::v1).
    #[default]
    V1,
    /// The protocol of frames: [`v2`](crate::v2).
    V2,
}
