//! One UNIX stream socket of the client, and waiting on it.
//!
//! Every wait ends at a [`Deadline`] that covers the whole call. If the remaining time is the
//! timeout of the connection, as it nearly always is, `recv` itself waits, with that timeout set on
//! the socket: one system call. Otherwise `poll` waits.
//!
//! No function raises SIGPIPE. A signal that interrupts a wait is served by its handler, and the
//! wait goes on. All descriptors are close-on-exec, and are closed in forked children.

use std::io::{self, ErrorKind};
#[cfg(feature = "course")]
use std::os::fd::RawFd;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send,
    setsockopt, shutdown, socket,
    sockopt::{ReceiveTimeout, SendTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike};

#[cfg(feature = "course")]
use nix::sys::socket::{getpeername, getsockname};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::fork::{self, RegisteredDescriptor};
use crate::sys;

/// The requested events of a `poll` that waits for a hang-up only: `poll` reports hang-ups always.
const HANG_UP: PollFlags = PollFlags::empty();

/// A connected socket.
#[derive(Debug)]
pub(crate) struct ClientChannel {
    // Dropped first: a child forked between the two would otherwise close a reused descriptor.
    registered: RegisteredDescriptor,
    socket: OwnedFd,
    /// The receive timeout set on the socket, if any.
    receive_timeout: Option<Duration>,
}

