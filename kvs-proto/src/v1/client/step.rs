//! What the steps of a login and of an operation have in common.

use crate::integer::Int;

/// One of the two sockets of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// The socket that the application connects first.
    Main,
    /// The socket for notifications.
    Callback,
}

/// What a step sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// A function code.
    FunctionCode,
    /// A group name, secret, key or value. An empty value puts no byte on the wire.
    Text,
}

/// What a step receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// The first flag on either channel.
    ConnectionFlag,
    /// The flag after which an operation continues.
    Ready,
    /// The response to a group name, a secret or a key.
    Response,
    /// The length of a value.
    Length,
    /// A value and its NUL.
    Value,
}

/// The server violated the protocol: the step, and the integer that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A connection flag other than 1: the server refuses the connection.
    Refused(Int),
    /// A ready flag other than 1.
    NotReady(Int),
    /// A response that is neither yes nor no.
    BadResponse(Int),
    /// A length that no value can have.
    BadLength(Int),
    /// A value with a NUL inside, or without one at its end.
    BadValue,
}
