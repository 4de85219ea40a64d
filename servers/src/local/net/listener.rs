//! Listening sockets and the paths that they are bound to.
//!
//! - A path is replaced only if it is a socket without a server, and removed only while it is the
//!   inode that this server has bound: a descriptor keeps that inode, so its number is not reused.
//!   `bind` never follows a link. No system call both checks and removes, so between the two a user
//!   who may rename files in the directory can interfere; in a directory with the sticky bit, like
//!   `/tmp`, only the server's own user and root may.
//! - Two servers that start at once on one path exclude each other by an abstract socket named
//!   after the path. The kernel frees it when its owner ends, in whatever way. Any user can bind an
//!   abstract socket, so it counts only if its owner is the server's own user or root.
//! - A path has its permissions from the moment it exists: the kernel derives them from the umask.
//!   A later `chmod` would leave time for a user who must not connect.
//! - An activated socket ([`socket_activation`](super::socket_activation)) belongs to the service
//!   manager, and so does its path: none of the above applies.

use std::fs::File;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mio::net::{UnixListener, UnixStream};
use nix::fcntl::OFlag;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::stat::{self, umask};
use nix::unistd::geteuid;
use parking_lot::Mutex;

use crate::local::net::socket_activation::ActivatedSockets;
use crate::local::stable_hash::stable_hash;

/// The longest path of a UNIX socket: 108 bytes with the terminating NUL (unix(7)).
pub(crate) const MAX_PATH: usize = 107;

/// Why a path cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A running server listens there.
    #[error(
        "{} is in use: another KVS-LocalServer is serving there. Stop it, or choose another path",
        .0.display()
    )]
    InUse(PathBuf),
    /// The path is not a socket.
    #[error("{} exists and is not a socket; it is left alone. Choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The path is longer than the system allows.
    #[error(
        "{} is too long for a socket: {} bytes, at most {MAX_PATH} are allowed. Choose a shorter \
         path",
        .0.display(), .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    /// An error of the system.
    #[error("{} cannot be served: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// The permissions of a path, in the notation of `chmod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Only the server's own user and root may connect.
    pub(crate) const OWNER_ONLY: Self = Self(0o600);
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(octal: &str) -> Result<Self, Self::Err> {
        let is_octal = !octal.is_empty() && octal.bytes().all(|digit| digit.is_ascii_digit());
        match u32::from_str_radix(octal, 8) {
            Ok(mode) if is_octal && mode <= 0o777 => Ok(Self(mode)),
            _ => Err("it must be permissions in octal, from 0 to 777; 660, for example, lets the \
                      user and the group of the server connect"),
        }
    }
}

/// A listening socket. Dropping it removes its path, unless the socket was activated.
#[derive(Debug)]
pub(crate) struct Listener {
    /// `None` after [`take`](Self::take).
    socket: Option<UnixListener>,
    /// `None` for an activated socket.
    own: Option<OwnPath>,
}

/// A path that this server has bound.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    bound: Inode,
    _guard: Option<UnixListener>,
}

/// The inode of a path; of a link, the link itself. Its number is not reused while this is held.
#[derive(Debug)]
struct Inode(File);

impl Inode {
    fn of(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        File::options().read(true).custom_flags(flags.bits()).open(path).map(Self)
    }

    fn is_socket(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.file_type().is_socket())
    }

    /// Removes `path` if it is still this inode, and returns whether it was.
    fn unlink(&self, path: &Path) -> io::Result<bool> {
        let (ours, there) = (self.0.metadata()?, std::fs::symlink_metadata(path)?);
        let is_ours = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        if is_ours {
            std::fs::remove_file(path)?;
        }
        Ok(is_ours)
    }
}

impl Listener {
    /// The activated socket for `path` if there is one, otherwise [binds](Self::bind) it.
    ///
    /// # Errors
    /// [`ListenError`] names the path and the obstacle.
    pub(crate) fn new(
        path: &Path,
        mode: Option<Mode>,
        activated: &mut ActivatedSockets,
    ) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { path: path.to_path_buf(), source };
        let Some(socket) = activated.take(path).map_err(io)? else {
            return Self::bind(path, mode);
        };
        tracing::info!(
            "listening on {}, a socket of the service manager (socket activation)",
            path.display()
        );
        if mode.is_some() {
            tracing::warn!(
                "--socket-mode has no effect on {}: the service manager has created this socket; \
                 set SocketMode= in its .socket unit instead",
                path.display()
            );
        }
        Ok(Self { socket: Some(UnixListener::from_std(socket)), own: None })
    }

    /// Listens on `path`, with the given permissions or those that the umask leaves.
    ///
    /// # Errors
    /// [`ListenError`] names the path and the obstacle.
    pub(crate) fn bind(path: &Path, mode: Option<Mode>) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { path: path.to_path_buf(), source };
        if path.as_os_str().len() > MAX_PATH {
            return Err(ListenError::TooLong(path.to_path_buf()));
        }
        let guard = guard(path)?;
        remove_stale(path)?;
        let socket = bind(path, mode).map_err(io)?;
        let bound = Inode::of(path).map_err(io)?;
        let own = OwnPath { path: path.to_path_buf(), bound, _guard: guard };
        Ok(Self { socket: Some(socket), own: Some(own) })
    }

    /// Whether the socket was activated, so that it outlives this server.
    pub(crate) fn is_activated(&self) -> bool {
        self.own.is_none()
    }

    /// The socket, at the first call.
    pub(crate) fn take(&mut self) -> Option<UnixListener> {
        self.socket.take()
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        match self.bound.unlink(&self.path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("cannot remove {}: {error}", self.path.display()),
        }
    }
}

