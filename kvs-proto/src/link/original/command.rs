//! Commands: the first datagram of each exchange.

use crate::text::Text;

/// The length of every command in bytes: an ASCII word padded with NULs.
pub const COMMAND_LEN: usize = 100;

/// A command of a local server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCommand {
    /// To the listen port: requests a command port.
    Connect,
    /// To the close port: the address for [`CLOSE`](super::datagram::CLOSE).
    Connect2,
    /// Whether a group exists.
    FindGroup,
    /// Store a group and its secret.
    NewGroup,
    /// Read the secret of a group.
    GetSecret,
    /// Delete a group.
    DeleteGroup,
    /// The local server disconnects.
    CloseConnection,
}

impl LinkCommand {
    pub(super) const ALL: [(Self, &'static [u8]); 7] = [
        (Self::Connect, b"Connect"),
        (Self::Connect2, b"Connect_2"),
        (Self::FindGroup, b"FindGroup"),
        (Self::NewGroup, b"NewGroup"),
        (Self::GetSecret, b"GetSecret"),
        (Self::DeleteGroup, b"DeleteGroup"),
        (Self::CloseConnection, b"CloseConnection"),
    ];

    /// The datagram.
    pub fn encode(self) -> [u8; COMMAND_LEN] {
        let mut datagram = [0; COMMAND_LEN];
        for (command, word) in Self::ALL {
            if command == self {
                datagram[..word.len()].copy_from_slice(word);
            }
        }
        datagram
    }

    /// Decodes a datagram; `None` when it is not a command.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        if datagram.len() != COMMAND_LEN {
            return None;
        }
        let text = Text::from_padded(datagram)?;
        Self::ALL.iter().find(|(_, word)| *word == text.as_bytes()).map(|&(command, _)| command)
    }

    /// Whether its exchange can change a group.
    pub(super) fn is_change(self) -> bool {
        matches!(self, Self::NewGroup | Self::DeleteGroup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_padded_command_words_decode() {
        for (command, word) in LinkCommand::ALL {
            assert_eq!(LinkCommand::decode(&command.encode()), Some(command));
            assert_eq!(LinkCommand::decode(word), None, "a command without its padding");
        }
        assert_eq!(LinkCommand::decode(&[b'x'; COMMAND_LEN]), None);
        let mut dirty = LinkCommand::Connect.encode();
        dirty[99] = b'x';
        assert_eq!(LinkCommand::decode(&dirty), None);
    }
}
