//! Bytes as people type and see them.
//!
//! Keys and values are any bytes. What is shown of them is text on one line that does nothing to a terminal: control
//! characters and what is not UTF-8 are escaped.

use std::fmt::{self, Display, Write};

use kvs_proto::needs_escaping;

/// Shows bytes without quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain<'a>(pub(crate) &'a [u8]);

/// Shows bytes between double quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl Display for Plain<'_> {
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
                // Those of Latin-1 are control characters to some terminals, and others turn the direction of the
                // line or have no width.
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

/// A line as far as it has been typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// The words that are complete.
    pub(crate) words: Vec<Vec<u8>>,
    /// The last word, of which more may follow; its quotes are removed.
    pub(crate) last: Vec<u8>,
    /// Where that word begins in the line, with its quotes.
    pub(crate) start: usize,
}

impl Typed {
    /// Splits a line as a shell does, whether or not its last quote is closed.
    pub(crate) fn new(line: &str) -> Self {
        let mut typed = Self { words: Vec::new(), last: Vec::new(), start: line.len() };
        let mut quote = None;
        let mut in_word = false;
        let mut bytes = line.bytes().enumerate().peekable();
        while let Some((at, byte)) = bytes.next() {
            if !in_word && !byte.is_ascii_whitespace() {
                (typed.start, in_word) = (at, true);
            }
            match (byte, quote) {
                (b'\\', None | Some(b'"')) => {
                    let escaped =
                        bytes.next_if(|(_, next)| quote.is_none() || b"\"\\$`".contains(next));
                    // A backslash between quotes that escapes nothing is one.
                    let plain = quote.map(|_| byte);
                    typed.last.extend(escaped.map(|(_, next)| next).or(plain));
                }
                (b'\'' | b'"', None) => quote = Some(byte),
                (closing, Some(opening)) if closing == opening => quote = None,
                (space, None) if space.is_ascii_whitespace() => {
                    if in_word {
                        typed.words.push(std::mem::take(&mut typed.last));
                    }
                    (typed.start, in_word) = (line.len(), false);
                }
                _ => typed.last.push(byte),
            }
        }
        typed
    }
}

impl Typed {
    /// The first word.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        self.words.first().map(Vec::as_slice).or(Some(&self.last))
    }
}

/// A word as it has to be typed, if it can be typed at all.
pub(crate) fn as_typed(word: &[u8]) -> Option<String> {
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
    fn what_is_shown_stays_on_its_line_and_commands_no_terminal() {
        let shown = |bytes: &[u8]| Plain(bytes).to_string();
        assert_eq!(shown("21.5 \u{b0}C".as_bytes()), "21.5 \u{b0}C");
        assert_eq!(shown(b"a\nb\r\t\\"), "a\\nb\\r\\t\\\\");
        assert_eq!(shown(b"\x1b[31m\x07\x7f"), "\\x1b[31m\\x07\\x7f");
        assert_eq!(shown(b"\xffok\xc3"), "\\xffok\\xc3");
        assert_eq!(shown("\u{9b}31m\u{202e}".as_bytes()), "\\u{9b}31m\\u{202e}");
        assert_eq!(Quoted(b"say \"hi\"").to_string(), "\"say \\\"hi\\\"\"");
        assert_eq!(shown(b"say \"hi\""), "say \"hi\"");
    }

    #[test]
    fn the_last_word_is_found_in_its_quotes() {
        let last = |line| {
            let typed = Typed::new(line);
            let words = typed.words.iter().map(|word| String::from_utf8_lossy(word).into_owned());
            (
                words.collect::<Vec<_>>().join("|"),
                String::from_utf8(typed.last).unwrap(),
                typed.start,
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
    fn what_is_completed_means_the_same_word() {
        for word in ["plain", "two words", "it's", "a\"b", "$HOME", "back\\slash", "#5", "~"] {
            let typed = as_typed(word.as_bytes()).unwrap();
            assert_eq!(shlex::split(&typed).unwrap(), [word], "{typed}");
        }
        assert_eq!(as_typed(b"\xff"), None);
        assert_eq!(as_typed(b"a\nb"), None);
    }
}
