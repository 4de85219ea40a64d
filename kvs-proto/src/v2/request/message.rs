//! The requests.

use std::fmt;

use super::entries::Entries;
use crate::text::MAX_TEXT;
use crate::v2::header::Version;

/// A request. Keys are not empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Read the value of a key.
    Get(&'a [u8]),
    /// Store a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value, possibly empty.
        value: &'a [u8],
        /// Store only if the key has this version; with [`NO_VERSION`](crate::v2::NO_VERSION) only
        /// if the key does not exist.
        expected: Option<Version>,
    },
    /// Delete a pair.
    Delete {
        /// The key.
        key: &'a [u8],
        /// Delete only if the key has this version.
        expected: Option<Version>,
    },
    /// Store all of these pairs, or none.
    PutMany(Entries<'a>),
    /// List one page of keys.
    Keys {
        /// The prefix of the keys, possibly empty.
        prefix: &'a [u8],
        /// 0 for the first page, then the cursor in the response with the page before.
        cursor: u64,
        /// The approximate number of keys; 0 for the server's choice.
        limit: u32,
    },
    /// Subscribe to the changes of a key or a prefix.
    Watch(WatchTarget<'a>),
    /// End a subscription.
    Unwatch(WatchTarget<'a>),
    /// Close the connection. The only request without a response.
    Close,
}

/// The target of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchTarget<'a> {
    /// A key that exists. The subscription ends when the key is deleted.
    Key(&'a [u8]),
    /// All keys with this prefix.
    Prefix(&'a [u8]),
}

/// For logs: omits values, quotes keys, and cuts them to the maximum length of v1.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = |bytes: &[u8]| match bytes.split_at_checked(MAX_TEXT) {
            None => format!("\"{}\"", bytes.escape_ascii()),
            Some((first, _)) => {
                format!("\"{}\"… ({} bytes)", first.escape_ascii(), bytes.len())
            }
        };
        match self {
            Self::Get(key) => write!(f, "get {}", quote(key)),
            Self::Put { key, value, expected } => {
                let len = value.len();
                write!(f, "put {} ({len} bytes, expected version {expected:?})", quote(key))
            }
            Self::Delete { key, expected } => {
                write!(f, "delete {} (expected version {expected:?})", quote(key))
            }
            Self::PutMany(entries) => write!(f, "put {} pairs", entries.iter().count()),
            Self::Keys { prefix, cursor, limit } => {
                write!(f, "keys {} (from {cursor}, {limit} at most)", quote(prefix))
            }
            Self::Watch(WatchTarget::Key(key)) => write!(f, "watch {}", quote(key)),
            Self::Watch(WatchTarget::Prefix(prefix)) => write!(f, "watch prefix {}", quote(prefix)),
            Self::Unwatch(WatchTarget::Key(key)) => write!(f, "unwatch {}", quote(key)),
            Self::Unwatch(WatchTarget::Prefix(prefix)) => {
                write!(f, "unwatch prefix {}", quote(prefix))
            }
            Self::Close => f.write_str("close"),
        }
    }
}

impl<'a> WatchTarget<'a> {
    /// The key or the prefix.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Key(bytes) | Self::Prefix(bytes) => bytes,
        }
    }
}
