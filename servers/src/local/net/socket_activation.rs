//! Socket activation: listening sockets that the service manager has bound (sd_listen_fds(3)).
//!
//! The service manager keeps such a socket open while no server runs; connections made meanwhile
//! wait in its backlog for the next server. So the server never removes the path or changes its
//! permissions, and needs no protection from a second server: only one receives the socket.
//!
//! The server matches sockets to options by the address that they are bound to, not by order or
//! name. It refuses to start with a descriptor that is not a listening UNIX stream socket, or whose
//! path no option names, because it would not serve the clients there. It binds a path without an
//! activated socket as usual.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, SockType};
use nix::sys::socket::{self, SockaddrLike, SockaddrStorage, getsockname, getsockopt};

/// Why an activated socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The descriptor is not a socket that applications can connect to.
    #[error(
        "{name} was passed by the service manager and is {kind}: it must be a listening UNIX \
         stream socket (ListenStream= with a path and Accept=no in a .socket unit)"
    )]
    Unusable {
        /// The descriptor's number and address.
        name: String,
        /// What the descriptor is.
        kind: &'static str,
    },
    /// No option names the path of the socket.
    #[error(
        "the socket {} was passed by the service manager, but no option names it: {options}. Name \
         it with one of these options, or remove it (ListenStream= in a .socket unit)",
        path.display()
    )]
    Unknown {
        /// The path.
        path: PathBuf,
        /// The options with their values, for the message.
        options: String,
    },
    /// An error of the system.
    #[error("the sockets that the service manager has passed cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Activated sockets that are not in use yet.
#[derive(Debug, Default)]
pub struct ActivatedSockets(Vec<(PathBuf, UnixListener)>);

impl ActivatedSockets {
    /// Takes descriptors, which must be listening UNIX stream sockets with a path.
    ///
    /// # Errors
    /// [`ActivationError::Unusable`] names the first that is not.
    pub fn new(descriptors: impl IntoIterator<Item = OwnedFd>) -> Result<Self, ActivationError> {
        descriptors.into_iter().map(checked).collect::<Result<_, _>>().map(Self)
    }

    /// Removes and returns the socket that is bound to `path`, in non-blocking mode.
    pub(crate) fn take(&mut self, path: &Path) -> io::Result<Option<UnixListener>> {
        let path = absolute(path)?;
        let Some(found) = self.0.iter().position(|(bound, _)| *bound == path) else {
            return Ok(None);
        };
        let (_, socket) = self.0.remove(found);
        socket.set_nonblocking(true)?;
        Ok(Some(socket))
    }

    /// Checks that every socket was taken. `options` are those that name sockets, with their paths.
    ///
    /// # Errors
    /// [`ActivationError::Unknown`] names the first that was not taken.
    pub(crate) fn expect_none_left(self, options: &[(&str, &Path)]) -> Result<(), ActivationError> {
        let Some((path, _)) = self.0.into_iter().next() else { return Ok(()) };
        let options: Vec<_> = options
            .iter()
            .map(|(option, path)| format!("{option} is {}", path.display()))
            .collect();
        Err(ActivationError::Unknown { path, options: options.join(", ") })
    }
}

/// Checks the kind of the descriptor, and returns its path with the socket.
fn checked(descriptor: OwnedFd) -> Result<(PathBuf, UnixListener), ActivationError> {
    let address = getsockname::<SockaddrStorage>(descriptor.as_raw_fd());
    let unusable = |kind| {
        let number = descriptor.as_raw_fd();
        let name = match &address {
            Ok(address) => format!("descriptor {number} ({})", AddressDisplay(address)),
            Err(_) => format!("descriptor {number}"),
        };
        Err(ActivationError::Unusable { name, kind })
    };
    let family = match &address {
        Ok(address) => address.family(),
        Err(Errno::ENOTSOCK) => return unusable("not a socket"),
        Err(errno) => return Err(io::Error::from(*errno).into()),
    };
    if family != Some(socket::AddressFamily::Unix) {
        return unusable("a network socket");
    }
    if getsockopt(&descriptor, SockType).map_err(io::Error::from)? != socket::SockType::Stream {
        return unusable("a datagram or packet socket");
    }
    if !getsockopt(&descriptor, AcceptConn).map_err(io::Error::from)? {
        return unusable("not listening");
    }
    let listener = UnixListener::from(descriptor.try_clone()?);
    match listener.local_addr()?.as_pathname() {
        Some(path) => Ok((absolute(path)?, UnixListener::from(descriptor))),
        None => unusable("a socket without a path"),
    }
}

/// An address, for the message.
struct AddressDisplay<'a>(&'a SockaddrStorage);

impl fmt::Display for AddressDisplay<'_> {
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
