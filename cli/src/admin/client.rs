//! The client of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use kvs_proto::control::{AdminRequest, AdminResponse, MAX_RESPONSE_LEN};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;

use crate::admin::error::{AdminError, UserName};
use crate::admin::trust::is_trusted;

/// The timeout of a response. The server has shorter timeouts for its authentication server and for
/// applications that are slow to disconnect.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to a trusted server.
pub(super) struct ControlClient {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    pub(super) fn open(path: PathBuf) -> Result<Self, AdminError> {
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(match std::fs::metadata(&path) {
                    Ok(found) => AdminError::Permission { path, owner: UserName(found.uid()) },
                    Err(_) => AdminError::NoServer { path, error },
                });
            }
            Err(error) => return Err(AdminError::NoServer { path, error }),
        };
        let failed =
            |error| AdminError::Connection { path: path.clone(), error, maybe_executed: false };
        let owner = getsockopt(&stream, PeerCredentials).map_err(|error| failed(error.into()))?;
        let (server, us) = (owner.uid(), geteuid().as_raw());
        if !is_trusted(server, us, &path).map_err(failed)? {
            return Err(AdminError::Untrusted { path, owner: UserName(server) });
        }
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).map_err(failed)?;
        stream.set_write_timeout(Some(RESPONSE_TIMEOUT)).map_err(failed)?;
        Ok(Self { path, stream: BufReader::new(stream) })
    }

    fn failed(&self, error: io::Error, maybe_executed: bool) -> AdminError {
        let error = match error.kind() {
            ErrorKind::WouldBlock => io::Error::other("the server did not respond in time"),
            _ => error,
        };
        AdminError::Connection { path: self.path.clone(), error, maybe_executed }
    }

    /// The error for a response of the wrong type.
    pub(super) fn unexpected(&self) -> AdminError {
        self.failed(io::Error::other("the response belongs to another request"), true)
    }

    /// Sends a request and receives its response of one line. A refusal is an error.
    pub(super) fn request(&mut self, request: &AdminRequest) -> Result<AdminResponse, AdminError> {
        self.send(request)?;
        self.receive(!matches!(request, AdminRequest::Info { .. }))
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: &AdminRequest) -> Result<(), AdminError> {
        match self.stream.get_mut().write_all(&request.encode()) {
            Ok(()) => Ok(()),
            // A server that refuses the connection replies before it reads a request, so the
            // reason may already be received.
            Err(error)
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed(error, false)),
        }
    }

    /// Receives a line of a response. A refusal is an error. `has_effects` says whether the request
    /// changes the server.
    pub(super) fn receive(&mut self, has_effects: bool) -> Result<AdminResponse, AdminError> {
        let mut line = Vec::new();
        let limit = MAX_RESPONSE_LEN as u64;
        if let Err(error) = self.stream.by_ref().take(limit).read_until(b'\n', &mut line) {
            return Err(self.failed(error, has_effects));
        }
        if line.last() != Some(&b'\n') {
            return Err(
                self.failed(io::Error::other("the server closed the connection"), has_effects)
            );
        }
        match AdminResponse::decode(&line) {
            Ok(AdminResponse::Error { kind, message }) => {
                Err(AdminError::Refused { kind, message })
            }
            Ok(response) => Ok(response),
            Err(error) => Err(AdminError::BadReply { path: self.path.clone(), error }),
        }
    }

    /// Waits until the server has shut down, which closes the connection.
    pub(super) fn wait_for_shutdown(&mut self) -> Result<(), AdminError> {
        let mut rest = [0; 64];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(self.failed(error, true)),
            }
        }
    }
}
