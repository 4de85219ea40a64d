//! Lines of commands, as the prompt and standard input have them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::FromArgMatches;

use crate::arguments::{self, PromptLine};
use crate::error::Error;

/// A line that was parsed.
pub(crate) enum ParsedLine {
    /// The line is empty, or only a comment.
    Empty,
    Command(PromptLine),
    /// The line is wrong, or asks for help.
    Clap(clap::Error),
}

/// Splits a line into words as a shell does, and parses them.
pub(crate) fn parse(line: &[u8]) -> Result<ParsedLine, Error> {
    let words = shlex::bytes::split(line).ok_or_else(|| {
        Error::Usage("a quote is not closed, or a backslash ends the line".into())
    })?;
    if words.is_empty() {
        return Ok(ParsedLine::Empty);
    }
    let words = words.into_iter().map(OsString::from_vec);
    let parsed = arguments::prompt_parser()
        .try_get_matches_from(words)
        .and_then(|matches| PromptLine::from_arg_matches(&matches));
    Ok(match parsed {
        Ok(line) => ParsedLine::Command(line),
        Err(error) => ParsedLine::Clap(error),
    })
}
