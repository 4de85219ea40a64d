//! The package's services in a machine with a systemd of its own: `in_machine` is what happens there.

use std::fs;
use std::process::Command;
use std::time::Duration;

use kvs_tests::{Program, private_dir, project_dir, tool};

/// The exit code of `tests/support/machine` when this system does not allow such a machine.
const NOT_HERE: i32 = 77;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_services_work_from_the_installation_to_the_purge() {
    let dir = private_dir();
    tool(Command::new(project_dir().join("packaging/deb")).arg(dir.path()));
    let script = project_dir().join("tests/systemd/in_machine");
    fs::copy(script, dir.path().join("in_machine")).expect("the directory is ours");
    let machine = Program::new(project_dir().join("tests/support/machine"))
        .arg(dir.path())
        .arg("./in_machine")
        .spawn();
    let status = machine.wait_exit_within(LIMIT);
    if status.code() == Some(NOT_HERE) {
        eprintln!("skipped: {}", machine.log_so_far().join("\n"));
        return;
    }
    machine.expect_line("all promises hold");
    assert!(status.success(), "{}", machine.report());
}
