//! The command line of `kvs admin`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Arguments of `kvs admin`.
#[derive(Debug, Parser)]
#[command(
    name = "admin",
    bin_name = "kvs admin",
    about = "Administer the local server: its groups, its applications, its shutdown",
    after_help = "\
Only root and the user that runs the server may use this command.

Exit codes: 0 success; 1 no such group; 2 wrong usage; 3 no server, or no reply;
4 refused; 5 the group exists already; 6 the authentication server does not
answer, or 16 administrators are connected; 7 file or system error.

JSON (--json): one object. create prints {\"group\",\"secret\"} or
{\"group\",\"secret_file\"}; delete {\"deleted\":[…]}; info
{\"group\",\"secret\",\"pairs\"}; quit {\"quit\":true}; status
{\"groups\":[{\"group\",\"pairs\",\"applications\":[{\"number\",\"pid\",\"connected_at\",
\"closed_at\",\"seconds\",\"watches\":[{\"key\"} or {\"prefix\"}],\"watch_count\"}]}]}.
Times are seconds since 1970. Bytes that are not UTF-8 are base64 in a field
whose name ends with _base64, as in all of kvs. Errors have the form of those of
kvs, with the names no_such_group, invalid, version, quitting, denied, exists,
unavailable, busy, unknown, no_server, connection_lost, untrusted_secret,
no_secret, system.

Examples:
  kvs admin create weather --secret-file ~/.weather
  secret=$(kvs admin create weather)
  kvs admin status"
)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    pub(super) endpoint: AdminEndpoint,

    /// Print one JSON object instead of text; errors too, on standard error
    #[arg(long, global = true)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) command: AdminCommand,
}

/// The control socket to connect to.
#[derive(Debug, Args)]
pub(super) struct AdminEndpoint {
    /// The control socket of the server [default: the path of --socket followed by _control;
    /// without --socket, the first that exists of /run/kvs/control and /tmp/server_sock_control]
    #[arg(long, value_name = "PATH", env = "KVS_CONTROL_SOCKET", global = true)]
    pub(super) control_socket: Option<OsString>,

    /// The socket of the server for applications
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) socket: Option<OsString>,
}

/// A command of `kvs admin`.
#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Create a group and print its secret; on a terminal, in a sentence
    Create {
        /// The name of the group, 1 to 99 bytes
        group: OsString,
        /// Keep the secret in this file instead of printing it. If the file does not exist, kvs
        /// creates it with a new secret, readable by you alone. If it exists, the group gets the
        /// secret of its first line (1 to 7 bytes): after a restart of the server, the group can
        /// be created again with the same secret
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Delete groups: disconnect their applications and delete all their pairs
    Delete {
        /// The names of the groups
        #[arg(required = true)]
        groups: Vec<OsString>,
    },
    /// Print the name of a group, its secret and the number of its pairs
    Info {
        /// The name of the group
        group: OsString,
    },
    /// Print the connected and past applications, and what they watch
    Status {
        /// Print this group instead of all groups
        group: Option<OsString>,
        /// Omit past applications
        #[arg(long)]
        connected: bool,
    },
    /// Shut the server down: all its groups and pairs are lost
    Quit {
        /// Do not ask for confirmation on a terminal
        #[arg(long)]
        yes: bool,
    },
}
