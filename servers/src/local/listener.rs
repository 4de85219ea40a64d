//! The two listening sockets and their paths.
//!
//! A path is taken over only when it is a socket that nobody serves any more, and removed only as long as
//! it is the very socket that was bound. Two servers that start at the same moment on the same path are kept
//! apart by an abstract socket of that name, which the kernel frees when its owner ends, however it ends.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};

/// The longest path of a UNIX socket: 108 bytes with the terminating NUL (unix(7)).
const MAX_PATH: usize = 107;

/// Why a path cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A live server is there.
    #[error("{} is in use: another KVS-LocalServer is serving there. Stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket; it is left alone. Choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The system has no room for it.
    #[error("{} is too long for a socket: {} bytes, at most {MAX_PATH} are allowed. Choose a shorter path",
        .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// Anything else.
    #[error("{} cannot be served: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening socket; its path is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Hand it to a reactor with [`take`](Self::take).
    socket: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of what was bound.
    bound: (u64, u64),
    _guard: UnixDatagram,
}

impl Listener {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`ListenError`] says what is there, or why it cannot be used.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { path: path.to_path_buf(), source };
        if path.as_os_str().len() > MAX_PATH {
            return Err(ListenError::TooLong(path.to_path_buf()));
        }
        let guard = guard(path).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(path.to_path_buf()),
            _ => io(error),
        })?;
        clear(path)?;
        let socket = UnixListener::bind(path).map_err(io)?;
        let metadata = std::fs::symlink_metadata(path).map_err(io)?;
        Ok(Self {
            socket: Some(socket),
            path: path.to_path_buf(),
            bound: (metadata.dev(), metadata.ino()),
            _guard: guard,
        })
    }

    /// The socket, once.
    pub(crate) fn take(&mut self) -> Option<UnixListener> {
        self.socket.take()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.bound);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// The abstract socket that stands for the path while its server lives.
fn guard(path: &Path) -> io::Result<UnixDatagram> {
    let absolute = std::path::absolute(path)?;
    // Abstract names are as short as paths may be, so the path itself has no room beside a prefix.
    let hash = super::stable_hash(absolute.as_os_str().as_encoded_bytes());
    let name = format!("kvs-local-server-{hash:016x}");
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Makes room at `path`, if what is there is a socket without a server.
fn clear(path: &Path) -> Result<(), ListenError> {
    let io = |source| ListenError::Io { path: path.to_path_buf(), source };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_path_buf()));
    }
    // Does not wait: a full backlog is a sign of life too.
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ListenError::InUse(path.to_path_buf()))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{} was left behind by a server that is gone: replaced", path.display());
            std::fs::remove_file(path).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_path_is_refused_a_stale_one_replaced_and_files_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        // Left behind: bound by a socket that is closed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::InUse(_))));
        assert!(path.exists(), "the first server's path is untouched");
        drop(first);
        assert!(!path.exists());
        // Somebody else's live socket, without our guard.
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::InUse(_))));
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_path_that_was_replaced_meanwhile_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = Listener::bind(&path).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    }
}
