//! The authentication server as a program: parses, wires up, exits. What it does is in
//! [`kvs_servers::auth`].

#![allow(non_snake_case, reason = "the crate has the name of the program, which is given")]
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use kvs_servers::auth::{Config, NAME, Options, Server};
use kvs_servers::console::{Input, Output, UNKNOWN_COMMAND};
use kvs_servers::shutdown::{Reason, Shutdown};
use kvs_servers::{logging, startup};

fn main() -> ExitCode {
    let options = Options::parse();
    let log_guard = logging::init(&options.log);
    let result = serve(&options.config());
    // The last log lines come before the error that ended the program.
    drop(log_guard);
    startup::exit_code(NAME, result)
}

fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    startup::raise_descriptor_limit();
    let server = Server::bind(config)?;
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
