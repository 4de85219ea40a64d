//! The command line program `kvs`: the pairs of a group from a shell, a script or a prompt.
//!
//! - `arguments`: what may be typed, as a [`clap::Command`], which is also what the manual is made of.
//! - `access`: which server and group, and where the secret comes from; `secret` holds it, `terminal` asks for it.
//! - `commands`: what each command does. `watch`: the one that goes on. `exec`: what it may run.
//! - `prompt`: without a command, on a terminal. `script`: likewise, without one. `completion`: the tab key.
//! - `admin`: what an administrator can do, over the server's control socket.
//! - `failure`: what can go wrong: its sentence, its name, its exit code. `output`: text and JSON. `words`: bytes as
//!   they are typed and shown.
//!
//! What always holds. A secret is never taken from the command line, never printed, and never kept in the history.
//! What is read and written are bytes: nothing need be UTF-8. Nobody polls. Standard output has answers only; all
//! else goes to standard error. That nobody reads an output any more is no failure.

#![forbid(unsafe_code)]

mod access;
mod admin;
mod arguments;
mod commands;
mod completion;
mod exec;
mod failure;
mod output;
mod prompt;
mod script;
mod secret;
mod terminal;
mod watch;
mod words;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::parser::ValueSource;

use crate::access::Access;
use crate::arguments::Command;
pub use crate::arguments::{Arguments, command};
use crate::commands::Surroundings;
use crate::failure::Failure;
use crate::output::Output;

/// The program: its arguments, its environment, its exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let filled = kvs_options::fill(arguments::parser(), &arguments, usual_file().as_deref());
    let parsed = filled.and_then(|(command, _)| {
        Ok(arguments::prepared(command).try_get_matches_from(&arguments)?)
    });
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) => {
            // They could not be parsed, so this is all that is known of what is wanted.
            let json = arguments.iter().any(|argument| argument == "--json");
            return ExitCode::from(output::say_usage(&error, Output::new(json)));
        }
    };
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(output::say_clap(&error, Output::new(false))),
    };
    let output = Output::new(arguments.style.json);
    let Arguments { place, command, .. } = arguments;
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    if matches!(command, Some(Command::Admin { .. })) && typed("secret_file") {
        output.failure(&Failure::Usage("--secret-file belongs behind kvs admin create".into()));
        return ExitCode::from(output::USAGE);
    }
    let socket = place.socket.clone().map(PathBuf::into_os_string);
    let socket = admin::Socket { path: socket, is_typed: typed("socket") };
    let access = Access::new(place, &matches);
    ExitCode::from(match run(command, access, socket, output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    })
}

/// The file with options that need not be named.
fn usual_file() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let config = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config")))?;
    Some(config.join("kvs/kvs.toml"))
}

fn run(
    command: Option<Command>,
    access: Result<Access, Failure>,
    socket: admin::Socket,
    output: Output,
) -> Result<u8, Failure> {
    match command {
        // Those that need no group come first.
        Some(Command::Admin { arguments }) => Ok(admin::run(arguments, socket, output)),
        Some(Command::Completions { shell }) => {
            output.bytes(&arguments::completions(shell))?;
            Ok(0)
        }
        Some(Command::Group(request)) => {
            let member = access?.open(output)?;
            commands::run(request, &member, output, Surroundings::Shell)
        }
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => {
            prompt::run(access?, output)
        }
        None => script::run(access?, output, io::stdin().lock()),
    }
}
