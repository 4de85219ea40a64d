//! The listening sockets and their paths.
//!
//! A path is taken over only when it is a socket that nobody serves any more, and removed only as long as
//! it is the very socket that was bound: a descriptor of that inode is kept, so that its number cannot be
//! given to another meanwhile. `bind` itself never follows a link. What is left are the moments between a look
//! and the `unlink` after it, as no system call does both; in them only somebody may interfere who can
//! rename in that directory, which in one with the sticky bit, like `/tmp`, is our own user or root.
//!
//! Two servers that start at the same moment on the same path are kept apart by an abstract socket of
//! that name, which the kernel frees when its owner ends, however it ends. Anybody can have an abstract
//! socket, so it counts only when its owner is our own user or root.
//!
//! The permissions of a path are there from the moment when it is, as the kernel makes them from the umask; to
//! change them afterwards would be too late for whoever must not connect.
//!
//! A path whose socket was handed over (`activated`) is none of our business: all of that is left to its giver.

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

/// The permissions of a path, as `chmod` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Only the server's own user, and root, may connect.
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

/// A listening socket; its path is removed when it is dropped, unless the socket was handed over.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Hand it to a reactor with [`take`](Self::take).
    socket: Option<UnixListener>,
    /// Unless it was handed over.
    own: Option<OwnPath>,
}

/// A path that is there because of us.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    bound: Inode,
    _guard: Option<UnixListener>,
}

/// What a path leads to, itself and not what a link points to. Its number is not given to another as long as
/// this is held.
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

    /// Removes `path`, if it still leads here; `false` when it does not.
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
    /// What was handed over for `path`, or else binds it ([`bind`](Self::bind)).
    ///
    /// # Errors
    /// [`ListenError`] says what is there, or why it cannot be used.
    pub(crate) fn new(
        path: &Path,
        mode: Option<Mode>,
        activated: &mut ActivatedSockets,
    ) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { path: path.to_path_buf(), source };
        let Some(socket) = activated.take(path).map_err(io)? else {
            return Self::bind(path, mode);
        };
        tracing::info!("{} was handed over by whoever started this server", path.display());
        if mode.is_some() {
            tracing::warn!(
                "{}: its permissions are those with which it was handed over (SocketMode= in a .socket unit): \
                 --socket-mode does not change them",
                path.display()
            );
        }
        Ok(Self { socket: Some(UnixListener::from_std(socket)), own: None })
    }

    /// Listens at `path`, which gets these permissions, or those that the umask gives it.
    ///
    /// # Errors
    /// [`ListenError`] says what is there, or why it cannot be used.
    pub(crate) fn bind(path: &Path, mode: Option<Mode>) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { path: path.to_path_buf(), source };
        if path.as_os_str().len() > MAX_PATH {
            return Err(ListenError::TooLong(path.to_path_buf()));
        }
        let guard = guard(path)?;
        clear(path)?;
        let socket = bind(path, mode).map_err(io)?;
        let bound = Inode::of(path).map_err(io)?;
        let own = OwnPath { path: path.to_path_buf(), bound, _guard: guard };
        Ok(Self { socket: Some(socket), own: Some(own) })
    }

    /// Whether whoever started this server keeps the socket when it ends.
    pub(crate) fn is_activated(&self) -> bool {
        self.own.is_none()
    }

    /// The socket, once.
    pub(crate) fn take(&mut self) -> Option<UnixListener> {
        self.socket.take()
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        match self.bound.unlink(&self.path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{} could not be removed: {error}", self.path.display()),
        }
    }
}

/// Binds and listens.
fn bind(path: &Path, mode: Option<Mode>) -> io::Result<UnixListener> {
    /// The umask is the process's.
    static UMASK: Mutex<()> = Mutex::new(());
    let Some(Mode(mode)) = mode else { return UnixListener::bind(path) };
    let _alone = UMASK.lock();
    // A socket is made with all permissions that the umask leaves. Nothing else of this program makes files.
    let before = umask(stat::Mode::from_bits_truncate(!mode & 0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// The abstract socket that stands for the path while its server lives. Without one when somebody has it who
/// cannot be that server: then the path alone tells whether it is served.
fn guard(path: &Path) -> Result<Option<UnixListener>, ListenError> {
    let io = |source| ListenError::Io { path: path.to_path_buf(), source };
    let absolute = std::path::absolute(path).map_err(io)?;
    // Abstract names are as short as paths may be, so the path itself has no room beside a prefix.
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
                    "{}: the abstract socket that keeps other servers off belongs to another user",
                    path.display()
                );
                Ok(None)
            }
        },
        Err(error) => Err(io(error)),
    }
}

/// The user who listens there. Whoever lets nobody connect is unknown: nobody ever connects to a guard but
/// servers that start, so one of ours is never so full.
fn owner(name: &SocketAddr) -> Option<u32> {
    let stream = UnixStream::connect_addr(name).ok()?;
    getsockopt(&stream, PeerCredentials).ok().map(|owner| owner.uid())
}

/// Makes room at `path`, if what is there is a socket without a server.
fn clear(path: &Path) -> Result<(), ListenError> {
    let io = |source| ListenError::Io { path: path.to_path_buf(), source };
    let found = match Inode::of(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if !found.is_socket().map_err(io)? {
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
            match found.unlink(path) {
                Ok(true) => Ok(()),
                // Somebody else has just done so, and serves there now.
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
    fn a_live_path_is_refused_a_stale_one_replaced_and_files_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        // Left behind: bound by a socket that is closed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&path, None).unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ListenError::InUse(_))));
        assert!(path.exists(), "the first server's path is untouched");
        drop(first);
        assert!(!path.exists());
        // Somebody else's live socket, without our guard.
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ListenError::InUse(_))));
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!("0".parse(), Ok(Mode(0)));
        assert_eq!("660".parse(), Ok(Mode(0o660)));
        assert_eq!("0777".parse(), Ok(Mode(0o777)));
        for bad in ["", "8", "1000", "01777", "u=rw", "0x1ff", "0o660", "+660", "-1", " 660", "6 0"]
        {
            assert!(bad.parse::<Mode>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mode_holds_from_the_moment_when_the_path_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
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
            assert_eq!(watcher.join().unwrap(), HashSet::from([0o620]));
        });
    }

    #[test]
    fn a_path_that_was_replaced_meanwhile_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = Listener::bind(&path, None).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    }

    #[test]
    fn another_file_with_the_same_number_is_not_taken_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let mut listener = Listener::bind(&path, None).unwrap();
        // The reactors end before the path is removed, and the socket with them.
        drop(listener.take());
        std::fs::remove_file(&path).unwrap();
        // Many file systems give a number that has become free to the next file.
        std::fs::write(&path, "somebody else's").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    }

    #[test]
    fn a_link_is_left_alone_wherever_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("sock"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let is_refused = || matches!(Listener::bind(&path, None), Err(ListenError::NotASocket(_)));
        assert!(is_refused() && !target.exists(), "nothing is made where it leads");
        // A stale socket, which would be replaced if it were at the path itself.
        drop(std::os::unix::net::UnixListener::bind(&target).unwrap());
        assert!(is_refused() && target.exists() && path.is_symlink());
    }
}
