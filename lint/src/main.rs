//! Checks of the kvs sources that rustfmt and clippy do not have. `make lint` runs all of them.
//!
//! ```text
//! kvs-lint [circles | text]
//! ```
//!
//! It checks the sources below the current directory. Each finding is one line on standard output.
//! The exit code is 1 when there is a finding, and 2 when the arguments are wrong or the sources
//! cannot be read.

mod circles;
mod modules;
mod references;
mod text;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (circles, text) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => (true, true),
        ["circles"] => (true, false),
        ["text"] => (false, true),
        _ => {
            eprintln!("usage: kvs-lint [circles | text]");
            return ExitCode::from(2);
        }
    };
    match check(Path::new("."), circles, text) {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in findings {
                println!("{finding}");
            }
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("kvs-lint: {error}");
            ExitCode::from(2)
        }
    }
}

fn check(directory: &Path, circles: bool, text: bool) -> Result<Vec<String>, Box<dyn Error>> {
    let mut findings = Vec::new();
    if text {
        findings.extend(text::check(directory)?);
    }
    if circles {
        for package in modules::packages(directory)? {
            let modules = modules::of_package(&package)?;
            let name = package.strip_prefix(directory).unwrap_or(&package).display();
            findings
                .extend(circles::find(&modules).iter().map(|circle| format!("{name}: {circle}")));
        }
    }
    Ok(findings)
}
