//! The program `KVS-LocalServer`: options, activated sockets, exit code. The server is
//! [`kvs_servers::local`].

#![allow(non_snake_case, reason = "the crate has the name of the program")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use kvs_servers::console::Console;
use kvs_servers::local::{ActivatedSockets, COMMANDS, Error, Options, Server};
use kvs_servers::shutdown::Shutdown;
use kvs_servers::startup;
use kvs_servers::supervisor::Supervisor;

/// Blocks of at least this size are returned to the system when they are freed.
const MMAP_THRESHOLD: libc::c_int = 1 << 20;

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
    let descriptors = descriptors.map_err(Error::io("the sockets that LISTEN_FDS announces"))?;
    let activated = ActivatedSockets::new(descriptors)?;
    let output = console.output();
    let server = Server::bind(options.config(), activated, supervisor, shutdown, output)?;
    server.run(console.take_input())
}

/// The descriptors of socket activation (sd_listen_fds(3)). Only this process inherits them. To be
/// called once, before any other descriptor is opened or any thread started.
fn activated() -> io::Result<Vec<OwnedFd>> {
    // SAFETY: no other thread exists yet that could read the environment.
    let numbers = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }?;
    // SAFETY: `listen_fds` has verified that each descriptor is open; the service manager gave them
    // to this process, and this is the only place that takes them.
    Ok(numbers.map(|(number, _)| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// Configures the allocator of the C library for a server whose values come and go.
///
/// By default glibc raises its mmap threshold when the first long value is freed: from then on long
/// values stay in the heap between smaller blocks, and a server that once had many of them never
/// shrinks. It also collects small freed blocks in fast bins and merges all of them at once, which
/// delays every application.
#[cfg(target_env = "gnu")]
fn tune_allocator() {
    // SAFETY: no other thread exists yet, as the function requires. It takes two numbers and
    // rejects unknown ones without any other effect.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        libc::mallopt(libc::M_MXFAST, 0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn tune_allocator() {}
