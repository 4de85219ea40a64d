//! What both programs do before and after they serve: the limit of descriptors, the exit code.
//!
//! Errors that prevent the start are printed on standard error, as one sentence that says what failed, on what,
//! and why.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
