//! The program `KVS-AuthServer`: options, console, exit code. The server is [`kvs_servers::auth`].

#![allow(non_snake_case, reason = "the crate has the name of the program")]
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::BufRead;
use std::process::ExitCode;
use std::thread;

use kvs_servers::auth::{Options, Server};
use kvs_servers::console::{Console, Input, Output, UNKNOWN_COMMAND};
use kvs_servers::shutdown::{Reason, Shutdown};
use kvs_servers::startup;
use kvs_servers::supervisor::Supervisor;

fn main() -> ExitCode {
    startup::main(serve)
}

fn serve(
    options: Options,
    shutdown: &Shutdown,
    supervisor: &Supervisor,
) -> Result<(), Box<dyn Error>> {
    let server = Server::bind(&options.config())?.supervised_by(supervisor);
    let mut console = Console::open(&["Quit"])
        .map_err(|error| format!("cannot start a thread for the console: {error}"))?;
    let (input, output) = (console.take_input(), console.output().clone());
    let console_shutdown = shutdown.clone();
    thread::Builder::new()
        .name("console-input".into())
        .spawn(move || run_console(input, &output, &console_shutdown))
        .map_err(|error| format!("cannot start a thread for the console: {error}"))?;
    server.run(shutdown, console.output())?;
    Ok(())
}

/// Carries out commands until the end of the input, which does not end the server.
fn run_console(mut input: Input<impl BufRead>, output: &Output, shutdown: &Shutdown) {
    while let Some(line) = input.line() {
        match line.as_slice() {
            _ if shutdown.reason().is_some() => return,
            b"Quit" => shutdown.request(Reason::Console),
            _ => output.say(UNKNOWN_COMMAND),
        }
    }
}
