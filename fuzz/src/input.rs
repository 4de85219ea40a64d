//! An input, consumed from the front.

use kvs_proto::Text;

/// The rest of an input.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; `None` at the end.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte modulo `of`; 0 after the end.
    pub fn choice(&mut self, of: u8) -> u8 {
        self.byte().unwrap_or(0) % of
    }

    /// A length byte and as many bytes, or fewer at the end.
    pub fn chunk(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (chunk, rest) = self.0.split_at(len);
        self.0 = rest;
        chunk
    }

    /// A valid text of 1 to 99 bytes.
    pub fn text(&mut self) -> Text {
        let chunk = self.chunk();
        let bytes: Vec<u8> = chunk.iter().take(99).map(|&byte| byte.max(1)).collect();
        match bytes.is_empty() {
            true => text(b"k"),
            false => text(&bytes),
        }
    }
}

/// A text of bytes that are known to be valid.
pub(crate) fn text(bytes: &[u8]) -> Text {
    Text::new(bytes).expect("at most 99 bytes, none of them NUL")
}
