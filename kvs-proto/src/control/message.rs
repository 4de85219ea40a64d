//! Requests and responses.

use serde::{Deserialize, Serialize};

use super::bytes::Bytes;

/// A request of an administrator. The console of the server has the same operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// Create a group. Response: [`AdminResponse::Created`].
    Create {
        /// The name of the group.
        group: Bytes,
        /// The secret, 1 to 7 bytes. Without it the server generates one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Bytes>,
    },
    /// Delete a group with its pairs, and disconnect its applications. Response:
    /// [`AdminResponse::Deleted`].
    Delete {
        /// The name of the group.
        group: Bytes,
    },
    /// Describe a group. Response: [`AdminResponse::Info`].
    Info {
        /// The name of the group.
        group: Bytes,
    },
    /// List connected and disconnected applications. Response: one or more
    /// [`AdminResponse::Status`].
    Status {
        /// Only the applications of this group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<Bytes>,
    },
    /// Quit the server. Response: [`AdminResponse::Quitting`], sent first. The connection closes
    /// when the server has quit.
    Quit {},
}

/// A line of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AdminResponse {
    /// The group is created.
    Created {
        /// The name of the group.
        group: Bytes,
        /// The secret with which applications log in.
        secret: Bytes,
    },
    /// The group is deleted.
    Deleted {
        /// The name of the group.
        group: Bytes,
    },
    /// The description of a group.
    Info {
        /// The name of the group.
        group: Bytes,
        /// The secret with which applications log in.
        secret: Bytes,
        /// The number of pairs.
        pairs: u64,
    },
    /// One part of the status.
    Status {
        /// The groups, oldest first. When the applications of a group do not fit into one line, the
        /// next line continues the group under the same name.
        groups: Vec<GroupStatus>,
        /// Whether another line of this response follows.
        more: bool,
    },
    /// The server quits.
    Quitting {},
    /// The request is refused.
    Error {
        /// The reason, for programs.
        kind: AdminErrorKind,
        /// The reason, as a sentence for people.
        message: String,
    },
}

/// Why a request was refused. The names are stable; later versions may add more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminErrorKind {
    /// A group of that name exists.
    Exists,
    /// The group does not exist.
    NotFound,
    /// The line is not a request, or the name is not allowed for a group.
    Invalid,
    /// The server does not support this version of the protocol.
    Version,
    /// The authentication server is unavailable. Nothing has changed.
    Unavailable,
    /// The peer is neither the user of the server nor root.
    Denied,
    /// Too many administrators are connected.
    Busy,
    /// The server is quitting.
    Quitting,
    /// A kind that this version of the crate does not know.
    #[serde(other)]
    Unknown,
}

/// A group, and some or all of its applications.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The name of the group.
    pub group: Bytes,
    /// The number of pairs.
    pub pairs: u64,
    /// Connected and disconnected applications, by number.
    pub applications: Vec<ApplicationStatus>,
}

/// A connected or disconnected application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplicationStatus {
    /// The number of the application in its group, from 1.
    pub number: u64,
    /// The process ID, from the kernel.
    pub pid: i32,
    /// Seconds since 1970 (UTC), to the millisecond.
    pub connected_at: f64,
    /// Seconds since 1970 (UTC), to the millisecond. None while the application is connected.
    pub closed_at: Option<f64>,
    /// The duration of the connection so far, in seconds, to the millisecond.
    pub seconds: f64,
    /// The first subscriptions, in the order of registration. Empty after a disconnect.
    pub watches: Vec<WatchedItem>,
    /// The number of all subscriptions.
    pub watch_count: u64,
}

/// The target of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchedItem {
    /// A key.
    Key(Bytes),
    /// All keys with this prefix.
    Prefix(Bytes),
}
