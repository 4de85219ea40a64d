//! The minimum time of a request to another process: a bare ping-pong.
//!
//! As many bytes as a request of protocol v2 go over a connected pair of UNIX stream sockets to a
//! second process, which sends as many as the response has. Both use blocking calls, one to send
//! and one to receive, and do nothing with the bytes. Both processes are this program; the second
//! is started with exec, as a server would be.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use kvs_proto::v2::HEADER_LEN;

use super::client::Client;
use crate::error::{IoContext, Result};

/// The other process, and the socket to it, for one kind of operation.
#[derive(Debug)]
struct Pong {
    socket: UnixStream,
    child: Child,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Pong {
    fn start(request: usize, response: usize) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().io_context(|| "making a pair of sockets".into())?;
        let program = std::env::current_exe().io_context(|| "finding this program".into())?;
        let child = Command::new(program)
            .args(["echo", &request.to_string(), &response.to_string()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .io_context(|| "starting the other side of the floor".into())?;
        Ok(Self { socket: ours, child, request: vec![b'.'; request], response: vec![0; response] })
    }

    fn exchange(&mut self) -> Result<()> {
        let mut exchange = || {
            self.socket.write_all(&self.request)?;
            self.socket.read_exact(&mut self.response)
        };
        exchange().io_context(|| "floor: the other process".into())
    }
}

impl Drop for Pong {
    fn drop(&mut self) {
        // It ends at the end of its input.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The ping-pong of the bytes of a get, and of those of a put.
#[derive(Debug)]
pub(crate) struct Floor {
    get: Pong,
    put: Pong,
}

impl Floor {
    /// Starts the other processes.
    pub(crate) fn start(key: usize, value: usize) -> Result<Self> {
        Ok(Self {
            get: Pong::start(HEADER_LEN + key, HEADER_LEN + value)?,
            put: Pong::start(HEADER_LEN + key + value, HEADER_LEN)?,
        })
    }
}

impl Client for Floor {
    fn get(&mut self, _: &[u8], _: usize) -> Result<()> {
        self.get.exchange()
    }

    fn put(&mut self, _: &[u8], _: &[u8]) -> Result<()> {
        self.put.exchange()
    }
}

/// The other process.
pub(crate) fn echo(receive: usize, send: usize) -> Result<()> {
    let stdin = std::io::stdin();
    let socket =
        stdin.as_fd().try_clone_to_owned().io_context(|| "duplicating the socket".into())?;
    let mut socket = UnixStream::from(socket);
    let (mut request, response) = (vec![0; receive], vec![b'.'; send]);
    loop {
        match socket.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            result => result.io_context(|| "receiving".into())?,
        }
        match socket.write_all(&response) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.io_context(|| "sending".into())?,
        }
    }
}
