//! The command line of `kvs`, and the lines of its prompt, which have the same commands.
//!
//! [`command`] is the definition of the program; the manual page is generated from it. No argument
//! takes a secret. As everywhere in kvs, an empty environment variable counts as unset.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::admin::AdminArgs;
use crate::help_text::{DETAILS, EXAMPLES_AND_EXIT_CODES};

/// The longest timeout of the library, in milliseconds.
const MAX_TIMEOUT_MS: u64 = i32::MAX as u64;

/// Read, write and watch the key-value pairs of a group
///
/// The KVS-LocalServer of this machine holds the pairs. All programs that know the secret of the
/// group share them. Without a command kvs opens a prompt.
#[derive(Debug, Parser)]
#[command(
    name = "kvs",
    version,
    after_help = EXAMPLES_AND_EXIT_CODES,
    after_long_help = format!("{EXAMPLES_AND_EXIT_CODES}\n\n{DETAILS}")
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    #[command(flatten)]
    pub(crate) format: FormatArgs,

    /// A TOML file that sets options, such as `group = "weather"`: see kvs.toml(5)
    /// [default: kvs/kvs.toml in $XDG_CONFIG_HOME or ~/.config, if that file exists]
    #[arg(long, value_name = "FILE", env = "KVS_CONFIG", hide_env_values = true, global = true)]
    pub(crate) config: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Option<CliCommand>,
}

/// The server and the group.
#[derive(Debug, Args)]
#[command(next_help_heading = "Group and server")]
pub(crate) struct EndpointArgs {
    /// The group
    #[arg(
        short,
        long,
        value_name = "GROUP",
        env = "KVS_GROUP",
        hide_env_values = true,
        global = true
    )]
    pub(crate) group: Option<OsString>,

    /// A file whose first line is the secret of the group. Without this option, the secret is
    /// that of KVS_SECRET, or kvs asks for it on the terminal
    #[arg(
        long,
        value_name = "FILE",
        env = "KVS_SECRET_FILE",
        hide_env_values = true,
        global = true
    )]
    pub(crate) secret_file: Option<PathBuf>,

    /// The socket of the server [default: /tmp/server_sock]
    #[arg(long, value_name = "PATH", env = "KVS_SOCKET", hide_env_values = true, global = true)]
    pub(crate) socket: Option<PathBuf>,

    /// The socket of the server for callback channels [default: the path of the server
    /// followed by _cb]
    #[arg(
        long,
        value_name = "PATH",
        env = "KVS_CALLBACK_SOCKET",
        hide_env_values = true,
        global = true
    )]
    pub(crate) callback_socket: Option<PathBuf>,

    /// The timeout of a call to the server in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", env = "KVS_TIMEOUT_MS", hide_env_values = true, global = true,
        value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_MS))]
    pub(crate) timeout: Option<u64>,
}

/// The format of the output.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// Print one JSON object per line, errors included; `kvs --help` describes them
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A command of the program.
#[derive(Debug, Subcommand)]
pub(crate) enum CliCommand {
    #[command(flatten)]
    Group(GroupCommand),

    /// Administer the local server: its groups, its applications, its shutdown
    // Parsed separately, because the options and variables of the other commands do not apply.
    #[command(disable_help_flag = true)]
    Admin {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        arguments: Vec<OsString>,
    },

    /// Print a completion script for a shell
    ///
    /// For bash: kvs completions bash >~/.local/share/bash-completion/completions/kvs
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// A command on a group.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Print the value of a key
    ///
    /// The bytes are printed unchanged. On a terminal a line feed follows.
    #[command(after_help = "Exit code 1: no such key.")]
    Get {
        /// The key
        #[arg(value_name = "KEY")]
        key: OsString,
    },

    /// Store a value under a key
    ///
    /// The server notifies every watch on the key.
    #[command(
        alias = "set",
        after_help = "\
Examples:
  kvs put temperature 21.5
  kvs put picture <sky.png
  kvs put lock mine --if-version 0     succeeds for one caller only
  kvs put -- -key -value               -- before arguments with a dash"
    )]
    Put {
        /// The key
        #[arg(value_name = "KEY")]
        key: OsString,
        /// The value. Without it, or if it is a dash, kvs reads standard input to its end
        #[arg(value_name = "VALUE", allow_negative_numbers = true)]
        value: Option<OsString>,
        /// Store only if the key has this version, which get --json prints; 0: only if the key does
        /// not exist. Otherwise the exit code is 5
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },

    /// Delete keys
    ///
    /// Each key that does not exist is reported. The other keys are deleted.
    #[command(
        aliases = ["del", "rm"],
        after_help = "Exit code 1: at least one key does not exist."
    )]
    Delete {
        /// The keys
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<OsString>,
        /// Delete only if the key has this version; takes exactly one key. Otherwise the exit code
        /// is 5
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        if_version: Option<u64>,
    },

    /// List the keys, in no order
    ///
    /// One key per line, unchanged. On a terminal, control characters are escaped.
    #[command(after_help = "Example: kvs keys sensor: -0 | xargs -0 kvs delete")]
    Keys {
        /// List only keys that begin with this
        #[arg(value_name = "PREFIX")]
        prefix: Option<OsString>,
        /// End each key with a NUL byte instead of a line feed
        #[arg(short = '0', long, conflicts_with = "json")]
        null: bool,
    },

    /// Report changes of keys as they happen
    ///
    /// One line per change: the key, an equals sign and the value, or the key and the word
    /// "deleted". Control characters and backslashes are escaped. The keys need not exist yet. If a
    /// key changes faster than kvs can report, several changes are reported as one; the last change
    /// is never lost. The watch ends with the connection (exit code 3).
    #[command(after_help = "\
