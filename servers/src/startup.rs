//! What both programs do before and after they serve: options, logs, signals, the limit of descriptors, the exit code.
//!
//! Errors that prevent the start are printed on standard error, as one sentence that says what failed, on what,
//! and why. SIGHUP has the options read again, of which the level of the log counts then.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::logging::{LevelHandle, LogOptions, Logging};
use crate::shutdown::Shutdown;
use crate::supervisor::Supervisor;

/// The options that both programs have.
#[derive(Debug, Args)]
pub struct Common {
    /// Check the options, wherever they are set, print all that are in force, and end
    #[arg(long)]
    check_config: bool,

    /// What is logged, and how.
    #[command(flatten)]
    log: LogOptions,
}

/// The options of a program that [`main`] runs.
pub trait Options: Parser {
    /// The name of the program.
    const NAME: &str;

    /// Those that both programs have.
    fn common(&self) -> &Common;

    /// What is wrong with these options together, each of which is right by itself.
    ///
    /// # Errors
    /// A sentence about it.
    fn check(&self) -> Result<(), String>;

    /// What the administrator should know about them, although they are right.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// The life of a server program: its options from the command line, the environment and its file, then `serve`, then
/// its exit code.
pub fn main<O: Options, E: Display>(
    serve: impl FnOnce(O, &Shutdown, &Supervisor) -> Result<(), E>,
) -> ExitCode {
    let parsed = match kvs_options::parse::<O>(env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return error.report(O::NAME),
    };
    if let Err(why) = parsed.options.check() {
        eprintln!("{}: {why}", O::NAME);
        return ExitCode::from(2);
    }
    if parsed.options.common().check_config {
        let file = parsed
            .file()
            .map_or(String::new(), |file| format!(" (lines are those of {})", file.display()));
        let text = format!(
            "# The options of {} are right. What is in force{file}:\n{}{}",
            O::NAME,
            parsed.options.remark().map_or(String::new(), |remark| format!("# {remark}\n")),
            parsed.settings()
        );
        // With its output closed, there is nobody to tell.
        let _ = io::stdout().write_all(text.as_bytes());
        return ExitCode::SUCCESS;
    }
    let logging = Logging::init(&parsed.options.common().log);
    if let Some(remark) = parsed.options.remark() {
        tracing::warn!("{remark}");
    }
    let shutdown = Shutdown::new();
    let supervisor = Supervisor::from_env();
    let reload = parsed.file().map(|file| reload::<O>(file, logging.level(), supervisor.clone()));
    let result = match shutdown.on_signals(reload) {
        Ok(()) => {
            raise_descriptor_limit();
            serve(parsed.options, &shutdown, &supervisor).map_err(|error| error.to_string())
        }
        Err(error) => Err(format!("signals cannot be handled: {error}")),
    };
    // Writes what is left, so that the error below is the last line.
    drop(logging);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", O::NAME);
            ExitCode::FAILURE
        }
    }
}

/// What SIGHUP does: nothing but the level of the log changes, and that only if the file is right.
fn reload<O: Options>(
    file: &Path,
    level: LevelHandle,
    supervisor: Supervisor,
) -> impl Fn() + Send + Sync + 'static {
    let file = file.to_owned();
    move || {
        supervisor.reload(|| {
            let parsed = kvs_options::parse::<O>(env::args_os()).map_err(|error| error.to_string());
            let checked = parsed.and_then(|parsed| parsed.options.check().map(|()| parsed.options));
            match checked {
                Ok(options) => level.set(&options.common().log),
                // In one line, as all that is logged.
                Err(error) => tracing::error!(
                    "{} is not read again: {}",
                    file.display(),
                    error.trim_end().replace('\n', "; ")
                ),
            }
        });
    }
}

/// Lets the process have as many descriptors as the administrator allows: every application takes two, and
/// the usual soft limit of 1024 is there for programs that use `select`, which these do not.
fn raise_descriptor_limit() {
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
