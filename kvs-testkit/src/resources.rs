//! What a process holds, as the kernel counts it.

use std::time::{Duration, Instant};

use crate::{DEADLINE, Process};

impl Process {
    /// How many descriptors it has open.
    ///
    /// # Panics
    /// When it has ended.
    pub fn open_descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
    }

    /// Waits until it has so many descriptors open: no event tells when a server has closed the last one
    /// of a peer that has gone.
    ///
    /// # Panics
    /// When it does not come to that.
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

    /// The memory that it has in use, in KiB (`VmRSS` of proc_pid_status(5)).
    ///
    /// # Panics
    /// When it has ended.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        kib.unwrap_or_else(|| panic!("{path} tells no VmRSS"))
    }

    /// The number of its threads.
    ///
    /// # Panics
    /// When it has ended.
    pub fn threads(&self) -> usize {
        let path = format!("/proc/{}/task", self.pid());
        std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
    }

    /// The processor time that it has used, in clock ticks (1/100 s), in user mode and in the kernel
    /// together.
    ///
    /// # Panics
    /// When it has ended.
    pub fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // The second field is the name in parentheses, which may contain spaces.
        let (_, rest) = stat.rsplit_once(')').expect("stat has a name in parentheses");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc_pid_stat(5): fields 14 and 15, and the first after the name is number 3.
        [11, 12].iter().map(|&n| fields[n].parse::<u64>().expect("ticks are a number")).sum()
    }
}