Examples:
  kvs watch temperature pressure
  kvs watch --prefix sensor: --initial --json
  kvs watch door --count 1 >/dev/null           waits for one change
  kvs watch config --exec 'cat >/etc/app.conf'  passes the new value as input")]
    Watch(WatchArgs),

    /// Check the server, and print the protocol, the number of keys and the round trip time
    ///
    /// The round trip time is the median of 21 requests.
    #[command(after_help = "Exit code 0: the server answers. Use this as a health check.")]
    Status,
}

/// The arguments of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The keys
    #[arg(value_name = "KEY", required_unless_present = "prefixes")]
    pub(crate) keys: Vec<OsString>,
    /// Watch all keys that begin with this, or all keys if it is empty; may be repeated
    #[arg(short, long = "prefix", value_name = "PREFIX")]
    pub(crate) prefixes: Vec<OsString>,
    /// Run this shell command for each change instead of printing a line. Its standard input is the
    /// value. Its environment has KVS_KEY, KVS_VERSION and KVS_EVENT (changed, deleted or initial),
    /// and KVS_GROUP, KVS_SOCKET and KVS_SECRET_FILE as this watch uses them, but not KVS_SECRET.
    /// One command runs at a time; a key that changes several times meanwhile is reported once. If
    /// a command fails, kvs prints a warning and the watch continues
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<OsString>,
    /// Exit after this many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Report the existing values first. They do not count for --count
    #[arg(long)]
    pub(crate) initial: bool,
    /// Do not report the start of the watch on standard error
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// A line of the prompt or of standard input.
#[derive(Debug, Parser)]
#[command(name = "kvs", bin_name = "", no_binary_name = true)]
#[command(disable_version_flag = true, subcommand_help_heading = "Commands")]
#[command(about = "Each line is a command, quoted as in a shell")]
#[command(override_usage = "COMMAND [ARGUMENTS]; \"help COMMAND\" describes it")]
#[command(after_help = "\
The tab key completes commands and keys, Ctrl-R searches the history, Ctrl-C
clears the line, Ctrl-D quits. The history omits lines that begin with a space
and lines that contain the secret.")]
pub(crate) struct PromptLine {
    #[command(flatten)]
    pub(crate) format: FormatArgs,
    #[command(subcommand)]
    pub(crate) command: PromptCommand,
}

/// A command of the prompt.
#[derive(Debug, Subcommand)]
pub(crate) enum PromptCommand {
    #[command(flatten)]
    Group(GroupCommand),

    /// End all watches (prompt only)
    Unwatch,

    /// Change to another group, after asking for its secret (prompt only)
    Connect {
        /// The group
        #[arg(value_name = "GROUP")]
        group: OsString,
    },

    /// Quit, as Ctrl-D does
    #[command(alias = "exit")]
    Quit,
}

/// The complete definition of the program, for the manual and for completion scripts.
pub fn command() -> clap::Command {
    parser().mut_subcommand("admin", |_| AdminArgs::command())
}

/// The definition of the program without that of `admin`, which is parsed separately.
pub(crate) fn parser() -> clap::Command {
    Cli::command()
}

/// The definition of a line of the prompt.
pub(crate) fn prompt_parser() -> clap::Command {
    fix_usage(PromptLine::command())
}

/// Prepares a definition for parsing: removes empty environment variables, and fixes the usage
/// texts, which would otherwise show variables as if they were options on the command line.
pub(crate) fn prepare(command: clap::Command) -> clap::Command {
    let is_empty = |argument: &clap::Arg| {
        let value = argument.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.is_empty())
    };
    fix_usage(command.mut_args(|argument| match is_empty(&argument) {
        true => argument.env(Resettable::Reset),
        false => argument,
    }))
}

/// Renders the usage text of each subcommand before anything is parsed, and keeps that text.
fn fix_usage(mut command: clap::Command) -> clap::Command {
    command.build();
    command.mut_subcommands(|mut subcommand| {
        let usage = subcommand.render_usage().to_string();
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).trim_start().to_owned();
        subcommand.override_usage(usage)
    })
}

/// The completion script for a shell.
pub(crate) fn completion_script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "kvs", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_definitions_are_consistent() {
        command().debug_assert();
        parser().debug_assert();
        prompt_parser().debug_assert();
    }

    #[test]
    fn no_argument_takes_a_secret() {
        fn all(command: &clap::Command) -> Vec<String> {
            let own = command.get_arguments().map(|argument| argument.get_id().to_string());
            own.chain(command.get_subcommands().flat_map(all)).collect()
        }
        for argument in all(&command()).into_iter().chain(all(&prompt_parser())) {
            assert!(!argument.contains("secret") || argument == "secret_file", "{argument}");
        }
    }
}
