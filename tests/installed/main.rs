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

use kvs_testkit::{InstalledTree, LocalServer, Process, ProcessOutput, Program, TestEnv};

/// Both servers and a group, for programs that load the installed library.
struct InstalledEnv {
    installed: InstalledTree,
    servers: TestEnv,
}

impl InstalledEnv {
    fn start() -> Self {
        Self { installed: InstalledTree::new(), servers: TestEnv::start() }
    }

    fn server(&self) -> &LocalServer {
        &self.servers.server
    }

    fn group(&self) -> &str {
        self.servers.group()
    }

    fn secret(&self) -> &str {
        self.servers.secret()
    }

    /// A program that loads the installed library.
    fn program(&self, path: impl AsRef<Path>) -> Program {
        self.with_library(self.servers.program(path))
    }

    /// A program that loads the installed library. Its first arguments are the group and its
    /// secret.
    fn member(&self, path: impl AsRef<Path>) -> Program {
        self.with_library(self.servers.member(path))
    }

    fn with_library(&self, program: Program) -> Program {
        program.env("LD_LIBRARY_PATH", self.installed.libraries())
    }
}

/// Runs a program and returns its output. It must succeed and print nothing on standard error.
fn run(program: Program) -> Vec<String> {
    let process: Process = program.spawn();
    let finished: ProcessOutput = process.finish();
    assert!(finished.status.success() && finished.stderr.is_empty(), "{}", process.report());
    finished.stdout
}
