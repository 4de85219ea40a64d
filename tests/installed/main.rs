//! The installed tree, used by compilers, build systems and other languages that know nothing of
//! this project but the installed files, by an old project of the course, and by readers of the
//! tutorial.
//!
//! Each test installs into a temporary directory what `make dist` has built.

#![forbid(unsafe_code)]

mod course;
mod docs;
mod programs;
mod tree;

use std::path::Path;

use kvs_testkit::{AuthServer, InstalledTree, LocalServer, Process, ProcessOutput, Program};

/// An installed tree, both servers, and a group.
struct World {
    installed: InstalledTree,
    _auth: AuthServer,
    local: LocalServer,
    secret: String,
}

const GROUP: &str = "g";

impl World {
    fn start() -> Self {
        let installed = InstalledTree::new();
        let auth = AuthServer::start();
        let local = LocalServer::start(&auth);
        let secret = local.create_group(GROUP);
        Self { installed, _auth: auth, local, secret }
    }

    /// A program that finds the installed library, with the group and its secret as first
    /// arguments.
    fn member(&self, program: impl AsRef<Path>) -> Program {
        self.program(program).args([GROUP, &self.secret])
    }

    fn program(&self, program: impl AsRef<Path>) -> Program {
        Program::new(program.as_ref())
            .served_by(&self.local)
            .env("LD_LIBRARY_PATH", self.installed.libraries())
    }
}

/// Runs a program and returns its output. It must succeed and print nothing on standard error.
fn run(program: Program) -> Vec<String> {
    let process: Process = program.spawn();
    let finished: ProcessOutput = process.finish();
    assert!(finished.status.success() && finished.stderr.is_empty(), "{}", process.report());
    finished.stdout
}
