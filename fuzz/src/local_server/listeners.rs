//! The listening sockets of the server.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The listening sockets of the server, common to all scripts of a process.
pub(super) struct Listeners {
    dir: tempfile::TempDir,
    pub(super) main: UnixListener,
    pub(super) callback: UnixListener,
}

impl Listeners {
    pub(super) fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => tempfile::tempdir(),
        };
        let dir = dir.expect("a temporary directory");
        let listen = |name| UnixListener::bind(dir.path().join(name)).expect("the path is free");
        Self { main: listen("main"), callback: listen("callback"), dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
