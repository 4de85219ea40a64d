//! Requests of a local server about one group, and their responses.

use super::command::LinkCommand;
use crate::text::Text;

/// A request about one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRequest {
    /// Whether the group exists.
    Find(Text),
    /// Store the group. The secret must be [storable](super::datagram::is_storable_secret).
    New {
        /// The name of the group.
        name: Text,
        /// The secret of the group.
        secret: Text,
    },
    /// Read the secret of the group.
    Secret(Text),
    /// Delete the group.
    Delete(Text),
}

impl GroupRequest {
    pub(super) fn command(&self) -> LinkCommand {
        match self {
            Self::Find(_) => LinkCommand::FindGroup,
            Self::New { .. } => LinkCommand::NewGroup,
            Self::Secret(_) => LinkCommand::GetSecret,
            Self::Delete(_) => LinkCommand::DeleteGroup,
        }
    }

    pub(super) fn name(&self) -> &Text {
        match self {
            Self::Find(name) | Self::New { name, .. } | Self::Secret(name) | Self::Delete(name) => {
                name
            }
        }
    }
}

/// The response of the authentication server to a [`GroupRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupResponse {
    /// The group exists, is stored, or is deleted.
    Yes,
    /// `Find`, `Secret`, `Delete`: the group does not exist. `New`: the name is taken.
    No,
    /// The secret of the group.
    Secret(Text),
}
