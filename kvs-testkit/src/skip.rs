//! Tests that need something that not every machine has: such a test reports that it is skipped,
//! and passes. The report is visible although the output of tests is captured, and `make test`
//! repeats all of them at its end.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// The packages that tests may need; the head of the file describes its format.
const PACKAGES: &str = include_str!("../../tests/packages");

/// Reports that a test, or a part of it, is skipped for a reason that no package removes.
pub fn skipped(what: &str, why: &str) {
    report(what, &format!("skipped: {what} ({why})"), &format!("{what}\t\t{why}"));
}

/// Whether all of these programs are installed. If not, reports that `what` is skipped, with the
/// Debian packages that are missing.
///
/// # Panics
/// When a program is not in `tests/packages`.
pub fn are_installed(programs: &[&str], what: &str) -> bool {
    let mut packages: Vec<&str> = programs
        .iter()
        .filter(|program| !is_present(program))
        .map(|program| package_of(program))
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return true;
    }
    let packages = packages.join(" ");
    let line = format!("skipped: {what} (install the Debian packages: {packages})");
    report(what, &line, &format!("{what}\t{packages}\t"));
    false
}

/// Whether all of these programs are installed. If not, reports that the running test is skipped.
///
/// # Panics
/// When a program is not in `tests/packages`.
pub fn has_tools(programs: &[&str]) -> bool {
    let thread = std::thread::current();
    are_installed(programs, thread.name().unwrap_or("a test"))
}

/// Whether this is root, who can become other users. If not, reports that `what` is skipped.
pub fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped(what, "needs a second user: run as root");
    }
    is_root
}

/// Whether a program is in the search path or with those of administrators, or a file exists.
fn is_present(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.any(|directory| directory.join(Path::new(program)).is_file())
}

/// The package that has this program or file.
fn package_of(program: &str) -> &'static str {
    let lines = PACKAGES.lines().filter(|line| !line.starts_with('#'));
    let mut entries = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    });
    let found = entries.find(|(package, probe)| *probe == program || *package == program);
    found.unwrap_or_else(|| panic!("{program} is not in tests/packages")).0
}

fn report(what: &str, shown: &str, collected: &str) {
    // A test must not fail because its output cannot be written.
    let _ = std::io::stderr().write_all(format!("{shown}\n").as_bytes());
    if let Some(file) = std::env::var_os("KVS_SKIPPED") {
        let line = format!("{collected}\n");
        File::options()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|error| panic!("{what}: {}: {error}", file.display()));
    }
}
