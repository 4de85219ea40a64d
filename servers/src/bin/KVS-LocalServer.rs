//! `KVS-LocalServer`: parse, wire up, exit code.

// The name of the program is the one that its users know.
#![allow(non_snake_case)]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::FalseyValueParser;
use kvs_servers::console::{Input, Output};
use kvs_servers::local::{Config, Error, Server};
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

    /// End, with all data lost, when the authentication server does not answer; otherwise connected
    /// applications keep working and the server reconnects by itself
    #[arg(long, env = "KVS_EXIT_ON_AUTH_LOSS", value_parser = FalseyValueParser::new())]
    exit_on_auth_loss: bool,

    /// Log every operation on standard error
    #[arg(short, long, env = "KVS_VERBOSE", value_parser = FalseyValueParser::new())]
    verbose: bool,
}

fn main() -> ExitCode {
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
        exit_on_auth_loss: arguments.exit_on_auth_loss,
    };
    let server = Server::bind(config, &shutdown, &output)?;
    server.run(Input::stdin())
}

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
