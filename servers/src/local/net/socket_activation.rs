//! Listening sockets that whoever started this server has bound and handed over (socket activation,
//! sd_listen_fds(3)).
//!
//! Such a socket belongs to its giver, who keeps it while no server runs: connections that come meanwhile wait in its
//! queue for the next server. So its path is never removed here, its permissions are not changed, and no guard
//! is needed: only one server has it.
//!
//! Which one is which is found by the address that it is bound to, not by order or name. What is no listening UNIX
//! stream socket, or is bound to a path that no option names, is a mistake of the administrator, and the server
//! does not start: it would serve nobody there. A path for which nothing was handed over is bound as always.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::socket::{self, SockaddrLike, SockaddrStorage, getsockname, getsockopt};

/// Why what was handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Not what applications can connect to.
    #[error(
        "{name} was handed over to this server and is {kind}: it must be a listening UNIX stream socket \
         (ListenStream= with a path and Accept=no in a .socket unit)"
    )]
    Unusable {
        /// Its number and address.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// No option names its path.
    #[error(
        "the socket {} was handed over to this server, which has no use for it: {options}. Name it with one of \
         these options, or do not hand it over (ListenStream= in a .socket unit)",
        path.display()
    )]
    Unknown {
        /// Its path.
        path: PathBuf,
        /// The options with their values, in words.
        options: String,
    },
    /// The system.
    #[error("what was handed over to this server cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// What was handed over and not yet taken.
#[derive(Debug, Default)]
pub struct ActivatedSockets(Vec<(PathBuf, UnixListener)>);

impl ActivatedSockets {
    /// These descriptors, which must be listening UNIX stream sockets with a path.
    ///
    /// # Errors
    /// [`ActivationError::Unusable`] names the first that is not.
    pub fn new(descriptors: impl IntoIterator<Item = OwnedFd>) -> Result<Self, ActivationError> {
        descriptors.into_iter().map(checked).collect::<Result<_, _>>().map(Self)
    }

    /// The socket that is bound to `path`, if it was handed over. It does not block.
    pub(crate) fn take(&mut self, path: &Path) -> io::Result<Option<UnixListener>> {
        let path = absolute(path)?;
        let Some(found) = self.0.iter().position(|(bound, _)| *bound == path) else {
            return Ok(None);
        };
        let (_, socket) = self.0.remove(found);
        socket.set_nonblocking(true)?;
        Ok(Some(socket))
    }

    /// Makes sure that all were taken; `options` are those by which they could have been, with their paths.
    ///
    /// # Errors
    /// [`ActivationError::Unknown`] names the first that was not.
    pub(crate) fn expect_none_left(self, options: &[(&str, &Path)]) -> Result<(), ActivationError> {
        let Some((path, _)) = self.0.into_iter().next() else { return Ok(()) };
        let options: Vec<_> = options
            .iter()
            .map(|(option, path)| format!("{option} is {}", path.display()))
            .collect();
        Err(ActivationError::Unknown { path, options: options.join(", ") })
    }
}

/// The socket with its path, if it is of the right kind.
fn checked(descriptor: OwnedFd) -> Result<(PathBuf, UnixListener), ActivationError> {
    let address = getsockname::<SockaddrStorage>(descriptor.as_raw_fd());
    let unusable = |kind| {
        let number = descriptor.as_raw_fd();
        let name = match &address {
            Ok(address) => format!("descriptor {number} ({})", Shown(address)),
            Err(_) => format!("descriptor {number}"),
        };
        Err(ActivationError::Unusable { name, kind })
    };
    let family = match &address {
        Ok(address) => address.family(),
        Err(Errno::ENOTSOCK) => return unusable("no socket"),
        Err(errno) => return Err(io::Error::from(*errno).into()),
    };
    if family != Some(socket::AddressFamily::Unix) {
        return unusable("a socket of the network");
    }
    if getsockopt(&descriptor, SockType).map_err(io::Error::from)? != socket::SockType::Stream {
        return unusable("a socket for datagrams or packets");
    }
    if !getsockopt(&descriptor, AcceptConn).map_err(io::Error::from)? {
        return unusable("not listening");
    }
    let listener = UnixListener::from(descriptor.try_clone()?);
    match listener.local_addr()?.as_pathname() {
        Some(path) => Ok((absolute(path)?, UnixListener::from(descriptor))),
        None => unusable("without a path"),
    }
}

/// An address as people know it.
struct Shown<'a>(&'a SockaddrStorage);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_unix_addr() {
            Some(address) => match (address.path(), address.as_abstract()) {
                (Some(path), _) => write!(f, "{}", path.display()),
                (None, Some(name)) => write!(f, "@{}", name.escape_ascii()),
                (None, None) => f.write_str("without an address"),
            },
            None => write!(f, "{}", self.0),
        }
    }
}
