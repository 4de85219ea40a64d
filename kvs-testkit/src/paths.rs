//! Paths of the project, and of the built programs and libraries.

use std::path::{Path, PathBuf};

/// The root directory of the project.
pub fn project_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The directory of the built programs, `libkvs.so` and `libkvs.a`: that of the running test's
/// profile (`target/release`), or `KVS_TEST_PROGRAMS`, where `tests/sanitize` has instrumented
/// ones.
pub fn lib_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("KVS_TEST_PROGRAMS") {
        return dir.into();
    }
    let exe = std::env::current_exe().expect("the kernel knows the path of this program");
    let dir = exe.parent().expect("a program is in a directory");
    // Tests are in `deps`, examples in `examples`.
    match dir.file_name() {
        Some(name) if name == "deps" || name == "examples" => {
            dir.parent().expect("deps is in the directory of the profile").to_owned()
        }
        _ => dir.to_owned(),
    }
}

/// The path of the built program `name`.
///
/// # Panics
/// If it has not been built.
pub fn bin(name: &str) -> PathBuf {
    let path = lib_dir().join(name);
    assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    path
}
