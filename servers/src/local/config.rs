//! The configuration of a local server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::local::error::Error;
use crate::local::limits::limit::Limits;
use crate::local::net::listener::Mode;

/// The configuration of a local server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The authentication server, `HOST:PORT`.
    pub auth: String,
    /// The path of the main socket.
    pub socket: PathBuf,
    /// The path of the callback socket.
    pub callback_socket: PathBuf,
    /// The path of the control socket; `None` for no control socket.
    pub control_socket: Option<PathBuf>,
    /// The permissions of the main and callback sockets; `None` leaves them to the umask.
    pub socket_mode: Option<Mode>,
    /// The limits of each user.
    pub limits: Limits,
    /// The longest value in bytes, at most [`MAX_VALUE`](kvs_proto::v2::MAX_VALUE). In protocol v1
    /// it is 99.
    pub max_value: usize,
    /// The maximum time from accepting a connection to the end of its login.
    pub login_timeout: Duration,
    /// Whether the server quits when the authentication server is lost.
    pub exit_on_auth_loss: bool,
    /// The loopback address where metrics are served. `None` disables the metrics.
    pub metrics: Option<SocketAddr>,
}

impl Config {
    /// Checks that the options are consistent.
    ///
    /// # Errors
    /// [`Error::SamePath`] names two options with the same path.
    pub fn check(&self) -> Result<(), Error> {
        let paths = self.paths();
        for (at, (option, path)) in paths.iter().enumerate() {
            if let Some((other, _)) = paths[..at].iter().find(|(_, other)| other == path) {
                return Err(Error::SamePath { options: [other, option], path: path.to_path_buf() });
            }
        }
        Ok(())
    }

    /// The paths of the sockets, and the options that set them.
    pub(crate) fn paths(&self) -> Vec<(&'static str, &Path)> {
        let mut paths = vec![
            ("--socket", self.socket.as_path()),
            ("--callback-socket", self.callback_socket.as_path()),
        ];
        paths.extend(self.control_socket.as_deref().map(|path| ("--control-socket", path)));
        paths
    }
}
