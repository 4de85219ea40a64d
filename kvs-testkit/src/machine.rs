//! Containers, each with a systemd of its own (`kvs-testkit/src/machine`), and a network between
//! them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::compile::tool;
use crate::paths::project_dir;
use crate::process::Process;
use crate::program::Program;
use crate::sockets::private_dir;
use crate::terminal::Console;

/// The programs that a machine and the guides followed on it need.
pub const MACHINE_TOOLS: [&str; 6] =
    ["systemd-analyze", "ip", "nft", "curl", "dpkg-deb", "adduser"];

/// The longest time for a script in a machine: it may install a package and start services.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// The line prefix that a machine's shell prints after a script, before the status.
const DONE: &str = "the script is done: ";

/// A machine whose root shell runs one script after the other. Dropping it stops the machine and
/// discards all its changes.
#[derive(Debug)]
pub struct Machine {
    shell: Process,
    dir: TempDir,
    scripts: usize,
}

impl Machine {
    /// Starts a machine with this number on this network, or without a network.
    ///
    /// # Errors
    /// Why this host cannot run one, in a sentence.
    ///
    /// # Panics
    /// If the machine does not start.
    pub fn start(network: Option<(&Network, usize)>) -> Result<Self, String> {
        let dir = private_dir();
        let mut program = Program::new(project_dir().join("kvs-testkit/src/machine"));
        if let Some((network, number)) = network {
            program = program.args(["--netns", &network.name(number)]);
        }
        let shell = format!(
            "exec 2>&1; export HOME=/root LC_ALL=C PAGER=cat SYSTEMD_PAGER=cat; cd /root; \
             echo \"{DONE}0\"; trap 'failed=$?' ERR; \
             while read -r file; do failed=0; . \"$file\"; echo \"{DONE}$failed\"; done"
        );
        // On a terminal, as an administrator is.
        let shell = program
            .arg(dir.path())
            .args(["bash", "-c", &shell])
            .console(Console::Terminal { echo: false })
            .spawn();
        let mut machine = Self { shell, dir, scripts: 0 };
        match machine.result() {
            Some(_) => Ok(machine),
            None => {
                let finished = machine.shell.finish();
                assert_eq!(finished.status.code(), Some(77), "{}", machine.shell.report());
                Err(finished.stderr.concat())
            }
        }
    }

    /// Starts a machine with the Debian package, made from the result of `make dist`, in the home
    /// directory of root.
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub fn with_package(network: Option<(&Network, usize)>) -> Result<Self, String> {
        let mut machine = Self::start(network)?;
        tool(Command::new(project_dir().join("packaging/deb")).arg(machine.dir()));
        // Building the index of manual pages takes longer than the rest of the installation.
        let prepare =
            format!("mv {}/*.deb . && rm -f /var/lib/man-db/auto-update", machine.dir().display());
        let (status, shown) = machine.run(&prepare);
        assert_eq!(status, 0, "{shown:#?}");
        Ok(machine)
    }

    /// A directory with the same path in the machine and on the host.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file to the shared directory; returns its path in the machine.
    pub fn write_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        fs::write(&path, text).expect("the directory is ours");
        path
    }

    /// Runs a shell script in the home directory of root to its end; returns the status of its last
    /// failed command, or 0, and its output.
    ///
    /// # Panics
    /// If the script does not end.
    pub fn run(&mut self, script: &str) -> (i32, Vec<String>) {
        self.scripts += 1;
        let path = self.write_file(&format!(".script-{}", self.scripts), script);
        self.shell.send(path.to_str().expect("its name is ours"));
        self.result().unwrap_or_else(|| panic!("the machine has ended\n{}", self.shell.report()))
    }

    /// Waits for the end of a script; `None` if the machine has stopped.
    fn result(&mut self) -> Option<(i32, Vec<String>)> {
        let mut lines = Vec::new();
        loop {
            let line = self.shell.next_line_or_end(SCRIPT_TIMEOUT)?;
            if let Some((before, status)) = line.split_once(DONE) {
                // A last line without a line feed.
                lines.extend((!before.is_empty()).then(|| before.to_owned()));
                return Some((status.parse().expect("a shell knows numbers"), lines));
            }
            lines.push(line);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shell.end_input();
        self.shell.wait_exit_within(SCRIPT_TIMEOUT);
    }
}

/// Network namespaces joined by a bridge, as a switch joins machines. Number n has the address
/// 192.0.2.n of a network that is reserved for examples.
#[derive(Debug)]
pub struct Network {
    count: usize,
}

impl Network {
    /// Creates a network for `count` machines, numbered from 1.
    ///
    /// # Errors
    /// Why this host cannot have one.
    pub fn new(count: usize) -> Result<Self, String> {
        let network = Self { count };
        let switch = network.name(0);
        let commands =
            [format!("netns add {switch}"), format!("-n {switch} link add switch up type bridge")];
        let cables = (1..=count).flat_map(|number| {
            let name = network.name(number);
            [
                format!("netns add {name}"),
                format!(
                    "-n {switch} link add port{number} up master switch type veth \
                     peer name eth0 netns {name}"
                ),
                format!("-n {name} address add 192.0.2.{number}/24 dev eth0"),
                format!("-n {name} link set eth0 up"),
                format!("-n {name} link set lo up"),
            ]
        });
        for command in commands.into_iter().chain(cables) {
            let made = Command::new("ip").args(command.split(' ')).output();
            let made = made.map_err(|error| format!("ip: {error}"))?;
            if !made.status.success() {
                return Err(format!("ip {command}: {}", String::from_utf8_lossy(&made.stderr)));
            }
        }
        Ok(network)
    }

    fn name(&self, number: usize) -> String {
        format!("kvs-test-{}-{number}", std::process::id())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 0..=self.count {
            // Some may not have been created.
            if Path::new("/run/netns").join(self.name(number)).exists() {
                tool(Command::new("ip").args(["netns", "delete", &self.name(number)]));
            }
        }
    }
}
