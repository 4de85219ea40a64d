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

    /// Waits until the process has `wanted` open descriptors. No event reports when a server has
    /// closed the last descriptor of a disconnected peer.
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

    /// The resident memory in KiB (`VmRSS` of proc_pid_status(5)).
    ///
    /// # Panics
    /// If the process has exited.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS")
    }

    /// The largest resident memory in KiB since [`reset_peak_resident`](Self::reset_peak_resident).
    ///
    /// # Panics
    /// If the process has exited.
    pub fn peak_resident_kib(&self) -> u64 {
        self.status_kib("VmHWM")
    }

    /// Begins a new measurement of the largest resident memory (proc_pid_clear_refs(5)).
    ///
    /// # Panics
    /// If the process has exited.
    pub fn reset_peak_resident(&self) {
        let path = format!("/proc/{}/clear_refs", self.pid());
        std::fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    fn status_kib(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = |line: &'_ str| {
            let value = line.strip_prefix(field)?.strip_prefix(':')?;
            value.split_whitespace().next()?.parse().ok()
        };
        status.lines().find_map(line).unwrap_or_else(|| panic!("{path} has no {field}"))
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
