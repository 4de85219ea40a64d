//! The log of a server.
//!
//! A thread of its own writes lines to standard error; it drops lines when their reader has
//! stopped, so that logging never blocks. Text is for people; JSON, one object per line, is for log
//! collectors. The level can be changed while the server runs.

use std::fmt;
use std::io::{self, IsTerminal};

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

use crate::terminal::log_output::LogOutput;

/// The options of the log, the same for both servers.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// The least severe lines that are logged
    #[arg(long, value_name = "LEVEL", env = "KVS_LOG_LEVEL", value_enum,
          default_value_t = Level::Info)]
    log_level: Level,

    /// The form of log lines: text for people, or one JSON object per line
    #[arg(long, value_name = "FORMAT", env = "KVS_LOG_FORMAT", value_enum,
          default_value_t = Format::Text)]
    log_format: Format,

    /// Log every operation on standard error: the same as --log-level debug
    #[arg(short, long, env = "KVS_VERBOSE", value_parser = FalseyValueParser::new())]
    verbose: bool,
}

/// The severity of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// A failure that needs an administrator.
    Error,
    /// A problem that was handled.
    Warn,
    /// A change of state.
    Info,
    /// Every operation.
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl LogOptions {
    fn level(&self) -> LevelFilter {
        match self.log_level {
            _ if self.verbose => LevelFilter::DEBUG,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        }
    }
}

/// The log of this process. The remaining lines are written when it is dropped.
pub struct Logging {
    _writer: WorkerGuard,
    level: LevelHandle,
}

/// The end of the message about a changed level.
const OTHERS: &str = "all other options take effect at the next start";

/// Changes the level of the log.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").finish_non_exhaustive()
    }
}

impl fmt::Debug for LevelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LevelHandle")
    }
}

impl Logging {
    /// Starts the log of this process, once.
    pub fn init(options: &LogOptions) -> Self {
        let (writer, guard) = tracing_appender::non_blocking(LogOutput);
        let layer = lines::layer().with_writer(writer).with_target(false);
        let layer = match options.log_format {
            Format::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
            Format::Json => layer.json().flatten_event(true).boxed(),
        };
        let (filter, level) = reload::Layer::new(options.level());
        tracing_subscriber::registry().with(filter).with(layer).init();
        Self { _writer: guard, level: LevelHandle(level) }
    }

    /// A handle that changes the level later.
    pub fn level(&self) -> LevelHandle {
        self.level.clone()
    }
}

impl LevelHandle {
    /// Applies the level of these options.
    pub fn set(&self, options: &LogOptions) {
        let level = options.level();
        match self.0.reload(level) {
            // At the severity of the new level, so that the line is logged.
            Ok(()) if level == LevelFilter::ERROR => {
                tracing::error!("the log level is {level} now; {OTHERS}")
            }
            Ok(()) if level == LevelFilter::WARN => {
                tracing::warn!("the log level is {level} now; {OTHERS}")
            }
            Ok(()) => tracing::info!("the log level is {level} now; {OTHERS}"),
            // It fails only when there is no log, so this line is lost, too.
            Err(error) => tracing::error!("cannot change the log level: {error}"),
        }
    }
}
