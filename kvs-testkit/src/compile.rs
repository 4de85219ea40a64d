//! Building the C and C++ programs of the tests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{lib_dir, project_dir};

/// The warnings under which the headers and all programs compile.
pub const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Compiles `source`, a path relative to the project, to `program`; `libraries` come after it, and what
/// `KVS_TEST_CFLAGS` says (words apart from each other by spaces), for `tests/sanitize`.
///
/// # Panics
/// When the compiler is absent or is not content.
pub fn compile(
    compiler: &str,
    standard: &str,
    source: &str,
    program: &Path,
    libraries: &[OsString],
) {
    let more = std::env::var("KVS_TEST_CFLAGS").unwrap_or_default();
    tool(
        Command::new(compiler)
            .arg(format!("-std={standard}"))
            .args(["-O1", "-g", "-pthread"])
            .args(STRICT)
            .arg("-I")
            .arg(project_dir().join("include"))
            .arg(project_dir().join(source))
            .arg("-o")
            .arg(program)
            .args(libraries)
            .args(more.split_whitespace()),
    );
}

/// Compiles a C program of the project (`source` is relative to it) and links it with `libkvs.so`. The
/// program is beside the built ones, in `test-programs`.
///
/// # Panics
/// When the compiler is absent or is not content, or when the library has not been built.
pub fn compile_c(source: &str) -> PathBuf {
    let name = Path::new(source).file_stem().expect("the source is a file");
    in_place(Path::new(name), |unfinished| {
        compile("gcc", "c99", source, unfinished, &shared_library());
    })
}

/// Several tests compile the same program at the same time, and some run it already.
fn in_place(name: &Path, build: impl FnOnce(&Path)) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let dir = lib_dir().join("test-programs");
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let product = dir.join(name);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let unfinished = product.with_extension(format!("{}-{count}", std::process::id()));
    build(&unfinished);
    std::fs::rename(&unfinished, &product)
        .unwrap_or_else(|error| panic!("{}: {error}", product.display()));
    product
}

/// Compiles a C source of the project into a library to be preloaded (`LD_PRELOAD`), beside the programs of
/// [`compile_c`].
///
/// # Panics
/// When the compiler is absent or is not content.
pub fn compile_preload(source: &str) -> PathBuf {
    let name = Path::new(source).with_extension("so");
    in_place(Path::new(name.file_name().expect("the source is a file")), |unfinished| {
        compile("gcc", "c99", source, unfinished, &["-fPIC".into(), "-shared".into()]);
    })
}

/// What a program links that uses `libkvs.so` where it was built.
pub fn shared_library() -> Vec<OsString> {
    built("libkvs.so");
    let dir = lib_dir();
    let rpath = format!("-Wl,-rpath,{}", dir.display());
    vec!["-L".into(), dir.into(), "-lkvs".into(), rpath.into()]
}

/// What a program links that contains the library.
pub fn static_library() -> Vec<OsString> {
    let mut libraries = vec![built("libkvs.a").into_os_string()];
    libraries.extend(["-lpthread", "-ldl", "-lm"].map(OsString::from));
    libraries
}

/// A file of the library.
fn built(name: &str) -> PathBuf {
    let path = lib_dir().join(name);
    assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    path
}

/// Runs a tool to its end, which must be good; what it printed.
///
/// # Panics
/// When it cannot be started, or fails.
pub fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
