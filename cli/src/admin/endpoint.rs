//! Which control socket `kvs admin` connects to.
//!
//! The first of these: `--control-socket`; the one beside a `--socket` of the command line;
//! `KVS_CONTROL_SOCKET`; the one beside the socket of `KVS_SOCKET` or of the configuration file;
//! the first that exists of [`DEFAULT_PATHS`].

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use kvs_proto::default_paths;

/// The control sockets of the system service and of a server started without options.
pub(super) const DEFAULT_PATHS: [&str; 2] = ["/run/kvs/control", "/tmp/server_sock_control"];

/// The option `--socket` of all commands.
pub(crate) struct SocketOption {
    pub(crate) path: Option<OsString>,
    /// Whether the path is on the command line, rather than in the environment or a file.
    pub(crate) is_typed: bool,
}

/// The path of the control socket. `None` if no path is given and none of [`DEFAULT_PATHS`] exists.
/// Empty paths count as unset.
pub(super) fn control_socket(
    control_socket: Option<OsString>,
    socket: Option<OsString>,
) -> Option<PathBuf> {
    let given = |path: Option<OsString>| path.filter(|path| !path.is_empty());
    if let Some(path) = given(control_socket) {
        return Some(path.into());
    }
    // A server at the default path may be the service, whose control socket is elsewhere.
    let is_default = |path: &OsString| path == default_paths::DEFAULT_SOCKET;
    if let Some(path) = given(socket).filter(|path| !is_default(path)) {
        return Some(default_paths::control_socket(path.as_ref()));
    }
    let is_socket = |path: &&Path| {
        std::fs::metadata(path)
            .map(|found| found.file_type().is_socket())
            // A path that may not be inspected exists; connecting to it reports the reason.
            .unwrap_or_else(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    DEFAULT_PATHS.map(Path::new).iter().copied().find(is_socket).map(Path::to_owned)
}
