//! Display of untrusted bytes: no input can forge a line or send an escape sequence to a terminal.

use std::fmt::{self, Write};

/// Displays bytes as text: replaces invalid UTF-8, and escapes each character that
/// [needs it](needs_escaping).
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in String::from_utf8_lossy(self.0).chars() {
            match needs_escaping(character) {
                true => write!(f, "{}", character.escape_default())?,
                false => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Whether a character must be escaped for display: a control character, one of zero width, or one
/// that changes the direction of the text after it.
pub fn needs_escaping(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{61c}'
        )
}
