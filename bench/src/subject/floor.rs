//! The least that a request to another process can take: a bare ping-pong.
//!
//! As many bytes as a request of the framed session go over a connected pair of UNIX stream sockets to a second process, which sends
//! as many as the answer has. Both use blocking calls, one to send and one to receive, and do nothing with the
//! bytes. The two processes are this program; the second is started with exec, as a server would be.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use kvs_proto::v2::HEADER_LEN;

use super::Client;
use crate::error::{Doing, Result};

/// The other process, and the socket to it, for one kind of operation.
#[derive(Debug)]
struct Pong {
    socket: UnixStream,
    child: Child,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Pong {
    fn start(request: usize, answer: usize) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().doing(|| "making a pair of sockets".into())?;
        let program = std::env::current_exe().doing(|| "finding this program".into())?;
        let child = Command::new(program)
            .args(["echo", &request.to_string(), &answer.to_string()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .doing(|| "starting the other side of the floor".into())?;
        Ok(Self { socket: ours, child, request: vec![b'.'; request], answer: vec![0; answer] })
    }

    fn exchange(&mut self) -> Result<()> {
        let mut exchange = || {
            self.socket.write_all(&self.request)?;
            self.socket.read_exact(&mut self.answer)
        };
        exchange().doing(|| "floor: the other process".into())
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

/// What the other process does.
pub(crate) fn echo(receive: usize, send: usize) -> Result<()> {
    let stdin = std::io::stdin();
    let socket = stdin.as_fd().try_clone_to_owned().doing(|| "duplicating the socket".into())?;
    let mut socket = UnixStream::from(socket);
    let (mut request, answer) = (vec![0; receive], vec![b'.'; send]);
    loop {
        match socket.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            result => result.doing(|| "receiving".into())?,
        }
        match socket.write_all(&answer) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.doing(|| "sending".into())?,
        }
    }
}
