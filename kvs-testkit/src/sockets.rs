//! Socket paths of a local server, and temporary directories for them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Where applications find a local server, a real or a scripted one.
pub trait Sockets {
    /// The path of the main socket.
    fn socket(&self) -> &Path;
    /// The path of the callback socket.
    fn callback_socket(&self) -> &Path;
}

/// A copy of the socket paths of a server.
#[derive(Debug, Clone)]
pub struct SocketPaths {
    socket: PathBuf,
    callback_socket: PathBuf,
}

impl SocketPaths {
    /// The paths of this server.
    pub fn of(server: &impl Sockets) -> Self {
        let [socket, callback_socket] =
            [server.socket(), server.callback_socket()].map(Path::to_path_buf);
        Self { socket, callback_socket }
    }
}

impl Sockets for SocketPaths {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn callback_socket(&self) -> &Path {
        &self.callback_socket
    }
}

/// Creates a directory with a short name (a socket path has at most 107 bytes), removed when
/// dropped.
///
/// # Panics
/// If the directory cannot be created.
pub fn private_dir() -> TempDir {
    TempDir::with_prefix("kvs-").expect("a temporary directory can be made")
}
