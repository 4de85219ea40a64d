//! Function codes: the first message of each operation.

use crate::integer::{INT_LEN, Int};

/// The code of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the documentation.
pub enum FunctionCode {
    Put = 0,
    Get = 1,
    Delete = 2,
    Watch = 3,
    Close = 4,
}

impl FunctionCode {
    /// Decodes an integer; `None` for an unknown code.
    pub fn from_code(code: Int) -> Option<Self> {
        Some(match code {
            0 => Self::Put,
            1 => Self::Get,
            2 => Self::Delete,
            3 => Self::Watch,
            4 => Self::Close,
            _ => return None,
        })
    }

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; INT_LEN] {
        (self as Int).to_ne_bytes()
    }
}
