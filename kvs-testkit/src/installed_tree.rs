//! The result of `make dist`, installed into a temporary directory as a packager would.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::compile::tool;
use crate::paths::project_dir;
use crate::sockets::private_dir;

/// An installed tree, removed when dropped.
pub struct InstalledTree {
    dir: TempDir,
}

/// A prefix that compilers do not search by default.
const PREFIX: &str = "/opt/kvs";

impl InstalledTree {
    /// Installs the tree.
    ///
    /// # Panics
    /// If nothing was built, or the installation fails.
    pub fn new() -> Self {
        let complete = project_dir().join("target/install/complete");
        assert!(complete.is_file(), "{} is missing: run `make dist` first", complete.display());
        let installed = Self { dir: private_dir() };
        installed.make("install");
        installed
    }

    /// Installs over the existing tree, as a new version does.
    pub fn again(&self) {
        self.make("install");
    }

    /// Removes the tree, as `make uninstall` does.
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

    /// The directory of the tree.
    pub fn dest(&self) -> &Path {
        self.dir.path()
    }

    /// A path below the prefix.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(PREFIX.trim_start_matches('/')).join(below)
    }

    /// The words that pkg-config prints for these options.
    pub fn pkg_config(&self, options: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_LIBDIR", self.path("lib/pkgconfig"));
        command.env("PKG_CONFIG_SYSROOT_DIR", self.dest());
        tool(command.args(options).arg("kvs")).split_whitespace().map(str::to_owned).collect()
    }

    /// The directory of the shared library, for `LD_LIBRARY_PATH`.
    pub fn libraries(&self) -> PathBuf {
        self.path("lib")
    }
}

impl Default for InstalledTree {
    fn default() -> Self {
        Self::new()
    }
}
