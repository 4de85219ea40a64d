//! Compiles and runs the programs of `tests/c`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvs_testkit::{Process, ProcessOutput, Program};
use tempfile::TempDir;

/// The timeout of programs with tens of thousands of operations, on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// Runs a program, which must succeed. The library must print nothing.
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

/// A lock that serialises tests that use both processors.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints measurements, visible with `--nocapture`.
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

/// The second group of programs that use two groups.
pub(crate) const OTHER_GROUP: &str = "other";