/// Binds and listens, with the given permissions.
fn bind(path: &Path, mode: Option<Mode>) -> io::Result<UnixListener> {
    /// All threads share the umask of the process.
    static UMASK: Mutex<()> = Mutex::new(());
    let Some(Mode(mode)) = mode else { return UnixListener::bind(path) };
    let _lock = UMASK.lock();
    // A socket is created with all permissions that the umask leaves. Nothing else in this program
    // creates files.
    let before = umask(stat::Mode::from_bits_truncate(!mode & 0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// Binds the abstract socket that excludes other servers from `path`. `None` if another user has
/// bound it: then only the path itself shows whether a server listens there.
fn guard(path: &Path) -> Result<Option<UnixListener>, ListenError> {
    let io = |source| ListenError::Io { path: path.to_path_buf(), source };
    let absolute = std::path::absolute(path).map_err(io)?;
    // An abstract name may be no longer than a path, so a prefix leaves no room for the path
    // itself.
    let hash = stable_hash(absolute.as_os_str().as_encoded_bytes());
    let name = format!("kvs-local-server-{hash:016x}");
    let name = SocketAddr::from_abstract_name(name).map_err(io)?;
    match UnixListener::bind_addr(&name) {
        Ok(guard) => Ok(Some(guard)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match owner(&name) {
            Some(uid) if uid == 0 || uid == geteuid().as_raw() => {
                Err(ListenError::InUse(path.to_path_buf()))
            }
            owner => {
                tracing::warn!(
                    owner,
                    "{}: another user has bound the abstract socket that protects this path from a \
                     second server; serving without this protection",
                    path.display()
                );
                Ok(None)
            }
        },
        Err(error) => Err(io(error)),
    }
}

/// The user who has bound the abstract socket; `None` if it accepts no connection. Only starting
/// servers connect to it, so the backlog of a genuine one is never full.
fn owner(name: &SocketAddr) -> Option<u32> {
    let stream = UnixStream::connect_addr(name).ok()?;
    getsockopt(&stream, PeerCredentials).ok().map(|owner| owner.uid())
}

/// Removes `path` if it is a socket without a server.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let io = |source| ListenError::Io { path: path.to_path_buf(), source };
    let found = match Inode::of(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if !found.is_socket().map_err(io)? {
        return Err(ListenError::NotASocket(path.to_path_buf()));
    }
    // The socket does not block: a full backlog also shows that a server is running.
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ListenError::InUse(path.to_path_buf()))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("stale socket {} replaced: no server listens on it", path.display());
            match found.unlink(path) {
                Ok(true) => Ok(()),
                // Another server has just replaced it, and listens there now.
                Ok(false) => Err(ListenError::InUse(path.to_path_buf())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(io(error)),
            }
        }
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn live_path_is_refused_stale_path_replaced_file_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        // Stale: its socket is closed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&path, None).unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ListenError::InUse(_))));
        assert!(path.exists(), "the first server's path is untouched");
        drop(first);
        assert!(!path.exists());
        // A live socket of another program, without an abstract socket.
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ListenError::InUse(_))));
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn mode_is_octal() {
        assert_eq!("0".parse(), Ok(Mode(0)));
        assert_eq!("660".parse(), Ok(Mode(0o660)));
        assert_eq!("0777".parse(), Ok(Mode(0o777)));
        for bad in ["", "8", "1000", "01777", "u=rw", "0x1ff", "0o660", "+660", "-1", " 660", "6 0"]
        {
            assert!(bad.parse::<Mode>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn path_has_its_mode_from_its_creation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let observer = scope.spawn(|| {
                let mut seen = HashSet::new();
                while !ended.load(Ordering::Relaxed) {
                    let found = std::fs::symlink_metadata(&path);
                    seen.extend(found.map(|found| found.mode() & 0o7777));
                }
                seen
            });
            for _ in 0..5000 {
                drop(Listener::bind(&path, Some(Mode(0o620))).unwrap());
            }
            ended.store(true, Ordering::Relaxed);
            assert_eq!(observer.join().unwrap(), HashSet::from([0o620]));
        });
    }

    #[test]
    fn replaced_path_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = Listener::bind(&path, None).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "another program's").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"another program's");
    }

    #[test]
    fn reused_inode_number_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let mut listener = Listener::bind(&path, None).unwrap();
        // The reactors close the socket before the path is removed.
        drop(listener.take());
        std::fs::remove_file(&path).unwrap();
        // Many file systems give the next file the number that was freed.
        std::fs::write(&path, "another program's").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"another program's");
    }

    #[test]
    fn link_is_neither_followed_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("sock"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let is_refused = || matches!(Listener::bind(&path, None), Err(ListenError::NotASocket(_)));
        assert!(is_refused() && !target.exists(), "no file is created at the target of the link");
        // A stale socket, which would be replaced if it were the path itself.
        drop(std::os::unix::net::UnixListener::bind(&target).unwrap());
        assert!(is_refused() && target.exists() && path.is_symlink());
    }
}
