//! Default paths of the sockets of a local server. Applications, administrators and servers agree
//! on them as they agree on the bytes.

use std::path::{Path, PathBuf};

/// The path of the main socket.
pub const DEFAULT_SOCKET: &str = "/tmp/server_sock";

/// The path of the callback socket that belongs to a main socket.
pub fn callback_socket(socket: &Path) -> PathBuf {
    with_suffix(socket, "_cb")
}

/// The path of the control socket that belongs to a main socket.
pub fn control_socket(socket: &Path) -> PathBuf {
    with_suffix(socket, "_control")
}

fn with_suffix(socket: &Path, suffix: &str) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
