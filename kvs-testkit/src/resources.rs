//! Resources of a process as the kernel reports them.

use std::time::{Duration, Instant};

use crate::process::Process;
use crate::wait::DEADLINE;

impl Process {
    /// The number of its open descriptors.
    ///
    /// # Panics
    /// If the process has exited.
    pub fn open_descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
    }

    /// Waits until the process has `wanted` open descriptors. No event reports when a server has closed
    /// the last descriptor of a disconnected peer.
    ///
    /// # Panics
    /// If the number stays different.
    pub fn expect_open_descriptors(&self, wanted: usize) {
        let end = Instant::now() + DEADLINE;
        loop {
            let open = self.open_descriptors();
            if open == wanted {
                return;
            }
            assert!(
                Instant::now() < end,
                "{open} descriptors are open, {wanted} should be\n{}",
                self.report()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its resident memory in KiB (`VmRSS` of proc_pid_status(5)).
    ///
    /// # Panics
    /// If the process has exited.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        kib.unwrap_or_else(|| panic!("{path} has no VmRSS"))
    }

    /// The number of its threads.
    ///
    /// # Panics
    /// If the process has exited.
    pub fn threads(&self) -> usize {
        let path = format!("/proc/{}/task", self.pid());
        std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
    }

    /// The processor time that it has used in user and kernel mode, in clock ticks (1/100 s).
    ///
    /// # Panics
    /// If the process has exited.
    pub fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // The second field is the name in parentheses, which may contain spaces.
        let (_, rest) = stat.rsplit_once(')').expect("stat has a name in parentheses");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc_pid_stat(5): fields 14 and 15, and the first after the name is number 3.
        [11, 12].iter().map(|&n| fields[n].parse::<u64>().expect("ticks are a number")).sum()
    }

    /// The names of its threads.
    ///
    /// # Panics
    /// If the process has exited.
    pub fn thread_names(&self) -> Vec<String> {
        let path = format!("/proc/{}/task", self.pid());
        let tasks = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // A thread that has exited meanwhile has no name.
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect()
    }

    /// The number of its TCP sockets, listening or not.
    ///
    /// # Panics
    /// If the process has exited.
    pub fn tcp_sockets(&self) -> usize {
        let tables: String = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|table| std::fs::read_to_string(table).ok())
            .collect();
        // The tenth field is the inode.
        let inodes: Vec<&str> =
            tables.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
        let path = format!("/proc/{}/fd", self.pid());
        let open = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets
            .filter(|target| {
                let target = target.to_string_lossy();
                let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
                inode.is_some_and(|inode| inodes.contains(&inode))
            })
            .count()
    }
}
