//! What `make dist` has built, installed into a temporary directory as a packager would.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{private_dir, project_dir, tool};

/// An installed tree, which is removed with this.
pub struct Installed {
    dir: TempDir,
}

/// Not a directory where compilers look by themselves.
const PREFIX: &str = "/opt/kvs";

impl Installed {
    /// Installs.
    ///
    /// # Panics
    /// When it cannot, for one when nothing was built.
    pub fn new() -> Self {
        let complete = project_dir().join("target/install/complete");
        assert!(complete.is_file(), "{} is missing: run `make dist` first", complete.display());
        let installed = Self { dir: private_dir() };
        installed.make("install");
        installed
    }

    /// Installs over what is there, as a new version does.
    pub fn again(&self) {
        self.make("install");
    }

    /// Takes everything away again, as `make uninstall` does.
    pub fn uninstall(&self) {
        self.make("uninstall");
    }

    fn make(&self, what: &str) {
        tool(
            Command::new(project_dir().join("packaging/install"))
                .arg(what)
                .env("DESTDIR", self.dir.path())
                .env("PREFIX", PREFIX),
        );
    }

    /// Where the tree is.
    pub fn dest(&self) -> &Path {
        self.dir.path()
    }

    /// A path below the prefix.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(PREFIX.trim_start_matches('/')).join(below)
    }

    /// What pkg-config says that a program needs, as words.
    pub fn pkg_config(&self, options: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_LIBDIR", self.path("lib/pkgconfig"));
        command.env("PKG_CONFIG_SYSROOT_DIR", self.dest());
        tool(command.args(options).arg("kvs")).split_whitespace().map(str::to_owned).collect()
    }

    /// Where the dynamic linker has to look: for `LD_LIBRARY_PATH`.
    pub fn libraries(&self) -> PathBuf {
        self.path("lib")
    }
}

impl Default for Installed {
    fn default() -> Self {
        Self::new()
    }
}
