//! What may be typed: the command line of the program, and the lines of its prompt, whose commands are the same.
//!
//! [`command`] is the definition of the program, which the manual is made from, too. Nothing here has a secret for an
//! argument. A variable of the environment that is set to nothing counts as unset, as everywhere in kvs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::admin::AdminArguments;

/// The longest time-out that the library knows, in milliseconds.
const LONGEST_TIMEOUT: u64 = i32::MAX as u64;

const EXAMPLES: &str = "\
Examples:
  export KVS_GROUP=weather KVS_SECRET_FILE=~/.weather-secret
  kvs put temperature 21.5
  kvs get temperature
  kvs put picture <sky.png && kvs get picture >copy.png
  kvs watch temperature --exec 'echo it has $(cat) degrees'
  kvs status >/dev/null || echo 'the server is away'
  kvs admin create weather --secret-file ~/.weather-secret
  kvs                                  a prompt
  kvs <commands                        one command on each line

Exit codes:
  0  done
  1  there is no such key
  2  the command line is wrong, or the group or the secret is missing
  3  no connection: no server, or it has gone, or it did not answer in time
  4  refused: wrong secret, no such group, too many connections
  5  conflict: the key has another version than --if-version says
  6  too much: a key or value is too long, or your user is at its limit; or the
     session cannot do that
  7  a file or the system failed";

const LONG_HELP: &str = "\
Environment (what is empty counts as unset; an option goes before its variable,\nand that before the file of --config):
  KVS_GROUP            the group
  KVS_SECRET_FILE      a file with the secret in its first line, which only its
                       owner should be able to read
  KVS_SECRET           the secret itself; goes before KVS_SECRET_FILE, but not
                       before --secret-file
  KVS_SOCKET           where the server is
  KVS_CALLBACK_SOCKET  where its callback channels are; with --socket it is not
                       looked at
  KVS_TIMEOUT_MS       how long one call may wait for the server
  KVS_CONFIG           a file with options
  XDG_CONFIG_HOME      without KVS_CONFIG, that file is kvs/kvs.toml below it, or
                       below ~/.config
  KVS_PROTOCOL         original: speak the original protocol in any case
  XDG_STATE_HOME       the history of the prompt is kvs/history below it, or
                       below ~/.local/state

Without a command:
  On a terminal there is a prompt: the same commands, with a history, the tab
  key, and watches that report above the line while you type. \"help\" lists them.
  Otherwise commands are read from standard input, one on each line, with the
  quotes of the shell, and # before a comment. After one that fails the others
  are still done; the exit code is that of the last one that failed. Each value
  ends with a line feed there.

