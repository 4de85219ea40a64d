//! The command line.
//!
//! Everything that affects a run is here, and is written to its JSON. Values whose default depends
//! on `--short` are `Option`s until [`Arguments::resolve`].

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::keys::Distribution;
use crate::system::System;

/// Measures kvs against Redis, memcached, LMDB and a bare socket.
///
/// One run measures all systems on this machine, interleaved within each round, so that other load
/// on the machine affects all of them. The results are the ratios of the medians over the rounds.
/// The servers are started for this run, on sockets in a temporary directory, and ended with it.
#[derive(Debug, Parser)]
#[command(
    name = "kvs-bench",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
Exit codes: 0 after a run, whether or not it met its targets; 1 after an error or an interrupt (the
results so far are shown); 2 for a wrong option.

Examples:
  kvs-bench --servers target/release
  kvs-bench --only latency,clients --subjects kvs,redis --rounds 31
  kvs-bench --only clients --clients 1,10,100 --reads 90 --distribution zipf --value-size 1000
  kvs-bench --json result.json --svg plots"
)]
pub(crate) struct Arguments {
    /// Only these scenarios
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,

    /// Only these systems
    #[arg(long = "subjects", value_name = "NAME", value_enum, value_delimiter = ',')]
    systems: Vec<System>,

    /// A run of a few seconds over everything, to check that it works: its figures mean little
    #[arg(long)]
    short: bool,

    /// Number of rounds [default: 15; with --short 2]
    #[arg(short, long, value_name = "NUMBER",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// Length of each measurement, after a warm-up of a fifth of it [default: 0.2; with --short
    /// 0.02]
    #[arg(short = 't', long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,

    /// Number of operations of each measurement, instead of --seconds
    #[arg(short = 'n', long, value_name = "NUMBER", conflicts_with = "seconds",
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    operations: Option<u64>,

    /// clients: number of concurrent clients
    #[arg(short, long, value_name = "NUMBER", value_delimiter = ',', default_values_t = [50, 500],
        value_parser = clap::value_parser!(u32).range(1..=2000))]
    clients: Vec<u32>,

    /// clients: requests in flight of each client
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    depth: u32,

    /// clients: threads of the load generator
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,

    /// clients: percentage of gets, one number per measurement
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [100, 0],
        value_parser = clap::value_parser!(u32).range(0..=100))]
    reads: Vec<u32>,

    /// pipeline: requests in flight
    #[arg(short = 'P', long, value_name = "NUMBER", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pipeline: u32,

    /// latency, clients, pipeline, applications: number of keys [default: 100000; with --short
    /// 10000]
    #[arg(short, long, value_name = "NUMBER",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    keys: Option<u32>,

    /// Distribution of the keys: `uniform`, `zipf` or `zipf:EXPONENT` (redis-benchmark has only
    /// uniform)
    #[arg(long, value_name = "NAME", default_value_t = Distribution::Uniform)]
    distribution: Distribution,

    /// Length of a value in bytes (at most 99 in protocol v1)
    #[arg(short = 'd', long, value_name = "BYTES", default_value_t = 24,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    value_size: u32,

    /// memory: number of pairs [default: 1000000; with --short 50000]
    #[arg(long, value_name = "NUMBER",
        value_parser = clap::value_parser!(u32).range(1..=9_000_000))]
    pairs: Option<u32>,

    /// keys: numbers of keys [default: 1000,10000,100000,1000000; with --short 1000,10000]
    #[arg(long, value_name = "NUMBER", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    sizes: Vec<u32>,

    /// applications: numbers of idle applications [default: 0,1,10,100,1000; with --short 0,1,100]
    #[arg(long, value_name = "NUMBER", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(0..=2000))]
    idle: Vec<u32>,

    /// Seed for the keys, the values and the order within a round
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// Write all results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw plots into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,

    /// Print only the table, no progress
    #[arg(short, long)]
    quiet: bool,

    /// Directory of KVS-LocalServer and KVS-AuthServer [default: beside this program,
    /// target/release, or PATH]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,

    /// The Redis server
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    redis_server: PathBuf,

    /// The benchmark program of Redis
    #[arg(long, value_name = "PATH", default_value = "redis-benchmark")]
    redis_benchmark: PathBuf,

    /// The memcached server
    #[arg(long, value_name = "PATH", default_value = "memcached")]
    memcached: PathBuf,

    /// Parent of the temporary directory, which also has the file of LMDB [default: that of the
    /// system]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// The other process of a measurement.
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// What this program does in the processes that it starts.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Role {
    /// Receives requests from standard input, a socket, and sends responses, until its end.
    #[command(hide = true)]
    Echo {
        /// Length of a request in bytes.
        receive: usize,
        /// Length of a response in bytes.
        send: usize,
    },
    /// Watches a key of a kvs server, and writes the time of each callback to standard output.
    #[command(hide = true)]
    Watch {
        /// The group.
        #[command(flatten)]
        group: crate::system::kvs::Address,
        /// The protocol of the session.
        protocol: crate::system::kvs::KvsProtocol,
        /// The key.
        key: String,
    },
    /// Subscribes to a channel of a Redis server, and writes the time of each message to standard
    /// output.
    #[command(hide = true)]
    Subscribe {
        /// The socket of the server.
        socket: PathBuf,
        /// The channel.
        channel: String,
    },
}

