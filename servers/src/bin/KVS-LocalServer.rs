//! `KVS-LocalServer`: parse, wire up, exit code.

// The name of the program is the one that its users know.
#![allow(non_snake_case)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use kvs_servers::console::Console;
use kvs_servers::local::{ActivatedSockets, COMMANDS, Error, Options, Server};
use kvs_servers::shutdown::Shutdown;
use kvs_servers::startup;
use kvs_servers::supervisor::Supervisor;

/// Blocks of this many bytes and more go back to the system as soon as they are freed.
const RETURNED_AT_ONCE: libc::c_int = 1 << 20;

fn main() -> ExitCode {
    tune_allocator();
    let descriptors = activated();
    startup::main(|options, shutdown, supervisor| serve(options, descriptors, shutdown, supervisor))
}

fn serve(
    options: Options,
    descriptors: io::Result<Vec<OwnedFd>>,
    shutdown: &Shutdown,
    supervisor: &Supervisor,
) -> Result<(), Error> {
    let mut console = Console::open(&COMMANDS).map_err(Error::io("a thread for the console"))?;
    let descriptors = descriptors.map_err(Error::io("what LISTEN_FDS says was handed over"))?;
    let activated = ActivatedSockets::new(descriptors)?;
    let output = console.output();
    let server = Server::bind(options.config(), activated, supervisor, shutdown, output)?;
    server.run(console.take_input())
}

/// The descriptors that whoever started this process has handed over (sd_listen_fds(3)); they are for this process
/// alone, so no other inherits them. To be called once, before anything else has a descriptor or a thread.
fn activated() -> io::Result<Vec<OwnedFd>> {
    // SAFETY: there is no other thread yet, so nobody reads the environment meanwhile.
    let numbers = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }?;
    // SAFETY: each is open, as the function above has found, was given to this process, and is taken here only.
    Ok(numbers.map(|(number, _)| unsafe { OwnedFd::from_raw_fd(number) }).collect())
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
