//! `kvs-bench`: measures kvs against Redis, memcached, LMDB and a bare socket, all in one
//! interleaved run.
//!
//! This file parses the command line, connects the modules and sets the exit code. [`scenario`]
//! defines what is measured, [`system`] the measured systems. [`servers`] starts and ends servers,
//! [`measure`] interleaves and compares, [`report`] prints.

mod error;
mod generator;
mod keys;
mod login;
mod measure;
mod options;
mod report;
mod scenario;
mod servers;
mod system;

use std::process::ExitCode;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

use error::{Error, IoContext, Result};
use measure::Interrupt;
use options::{Arguments, Options, Role};
use report::Report;
use report::machine::Machine;
use report::progress::Progress;
use scenario::Bench;
use servers::{kvs_program, on_path, raise_descriptor_limit};
use system::System;
use system::kvs::MAX_V1_VALUE;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(role) => run_role(role),
        None => run(arguments.resolve()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the other process of a measurement.
fn run_role(role: &Role) -> Result<()> {
    match role {
        Role::Echo { receive, send } => system::floor::echo(*receive, *send),
        Role::Watch { group, protocol, key } => scenario::callback::watch(group, *protocol, key),
        Role::Subscribe { socket, channel } => scenario::callback::subscribe(socket, channel),
    }
}

fn run(mut options: Options) -> Result<()> {
    let interrupt = Interrupt::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupt.0.clone())
            .io_context(|| "registering signal handlers".into())?;
    }
    raise_descriptor_limit()?;
    let progress = Progress::new(&options);
    let skipped = skip_unavailable(&mut options);
    skipped.iter().for_each(|line| progress.print(&format!("skipped: {line}")));
    let mut builder = tempfile::Builder::new();
    builder.prefix("kvs-bench-");
    let dir = match &options.dir {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    };
    let dir = dir.io_context(|| "making a temporary directory".into())?;
    let machine = Machine::inspect(&options, dir.path());

    let mut bench = Bench {
        options: &options,
        progress: &progress,
        interrupt,
        dir: dir.path(),
        results: Vec::new(),
        skipped,
    };
    let mut scenarios = options.scenarios.iter().enumerate();
    let result = scenarios.try_for_each(|(n, &scenario)| {
        progress.completed(n);
        progress.prepares(scenario);
        scenario::run(&mut bench, scenario)
    });
    progress.finish();
    let report = Report {
        machine,
        settings: &options,
        targets: report::targets::results(&bench.results),
        results: &bench.results,
        skipped: &bench.skipped,
        ended_by: result.as_ref().err().map(Error::to_string),
    };
    // The report shows all results, even when the run has ended early.
    report::table::print(&report, &mut std::io::stdout().lock())
        .io_context(|| "writing the table".into())?;
    if let Some(path) = &options.json {
        report::json::write(&report, path)?;
    }
    if let Some(dir) = &options.svg {
        report::svg::draw(&report, dir)?;
    }
    result
}

/// Removes the unavailable systems, and returns a line for each.
fn skip_unavailable(options: &mut Options) -> Vec<String> {
    let mut lines = Vec::new();
    for system in options.systems.clone() {
        if let Some(why) = unavailable_because(options, system) {
            lines.push(format!("{}: {why}", system.name()));
            options.systems.retain(|&other| other != system);
        }
    }
    lines
}

/// Why a system is unavailable.
fn unavailable_because(options: &Options, system: System) -> Option<String> {
    let program = |program: &std::path::Path, package: &str, option: &str| {
        let is_missing = on_path(program).is_none();
        is_missing.then(|| {
            let program = program.display();
            format!(
                "{program} was not found: install the Debian package {package}, or {option} PATH"
            )
        })
    };
    let built_in = |is_built_in: bool| {
        (!is_built_in).then(|| format!("built without the feature `{}`", system.name()))
    };
    match system {
        System::KvsOriginal if options.value_size as usize > MAX_V1_VALUE => {
            Some(format!("protocol v1 has values of at most {MAX_V1_VALUE} bytes"))
        }
        System::Kvs | System::KvsOriginal => ["KVS-LocalServer", "KVS-AuthServer"]
            .iter()
            .find_map(|program| kvs_program(options, program).err())
            .map(|error| error.to_string()),
        System::Redis => built_in(cfg!(feature = "redis"))
            .or_else(|| program(&options.redis_server, "redis-server", "--redis-server")),
        System::Memcached => built_in(cfg!(feature = "memcached"))
            .or_else(|| program(&options.memcached, "memcached", "--memcached")),
        System::Lmdb | System::Floor => None,
    }
}
