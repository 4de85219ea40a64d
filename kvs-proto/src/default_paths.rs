//! Where a local server is found unless it is told otherwise: part of what programs and servers agree on, as the bytes are.

use std::path::{Path, PathBuf};

/// The path of the main socket.
pub const DEFAULT_SOCKET: &str = "/tmp/server_sock";

/// The path of the callback socket that belongs to a main one.
pub fn callback_socket(socket: &Path) -> PathBuf {
    beside(socket, "_cb")
}

/// The path of the control socket that belongs to a main one.
pub fn control_socket(socket: &Path) -> PathBuf {
    beside(socket, "_control")
}

fn beside(socket: &Path, end: &str) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(end);
    path.into()
}
