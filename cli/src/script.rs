//! Commands from standard input, one on each line.
//!
//! A failed command is reported, and the remaining commands still run; a caller that wants to stop
//! at the first failure uses a shell script. The exit code is that of the last failed command.
//! After the connection is lost, the next command opens another one.

use std::io::BufRead;

use crate::arguments::{PromptCommand, PromptLine};
use crate::commands::{self, Invocation};
use crate::connector::{Connector, GroupConnection};
use crate::error::Error;
use crate::line::{ParsedLine, parse};
use crate::output::Output;

/// Runs all commands of `input`. Returns the exit code.
pub(crate) fn run(
    mut connector: Connector,
    output: Output,
    mut input: impl BufRead,
) -> Result<u8, Error> {
    let mut group = None;
    let mut code = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(Error::Input)? == 0 {
            return Ok(code);
        }
        let parsed = match parse(&line) {
            Ok(ParsedLine::Empty) => continue,
            Ok(ParsedLine::Command(PromptLine { command: PromptCommand::Quit, .. })) => {
                return Ok(code);
            }
            Ok(ParsedLine::Command(line)) => Ok(line),
            Ok(ParsedLine::Clap(error)) => {
                match output.clap_error(&error) {
                    0 => {}
                    failed => code = failed,
                }
                continue;
            }
            Err(error) => Err(error),
        };
        match parsed.and_then(|line| run_line(line, &mut connector, &mut group, output)) {
            Ok(0) => {}
            Ok(failed) => code = failed,
            // The output of the remaining commands would be lost, too.
            Err(Error::OutputClosed) => return Ok(code),
            Err(error) => {
                output.error(&error);
                code = error.exit_code();
            }
        }
    }
}

fn run_line(
    line: PromptLine,
    connector: &mut Connector,
    group: &mut Option<GroupConnection>,
    output: Output,
) -> Result<u8, Error> {
    let output = output.or_json(line.format.json);
    let PromptCommand::Group(command) = line.command else {
        return Err(Error::Usage("this command works only at the prompt".into()));
    };
    let group = match group {
        Some(group) if group.connection.is_open() => group,
        _ => group.insert(connector.connect(output)?),
    };
    commands::run(command, group, output, Invocation::Line)
}
