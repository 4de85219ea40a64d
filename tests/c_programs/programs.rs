//! Compiles and runs the programs of `tests/c`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvs_testkit::{Process, ProcessOutput, Program};
use tempfile::TempDir;

/// For whole programs that do tens of thousands of operations, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// Runs a program to its end, which must be good. The library says nothing by itself.
pub(crate) fn run(program: Program) -> Vec<String> {
    let process = program.spawn();
    process.wait_exit_within(LONG);
    succeeded(&process)
}

pub(crate) fn succeeded(process: &Process) -> Vec<String> {
    let ProcessOutput { status, stdout, stderr } = process.finish();
    assert!(status.success() && stderr.is_empty(), "{}", process.report());
    stdout
}

/// Only one of the tests that want both processors at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints figures, visible with `--nocapture`.
pub(crate) fn measured(what: &str, lines: &[String]) {
    println!("{what}: {}", lines.join("; "));
}

/// Compiles a source of `tests/c` into `dir`.
pub(crate) fn compile(
    dir: &TempDir,
    compiler: &str,
    standard: &str,
    source: &str,
    libraries: &[OsString],
) -> PathBuf {
    let program = dir.path().join(source).with_extension("");
    let source = format!("tests/c/{source}");
    kvs_testkit::compile(compiler, standard, &source, &program, libraries);
    program
}

/// The second group of programs that use two.
pub(crate) const OTHER_GROUP: &str = "other";
