//! The start and the end of both programs: options, log, signals, the descriptor limit, the exit
//! code.
//!
//! An error that prevents the start is printed on standard error as one sentence: what failed, on
//! what, and why. SIGHUP reads the options again and applies the log level.

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

/// The options that both servers have.
#[derive(Debug, Args)]
pub struct CommonOptions {
    /// Check the options wherever they are set, print those in force, and exit
    #[arg(long)]
    check_config: bool,

    /// The options of the log.
    #[command(flatten)]
    log: LogOptions,
}

/// The options of a server that [`main`] runs.
pub trait ServerOptions: Parser {
    /// The name of the program.
    const NAME: &str;

    /// The options that both servers have.
    fn common(&self) -> &CommonOptions;

    /// Checks options that are valid one by one for conflicts with each other.
    ///
    /// # Errors
    /// A sentence that describes the conflict.
    fn check(&self) -> Result<(), String>;

    /// A note for the administrator about options that are valid.
    fn note(&self) -> Option<String> {
        None
    }
}

/// Runs a server program: reads the options from the command line, the environment and the file,
/// calls `serve`, and returns the exit code.
pub fn main<O: ServerOptions, E: Display>(
    serve: impl FnOnce(O, &Shutdown, &Supervisor) -> Result<(), E>,
) -> ExitCode {
    let parsed = match kvs_options::parse::<O>(env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return error.report(O::NAME),
    };
    if let Err(error) = parsed.options.check() {
        eprintln!("{}: {error}", O::NAME);
        return ExitCode::from(2);
    }
    if parsed.options.common().check_config {
        let file = parsed
            .file()
            .map_or(String::new(), |file| format!(" (line numbers refer to {})", file.display()));
        let text = format!(
            "# The options of {} are valid. Options in force{file}:\n{}{}",
            O::NAME,
            parsed.options.note().map_or(String::new(), |note| format!("# {note}\n")),
            parsed.settings()
        );
        // If standard output is closed, there is nowhere to report it.
        let _ = io::stdout().write_all(text.as_bytes());
        return ExitCode::SUCCESS;
    }
    let logging = Logging::init(&parsed.options.common().log);
    if let Some(note) = parsed.options.note() {
        tracing::warn!("{note}");
    }
    let shutdown = Shutdown::new();
    let supervisor = Supervisor::from_env();
    let reload = parsed.file().map(|file| reload::<O>(file, logging.level(), supervisor.clone()));
    let result = match shutdown.on_signals(reload) {
        Ok(()) => {
            raise_descriptor_limit();
            serve(parsed.options, &shutdown, &supervisor).map_err(|error| error.to_string())
        }
        Err(error) => Err(format!("cannot handle signals: {error}")),
    };
    // Writes the remaining lines, so that the error below is the last one.
    drop(logging);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", O::NAME);
            ExitCode::FAILURE
        }
    }
}

/// The function that SIGHUP calls: applies the log level, if all options are valid.
fn reload<O: ServerOptions>(
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
                // On one line, like every log message.
                Err(error) => tracing::error!(
                    "{} not applied, the options stay as they were: {}",
                    file.display(),
                    error.trim_end().replace('\n', "; ")
                ),
            }
        });
    }
}

/// Raises the descriptor limit to the hard limit: every application takes two descriptors, and the
/// usual soft limit of 1024 exists for programs that use `select`, which the servers do not.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

/// How many descriptors this process may have open.
pub fn descriptor_limit() -> u64 {
    // Reading the limit does not fail on Linux; POSIX guarantees at least 20.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(20, |(soft, _)| soft)
}

/// Whether the machine lacks a resource: the error is not about the peer or the port, and any other
/// socket would meet it, too.
pub fn is_shortage(error: &io::Error) -> bool {
    use Errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC};
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | ENOSPC))
}
