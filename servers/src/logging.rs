//! Logs: what is written, and how.
//!
//! Lines go to standard error, through a thread of their own that drops lines rather than wait for a reader that
//! has stopped. Text is for people, JSON (an object on each line) for programs that collect logs. The level can be
//! changed while the server runs.

use std::fmt;
use std::io::{self, IsTerminal};

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

use crate::terminal::Log;

/// The options about logs, the same for both servers.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// The least important lines that are logged
    #[arg(long, value_name = "LEVEL", env = "KVS_LOG_LEVEL", value_enum, default_value_t = Level::Info)]
    log_level: Level,

    /// How lines are written: for people, or an object of JSON each
    #[arg(long, value_name = "FORMAT", env = "KVS_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,

    /// Log every operation on standard error: the same as --log-level debug
    #[arg(short, long, env = "KVS_VERBOSE", value_parser = FalseyValueParser::new())]
    verbose: bool,
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// What must not happen, and needs a person.
    Error,
    /// What went wrong, and was dealt with.
    Warn,
    /// What has changed.
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

/// The log of this process. What is left is written when it is dropped.
pub struct Logging {
    _writer: WorkerGuard,
    level: LevelHandle,
}

/// What is said of a change.
const OTHERS: &str = "all other options count from the next start on";

/// Changes the level.
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
        let (writer, guard) = tracing_appender::non_blocking(Log);
        let layer = lines::layer().with_writer(writer).with_target(false);
        let layer = match options.log_format {
            Format::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
            Format::Json => layer.json().flatten_event(true).boxed(),
        };
        let (filter, level) = reload::Layer::new(options.level());
        tracing_subscriber::registry().with(filter).with(layer).init();
        Self { _writer: guard, level: LevelHandle(level) }
    }

    /// For whoever changes the level later.
    pub fn level(&self) -> LevelHandle {
        self.level.clone()
    }
}

impl LevelHandle {
    /// From now on the level of these options holds.
    pub fn set(&self, options: &LogOptions) {
        let level = options.level();
        match self.0.reload(level) {
            // As important as whatever else is logged now.
            Ok(()) if level == LevelFilter::ERROR => {
                tracing::error!("the level of the log is {level} now; {OTHERS}")
            }
            Ok(()) if level == LevelFilter::WARN => {
                tracing::warn!("the level of the log is {level} now; {OTHERS}")
            }
            Ok(()) => tracing::info!("the level of the log is {level} now; {OTHERS}"),
            // Only without a log: then nobody reads this either.
            Err(error) => tracing::error!("the level of the log stays as it was: {error}"),
        }
    }
}
