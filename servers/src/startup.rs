//! What both programs do before and after they serve: logging, the limit of descriptors, the exit code.
//!
//! Logs go to standard error, through a thread of their own that drops lines rather than wait for a
//! reader that has stopped. Errors that prevent the start are printed there too, as one sentence that
//! says what failed, on what, and why.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;

/// Sends log lines to standard error: informational and above, or with `verbose` one for each operation
/// too. The guard writes what is left when it is dropped.
pub fn init_logging(verbose: bool) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO })
        .init();
    guard
}

/// The end of `main`: success, or `program: error` on standard error and exit code 1.
pub fn exit_code(program: &str, result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Lets the process have as many descriptors as the administrator allows: every application takes two, and
/// the usual soft limit of 1024 is there for programs that use `select`, which these do not.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open descriptors could not be raised: {error}");
    }
}

/// How many descriptors this process may have open.
pub fn descriptor_limit() -> u64 {
    // It can be read unless the kernel is not Linux; POSIX grants at least 20.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(20, |(soft, _)| soft)
}

/// Whether the machine has run out of something: an error that says nothing about the peer or the port, and
/// that any other socket would meet, too.
pub fn is_shortage(error: &io::Error) -> bool {
    use Errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC};
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | ENOSPC))
}
