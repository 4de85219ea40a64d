//! Rules for lines: at most 100 columns in sources and documents, and at most 60 characters in the
//! name of a test.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_COLUMNS: usize = 100;
const MAX_TEST_NAME: usize = 60;

/// Names of directories whose files are built, generated or data.
const SKIPPED: [&str; 7] =
    ["target", ".git", "corpus", "artifacts", "transcripts", "man", "benchmarks"];

/// The findings in all sources and documents below `directory`.
pub(crate) fn check(directory: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut files = Vec::new();
    collect(directory, &mut files)?;
    files.sort();
    let mut findings = Vec::new();
    for file in files {
        let Ok(text) = String::from_utf8(fs::read(&file)?) else { continue };
        let name = file.strip_prefix(directory).unwrap_or(&file);
        check_columns(name, &text, &mut findings);
        if file.extension().is_some_and(|extension| extension == "rs") {
            check_test_names(name, &text, &mut findings);
        }
    }
    Ok(findings)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                collect(&path, files)?;
            }
        } else if is_checked(&path)? {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether the file is a source or a document that people write.
fn is_checked(file: &Path) -> Result<bool, Box<dyn Error>> {
    let extension = file.extension().and_then(|extension| extension.to_str());
    Ok(match extension {
        Some("rs" | "c" | "h" | "md" | "toml" | "py" | "sh" | "js" | "css" | "html" | "in") => true,
        Some(_) => false,
        None if file.file_name().is_some_and(|name| name == "Makefile") => true,
        // Scripts have no extension.
        None => fs::read(file)?.starts_with(b"#!"),
    })
}

fn check_columns(file: &Path, text: &str, findings: &mut Vec<String>) {
    let is_document = file.extension().is_some_and(|extension| extension == "md");
    let mut in_output = false;
    for (number, line) in text.lines().enumerate() {
        // A table row is one line whatever its length, and so is a line that a program printed.
        if is_document && line.trim_start().starts_with("```") {
            in_output = !in_output && line.trim_start().starts_with("```text");
        }
        let is_exempt = is_document && (in_output || line.starts_with('|'));
        let columns = line.chars().count();
        if columns > MAX_COLUMNS && !is_exempt {
            let (file, number) = (file.display(), number + 1);
            findings.push(format!("{file}:{number}: {columns} columns, at most {MAX_COLUMNS}"));
        }
    }
}

fn check_test_names(file: &Path, text: &str, findings: &mut Vec<String>) {
    let mut after_attribute = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.starts_with("#[test]") {
            after_attribute = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| after_attribute) {
            after_attribute = false;
            let len = rest.find(['(', '<']).unwrap_or(rest.len());
            if len > MAX_TEST_NAME {
                let (file, number, name) = (file.display(), number + 1, &rest[..len]);
                findings.push(format!(
                    "{file}:{number}: the test name {name} has {len} characters, \
                     at most {MAX_TEST_NAME}"
                ));
            }
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            after_attribute = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_found_but_for_tables_and_output() {
        let (long, mut findings) = ("x".repeat(101), Vec::new());
        check_columns(Path::new("a.rs"), &format!("short\n{long}\n"), &mut findings);
        assert_eq!(findings, ["a.rs:2: 101 columns, at most 100"]);
        check_columns(Path::new("a.md"), &format!("| {long} |\n"), &mut findings);
        check_columns(Path::new("a.md"), &format!("```text\n{long}\n```\n"), &mut findings);
        assert_eq!(findings.len(), 1);
        check_columns(Path::new("a.rs"), &"é".repeat(100), &mut findings);
        assert_eq!(findings.len(), 1, "columns are counted, not bytes");
        check_columns(Path::new("a.md"), &format!("```text\n```\n{long}\n"), &mut findings);
        check_columns(Path::new("a.md"), &format!("```sh\n{long}\n```\n"), &mut findings);
        assert_eq!(findings.len(), 3, "prose and commands are checked");
    }

    #[test]
    fn long_test_names_are_found_and_other_names_are_not() {
        let (name, mut findings) = ("n".repeat(61), Vec::new());
        let text = format!("fn {name}() {{}}\n#[test]\n#[cfg(unix)]\nfn {name}() {{}}\n");
        check_test_names(Path::new("a.rs"), &text, &mut findings);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("a.rs:4: "), "{findings:?}");
    }
}
