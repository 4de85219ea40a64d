//! The command line program `kvs`: the pairs of a group from a shell, a script or a prompt.
//!
//! - `arguments`: the command line, as a [`clap::Command`]; the manual page is generated from it.
//!   `help_text`: the rest of `--help`.
//! - `connector`: opens connections to a group. `secret` holds its secret, `terminal` asks for it.
//! - `commands`: the commands on a group. `watch`: changes as they happen.
//! - `prompt`: commands typed on a terminal. `script`: commands from standard input. `line` parses
//!   the lines of both, `completion` is the tab key of the prompt.
//! - `admin`: administration, over the control socket of the server.
//! - `error`, `library_error`, `exit_code`: messages, names and exit codes of errors.
//! - `output`, `json`, `quoting`: what is printed.
//!
//! Invariants: a secret is never an argument, never printed, and never in the history. Keys and
//! values are bytes and need not be UTF-8. Nothing polls. Standard output has results only;
//! everything else goes to standard error. A reader that closes standard output causes no error.

#![forbid(unsafe_code)]

mod admin;
mod arguments;
mod commands;
mod completion;
mod connector;
mod error;
mod exit_code;
mod help_text;
mod json;
mod library_error;
mod line;
mod output;
mod prompt;
mod quoting;
mod script;
mod secret;
mod terminal;
mod watch;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::parser::ValueSource;

use crate::admin::SocketOption;
use crate::arguments::CliCommand;
pub use crate::arguments::{Cli, command};
use crate::commands::Invocation;
use crate::connector::Connector;
use crate::error::Error;
use crate::output::Output;

/// Runs the program with the arguments and the environment of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let filled =
        kvs_options::fill(arguments::parser(), &arguments, default_config_file().as_deref());
    let parsed = filled
        .and_then(|(command, _)| Ok(arguments::prepare(command).try_get_matches_from(&arguments)?));
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) => {
            // The options could not be parsed, so the arguments are searched for --json.
            let json = arguments.iter().any(|argument| argument == "--json");
            return ExitCode::from(Output::new(json).options_error(&error));
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(Output::new(false).clap_error(&error)),
    };
    let output = Output::new(cli.format.json);
    let Cli { endpoint, command, .. } = cli;
    let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    if matches!(command, Some(CliCommand::Admin { .. })) && is_typed("secret_file") {
        output.error(&Error::Usage("--secret-file goes after kvs admin create".into()));
        return ExitCode::from(exit_code::USAGE);
    }
    let socket = endpoint.socket.clone().map(PathBuf::into_os_string);
    let socket = SocketOption { path: socket, is_typed: is_typed("socket") };
    let connector = Connector::new(endpoint, &matches);
    ExitCode::from(match run(command, connector, socket, output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    })
}

/// The configuration file that is read without `--config`.
fn default_config_file() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let config = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config")))?;
    Some(config.join("kvs/kvs.toml"))
}

fn run(
    command: Option<CliCommand>,
    connector: Result<Connector, Error>,
    socket: SocketOption,
    output: Output,
) -> Result<u8, Error> {
    match command {
        // These two need no group, so a wrong group or secret does not matter.
        Some(CliCommand::Admin { arguments }) => Ok(admin::run(arguments, socket, output)),
        Some(CliCommand::Completions { shell }) => {
            output.bytes(&arguments::completion_script(shell))?;
            Ok(0)
        }
        Some(CliCommand::Group(command)) => {
            let group = connector?.connect(output)?;
            commands::run(command, &group, output, Invocation::CommandLine)
        }
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => {
            prompt::run(connector?, output)
        }
        None => script::run(connector?, output, io::stdin().lock()),
    }
}