JSON (--json): one object on each line. Answers are on standard output:
  get     {\"key\":\"temperature\",\"value\":\"21.5\",\"version\":7}
  put     {\"key\":\"temperature\",\"version\":8}
  delete  {\"key\":\"temperature\",\"deleted\":true}
  keys    {\"key\":\"temperature\"}
  watch   {\"event\":\"changed\",\"key\":\"door\",\"value\":\"open\",\"version\":9}
          {\"event\":\"deleted\",\"key\":\"door\"}
          {\"event\":\"initial\",…} like \"changed\", with --initial
  status  {\"server\":\"/tmp/server_sock\",\"group\":\"weather\",
           \"session\":\"framed\",\"keys\":1,\"round_trip_us\":35.2}
  Instead of \"key\" or \"value\" there is \"key_base64\" or \"value_base64\" when
  the bytes are not UTF-8; so for \"group\" and \"server\". In an original session
  there is no \"version\", and \"keys\" is null.

  On standard error there are failures, warnings, and the beginning of a watch:
          {\"error\":\"no_such_key\",\"message\":\"there is no key …\",
           \"key\":\"temperature\",\"exit_code\":1}
          {\"warning\":\"exposed_secret\",\"message\":\"…\"}
          {\"event\":\"watching\",\"group\":\"weather\"}
          {\"note\":\"…\"}, for whoever sits at a terminal
  The errors, by exit code:
    1  no_such_key
    2  usage, no_group, no_secret
    3  no_server, no_login, timed_out, connection_lost
    4  refused, wrong_secret, no_such_group
    5  conflict, with the \"version\" that the key has (0: there is none)
    6  too_large, limit, unsupported
    7  system";

/// Read, write and watch the key-value pairs of a group
///
/// The pairs are kept by the KVS-LocalServer of this machine, and shared by all programs that know the secret of the
/// group. Without a command kvs is a prompt.
#[derive(Debug, Parser)]
#[command(name = "kvs", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{LONG_HELP}"))]
pub struct Arguments {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) style: Style,

    /// A file in TOML in which the options of all commands may be set, such as `group = "weather"`: see kvs.toml(5) [default:
    /// kvs/kvs.toml below $XDG_CONFIG_HOME or ~/.config, if it is there]
    #[arg(long, value_name = "FILE", env = "KVS_CONFIG", hide_env_values = true, global = true)]
    pub(crate) config: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Which server and group.
#[derive(Debug, Args)]
#[command(next_help_heading = "Group and server")]
pub(crate) struct Place {
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

    /// A file with the secret of the group in its first line; without it KVS_SECRET has the secret, or it is asked for on
    /// the terminal
    #[arg(
        long,
        value_name = "FILE",
        env = "KVS_SECRET_FILE",
        hide_env_values = true,
        global = true
    )]
    pub(crate) secret_file: Option<PathBuf>,

    /// Where the server is [default: /tmp/server_sock]
    #[arg(long, value_name = "PATH", env = "KVS_SOCKET", hide_env_values = true, global = true)]
    pub(crate) socket: Option<PathBuf>,

    /// Where its callback channels are [default: the path of the server followed by _cb]
    #[arg(
        long,
        value_name = "PATH",
        env = "KVS_CALLBACK_SOCKET",
        hide_env_values = true,
        global = true
    )]
    pub(crate) callback_socket: Option<PathBuf>,

    /// How long one call may wait for the server, in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", env = "KVS_TIMEOUT_MS", hide_env_values = true, global = true,
        value_parser = clap::value_parser!(u64).range(1..=LONGEST_TIMEOUT))]
    pub(crate) timeout: Option<u64>,
}

/// How answers look.
#[derive(Debug, Args)]
pub(crate) struct Style {
    /// One JSON object on each line, errors too; `kvs --help` shows them
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A command of the program.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Group(Request),

    /// Administer the local server: its groups, its applications, its end
    // Parsed by itself: the options of the other commands are not for it, nor are their variables.
    #[command(disable_help_flag = true)]
    Admin {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        arguments: Vec<OsString>,
    },

    /// Print a script that makes a shell complete commands and options
    ///
    /// For bash: kvs completions bash >~/.local/share/bash-completion/completions/kvs
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// A command that needs a group.
#[derive(Debug, Subcommand)]
pub(crate) enum Request {
    /// Print the value of a key
    ///
    /// The bytes are printed as they are. On a terminal a line feed follows.
    #[command(after_help = "Exit code 1: there is no such key.")]
    Get {
        /// The key
        #[arg(value_name = "KEY")]
        key: OsString,
    },

    /// Store a value under a key
    ///
    /// All who watch the key are told.
    #[command(
        alias = "set",
        after_help = "\
Examples:
  kvs put temperature 21.5
  kvs put picture <sky.png
  kvs put lock mine --if-version 0     succeeds for one only, however many try
  kvs put -- -key -value               what begins with a dash follows --"
    )]
    Put {
        /// The key
        #[arg(value_name = "KEY")]
        key: OsString,
        /// The value. Without it, or with a single dash: all bytes of standard input, unchanged
        #[arg(value_name = "VALUE", allow_negative_numbers = true)]
        value: Option<OsString>,
        /// Only if the key has this version (get --json tells it); 0: only if there is no such key. Exit code 5 when not
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },

    /// Delete keys
    ///
    /// Keys that do not exist are told, and the others are deleted all the same.
    #[command(
        aliases = ["del", "rm"],
        after_help = "Exit code 1: at least one of the keys does not exist."
    )]
    Delete {
        /// The keys
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<OsString>,
        /// Only if the key, which must be the only one, has this version. Exit code 5 when not
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        if_version: Option<u64>,
    },

    /// List the keys, in no order
    ///
    /// They are printed as they are, one on each line. On a terminal, control characters in them are escaped.
    #[command(after_help = "Example: kvs keys sensor: -0 | xargs -0 kvs delete")]
    Keys {
        /// Only keys that begin with this
        #[arg(value_name = "PREFIX")]
        prefix: Option<OsString>,
        /// End each key with a NUL byte instead of a line feed
        #[arg(short = '0', long, conflicts_with = "json")]
        null: bool,
    },

    /// Report changes of keys as they happen
    ///
    /// A line for each change: the key, an equals sign and the value; or the key and the word "deleted". Control characters and
    /// backslashes are escaped. A key need not exist yet. When a key changes faster than it can be reported, some of its changes
    /// are reported as one; the last one never is lost. It ends with the connection (exit code 3).
    #[command(after_help = "\
Examples:
  kvs watch temperature pressure
  kvs watch --prefix sensor: --initial --json
  kvs watch door --count 1 >/dev/null           waits for one change
  kvs watch config --exec 'cat >/etc/app.conf'  the new value is the input of the command")]
    Watch(WatchRequest),

    /// Tell whether the server answers, what kind of session it speaks, and how many keys there are
    ///
    /// The round trip time is the median of some gets.
    #[command(after_help = "Exit code 0 means that all is well: use it as a health check.")]
    Status,
}

/// What to watch, and what to do then.
#[derive(Debug, Args)]
pub(crate) struct WatchRequest {
    /// The keys
    #[arg(value_name = "KEY", required_unless_present = "prefixes")]
    pub(crate) keys: Vec<OsString>,
    /// All keys that begin with this; may be repeated, and may be empty
    #[arg(short, long = "prefix", value_name = "PREFIX")]
    pub(crate) prefixes: Vec<OsString>,
    /// For each change run this shell command instead of printing a line. Its input is the value, and it finds KVS_KEY,
    /// KVS_VERSION and KVS_EVENT (changed, deleted or initial) in its environment, and KVS_GROUP, KVS_SOCKET and
    /// KVS_SECRET_FILE as they are used here, but not KVS_SECRET. One runs at a time; of what changes meanwhile each key
    /// follows once. One that fails is told, and the watch goes on
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<OsString>,
    /// End after this many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Report the values at the beginning, too. They do not count for --count
    #[arg(long)]
    pub(crate) initial: bool,
    /// Do not say on standard error when the watch has begun
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// A line of the prompt, or of standard input.
#[derive(Debug, Parser)]
#[command(multicall = true, disable_version_flag = true, subcommand_help_heading = "Commands")]
#[command(about = "Each line is a command; quotes are those of a shell")]
#[command(override_usage = "COMMAND [ARGUMENTS]; \"help COMMAND\" tells more")]
#[command(after_help = "\
The tab key completes commands and keys, Ctrl-R searches the history, Ctrl-C
clears the line, Ctrl-D quits. A line that begins with a space is not kept in
the history, nor one with the secret in it.")]
pub(crate) struct Line {
    #[command(flatten)]
    pub(crate) style: Style,
    #[command(subcommand)]
    pub(crate) command: LineCommand,
}

/// A command of the prompt.
#[derive(Debug, Subcommand)]
pub(crate) enum LineCommand {
    #[command(flatten)]
    Request(Request),

    /// At the prompt: end all watches
    Unwatch,

    /// At the prompt: change to another group, whose secret is asked for
    Connect {
        /// The group
        #[arg(value_name = "GROUP")]
        group: OsString,
    },

    /// End, as Ctrl-D does
    #[command(alias = "exit")]
    Quit,
}

/// The whole definition of the program, for a manual or a shell.
pub fn command() -> clap::Command {
    parser().mut_subcommand("admin", |_| AdminArguments::command())
}

/// What [`prepared`] is made from: without that of `admin`, which is parsed by itself.
pub(crate) fn parser() -> clap::Command {
    Arguments::command()
}

/// That of a line of the prompt.
pub(crate) fn line() -> clap::Command {
    Line::command()
}

/// [`parser`] for its use: variables of the environment that are set to nothing count as unset, and the usage that an
/// error shows does not take variables for options that were typed.
pub(crate) fn prepared(command: clap::Command) -> clap::Command {
    let is_empty = |argument: &clap::Arg| {
        let value = argument.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.is_empty())
    };
    let mut command = command.mut_args(|argument| match is_empty(&argument) {
        true => argument.env(Resettable::Reset),
        false => argument,
    });
    command.build();
    command.mut_subcommands(|mut subcommand| {
        let usage = subcommand.render_usage().to_string();
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
        subcommand.override_usage(usage)
    })
}

/// The script for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "kvs", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        command().debug_assert();
        parser().debug_assert();
        line().debug_assert();
    }

    #[test]
    fn no_argument_is_a_secret() {
        fn all(command: &clap::Command) -> Vec<String> {
            let own = command.get_arguments().map(|argument| argument.get_id().to_string());
            own.chain(command.get_subcommands().flat_map(all)).collect()
        }
        for argument in all(&command()).into_iter().chain(all(&line())) {
            assert!(!argument.contains("secret") || argument == "secret_file", "{argument}");
        }
    }
}
