//! The environment of the run: the machine, the kernel, and the versions of all measured systems.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::options::Options;
use crate::servers::{kvs_program, on_path};
use crate::system::System;

/// The machine, and the software on it.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // The names are the documentation.
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The load average before the run.
    pub(crate) load_average: String,
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// The file system of the directory with the file of LMDB.
    pub(crate) file_system: String,
    pub(crate) versions: Vec<Version>,
}

/// A system, and how it is measured.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // The names are the documentation.
pub(crate) struct Version {
    pub(crate) system: System,
    pub(crate) version: String,
    pub(crate) client: String,
    pub(crate) settings: String,
}

impl Machine {
    /// Whether other load made the figures unreliable: a load average above 0.5 in the minute
    /// before.
    pub(crate) fn was_busy(&self) -> bool {
        let minute = self.load_average.split(' ').next().and_then(|load| load.parse::<f64>().ok());
        minute.is_some_and(|load| load > 0.5)
    }

    /// Inspects this machine.
    pub(crate) fn inspect(options: &Options, dir: &Path) -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let system = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            processor: field("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| text(system.machine())),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory
                .strip_suffix(" kB")
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0)
                / 1024,
            kernel: format!("{} {}", text(system.sysname()), text(system.release())),
            load_average: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            time: now.map_or(0, |now| now.as_secs()),
            file_system: file_system(dir),
            versions: options.systems.iter().map(|&system| Version::of(system, options)).collect(),
        }
    }
}

impl Version {
    fn of(system: System, options: &Options) -> Self {
        let kvs = || {
            let program = kvs_program(options, "KVS-LocalServer").ok();
            first_line(program.as_deref(), "--version")
        };
        let (version, client, settings) = match system {
            System::Kvs => (kvs(), "crate kvs, protocol v2".to_owned(), "defaults".to_owned()),
            System::KvsOriginal => (
                kvs(),
                "crate kvs, protocol v1".to_owned(),
                "defaults; puts are not acknowledged".to_owned(),
            ),
            System::Redis => (
                redis_version(&first_line(on_path(&options.redis_server).as_deref(), "--version")),
                format!("hiredis {}", hiredis()),
                "--port 0 --unixsocket --save '' --appendonly no".to_owned(),
            ),
            System::Memcached => (
                first_line(on_path(&options.memcached).as_deref(), "--version"),
                format!("libmemcached {}, text protocol", libmemcached()),
                "-s -m 2048 -c 4096, its four threads".to_owned(),
            ),
            System::Lmdb => (
                format!("LMDB {}", crate::system::lmdb::Lmdb::version()),
                "crate heed, in process".to_owned(),
                crate::system::lmdb::SETTINGS.to_owned(),
            ),
            System::Floor => (
                "send and receive of as many bytes".to_owned(),
                "std".to_owned(),
                "a pair of UNIX stream sockets, two processes".to_owned(),
            ),
        };
        Self { system, version, client, settings }
    }
}

#[cfg(feature = "redis")]
fn hiredis() -> &'static str {
    crate::system::redis::VERSION
}

#[cfg(not(feature = "redis"))]
fn hiredis() -> &'static str {
    "(not built in)"
}

#[cfg(feature = "memcached")]
fn libmemcached() -> String {
    crate::system::memcached::version()
}

#[cfg(not(feature = "memcached"))]
fn libmemcached() -> String {
    "(not built in)".into()
}

/// The first line that a program prints.
fn first_line(program: Option<&Path>, argument: &str) -> String {
    let Some(program) = program else { return "not found".into() };
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or("unknown").to_owned()
}

/// `Redis server v=7.0.15 sha=… malloc=jemalloc-5.3.0 …`, shortened.
fn redis_version(line: &str) -> String {
    let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
    match (field("v="), field("malloc=")) {
        (Some(version), Some(malloc)) => format!("redis-server {version}, {malloc}"),
        _ => line.to_owned(),
    }
}

/// By the numbers in statfs(2).
fn file_system(dir: &Path) -> String {
    match rustix::fs::statfs(dir).map(|found| found.f_type as u64) {
        Ok(0xef53) => "ext4".into(),
        Ok(0x5846_5342) => "xfs".into(),
        Ok(0x9123_683e) => "btrfs".into(),
        Ok(0x0102_1994) => "tmpfs".into(),
        Ok(0x794c_7630) => "overlayfs".into(),
        Ok(other) => format!("0x{other:x}"),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_redis_is_shortened() {
        let line = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae";
        assert_eq!(redis_version(line), "redis-server 7.0.15, jemalloc-5.3.0");
        assert_eq!(redis_version("unknown"), "unknown");
    }
}
