//! `KVS-LocalServer`: parse, wire up, exit code.

// The name of the program is the one that its users know.
#![allow(non_snake_case)]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::FalseyValueParser;
use kvs_servers::console::{Input, Output};
use kvs_servers::local::{Config, DEFAULT_MAX_VALUE, Error, Limits, MAX_VALUE, Mode, Server};
use kvs_servers::shutdown::Shutdown;
use kvs_servers::startup;

/// Serves the groups and key-value pairs of one machine to its applications.
///
/// Applications connect over UNIX sockets (libkvs); the secrets of the groups are kept by a KVS-AuthServer.
/// All data is in memory: a restarted server starts empty.
#[derive(Debug, Parser)]
#[command(
    name = "KVS-LocalServer",
    version,
    after_help = "\
Commands on standard input, each a line (the first three ask for a group id):
  Create group
  Delete group
  Show group info
  Show application status
  Quit

The end of standard input is not Quit: the server goes on. SIGTERM and SIGINT are Quit.
Answers go to standard output, logs and errors to standard error.

Exit codes: 0 after Quit, SIGTERM or SIGINT; 1 when it cannot start or go on; 2 for a wrong option.

Examples:
  KVS-LocalServer --auth 192.0.2.1:58032
  KVS-LocalServer </dev/null >/var/log/kvs.log 2>&1 &"
)]
struct Arguments {
    /// The authentication server
    #[arg(long, value_name = "HOST:PORT", env = "KVS_AUTH", default_value = "127.0.0.1:58032",
        value_parser = host_and_port)]
    auth: String,

    /// Where applications connect
    #[arg(long, value_name = "PATH", env = "KVS_SOCKET", default_value = "/tmp/server_sock")]
    socket: PathBuf,

    /// Where their callback channels connect [default: the --socket path followed by _cb]
    #[arg(long, value_name = "PATH", env = "KVS_CALLBACK_SOCKET")]
    callback_socket: Option<PathBuf>,

    /// Permissions of both sockets in octal: who may write may connect. With 660, for example, the server's
    /// user and group [default: what the umask leaves]
    #[arg(long, value_name = "OCTAL", env = "KVS_SOCKET_MODE")]
    socket_mode: Option<Mode>,

    /// Applications that one user may have connected; one process may have half of them. Never more than
    /// three quarters of those for which the limit of open files has room, so that others find a place
    #[arg(long, value_name = "COUNT", env = "KVS_MAX_CONNECTIONS_PER_USER",
        default_value_t = Limits::default().connections)]
    max_connections_per_user: usize,

    /// Pairs whose value one user may have stored
    #[arg(long, value_name = "COUNT", env = "KVS_MAX_PAIRS_PER_USER",
        default_value_t = Limits::default().pairs)]
    max_pairs_per_user: u64,

    /// Bytes of those pairs, keys and values together; each registration for a callback counts as 512, each
    /// change that waits to be told as 256. A plain number, no K, M or G
    #[arg(long, value_name = "BYTES", env = "KVS_MAX_BYTES_PER_USER",
        default_value_t = Limits::default().bytes)]
    max_bytes_per_user: u64,

    /// The longest value, in bytes, from 99 to 67108864 (64 MiB). A plain number, no K, M or G. Programs that
    /// speak the original protocol are limited to 99 bytes in any case
    #[arg(long, value_name = "BYTES", env = "KVS_MAX_VALUE_BYTES",
        default_value_t = DEFAULT_MAX_VALUE, value_parser = value_bytes)]
    max_value_bytes: usize,

    /// How long an application may take to log in
    #[arg(long, value_name = "SECONDS", env = "KVS_LOGIN_TIMEOUT", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    login_timeout: u64,

    /// End, with all data lost, when the authentication server does not answer; otherwise connected
    /// applications keep working and the server reconnects by itself
    #[arg(long, env = "KVS_EXIT_ON_AUTH_LOSS", value_parser = FalseyValueParser::new())]
    exit_on_auth_loss: bool,

    /// Log every operation on standard error
    #[arg(short, long, env = "KVS_VERBOSE", value_parser = FalseyValueParser::new())]
    verbose: bool,
}

/// Blocks of this many bytes and more go back to the system as soon as they are freed.
const RETURNED_AT_ONCE: libc::c_int = 1 << 20;

/// Values of the original protocol are never too long.
const SHORTEST_MAX_VALUE: usize = kvs_proto::MAX_TEXT;

fn main() -> ExitCode {
    tune_allocator();
    let arguments = Arguments::parse();
    let logging = startup::init_logging(arguments.verbose);
    let result = serve(arguments);
    // Writes what is left, so that the error below is the last line.
    drop(logging);
    startup::exit_code("KVS-LocalServer", result)
}

fn serve(arguments: Arguments) -> Result<(), Error> {
    startup::raise_descriptor_limit();
    let output = Output::new(io::stdout()).map_err(Error::io("a thread for the console"))?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(Error::io("a handler for signals"))?;
    let callback_socket = arguments.callback_socket.unwrap_or_else(|| {
        let mut path = arguments.socket.clone().into_os_string();
        path.push("_cb");
        path.into()
    });
    let config = Config {
        auth: arguments.auth,
        socket: arguments.socket,
        callback_socket,
        socket_mode: arguments.socket_mode,
        limits: Limits {
            connections: arguments.max_connections_per_user,
            pairs: arguments.max_pairs_per_user,
            bytes: arguments.max_bytes_per_user,
        },
        // Its parser has limited it.
        max_value: arguments.max_value_bytes,
        login_timeout: Duration::from_secs(arguments.login_timeout),
        exit_on_auth_loss: arguments.exit_on_auth_loss,
    };
    let server = Server::bind(config, &shutdown, &output)?;
    server.run(Input::stdin())
}

/// Otherwise the allocator of the C library learns from the first long value to keep what others took in pieces
/// between those that live, and a server that once had many of them stays as large as it was then. And it would
/// put small freed pieces aside, however many they are, and later join all of them at once: everybody would wait
/// meanwhile.
#[cfg(target_env = "gnu")]
fn tune_allocator() {
    // SAFETY: there is no other thread yet, as the function asks for. It takes two numbers, and refuses, without harm, what it
    // does not know.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, RETURNED_AT_ONCE);
        libc::mallopt(libc::M_MXFAST, 0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn tune_allocator() {}

/// Checks the form; whether there is such a host shows at the connection.
fn host_and_port(address: &str) -> Result<String, String> {
    match address.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(address.to_string())
        }
        _ => Err("it must be a host name or address, a colon, and a port from 1 to 65535".into()),
    }
}

fn value_bytes(bytes: &str) -> Result<usize, String> {
    match bytes.parse() {
        Ok(bytes) if (SHORTEST_MAX_VALUE..=MAX_VALUE).contains(&bytes) => Ok(bytes),
        _ => Err(format!("it must be a number of bytes from {SHORTEST_MAX_VALUE} to {MAX_VALUE}")),
    }
}