/// What a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// One client: the time of a get and of a put
    Latency,
    /// Many clients: gets and puts per second
    Clients,
    /// One client with many requests in flight: gets and puts per second
    Pipeline,
    /// From a put in one process to the callback in another
    Callback,
    /// Memory of the server per pair
    Memory,
    /// The time of a get as the number of keys grows
    Keys,
    /// The time of an operation as the number of idle applications grows
    Applications,
}

impl Scenario {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Clients => "clients",
            Self::Pipeline => "pipeline",
            Self::Callback => "callback",
            Self::Memory => "memory",
            Self::Keys => "keys",
            Self::Applications => "applications",
        }
    }
}

/// The options of a run, with all defaults.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // `Arguments` documents them.
pub(crate) struct Options {
    pub(crate) scenarios: Vec<Scenario>,
    #[serde(rename = "subjects")]
    pub(crate) systems: Vec<System>,
    pub(crate) short: bool,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) operations: Option<u64>,
    pub(crate) clients: Vec<u32>,
    pub(crate) depth: u32,
    pub(crate) threads: u32,
    pub(crate) reads: Vec<u32>,
    pub(crate) pipeline: u32,
    pub(crate) keys: u32,
    #[serde(serialize_with = "shown")]
    pub(crate) distribution: Distribution,
    pub(crate) value_size: u32,
    pub(crate) pairs: u32,
    pub(crate) sizes: Vec<u32>,
    pub(crate) idle: Vec<u32>,
    pub(crate) seed: u64,
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
    #[serde(skip)]
    pub(crate) svg: Option<PathBuf>,
    #[serde(skip)]
    pub(crate) quiet: bool,
    #[serde(skip)]
    pub(crate) servers: Option<PathBuf>,
    #[serde(skip)]
    pub(crate) redis_server: PathBuf,
    #[serde(skip)]
    pub(crate) redis_benchmark: PathBuf,
    #[serde(skip)]
    pub(crate) memcached: PathBuf,
    #[serde(skip)]
    pub(crate) dir: Option<PathBuf>,
}

impl Arguments {
    /// Applies the defaults.
    pub(crate) fn resolve(self) -> Options {
        let short = self.short;
        let pick = |long: u32, brief: u32| if short { brief } else { long };
        let sorted = |mut numbers: Vec<u32>, long: &[u32], brief: &[u32]| {
            if numbers.is_empty() {
                numbers = if short { brief } else { long }.to_vec();
            }
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let mut scenarios = match self.only {
            only if only.is_empty() => Scenario::value_variants().to_vec(),
            only => only,
        };
        scenarios.sort_unstable();
        scenarios.dedup();
        let mut systems = match self.systems {
            systems if systems.is_empty() => System::value_variants().to_vec(),
            systems => systems,
        };
        systems.sort_unstable();
        systems.dedup();
        Options {
            scenarios,
            systems,
            short,
            rounds: self.rounds.unwrap_or(pick(15, 2)),
            seconds: self.seconds.unwrap_or(if short { 0.02 } else { 0.2 }),
            operations: self.operations,
            clients: sorted(self.clients, &[], &[]),
            depth: self.depth,
            threads: self.threads,
            reads: self.reads,
            pipeline: self.pipeline,
            keys: self.keys.unwrap_or(pick(100_000, 10_000)),
            distribution: self.distribution,
            value_size: self.value_size,
            pairs: self.pairs.unwrap_or(pick(1_000_000, 50_000)),
            sizes: sorted(self.sizes, &[1000, 10_000, 100_000, 1_000_000], &[1000, 10_000]),
            idle: sorted(self.idle, &[0, 1, 10, 100, 1000], &[0, 1, 100]),
            seed: self.seed,
            json: self.json,
            svg: self.svg,
            quiet: self.quiet,
            servers: self.servers,
            redis_server: self.redis_server,
            redis_benchmark: self.redis_benchmark,
            memcached: self.memcached,
            dir: self.dir,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number from 0.001 to 600".into()),
    }
}

fn shown<S: serde::Serializer>(
    shown: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed_and_defaults_are_valid() {
        Arguments::command().debug_assert();
        let options = Arguments::parse_from(["kvs-bench"]).resolve();
        assert_eq!(options.scenarios.len(), 7);
        assert_eq!(options.clients, [50, 500]);
        assert!(options.rounds >= 5);
        let short = Arguments::parse_from(["kvs-bench", "--short", "--keys", "5"]).resolve();
        assert_eq!((short.rounds, short.keys), (2, 5));
    }
}
