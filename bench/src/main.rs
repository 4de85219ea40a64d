//! `kvs-bench`: measures kvs against Redis, memcached, LMDB and a bare socket, all in one interleaved run.
//!
//! Parse, wire up, exit code. [`scenario`] has what is measured, [`subject`] who, [`servers`] starts and ends
//! what they need, [`measure`] takes the turns and compares, [`report`] shows.

mod error;
mod generator;
mod keys;
mod login;
mod measure;
mod options;
mod report;
mod scenario;
mod servers;
mod subject;

use std::process::ExitCode;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

use error::{Doing, Error, Result};
use measure::Interrupt;
use options::{Arguments, Options, Role};
use report::Report;
use report::machine::Machine;
use report::progress::Progress;
use scenario::Bench;
use servers::{kvs_program, on_path, raise_descriptor_limit};
use subject::Subject;
use subject::kvs::MAX_ORIGINAL_VALUE;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(role) => play(role),
        None => run(arguments.settle()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The other side of a measurement.
fn play(role: &Role) -> Result<()> {
    match role {
        Role::Echo { receive, send } => subject::floor::echo(*receive, *send),
        Role::Watch { group, session, key } => scenario::callback::watch(group, *session, key),
        Role::Subscribe { socket, channel } => scenario::callback::subscribe(socket, channel),
    }
}

fn run(mut options: Options) -> Result<()> {
    let interrupt = Interrupt::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupt.0.clone())
            .doing(|| "watching for signals".into())?;
    }
    raise_descriptor_limit()?;
    let progress = Progress::new(&options);
    let left_out = leave_out(&mut options);
    left_out.iter().for_each(|line| progress.say(&format!("skipped: {line}")));
    let mut builder = tempfile::Builder::new();
    builder.prefix("kvs-bench-");
    let dir = match &options.dir {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    };
    let dir = dir.doing(|| "making a temporary directory".into())?;
    let machine = Machine::look(&options, dir.path());

    let mut bench = Bench {
        options: &options,
        progress: &progress,
        interrupt,
        dir: dir.path(),
        results: Vec::new(),
        left_out,
    };
    let mut scenarios = options.scenarios.iter().enumerate();
    let result = scenarios.try_for_each(|(n, &scenario)| {
        progress.over(n);
        progress.prepares(scenario);
        bench.run(scenario)
    });
    progress.finish();
    let report = Report {
        machine,
        settings: &options,
        targets: report::targets::outcomes(&bench.results),
        results: &bench.results,
        left_out: &bench.left_out,
        ended_by: result.as_ref().err().map(Error::to_string),
    };
    // What was measured is shown even when the run has ended early.
    report::table::print(&report, &mut std::io::stdout().lock())
        .doing(|| "writing the table".into())?;
    if let Some(path) = &options.json {
        report::json::write(&report, path)?;
    }
    if let Some(dir) = &options.svg {
        report::svg::draw(&report, dir)?;
    }
    result
}

/// Takes the subjects out that are not to be had; a line for each.
fn leave_out(options: &mut Options) -> Vec<String> {
    let mut lines = Vec::new();
    for subject in options.subjects.clone() {
        if let Some(why) = why_not(options, subject) {
            lines.push(format!("{}: {why}", subject.name()));
            options.subjects.retain(|&other| other != subject);
        }
    }
    lines
}

/// Why a subject cannot be measured at all.
fn why_not(options: &Options, subject: Subject) -> Option<String> {
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
        (!is_built_in).then(|| format!("built without the feature `{}`", subject.name()))
    };
    match subject {
        Subject::KvsOriginal if options.value_size as usize > MAX_ORIGINAL_VALUE => {
            Some(format!("the original protocol has values of {MAX_ORIGINAL_VALUE} bytes at most"))
        }
        Subject::Kvs | Subject::KvsOriginal => ["KVS-LocalServer", "KVS-AuthServer"]
            .iter()
            .find_map(|program| kvs_program(options, program).err())
            .map(|error| error.to_string()),
        Subject::Redis => built_in(cfg!(feature = "redis"))
            .or_else(|| program(&options.redis_server, "redis-server", "--redis-server")),
        Subject::Memcached => built_in(cfg!(feature = "memcached"))
            .or_else(|| program(&options.memcached, "memcached", "--memcached")),
        Subject::Lmdb | Subject::Floor => None,
    }
}
