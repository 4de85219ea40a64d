//! The package's services in a container with its own systemd. `in_machine` is the script that runs
//! there.

use kvs_testkit::{MACHINE_TOOLS, Machine, are_installed, skipped};

#[test]
fn services_work_from_installation_to_purge() {
    if !are_installed(&MACHINE_TOOLS, "the services in a machine") {
        return;
    }
    let mut machine = match Machine::with_package(None) {
        Ok(machine) => machine,
        Err(why) => return skipped("the services in a machine", &why),
    };
    let script = machine.write_file("in_machine", include_str!("in_machine"));
    let (status, shown) = machine.run(&format!("bash {}", script.display()));
    assert!(
        status == 0 && shown.last().is_some_and(|line| line == "all promises hold"),
        "{status}\n{}",
        shown.join("\n")
    );
}
