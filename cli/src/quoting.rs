//! Quoting: byte strings as people read and type them.
//!
//! Keys and values are arbitrary bytes. Their displayed form is one line of text without control
//! characters, so that it cannot affect the terminal.

use std::fmt::{self, Display, Write};

use kvs_proto::needs_escaping;

/// Displays bytes with the same escapes as [`Quoted`] (but for quotes) and without quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unquoted<'a>(pub(crate) &'a [u8]);

/// Displays bytes with escapes between double quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl Display for Unquoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(self.0, false, f)
    }
}

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write_escaped(self.0, true, f)?;
        f.write_char('"')
    }
}

fn write_escaped(bytes: &[u8], quotes: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\\' => f.write_str("\\\\")?,
                '"' if quotes => f.write_str("\\\"")?,
                c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                // Some terminals obey control characters of Latin-1; other characters reverse the
                // direction of the text or have no width.
                c if needs_escaping(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// The line up to the cursor, split into words, for completion.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PartialLine {
    /// The complete words.
    pub(crate) words: Vec<Vec<u8>>,
    /// The word at the cursor, without its quotes. It may be incomplete.
    pub(crate) last: Vec<u8>,
    /// The offset of that word in the line, including its quotes.
    pub(crate) start: usize,
}

impl PartialLine {
    /// Splits a line as a shell does. The last quote may be open.
    pub(crate) fn parse(line: &str) -> Self {
        let mut parsed = Self { words: Vec::new(), last: Vec::new(), start: line.len() };
        let mut quote = None;
        let mut in_word = false;
        let mut bytes = line.bytes().enumerate().peekable();
        while let Some((at, byte)) = bytes.next() {
            if !in_word && !byte.is_ascii_whitespace() {
                (parsed.start, in_word) = (at, true);
            }
            match (byte, quote) {
                (b'\\', None | Some(b'"')) => {
                    let escaped =
                        bytes.next_if(|(_, next)| quote.is_none() || b"\"\\$`".contains(next));
                    // Between quotes, a backslash before any other character is literal.
                    let plain = quote.map(|_| byte);
                    parsed.last.extend(escaped.map(|(_, next)| next).or(plain));
                }
                (b'\'' | b'"', None) => quote = Some(byte),
                (closing, Some(opening)) if closing == opening => quote = None,
                (space, None) if space.is_ascii_whitespace() => {
                    if in_word {
                        parsed.words.push(std::mem::take(&mut parsed.last));
                    }
                    (parsed.start, in_word) = (line.len(), false);
                }
                _ => parsed.last.push(byte),
            }
        }
        parsed
    }

    /// The first word.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        self.words.first().map(Vec::as_slice).or(Some(&self.last))
    }
}

/// Quotes a word so that the prompt reads it back unchanged. `None` if it cannot be typed.
pub(crate) fn quote_word(word: &[u8]) -> Option<String> {
    let word = std::str::from_utf8(word).ok()?;
    if word.chars().any(char::is_control) {
        return None;
    }
    shlex::try_quote(word).ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displayed_bytes_are_one_line_without_control_characters() {
        let shown = |bytes: &[u8]| Unquoted(bytes).to_string();
        assert_eq!(shown("21.5 \u{b0}C".as_bytes()), "21.5 \u{b0}C");
        assert_eq!(shown(b"a\nb\r\t\\"), "a\\nb\\r\\t\\\\");
        assert_eq!(shown(b"\x1b[31m\x07\x7f"), "\\x1b[31m\\x07\\x7f");
        assert_eq!(shown(b"\xffok\xc3"), "\\xffok\\xc3");
        assert_eq!(shown("\u{9b}31m\u{202e}".as_bytes()), "\\u{9b}31m\\u{202e}");
        assert_eq!(Quoted(b"say \"hi\"").to_string(), "\"say \\\"hi\\\"\"");
        assert_eq!(shown(b"say \"hi\""), "say \"hi\"");
    }

    #[test]
    fn word_at_the_cursor_is_found_in_its_quotes() {
        let last = |line| {
            let parsed = PartialLine::parse(line);
            let words = parsed.words.iter().map(|word| String::from_utf8_lossy(word).into_owned());
            (
                words.collect::<Vec<_>>().join("|"),
                String::from_utf8(parsed.last).unwrap(),
                parsed.start,
            )
        };
        assert_eq!(last(""), (String::new(), String::new(), 0));
        assert_eq!(last("ge"), (String::new(), "ge".into(), 0));
        assert_eq!(last("get "), ("get".into(), String::new(), 4));
        assert_eq!(last("get  te"), ("get".into(), "te".into(), 5));
        assert_eq!(last("get 'a b"), ("get".into(), "a b".into(), 4));
        assert_eq!(last("get \"a \\\"b"), ("get".into(), "a \"b".into(), 4));
        assert_eq!(last("get \"a\\b"), ("get".into(), "a\\b".into(), 4));
        assert_eq!(last("get a\\ b"), ("get".into(), "a b".into(), 4));
        assert_eq!(last("put 'a b' \"c\"d"), ("put|a b".into(), "cd".into(), 10));
        assert_eq!(last("put '' x"), ("put|".into(), "x".into(), 7));
    }

    #[test]
    fn quoted_word_reads_back_unchanged() {
        for word in ["plain", "two words", "it's", "a\"b", "$HOME", "back\\slash", "#5", "~"] {
            let quoted = quote_word(word.as_bytes()).unwrap();
            assert_eq!(shlex::split(&quoted).unwrap(), [word], "{quoted}");
        }
        assert_eq!(quote_word(b"\xff"), None);
        assert_eq!(quote_word(b"a\nb"), None);
    }
}
