//! Commands from standard input, one on each line.
//!
//! A command that fails is told, and the others are still done: whoever wants to end at the first failure has a shell for
//! it. The exit code is that of the last failure. A lost connection is opened anew by the next command.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::OsStringExt;

use clap::FromArgMatches;

use crate::access::{Access, Member};
use crate::arguments::{self, Line, LineCommand};
use crate::commands::{self, Surroundings};
use crate::failure::Failure;
use crate::output::{self, Output};

/// What a line says.
pub(crate) enum Parsed {
    /// Nothing, or only a comment.
    Nothing,
    Line(Line),
    /// What clap says instead: what is wrong, or help.
    Clap(clap::Error),
}

/// Reads a line as a shell would.
pub(crate) fn parse(line: &[u8]) -> Result<Parsed, Failure> {
    let words = shlex::bytes::split(line).ok_or_else(|| {
        Failure::Usage("a quote is not closed, or a backslash ends the line".into())
    })?;
    if words.is_empty() {
        return Ok(Parsed::Nothing);
    }
    let words = words.into_iter().map(OsString::from_vec);
    let parsed = arguments::line()
        .try_get_matches_from(words)
        .and_then(|matches| Line::from_arg_matches(&matches));
    Ok(match parsed {
        Ok(line) => Parsed::Line(line),
        Err(error) => Parsed::Clap(error),
    })
}

/// Does all of `input`. The exit code.
pub(crate) fn run(
    mut access: Access,
    output: Output,
    mut input: impl BufRead,
) -> Result<u8, Failure> {
    let mut member = None;
    let mut code = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(Failure::Input)? == 0 {
            return Ok(code);
        }
        let parsed = match parse(&line) {
            Ok(Parsed::Nothing) => continue,
            Ok(Parsed::Line(Line { command: LineCommand::Quit, .. })) => return Ok(code),
            Ok(Parsed::Line(line)) => Ok(line),
            Ok(Parsed::Clap(error)) => {
                match output::say_clap(&error, output) {
                    0 => {}
                    failed => code = failed,
                }
                continue;
            }
            Err(failure) => Err(failure),
        };
        match parsed.and_then(|line| step(line, &mut access, &mut member, output)) {
            Ok(0) => {}
            Ok(failed) => code = failed,
            // All others would write to nobody, too.
            Err(Failure::NobodyReads) => return Ok(code),
            Err(failure) => {
                output.failure(&failure);
                code = failure.exit_code();
            }
        }
    }
}

fn step(
    line: Line,
    access: &mut Access,
    member: &mut Option<Member>,
    output: Output,
) -> Result<u8, Failure> {
    let output = output.or_json(line.style.json);
    let LineCommand::Request(request) = line.command else {
        return Err(Failure::Usage("this command is for the prompt only".into()));
    };
    let member = match member {
        Some(member) if member.connection.is_open() => member,
        _ => member.insert(access.join(output)?),
    };
    commands::run(request, member, output, Surroundings::Lines)
}
