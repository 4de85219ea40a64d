//! The bounded string of the original protocols.
//!
//! They carry group names, secrets, keys and values as raw bytes without a length or a terminator,
//! and the original programs keep them in buffers of 100 bytes with a terminating NUL. So a text
//! has at most 99 bytes, none of them NUL. Any other bytes are allowed, including invalid UTF-8.
//! Every [`Text`] obeys both rules; other code does not check them again.

use std::fmt;

use crate::escape::Escaped;

/// The maximum length of a text in bytes: a buffer of 100 less its terminating NUL.
pub const MAX_TEXT: usize = 99;

/// A string of at most [`MAX_TEXT`] bytes without NUL, stored inline: no allocation.
#[derive(Clone, Copy)]
pub struct Text {
    len: u8,
    bytes: [u8; MAX_TEXT],
}

/// Why some bytes are not a [`Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// More than [`MAX_TEXT`] bytes.
    #[error("{0} bytes are too long: at most {MAX_TEXT} are allowed")]
    TooLong(usize),
    /// A NUL byte at this position.
    #[error("a NUL byte is at position {0}")]
    Nul(usize),
}

impl Text {
    /// Checks and copies `bytes`.
    ///
    /// # Errors
    /// [`TextError::TooLong`]: more than [`MAX_TEXT`] bytes. [`TextError::Nul`]: one of them is
    /// NUL.
    pub fn new(bytes: &[u8]) -> Result<Self, TextError> {
        if bytes.len() > MAX_TEXT {
            return Err(TextError::TooLong(bytes.len()));
        }
        if let Some(at) = bytes.iter().position(|&b| b == 0) {
            return Err(TextError::Nul(at));
        }
        let mut text = Self { len: bytes.len() as u8, bytes: [0; MAX_TEXT] };
        text.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(text)
    }

    /// The bytes, without padding or terminator.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether the text is empty. An empty text puts no byte on the wire.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The text padded with NULs to `N` bytes, as messages of fixed length carry it.
    ///
    /// # Panics
    /// At compile time, unless `N` bytes hold the longest text and a NUL.
    pub fn padded<const N: usize>(&self) -> [u8; N] {
        const { assert!(N > MAX_TEXT) };
        let mut padded = [0; N];
        padded[..self.as_bytes().len()].copy_from_slice(self.as_bytes());
        padded
    }

    /// The inverse of [`padded`](Self::padded): the bytes before the first NUL. `None` without a
    /// NUL, or when another byte follows it.
    pub fn from_padded(padded: &[u8]) -> Option<Self> {
        let len = padded.iter().position(|&b| b == 0)?;
        let (text, padding) = padded.split_at(len);
        if padding.iter().any(|&b| b != 0) {
            return None;
        }
        Self::new(text).ok()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}
impl Eq for Text {}

impl std::hash::Hash for Text {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// Escapes the text as [`Escaped`] does.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.as_bytes()).fmt(f)
    }
}

/// For logs: quoted, with control bytes escaped, so that a name cannot forge a line.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_limited_to_99_bytes_without_nul() {
        assert_eq!(Text::new(&[b'a'; 99]).unwrap().as_bytes().len(), 99);
        assert_eq!(Text::new(&[b'a'; 100]).unwrap_err(), TextError::TooLong(100));
        assert_eq!(Text::new(b"a\0b").unwrap_err(), TextError::Nul(1));
        assert!(Text::new(b"").unwrap().is_empty());
    }

    #[test]
    fn display_escapes_control_characters() {
        let text = Text::new("k\n\x1b[31m \u{9b}é\\".as_bytes()).unwrap();
        assert_eq!(text.to_string(), r"k\n\u{1b}[31m \u{9b}é\");
        assert_eq!(Text::new(b"\xff").unwrap().to_string(), "\u{fffd}");
    }

    #[test]
    fn padding_of_other_bytes_is_refused() {
        assert_eq!(Text::from_padded(b"ab\0\0"), Some(Text::new(b"ab").unwrap()));
        assert_eq!(Text::from_padded(b"ab\0c"), None);
        assert_eq!(Text::from_padded(b"abcd"), None);
    }

    proptest! {
        #[test]
        fn padded_texts_round_trip(bytes in prop::collection::vec(1u8..=255, 0..=MAX_TEXT)) {
            let text = Text::new(&bytes).unwrap();
            prop_assert_eq!(Text::from_padded(&text.padded::<100>()), Some(text));
        }
    }
}
