//! Tests that need what not every machine has: they say so and pass, visibly although the output of tests is captured.

use std::io::Write;

/// Says that a test, or a part of it, was not done, and why.
pub fn skipped(what: &str, why: &str) {
    let line = format!("skipped: {what} ({why})\n");
    // There is nobody to be told that it cannot be written.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether a program is there; if not, says that `what` is skipped for want of this Debian package.
pub fn is_installed(program: &str, package: &str, what: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        skipped(what, &format!("install the Debian package {package}"));
    }
    found
}

/// Whether this is root, who can become others; if not, says that `what` is skipped.
pub fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped(what, "needs a second user: run as root");
    }
    is_root
}
