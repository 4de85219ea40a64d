//! Generates the C headers and the manual pages of section 3 from `kvs-lib/src/capi`, into
//! `OUT_DIR`.
//!
//! `kvs-generate` (`build/generate.rs`) contains the results and writes them to a given directory:
//! with `make generate`, to `include/` and `man/man3`. A build writes nothing into the source tree.

#[path = "build/header.rs"]
mod header;
#[path = "build/layout.rs"]
mod layout;
#[path = "build/man.rs"]
mod man;
#[path = "build/roff.rs"]
mod roff;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use cbindgen::{Config, DocumentationStyle, ExportConfig, Language};

use layout::Title;

/// The sources of `kvs.h`: the codes and the functions. cbindgen finds `handles.rs` through
/// `mod.rs`.
const PUBLIC: [&str; 2] = ["kvs-lib/src/codes.rs", "kvs-lib/src/capi/mod.rs"];

/// A source that cbindgen reads as a module of `mod.rs`; a change triggers this script.
const HANDLES: &str = "kvs-lib/src/capi/handles.rs";

/// The source of the header that `course/KVS-lib.c` shares with the library.
const COURSE: &str = "kvs-lib/src/capi/course.rs";

/// The comment at the top of `kvs.h`, which is the text of kvs(3).
const HEAD: &str = "build/head.txt";

/// The example of kvs(3).
const EXAMPLE: &str = "c-examples/put_get.c";

/// The titles of the groups of functions.
const TITLES: [Title; 3] = [
    Title {
        before: " establish_connection",
        text: "The six functions: one connection per process",
    },
    Title { before: "kvs_strerror", text: "For every program" },
    Title { before: " kvs_open", text: "The kvs_ functions: any number of connections" },
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build");
    for path in PUBLIC.iter().chain([&HANDLES, &COURSE, &EXAMPLE]) {
        println!("cargo:rerun-if-changed={path}");
    }
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let version = std::env::var("CARGO_PKG_VERSION")?;

    let header = kvs_h(&root)?;
    let example = fs::read_to_string(root.join(EXAMPLE))?;
    let mut files = vec![("include/kvs.h".to_owned(), header.clone())];
    for (name, page) in man::pages(&header, &version, &example) {
        files.push((format!("man/man3/{name}"), page));
    }
    fs::write(out.join("public.rs"), table(&files))?;

    let private = vec![("kvs-course.h".to_owned(), course_h(&root)?)];
    fs::write(out.join("private.rs"), table(&private))?;
    Ok(())
}

/// The public header.
fn kvs_h(root: &Path) -> Result<String, Box<dyn Error>> {
    let head = fs::read_to_string(root.join(HEAD))?;
    let head: String =
        head.lines().map(|line| format!(" * {line}").trim_end().to_owned() + "\n").collect();
    let config = Config {
        header: Some(format!("/*\n{head} */")),
        include_guard: Some("KVS_H".into()),
        cpp_compat: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        // Only KVS-lib.o has this function, not the library.
        export: ExportConfig { exclude: vec!["kvs_course_open".into()], ..ExportConfig::default() },
        ..config()
    };
    Ok(layout::header(&bindings(root, &PUBLIC, config)?, &TITLES))
}

/// The header of the function that only `KVS-lib.o` has.
fn course_h(root: &Path) -> Result<String, Box<dyn Error>> {
    let mut export = ExportConfig::default();
    export.rename.insert("sockaddr_un".into(), "struct sockaddr_un".into());
    let config = Config {
        header: Some(
            "/* Generated from kvs-lib/src/capi/course.rs. Private to KVS-lib.o. */".into(),
        ),
        include_guard: Some("KVS_COURSE_H".into()),
        sys_includes: vec!["sys/un.h".into()],
        includes: vec!["kvs.h".into()],
        export,
        ..config()
    };
    Ok(layout::header(&bindings(root, &[COURSE], config)?, &[]))
}

fn config() -> Config {
    Config {
        language: Language::C,
        no_includes: true,
        usize_is_size_t: true,
        tab_width: 4,
        documentation_style: DocumentationStyle::C,
        ..Config::default()
    }
}

fn bindings(root: &Path, sources: &[&str], config: Config) -> Result<String, Box<dyn Error>> {
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in sources {
        builder = builder.with_src(root.join(source));
    }
    let mut text = Vec::new();
    builder.generate()?.write(&mut text);
    Ok(String::from_utf8(text)?)
}

/// A Rust expression for a slice of names and texts.
fn table(files: &[(String, String)]) -> String {
    format!("&{files:?}")
}
