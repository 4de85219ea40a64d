//! Messages of the application on the main channel.

use crate::text::{Text, TextError};
use crate::v1::hello::Hello;

/// A message of the application. Each but `Put` and `Close` needs the response named here, a method
/// of [`MainChannel`](super::main_channel::MainChannel).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMessage {
    /// The group to log in to, and the offered protocol. Response: `respond_to_group`.
    Group(Hello),
    /// The secret of the group. Response: `respond_to_secret`, after the connection flag of the
    /// callback channel.
    Secret(Text),
    /// A put to this key begins. Response: `respond_ready`. The value follows as
    /// [`Put`](Self::Put), unless the server is not ready.
    BeginPut(Text),
    /// A watch begins. Response: `respond_ready`. The key follows as [`Watch`](Self::Watch), unless
    /// the server is not ready.
    BeginWatch,
    /// Store this value. There is no response.
    Put {
        /// The key, not empty.
        key: Text,
        /// The value, possibly empty.
        value: Text,
    },
    /// Read the value of this key. Response: `respond_to_get`.
    Get(Text),
    /// Delete this key. Response: `respond_found`.
    Delete(Text),
    /// Watch this key. Response: `respond_found`.
    Watch(Text),
    /// The application closes both sockets. There is no response.
    Close,
}

/// The application violated the protocol. Close its connection and ignore the bytes read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A string that is not a [`Text`].
    #[error("bad {what}: {why}")]
    Text {
        /// Which string.
        what: &'static str,
        /// The broken rule.
        why: TextError,
    },
    /// The bytes of a value contain a NUL, and do not end with a function code.
    #[error("the bytes after a value are not a function code")]
    NoCodeAfterValue,
    /// The application sent this many bytes when it had to wait for a response.
    #[error("{0} unexpected bytes while a response was pending")]
    UnexpectedBytes(usize),
}
