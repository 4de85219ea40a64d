//! What is written where: answers to standard output, all else to standard error; as text or as JSON.
//!
//! JSON is one object per line. Bytes that are UTF-8 are a string under the name of the field, others are base64 under
//! that name followed by `_base64`, so no field has two meanings. Every line leaves the program at once: whoever reads
//! them may wait for it.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::failure::Failure;
use crate::words::Plain;

/// The exit code of a command line that cannot be understood, as clap has it.
pub(crate) const USAGE: u8 = 2;

/// A JSON object whose fields stay in their order.
#[derive(Debug)]
pub(crate) struct Object(Vec<(String, Value)>);

impl Object {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.0.push((name.into(), text.into()));
    }

    pub(crate) fn number(&mut self, name: &str, number: u64) {
        self.0.push((name.into(), number.into()));
    }

    pub(crate) fn value(&mut self, name: &str, value: Value) {
        self.0.push((name.into(), value));
    }
}

/// What is said to whoever sits at the terminal.
pub(crate) fn note(sentence: &str) -> Object {
    let mut object = Object::new();
    object.text("note", sentence);
    object
}

/// Adds bytes under this name, or as base64.
pub(crate) fn bytes_field(object: &mut Object, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.text(name, text),
        Err(_) => object.text(&format!("{name}_base64"), &base64(bytes)),
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// How a command writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// The same, or JSON if one of the two says so.
    pub(crate) fn or_json(self, json: bool) -> Self {
        Self { json: self.json || json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::of_output)
    }

    /// A line of text.
    pub(crate) fn line(self, line: impl fmt::Display) -> Result<(), Failure> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Many lines, of which none is waited for before the last.
    pub(crate) fn lines(self, lines: impl Iterator<Item = Vec<u8>>) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        let write = || {
            for line in lines {
                out.write_all(&line)?;
            }
            out.flush()
        };
        let result = write();
        // What is left in it was told with the error: it is not to be written in a second try.
        let _unwritten = out.into_parts();
        result.map_err(Failure::of_output)
    }

    /// A key of a list: as it is, but for a terminal, which it must not command.
    pub(crate) fn key_line(self, key: &[u8]) -> Vec<u8> {
        if self.json {
            let mut object = Object::new();
            bytes_field(&mut object, "key", key);
            return format!("{object}\n").into_bytes();
        }
        match io::stdout().is_terminal() {
            true => format!("{}\n", Plain(key)).into_bytes(),
            false => [key, b"\n"].concat(),
        }
    }

    /// Tells a failure, if it is worth it.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        match self.json {
            true => say(failure.object()),
            false => say(format_args!("kvs: {failure}")),
        }
    }

    /// Tells what may be a mistake.
    pub(crate) fn warning(self, name: &str, sentence: &str) {
        match self.json {
            true => {
                let mut object = Object::new();
                object.text("warning", name);
                object.text("message", sentence);
                say(object);
            }
            false => say(format_args!("kvs: warning: {sentence}")),
        }
    }

    /// Tells what goes on.
    pub(crate) fn event(self, object: impl FnOnce() -> Object, sentence: impl fmt::Display) {
        match self.json {
            true => say(object()),
            false => say(format_args!("kvs: {sentence}")),
        }
    }
}

/// A line on standard error. Nobody can be told that it cannot be written.
fn say(line: impl fmt::Display) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// What clap has to say about a command line: help, or what is wrong with it. The exit code.
pub(crate) fn say_usage(error: &kvs_options::Error, output: Output) -> u8 {
    match error {
        kvs_options::Error::Usage(error) => say_clap(error, output),
        error => {
            output.failure(&Failure::Usage(error.to_string()));
            USAGE
        }
    }
}

/// What clap has to say, help included; the exit code.
pub(crate) fn say_clap(error: &clap::Error, output: Output) -> u8 {
    if !error.use_stderr() {
        // That nobody reads the help to its end is no failure.
        let _ = error.print();
        return 0;
    }
    let rendered = error.render().to_string();
    let rendered = rendered.strip_prefix("error: ").unwrap_or(&rendered).trim_end();
    if output.is_json() {
        // Up to the empty line it is what is wrong, then follows how it would be right.
        let lines = rendered.lines().map(str::trim).take_while(|line| !line.is_empty());
        output.failure(&Failure::Usage(lines.collect::<Vec<_>>().join(" ")));
    } else {
        say(format_args!("kvs: {rendered}"));
    }
    USAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_a_string_or_base64() {
        let mut object = Object::new();
        bytes_field(&mut object, "key", "\u{e4}\n\"\0".as_bytes());
        bytes_field(&mut object, "value", b"\x00\xff");
        object.number("version", u64::MAX);
        let line = object.to_string();
        assert_eq!(
            line,
            "{\"key\":\"\u{e4}\\n\\\"\\u0000\",\"value_base64\":\"AP8=\",\"version\":18446744073709551615}"
        );
        assert!(!line.contains('\n'));
    }
}
