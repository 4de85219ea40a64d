//! `kvs-generate`: writes the C headers and manual pages that `build.rs` has generated.
//!
//! `kvs-generate DIRECTORY` writes `include/kvs.h` and `man/man3` below DIRECTORY, and removes the
//! generated pages of functions that no longer exist. `kvs-generate --private DIRECTORY` writes the
//! header that `course/KVS-lib.c` includes. An unchanged file keeps its modification time.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

type Files = &'static [(&'static str, &'static str)];

/// The files that are committed.
const PUBLIC: Files = include!(concat!(env!("OUT_DIR"), "/public.rs"));

/// The files that only the build of `KVS-lib.o` needs.
const PRIVATE: Files = include!(concat!(env!("OUT_DIR"), "/private.rs"));

/// The directory of the pages.
const PAGES: &str = "man/man3";

/// The first bytes of generated pages: of those with text, and of those that include another page.
const MARKS: [&str; 2] = [".\\\" Generated from the comments in kvs-lib/src/capi", ".so man3/kvs_"];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match arguments.as_slice() {
        [option, to] if option == "--private" => write_all(PRIVATE, Path::new(to)),
        [to] => write_all(PUBLIC, Path::new(to)).and_then(|()| remove_stale(Path::new(to))),
        _ => Err(io::Error::other("usage: kvs-generate [--private] DIRECTORY")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvs-generate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(files: Files, to: &Path) -> io::Result<()> {
    for (name, text) in files {
        let path = to.join(name);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(*text) {
            fs::write(&path, text)?;
        }
    }
    Ok(())
}

/// Removes generated pages of functions that no longer exist. Other pages stay: other software may
/// use the same directory.
fn remove_stale(to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(to.join(PAGES))? {
        let path = entry?.path();
        let is_current = PUBLIC.iter().any(|(name, _)| to.join(name) == path);
        let is_ours = |text: String| MARKS.iter().any(|mark| text.starts_with(mark));
        if !is_current && fs::read_to_string(&path).is_ok_and(is_ours) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
