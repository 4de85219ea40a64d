//! Output: results to standard output, everything else to standard error; as text or as JSON.
//!
//! Every line is flushed at once, because its reader may be waiting for it.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};

use crate::error::Error;
use crate::exit_code;
use crate::json::JsonObject;
use crate::quoting::Unquoted;

/// Writes what a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// The same output, switched to JSON if `json` is set.
    pub(crate) fn or_json(self, json: bool) -> Self {
        Self { json: self.json || json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Writes bytes unchanged.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::from_output)
    }

    /// Writes a line of text.
    pub(crate) fn line(self, line: impl fmt::Display) -> Result<(), Error> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes many lines through one buffer, which is flushed after the last.
    pub(crate) fn lines(self, lines: impl Iterator<Item = Vec<u8>>) -> Result<(), Error> {
        let mut out = BufWriter::new(io::stdout().lock());
        let write = || {
            for line in lines {
                out.write_all(&line)?;
            }
            out.flush()
        };
        let result = write();
        // After an error, dropping the writer would try once more to write its buffer.
        let _unwritten = out.into_parts();
        result.map_err(Error::from_output)
    }

    /// A line of a list of keys. On a terminal the key is escaped, so that it cannot send control
    /// sequences.
    pub(crate) fn key_line(self, key: &[u8]) -> Vec<u8> {
        if self.json {
            let mut object = JsonObject::new();
            object.bytes("key", key);
            return format!("{object}\n").into_bytes();
        }
        match io::stdout().is_terminal() {
            true => format!("{}\n", Unquoted(key)).into_bytes(),
            false => [key, b"\n"].concat(),
        }
    }

    /// Reports an error, unless it is a silent one.
    pub(crate) fn error(self, error: &Error) {
        if error.is_silent() {
            return;
        }
        match self.json {
            true => write_stderr(error.to_json()),
            false => write_stderr(format_args!("kvs: {error}")),
        }
    }

    /// Reports a likely mistake of the user.
    pub(crate) fn warning(self, name: &str, message: &str) {
        match self.json {
            true => {
                let mut object = JsonObject::new();
                object.text("warning", name);
                object.text("message", message);
                write_stderr(object);
            }
            false => write_stderr(format_args!("kvs: warning: {message}")),
        }
    }

    /// Informs the user at the terminal.
    pub(crate) fn note(self, message: &str) {
        let object = || {
            let mut object = JsonObject::new();
            object.text("note", message);
            object
        };
        self.event(object, message);
    }

    /// Reports progress, such as the start of a watch.
    pub(crate) fn event(self, object: impl FnOnce() -> JsonObject, message: impl fmt::Display) {
        match self.json {
            true => write_stderr(object()),
            false => write_stderr(format_args!("kvs: {message}")),
        }
    }

    /// Reports wrong options, or prints the help that was asked for. Returns the exit code.
    pub(crate) fn options_error(self, error: &kvs_options::Error) -> u8 {
        match error {
            kvs_options::Error::Usage(error) => self.clap_error(error),
            error => {
                self.error(&Error::Usage(error.to_string()));
                exit_code::USAGE
            }
        }
    }

    /// Reports an error of clap, or prints the help that was asked for. Returns the exit code.
    pub(crate) fn clap_error(self, error: &clap::Error) -> u8 {
        if !error.use_stderr() {
            // It is not an error to quit a pager before the end of the help.
            let _ = error.print();
            return 0;
        }
        let rendered = error.render().to_string();
        let rendered = rendered.strip_prefix("error: ").unwrap_or(&rendered).trim_end();
        if self.json {
            // The error precedes the first empty line, and the usage follows it.
            let lines = rendered.lines().map(str::trim).take_while(|line| !line.is_empty());
            self.error(&Error::Usage(lines.collect::<Vec<_>>().join(" ")));
        } else {
            write_stderr(format_args!("kvs: {rendered}"));
        }
        exit_code::USAGE
    }
}

/// Writes a line to standard error. There is no way to report that this failed.
fn write_stderr(line: impl fmt::Display) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
