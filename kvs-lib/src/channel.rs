//! One connected UNIX stream socket, and the time that a call may take on it.
//!
//! Every wait is for an event (`poll`) and ends at a [`Deadline`] that covers the whole call, so a peer
//! that sends a byte now and then gains nothing. Nothing here raises SIGPIPE; an interrupting signal is
//! served by its handler and the wait goes on. All descriptors are close-on-exec, and are closed in
//! forked children.
//!
//! The original server tells applications apart by the path to which they bind their end
//! ([`ClientPath`]). The path is unlinked as soon as the connection stands: the peer keeps the name, the
//! file system does not.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, bind, connect, recv, send,
    setsockopt, shutdown, socket, sockopt::SendTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::Error;
use crate::fork::{self, Registered};
use crate::sys;

/// `poll` reports a hang-up without being asked for anything.
const HANG_UP: PollFlags = PollFlags::empty();

/// The point in time at which a call gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    /// The time that is left; `None` when it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn left_or_timed_out(self) -> io::Result<Duration> {
        self.left().ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Channel {
    // Dropped first: between the two, a forked child would close a number that is somebody else's.
    registered: Registered,
    socket: OwnedFd,
}

impl Channel {
    /// Connects to `server` from a socket bound to `client`.
    pub(crate) fn connect(
        server: &Path,
        client: &ClientPath,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|error| Error::Socket(error.into()))?;
        let channel = Self { registered: fork::register(socket.as_raw_fd()), socket };
        let _bound = client.bind(&channel.socket)?;
        channel
            .connect_to(server, deadline)
            .map_err(|source| Error::Connect { path: server.to_path_buf(), source })?;
        Ok(channel)
    }

    /// A full backlog makes `connect` wait for as long as the socket's send time-out says.
    fn connect_to(&self, server: &Path, deadline: Deadline) -> io::Result<()> {
        let address = UnixAddr::new(server)?;
        loop {
            let left = deadline.left_or_timed_out()?.max(Duration::from_micros(1));
            let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
            setsockopt(&self.socket, SendTimeout, &TimeVal::microseconds(micros))?;
            match connect(self.socket.as_raw_fd(), &address) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(ErrorKind::TimedOut.into()),
                result => return Ok(result?),
            }
        }
    }

    /// Sends all of `bytes`; no bytes at all are not sent.
    pub(crate) fn send(&self, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match send(self.socket.as_raw_fd(), bytes, flags) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, Some(deadline))?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Fills `buffer`; without a deadline, waits for as long as it takes.
    pub(crate) fn receive(
        &self,
        mut buffer: &mut [u8],
        deadline: Option<Deadline>,
    ) -> io::Result<()> {
        while !buffer.is_empty() {
            self.wait(PollFlags::POLLIN, deadline)?;
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(received) => buffer = &mut buffer[received..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Fills `buffer`, unless the peer hangs up on `other` before the first byte is here.
    pub(crate) fn receive_while_open(
        &self,
        buffer: &mut [u8],
        other: &Self,
        deadline: Deadline,
    ) -> io::Result<()> {
        loop {
            let timeout = whole_millis(deadline.left_or_timed_out()?);
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(other.socket.as_fd(), HANG_UP),
            ];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) if fds[0].any() == Some(true) => {
                    return self.receive(buffer, Some(deadline));
                }
                Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the peer has read everything that was sent, or has gone: then nothing waits any more.
    ///
    /// The kernel has no event for it. It is nearly always so already, or as soon as the peer was
    /// scheduled; hence first the processor is offered to it, and only then short sleeps follow.
    pub(crate) fn wait_until_read(&self, deadline: Deadline) -> io::Result<()> {
        const YIELDS: u32 = 20;
        for round in 0u32.. {
            if sys::unread_by_peer(self.socket.as_fd())? == 0 {
                break;
            }
            let left = deadline.left_or_timed_out()?;
            match round.checked_sub(YIELDS) {
                None => thread::yield_now(),
                Some(sleeps) => {
                    thread::sleep(Duration::from_micros(20 << sleeps.min(6)).min(left));
                }
            }
        }
        Ok(())
    }

    /// Whether the peer hangs up before `wait` is over.
    pub(crate) fn hangs_up_within(&self, wait: Duration) -> io::Result<bool> {
        match self.wait(HANG_UP, Some(Deadline::after(wait))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wait(&self, events: PollFlags, deadline: Option<Deadline>) -> io::Result<()> {
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => whole_millis(deadline.left_or_timed_out()?),
            };
            let mut fds = [PollFd::new(self.socket.as_fd(), events)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the conversation in both directions: whoever waits on this socket, here or at the peer, sees
    /// its end at once.
    pub(crate) fn shut_down(&self) {
        // It fails when the peer has gone already.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Closes the socket.
    pub(crate) fn close(self) -> Result<(), Error> {
        // A forked child may still hold a copy when the fork came in between.
        self.shut_down();
        let Self { registered, socket } = self;
        drop(registered);
        nix::unistd::close(socket.into_raw_fd()).map_err(|error| Error::Close(error.into()))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// For `poll`: never less than what is left, or the last millisecond would be spent spinning.
fn whole_millis(left: Duration) -> PollTimeout {
    let millis = left.as_micros().div_ceil(1000).min(u128::from(i32::MAX as u32));
    PollTimeout::try_from(millis as i32).unwrap_or(PollTimeout::MAX)
}

/// The numbers below [`REUSED`] that are in use, a bit each. Not behind a lock, which a fork at the wrong
/// moment would leave locked in the child.
static IN_USE: AtomicU64 = AtomicU64::new(0);
const REUSED: u32 = u64::BITS;

/// Further numbers, each used once.
static NEXT: AtomicU32 = AtomicU32::new(REUSED);

/// In a forked child: none of its connections is being opened. Async-signal-safe.
pub(crate) fn forget_numbers() {
    IN_USE.store(0, Ordering::Relaxed);
}

/// The path to which an application's socket is bound: `/tmp/app_socket_<pid>` on the main channel and
/// `/tmp/app_socket_cb_<pid>` on the callback channel, followed by `_<n>` for connections of the same
/// process that are opened at the same time. The number is the same on both channels.
#[derive(Debug)]
pub(crate) struct ClientPath {
    path: PathBuf,
}

/// The number of one connection while it is opened.
#[derive(Debug)]
pub(crate) struct ClientNumber {
    generation: u32,
    number: u32,
}

impl ClientNumber {
    /// The lowest number that is free in this process, so that usually it is 0.
    pub(crate) fn claim() -> Self {
        let is_free = |number: &u32| {
            let bit = 1 << number;
            IN_USE.fetch_or(bit, Ordering::Relaxed) & bit == 0
        };
        let number = (0..REUSED)
            .find(is_free)
            .unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed).max(REUSED));
        Self { generation: fork::generation(), number }
    }

    pub(crate) fn main(&self) -> ClientPath {
        self.path("app_socket")
    }

    pub(crate) fn callback(&self) -> ClientPath {
        self.path("app_socket_cb")
    }

    fn path(&self, stem: &str) -> ClientPath {
        let pid = std::process::id();
        ClientPath {
            path: match self.number {
                0 => format!("/tmp/{stem}_{pid}"),
                number => format!("/tmp/{stem}_{pid}_{number}"),
            }
            .into(),
        }
    }
}

impl Drop for ClientNumber {
    fn drop(&mut self) {
        if self.number < REUSED && self.generation == fork::generation() {
            IN_USE.fetch_and(!(1 << self.number), Ordering::Relaxed);
        }
    }
}

impl ClientPath {
    /// Binds, and unlinks the path again when the result is dropped.
    fn bind(&self, socket: &OwnedFd) -> Result<Unlink<'_>, Error> {
        let error = |errno: Errno| Error::Bind { path: self.path.clone(), source: errno.into() };
        let address = UnixAddr::new(&self.path).map_err(error)?;
        let mut result = bind(socket.as_raw_fd(), &address);
        // Left behind by a process that was killed between its `bind` and its `connect`, and whose number
        // is ours now. What belongs to another user, or is no socket, is not ours to remove.
        if result == Err(Errno::EADDRINUSE) && self.is_our_socket() {
            let _ = std::fs::remove_file(&self.path);
            result = bind(socket.as_raw_fd(), &address);
        }
        result.map_err(error)?;
        Ok(Unlink(&self.path))
    }

    fn is_our_socket(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| {
            found.file_type().is_socket() && found.uid() == sys::effective_user()
        })
    }
}

struct Unlink<'a>(&'a Path);

impl Drop for Unlink<'_> {
    fn drop(&mut self) {
        // Gone already: so much the better.
        let _ = std::fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn pair() -> (Channel, std::os::unix::net::UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server");
        let listener = UnixListener::bind(&path).unwrap();
        let number = ClientNumber::claim();
        let deadline = Deadline::after(Duration::from_secs(10));
        let channel = Channel::connect(&path, &number.main(), deadline).unwrap();
        let (peer, address) = listener.accept().unwrap();
        let bound = address.as_pathname().unwrap();
        assert!(bound.to_str().unwrap().starts_with("/tmp/app_socket_"), "{bound:?}");
        assert!(!bound.exists(), "the path is unlinked");
        (channel, peer)
    }

    #[test]
    fn a_byte_now_and_then_does_not_prolong_the_deadline() {
        let (channel, mut peer) = pair();
        let begin = Instant::now();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let dripping = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
                if peer.write_all(b"x").is_err() {
                    break;
                }
            }
        });
        let timeout = Duration::from_millis(100);
        let error = channel.receive(&mut [0; 4096], Some(Deadline::after(timeout))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() >= timeout);
        stop.send(()).unwrap();
        dripping.join().unwrap();
    }

    #[test]
    fn waiting_until_read_sees_the_peer_read_or_go() {
        let (channel, mut peer) = pair();
        channel.send(b"value", Deadline::after(Duration::from_secs(10))).unwrap();
        assert!(sys::unread_by_peer(channel.as_fd()).unwrap() > 0);
        let error = channel.wait_until_read(Deadline::after(Duration::from_millis(5))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        peer.read_exact(&mut [0; 5]).unwrap();
        channel.wait_until_read(Deadline::after(Duration::from_secs(10))).unwrap();
        channel.send(b"value", Deadline::after(Duration::from_secs(10))).unwrap();
        drop(peer);
        channel.wait_until_read(Deadline::after(Duration::from_secs(10))).unwrap();
    }

    #[test]
    fn numbers_are_reused() {
        let (first, second) = (ClientNumber::claim(), ClientNumber::claim());
        assert_ne!(first.main().path, second.main().path);
        let path = first.main().path.clone();
        drop(first);
        // Other tests claim numbers too; one of the next ones must be the free one again.
        let claimed: Vec<_> = (0..64).map(|_| ClientNumber::claim()).collect();
        assert!(claimed.iter().any(|number| number.main().path == path));
    }
}
