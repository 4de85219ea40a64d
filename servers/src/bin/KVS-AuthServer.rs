//! The authentication server as a program: parses, wires up, exits. What it does is in
//! [`kvs_servers::auth`].

#![allow(non_snake_case, reason = "the crate has the name of the program, which is given")]
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use clap::builder::FalseyValueParser;
use kvs_servers::auth::{Config, Server};
use kvs_servers::console::{Input, Output, UNKNOWN_COMMAND};
use kvs_servers::shutdown::{Reason, Shutdown};
use kvs_servers::startup;

const NAME: &str = "KVS-AuthServer";

const AFTER_HELP: &str = "\
Console (standard input, whole lines):
  Quit    tell all local servers to close, wait for them (5 s at most), exit
SIGTERM and SIGINT do the same; the end of the input does not.

Every local server gets two more UDP ports, from the listen port upwards: allow them in a firewall.

Exit codes: 0 after Quit, SIGTERM or SIGINT; 1 when it cannot start; 2 for a wrong option.

Example, for local servers on several machines:
  KVS-AuthServer --listen 0.0.0.0:58032";

/// Keeps the secrets of all groups for the local servers of one or several machines.
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = AFTER_HELP)]
struct Options {
    /// Where local servers reach this server: an IP address and a UDP port
    #[arg(long, env = "KVS_LISTEN", value_name = "ADDR:PORT", default_value_t = Config::default().listen)]
    listen: SocketAddr,

    /// How many local servers one machine (IPv4 address, or IPv6 network of 64 bits) may have connected
    #[arg(long, env = "KVS_LINKS_PER_MACHINE", value_name = "NUMBER",
          default_value_t = Config::default().links_per_machine)]
    links_per_machine: usize,

    /// How many groups one machine may have; then new names are answered as if they were taken
    #[arg(long, env = "KVS_GROUPS_PER_MACHINE", value_name = "NUMBER",
          default_value_t = Config::default().groups_per_machine)]
    groups_per_machine: usize,

    /// After how many seconds the ports are taken back from who asked for them and does not use them
    #[arg(long, env = "KVS_CONFIRM_WAIT", value_name = "SECONDS",
          default_value_t = Config::default().confirm_wait.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    confirm_wait: u64,

    /// Log every operation on standard error
    #[arg(short, long, env = "KVS_VERBOSE", value_parser = FalseyValueParser::new())]
    verbose: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let log_guard = startup::init_logging(options.verbose);
    let result = serve(&options);
    // The last log lines come before the error that ended the program.
    drop(log_guard);
    startup::exit_code(NAME, result)
}

fn serve(options: &Options) -> Result<(), Box<dyn Error>> {
    startup::raise_descriptor_limit();
    let server = Server::bind(&Config {
        listen: options.listen,
        links_per_machine: options.links_per_machine,
        groups_per_machine: options.groups_per_machine,
        confirm_wait: Duration::from_secs(options.confirm_wait),
        ..Config::default()
    })?;
    let output = Output::new(io::stdout())
        .map_err(|error| format!("cannot start a thread for the console: {error}"))?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| format!("cannot handle signals: {error}"))?;
    let (console_output, console_shutdown) = (output.clone(), shutdown.clone());
    thread::Builder::new()
        .name("console-input".into())
        .spawn(move || obey_console(&console_output, &console_shutdown))
        .map_err(|error| format!("cannot start a thread for the console: {error}"))?;
    server.run(&shutdown, &output)?;
    Ok(())
}

/// Reads commands until the end of the input, which ends nothing but this.
fn obey_console(output: &Output, shutdown: &Shutdown) {
    let mut input = Input::stdin();
    while let Some(line) = input.line() {
        match line.as_slice() {
            b"Quit" => return shutdown.request(Reason::Console),
            _ => output.say(UNKNOWN_COMMAND),
        }
    }
}
