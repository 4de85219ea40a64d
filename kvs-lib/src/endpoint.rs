//! The endpoints of a login: two sockets, bound to paths and not yet connected.
//!
//! The original server distinguishes clients by the path to which a client binds its socket. The
//! paths are `/tmp/app_socket_<pid>` for the main channel and `/tmp/app_socket_cb_<pid>` for the
//! callback channel, each followed by `_<n>` when the process has several logins in progress or the
//! name is taken. Both paths carry the same number, because the server pairs the channels by it; so
//! both sockets are bound before either is connected.
//!
//! A path is unlinked as soon as its socket is connected: the peer keeps the name, the file system
//! does not. Every user can write to the directory of the paths, so a name may be taken, by
//! accident or on purpose. Then another name is tried, and finally one that cannot be predicted.
//! Only sockets of the same user are removed, and links are not followed.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, bind};

use crate::channel::ClientChannel;
use crate::client_number::ClientNumber;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::sys;

/// The two sockets of one login.
#[derive(Debug)]
pub(crate) struct ClientEndpoints {
    pub(crate) main: ClientEndpoint,
    pub(crate) callback: ClientEndpoint,
    /// Must be kept until both endpoints are connected.
    pub(crate) number: ClientNumber,
}

impl ClientEndpoints {
    /// The number of attempts with small numbers, and then with random ones.
    const MAX_SMALL_ATTEMPTS: usize = 4;
    const MAX_RANDOM_ATTEMPTS: usize = 4;

    /// Binds two new sockets to free paths.
    pub(crate) fn bind() -> Result<Self, Error> {
        // A number whose path was taken stays claimed, so that the next attempt gets another one.
        let mut taken = Vec::new();
        for attempt in 1.. {
            let number = if attempt <= Self::MAX_SMALL_ATTEMPTS {
                ClientNumber::claim()
            } else {
                ClientNumber::random()
            }?;
            let is_last = attempt == Self::MAX_SMALL_ATTEMPTS + Self::MAX_RANDOM_ATTEMPTS;
            match Self::bind_to(number) {
                Ok(endpoints) => return Ok(endpoints),
                Err((number, error)) if is_taken(&error) && !is_last => taken.push(number),
                Err((_, error)) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn bind_to(number: ClientNumber) -> Result<Self, (ClientNumber, Error)> {
        let bind = || {
            let main = ClientEndpoint::bind(number.path("app_socket"))?;
            let callback = ClientEndpoint::bind(number.path("app_socket_cb"))?;
            Ok((main, callback))
        };
        match bind() {
            Ok((main, callback)) => Ok(Self { main, callback, number }),
            Err(error) => Err((number, error)),
        }
    }
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse)
}

/// A socket that is bound to a path and not yet connected.
#[derive(Debug)]
pub(crate) struct ClientEndpoint {
    // Dropped first: the path is unlinked while the socket is open.
    _path: BoundPath,
    channel: ClientChannel,
}

impl ClientEndpoint {
    fn bind(path: PathBuf) -> Result<Self, Error> {
        let channel = ClientChannel::new()?;
        let path = BoundPath::bind(channel.as_fd(), path)?;
        Ok(Self { _path: path, channel })
    }

    /// Connects to `server`; tries again after each error for which `retry` returns true.
    pub(crate) fn connect(
        self,
        server: &Path,
        deadline: Deadline,
        mut retry: impl FnMut(&io::Error) -> bool,
    ) -> Result<ClientChannel, Error> {
        loop {
            match self.channel.connect_to(server, deadline) {
                Ok(()) => return Ok(self.channel),
                Err(error) if retry(&error) => {}
                Err(source) => return Err(Error::Connect { path: server.into(), source }),
            }
        }
    }
}

/// A path to which a socket of this client is bound. It is unlinked when this value is dropped.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    /// The file that `bind` created; `None` if it was gone before it could be examined.
    created: Option<FileIdentity>,
}

/// Distinguishes a file from another one that replaced it under the same name.
#[derive(Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl BoundPath {
    fn bind(socket: BorrowedFd<'_>, path: PathBuf) -> Result<Self, Error> {
        let bind = || -> nix::Result<()> {
            let address = UnixAddr::new(&path)?;
            match bind(socket.as_raw_fd(), &address) {
                // It remains from a killed process that had the process id of this one.
                Err(Errno::EADDRINUSE) if socket_of_this_user(&path).is_some() => {
                    let _ = std::fs::remove_file(&path);
                    nix::sys::socket::bind(socket.as_raw_fd(), &address)
                }
                result => result,
            }
        };
        match bind() {
            Ok(()) => Ok(Self { created: socket_of_this_user(&path), path }),
            Err(errno) => Err(Error::Bind { path, source: errno.into() }),
        }
    }
}

impl Drop for BoundPath {
    /// In a sticky directory like `/tmp` only the owner of a file can remove or replace it: another
    /// program of the same user. A file with which it replaced the socket is not removed.
    fn drop(&mut self) {
        if self.created.is_some() && self.created == socket_of_this_user(&self.path) {
            // An error means that the file is gone already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The file at `path`, if it is a socket that belongs to the effective user. Does not follow links.
fn socket_of_this_user(path: &Path) -> Option<FileIdentity> {
    let found = std::fs::symlink_metadata(path).ok()?;
    let ours = found.file_type().is_socket() && found.uid() == sys::effective_user();
    ours.then(|| FileIdentity { device: found.dev(), inode: found.ino() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn paths_are_unlinked_once_connected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server");
        let listener = UnixListener::bind(&path).unwrap();
        let endpoints = ClientEndpoints::bind().unwrap();
        let deadline = Deadline::after(Duration::from_secs(10));
        let _channel = endpoints.main.connect(&path, deadline, |_| false).unwrap();
        let (_peer, address) = listener.accept().unwrap();
        let bound = address.as_pathname().unwrap();
        assert!(bound.to_str().unwrap().starts_with("/tmp/app_socket_"), "{bound:?}");
        assert!(!bound.exists(), "the path is unlinked");
    }

    #[test]
    fn file_that_replaced_a_bound_path_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("end");
        let endpoint = ClientEndpoint::bind(path.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not ours").unwrap();
        drop(endpoint);
        assert_eq!(std::fs::read(&path).unwrap(), b"not ours");
        assert!(is_taken(&ClientEndpoint::bind(path.clone()).unwrap_err()));
        assert_eq!(std::fs::read(&path).unwrap(), b"not ours");
        std::fs::remove_file(&path).unwrap();

        let endpoint = ClientEndpoint::bind(path.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        // A socket of the same user, but another one.
        let other = UnixListener::bind(&path).unwrap();
        drop(endpoint);
        assert!(path.exists());
        drop(other);
        // The socket stays in the file system, as if its process had been killed: it is replaced.
        drop(ClientEndpoint::bind(path.clone()).unwrap());
        assert!(!path.exists());

        std::os::unix::fs::symlink(dir.path().join("nowhere"), &path).unwrap();
        assert!(is_taken(&ClientEndpoint::bind(path.clone()).unwrap_err()));
        assert!(path.symlink_metadata().is_ok());
    }
}
