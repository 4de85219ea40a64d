//! Compiles the C and C++ programs of the tests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::paths::{lib_dir, project_dir};

/// The warnings that the headers and all programs must not cause.
pub const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Compiles `source`, a path relative to the project, to `program`. `libraries` follow it, then the
/// words of `KVS_TEST_CFLAGS`, for `tests/sanitize`.
///
/// # Panics
/// If the compiler is missing or fails.
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

/// Compiles a C program (`source` is relative to the project) and links it with `libkvs.so`. The
/// program is in `test-programs` beside the built ones.
///
/// # Panics
/// If the compiler is missing or fails, or if the library has not been built.
pub fn compile_c(source: &str) -> PathBuf {
    let name = Path::new(source).file_stem().expect("the source is a file");
    build_atomically(Path::new(name), |unfinished| {
        compile("gcc", "c99", source, unfinished, &shared_library());
    })
}

/// Builds a file and renames it into place: several tests compile the same program concurrently
/// while others run it.
fn build_atomically(name: &Path, build: impl FnOnce(&Path)) -> PathBuf {
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

/// Compiles a C source of the project into a library for `LD_PRELOAD`, beside the programs of
/// [`compile_c`].
///
/// # Panics
/// If the compiler is missing or fails.
pub fn compile_preload(source: &str) -> PathBuf {
    let name = Path::new(source).with_extension("so");
    build_atomically(Path::new(name.file_name().expect("the source is a file")), |unfinished| {
        compile("gcc", "c99", source, unfinished, &["-fPIC".into(), "-shared".into()]);
    })
}

/// Linker arguments for `libkvs.so` where it was built.
pub fn shared_library() -> Vec<OsString> {
    built("libkvs.so");
    let dir = lib_dir();
    let rpath = format!("-Wl,-rpath,{}", dir.display());
    vec!["-L".into(), dir.into(), "-lkvs".into(), rpath.into()]
}

/// Linker arguments for `libkvs.a`.
pub fn static_library() -> Vec<OsString> {
    let mut libraries = vec![built("libkvs.a").into_os_string()];
    libraries.extend(["-lpthread", "-ldl", "-lm"].map(OsString::from));
    libraries
}

/// The path of a built library file.
fn built(name: &str) -> PathBuf {
    let path = lib_dir().join(name);
    assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    path
}

/// Runs a tool, which must succeed; returns its standard output.
///
/// # Panics
/// If the tool cannot be started, or fails.
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