impl ClientChannel {
    /// A socket that is not connected.
    pub(crate) fn new() -> Result<Self, Error> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|error| Error::Socket(error.into()))?;
        Ok(Self { registered: fork::register(socket.as_raw_fd()), socket, receive_timeout: None })
    }

    /// A channel over a connected socket.
    #[cfg(test)]
    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self { registered: fork::register(socket.as_raw_fd()), socket, receive_timeout: None }
    }

    #[cfg(feature = "course")]
    pub(crate) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The addresses of the client's end and of the server's; empty if the system does not report
    /// them.
    #[cfg(feature = "course")]
    pub(crate) fn addresses(&self) -> [libc::sockaddr_un; 2] {
        let fd = self.socket.as_raw_fd();
        [getsockname::<UnixAddr>(fd), getpeername::<UnixAddr>(fd)].map(|address| match address {
            Ok(address) => *address.as_ref(),
            Err(_) => libc::sockaddr_un { sun_family: 0, sun_path: [0; 108] },
        })
    }

    /// Connects to `server`. While the server's backlog is full, `connect` waits as long as the
    /// send timeout of the socket.
    pub(crate) fn connect_to(&self, server: &Path, deadline: Deadline) -> io::Result<()> {
        let address = UnixAddr::new(server)?;
        loop {
            let left = deadline.remaining_or_timed_out()?.max(Duration::from_micros(1));
            let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
            setsockopt(&self.socket, SendTimeout, &TimeVal::microseconds(micros))?;
            match connect(self.socket.as_raw_fd(), &address) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(ErrorKind::TimedOut.into()),
                result => return Ok(result?),
            }
        }
    }

    /// Sends all of `bytes`. Makes no system call if there are none.
    pub(crate) fn send(&self, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.send_now(bytes)? {
                0 => self.wait_until_writable(deadline)?,
                sent => bytes = &bytes[sent..],
            }
        }
        Ok(())
    }

    /// Sets the receive timeout of the socket: the timeout of the connection, which most calls
    /// have.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        // Without the option, `poll` waits.
        if setsockopt(&self.socket, ReceiveTimeout, &TimeVal::microseconds(micros)).is_ok() {
            self.receive_timeout = Some(timeout);
        }
    }

    /// Sends as many bytes as the kernel takes at once, and returns their number.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match send(self.socket.as_raw_fd(), bytes, flags) {
                Ok(sent) => return Ok(sent),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fills `buffer`. Without a deadline it waits without limit.
    pub(crate) fn receive(
        &self,
        mut buffer: &mut [u8],
        deadline: Option<Deadline>,
    ) -> io::Result<()> {
        while !buffer.is_empty() {
            let received = self.receive_some(buffer, deadline)?;
            buffer = &mut buffer[received..];
        }
        Ok(())
    }

    /// Waits until there are bytes, and receives as many as there are and fit. The end of the
    /// stream is the error `UnexpectedEof`.
    pub(crate) fn receive_some(
        &self,
        buffer: &mut [u8],
        deadline: Option<Deadline>,
    ) -> io::Result<usize> {
        let mut waits = match deadline {
            None => true,
            Some(deadline) => {
                self.receive_timeout.is_some_and(|timeout| deadline.is_about(timeout))
            }
        };
        loop {
            if !waits {
                self.wait(PollFlags::POLLIN, deadline)?;
            }
            let flags = if waits { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
            match recv(self.socket.as_raw_fd(), buffer, flags) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(received) => return Ok(received),
                // Part of the time may have passed, so `poll` waits for the rest.
                Err(Errno::EINTR | Errno::EAGAIN) => waits = deadline.is_none(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until there is something to receive (`true`), or room to send (`false`).
    pub(crate) fn wait_until_readable_or_writable(&self, deadline: Deadline) -> io::Result<bool> {
        self.wait(PollFlags::POLLIN | PollFlags::POLLOUT, Some(deadline))?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        match recv(self.socket.as_raw_fd(), &mut [0], flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            // The end of the stream counts as readable.
            Ok(_) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until there is room to send.
    fn wait_until_writable(&self, deadline: Deadline) -> io::Result<()> {
        self.wait(PollFlags::POLLOUT, Some(deadline))
    }

    /// Fills `buffer`, unless the peer hangs up on `other` before the first byte arrives.
    pub(crate) fn receive_while_open(
        &self,
        buffer: &mut [u8],
        other: &Self,
        deadline: Deadline,
    ) -> io::Result<()> {
        loop {
            let timeout = poll_timeout(deadline.remaining_or_timed_out()?);
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

    /// Waits until the peer has read everything that was sent, or has closed its end.
    ///
    /// The kernel has no event for this. Nearly always the peer has read everything already, or
    /// does as soon as it is scheduled: so this function first yields the processor, and only then
    /// sleeps for short times.
    pub(crate) fn wait_until_read(&self, deadline: Deadline) -> io::Result<()> {
        const YIELDS: u32 = 20;
        for round in 0u32.. {
            if sys::unread_by_peer(self.socket.as_fd())? == 0 {
                break;
            }
            let left = deadline.remaining_or_timed_out()?;
            match round.checked_sub(YIELDS) {
                None => thread::yield_now(),
                Some(sleeps) => {
                    thread::sleep(Duration::from_micros(20 << sleeps.min(6)).min(left));
                }
            }
        }
        Ok(())
    }

    /// Whether the peer hangs up within `wait`.
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
                Some(deadline) => poll_timeout(deadline.remaining_or_timed_out()?),
            };
            let mut fds = [PollFd::new(self.socket.as_fd(), events)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Shuts the connection down in both directions. Every thread that waits on the socket, here or
    /// at the peer, sees the end of the stream at once.
    pub(crate) fn shut_down(&self) {
        // It fails if the peer has closed its end already.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Shuts the connection down and closes the socket.
    pub(crate) fn close(self) -> Result<(), Error> {
        // Closing is not enough: a child that is being forked may still hold a copy.
        self.shut_down();
        let Self { registered, socket, .. } = self;
        drop(registered);
        nix::unistd::close(socket.into_raw_fd()).map_err(|error| Error::Close(error.into()))
    }
}

impl AsFd for ClientChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A timeout for `poll`, rounded up: rounded down, the last millisecond would be spent spinning.
fn poll_timeout(left: Duration) -> PollTimeout {
    let millis = left.as_micros().div_ceil(1000).min(u128::from(i32::MAX as u32));
    PollTimeout::try_from(millis as i32).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    fn pair() -> (ClientChannel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ClientChannel::from_socket(ours.into()), theirs)
    }

    #[test]
    fn slow_bytes_do_not_prolong_the_deadline() {
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
    fn wait_until_read_ends_when_the_peer_reads_or_goes() {
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
}
