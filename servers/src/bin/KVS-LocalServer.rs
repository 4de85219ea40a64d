//! `KVS-LocalServer`: parse, wire up, exit code.

// The name of the program is the one that its users know.
#![allow(non_snake_case)]

use std::io;
use std::process::ExitCode;

use kvs_servers::console::{Input, Output};
use kvs_servers::local::{Error, Options, Server};
use kvs_servers::shutdown::Shutdown;
use kvs_servers::startup;

/// Blocks of this many bytes and more go back to the system as soon as they are freed.
const RETURNED_AT_ONCE: libc::c_int = 1 << 20;

fn main() -> ExitCode {
    tune_allocator();
    startup::main(serve)
}

fn serve(options: Options, shutdown: &Shutdown) -> Result<(), Error> {
    let output = Output::new(io::stdout()).map_err(Error::io("a thread for the console"))?;
    let server = Server::bind(options.config(), shutdown, &output)?;
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
