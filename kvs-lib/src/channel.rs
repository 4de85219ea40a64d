//! One connected UNIX stream socket, and the time that a call may take on it.
//!
//! Every wait is for an event and ends at a [`Deadline`] that covers the whole call, so a peer
//! that sends a byte now and then gains nothing. Where the deadline is as far away as the time-out of the connection,
//! which is nearly always, `recv` itself waits, with that time-out set on the socket; otherwise `poll` does. Nothing here raises SIGPIPE; an interrupting signal is
//! served by its handler and the wait goes on. All descriptors are close-on-exec, and are closed in
//! forked children.
//!
//! The original server tells applications apart by the path to which they bind their end; [`Ends`] are the
//! two sockets of one login, bound to such paths. A path is unlinked as soon as its connection stands: the
//! peer keeps the name, the file system does not. Everybody may write to the directory of these paths, so
//! somebody else may have taken a name before, by accident or in order to shut us out: then another is
//! taken, at last one that nobody can guess. What is not ours is neither followed nor removed.

use std::io::{self, ErrorKind};
#[cfg(feature = "course")]
use std::os::fd::RawFd;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, bind, connect, recv, send,
    setsockopt, shutdown, socket,
    sockopt::{ReceiveTimeout, SendTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike};

#[cfg(feature = "course")]
use nix::sys::socket::{getpeername, getsockname};

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

    /// Whether `timeout` from now is the deadline, but for a small part.
    fn is_in(self, timeout: Duration) -> bool {
        self.left().is_some_and(|left| left + timeout / 100 >= timeout)
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
    /// How long `recv` waits by itself, if that is limited.
    patience: Option<Duration>,
}

impl Channel {
    /// A socket, connected to nobody yet.
    fn new() -> Result<Self, Error> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|error| Error::Socket(error.into()))?;
        Ok(Self { registered: fork::register(socket.as_raw_fd()), socket, patience: None })
    }

    /// Around a socket that a test has connected.
    #[cfg(test)]
    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self { registered: fork::register(socket.as_raw_fd()), socket, patience: None }
    }

    #[cfg(feature = "course")]
    pub(crate) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The addresses of our end and of the server's; empty ones if the system does not tell them.
    #[cfg(feature = "course")]
    pub(crate) fn ends(&self) -> [libc::sockaddr_un; 2] {
        let fd = self.socket.as_raw_fd();
        [getsockname::<UnixAddr>(fd), getpeername::<UnixAddr>(fd)].map(|address| match address {
            Ok(address) => *address.as_ref(),
            Err(_) => libc::sockaddr_un { sun_family: 0, sun_path: [0; 108] },
        })
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
            match self.send_now(bytes)? {
                0 => self.wait_for_room(deadline)?,
                sent => bytes = &bytes[sent..],
            }
        }
        Ok(())
    }

    /// From now on calls have this much time.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        // Without it, `poll` has to do.
        if setsockopt(&self.socket, ReceiveTimeout, &TimeVal::microseconds(micros)).is_ok() {
            self.patience = Some(timeout);
        }
    }

    /// Sends what the kernel takes at once, and returns how much that was.
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

    /// Fills `buffer`; without a deadline, waits for as long as it takes.
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

    /// Waits until there is something, and receives what there is.
    pub(crate) fn receive_some(
        &self,
        buffer: &mut [u8],
        deadline: Option<Deadline>,
    ) -> io::Result<usize> {
        let mut waits = match deadline {
            None => true,
            Some(deadline) => self.patience.is_some_and(|patience| deadline.is_in(patience)),
        };
        loop {
            if !waits {
                self.wait(PollFlags::POLLIN, deadline)?;
            }
            let flags = if waits { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
            match recv(self.socket.as_raw_fd(), buffer, flags) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(received) => return Ok(received),
                // Part of the time may be over.
                Err(Errno::EINTR | Errno::EAGAIN) => waits = deadline.is_none(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until there is something to receive (`true`), or room to send.
    pub(crate) fn wait_for_either(&self, deadline: Deadline) -> io::Result<bool> {
        self.wait(PollFlags::POLLIN | PollFlags::POLLOUT, Some(deadline))?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        match recv(self.socket.as_raw_fd(), &mut [0], flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            // The end of the stream, too.
            Ok(_) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until there is room to send.
    pub(crate) fn wait_for_room(&self, deadline: Deadline) -> io::Result<()> {
        self.wait(PollFlags::POLLOUT, Some(deadline))
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
        let Self { registered, socket, .. } = self;
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

/// The two sockets of a login, each bound to its path and not connected yet.
///
/// The paths are `/tmp/app_socket_<pid>` for the main channel and `/tmp/app_socket_cb_<pid>` for the callback
/// channel, each followed by `_<n>` for logins of the same process that are under way at the same time, and
/// when a name is taken. The number is the same on both, as the server tells by it which callback channel
/// belongs to which main channel; so both are bound before the server hears of either.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) main: End,
    pub(crate) callback: End,
    /// To be kept until both are connected.
    pub(crate) number: ClientNumber,
}

impl Ends {
    /// How many small numbers are tried, and then how many that nobody can guess.
    const SMALL: usize = 4;
    const RANDOM: usize = 4;

    /// Binds two new sockets to names that are free.
    pub(crate) fn bind() -> Result<Self, Error> {
        // A number that did not do stays claimed meanwhile, so that the next one is another.
        let mut claimed = Vec::new();
        for attempt in 1.. {
            let number = if attempt <= Self::SMALL {
                ClientNumber::claim()
            } else {
                ClientNumber::random()
            }?;
            match Self::bind_to(number) {
                Ok(ends) => return Ok(ends),
                // The last time, somebody takes names faster than we can choose them.
                Err((number, error))
                    if is_taken(&error) && attempt < Self::SMALL + Self::RANDOM =>
                {
                    claimed.push(number);
                }
                Err((_, error)) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn bind_to(number: ClientNumber) -> Result<Self, (ClientNumber, Error)> {
        let bind = || {
            let main = End::bind(number.path("app_socket"))?;
            let callback = End::bind(number.path("app_socket_cb"))?;
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

/// A socket that is bound to a path and not connected yet.
#[derive(Debug)]
pub(crate) struct End {
    // Dropped first, while the socket that it names is open.
    _path: BoundPath,
    channel: Channel,
}

impl End {
    fn bind(path: PathBuf) -> Result<Self, Error> {
        let channel = Channel::new()?;
        let path = BoundPath::bind(&channel.socket, path)?;
        Ok(Self { _path: path, channel })
    }

    /// Connects to `server`, once more each time that `try_again` says so.
    pub(crate) fn connect(
        self,
        server: &Path,
        deadline: Deadline,
        mut try_again: impl FnMut(&io::Error) -> bool,
    ) -> Result<Channel, Error> {
        loop {
            match self.channel.connect_to(server, deadline) {
                Ok(()) => return Ok(self.channel),
                Err(error) if try_again(&error) => {}
                Err(source) => return Err(Error::Connect { path: server.into(), source }),
            }
        }
    }
}

/// The small numbers that are in use, a bit each. Not behind a lock, which a fork at the wrong moment would
/// leave locked in the child.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// In a forked child: none of its connections is being opened. Async-signal-safe.
pub(crate) fn forget_numbers() {
    IN_USE.store(0, Ordering::Relaxed);
}

/// What tells the logins of a process apart.
#[derive(Debug)]
pub(crate) struct ClientNumber {
    generation: u32,
    number: u64,
}

impl ClientNumber {
    /// Those below are reused.
    const SMALL: u64 = u64::BITS as u64;

    /// The lowest number that is free in this process, so that usually it is 0; a random one when all small
    /// ones are in use.
    fn claim() -> Result<Self, Error> {
        let is_free = |number: &u64| {
            let bit = 1 << number;
            IN_USE.fetch_or(bit, Ordering::Relaxed) & bit == 0
        };
        match (0..Self::SMALL).find(is_free) {
            Some(number) => Ok(Self { generation: fork::generation(), number }),
            None => Self::random(),
        }
    }

    /// One that nobody can guess.
    fn random() -> Result<Self, Error> {
        let number = sys::random().map_err(Error::System)?;
        // Small ones belong to whoever has claimed them.
        Ok(Self { generation: fork::generation(), number: number.max(Self::SMALL) })
    }

    fn path(&self, stem: &str) -> PathBuf {
        let pid = std::process::id();
        match self.number {
            0 => format!("/tmp/{stem}_{pid}"),
            number => format!("/tmp/{stem}_{pid}_{number}"),
        }
        .into()
    }
}

impl Drop for ClientNumber {
    fn drop(&mut self) {
        if self.number < Self::SMALL && self.generation == fork::generation() {
            IN_USE.fetch_and(!(1 << self.number), Ordering::Relaxed);
        }
    }
}

/// A path to which one of our sockets is bound. Unlinked when it is dropped.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    /// What we have made there; `None` if it had gone before we could look.
    made: Option<Identity>,
}

/// What tells one file from another that has taken its name.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl BoundPath {
    fn bind(socket: &OwnedFd, path: PathBuf) -> Result<Self, Error> {
        let bind = || -> nix::Result<()> {
            let address = UnixAddr::new(&path)?;
            match bind(socket.as_raw_fd(), &address) {
                // Left behind by a process that was killed before it could unlink it, and whose number is
                // ours now.
                Err(Errno::EADDRINUSE) if our_socket(&path).is_some() => {
                    let _ = std::fs::remove_file(&path);
                    nix::sys::socket::bind(socket.as_raw_fd(), &address)
                }
                result => result,
            }
        };
        match bind() {
            Ok(()) => Ok(Self { made: our_socket(&path), path }),
            Err(errno) => Err(Error::Bind { path, source: errno.into() }),
        }
    }
}

impl Drop for BoundPath {
    /// In a directory like `/tmp` (sticky) only its owner may remove or replace what we have made: another
    /// program of the same user. What that has put in its place is left alone.
    fn drop(&mut self) {
        if self.made.is_some() && self.made == our_socket(&self.path) {
            // Gone already: so much the better.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What stands at `path`, if it is a socket of the user as whom we act. Links are not followed.
fn our_socket(path: &Path) -> Option<Identity> {
    let found = std::fs::symlink_metadata(path).ok()?;
    let ours = found.file_type().is_socket() && found.uid() == sys::effective_user();
    ours.then(|| Identity { device: found.dev(), inode: found.ino() })
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
        let ends = Ends::bind().unwrap();
        let deadline = Deadline::after(Duration::from_secs(10));
        let channel = ends.main.connect(&path, deadline, |_| false).unwrap();
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
        let claim = || ClientNumber::claim().unwrap();
        let (first, second) = (claim(), claim());
        assert_ne!(first.number, second.number);
        let number = first.number;
        drop(first);
        // Other tests claim numbers too; one of the next ones must be the free one again.
        let claimed: Vec<_> = (0..64).map(|_| claim()).collect();
        assert!(claimed.iter().any(|claimed| claimed.number == number));
        // The last ones are not small, and each is another all the same.
        let mut numbers: Vec<_> = claimed.iter().map(|claimed| claimed.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), claimed.len());
    }

    #[test]
    fn what_has_taken_the_place_of_a_path_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("end");
        let end = End::bind(path.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not ours").unwrap();
        drop(end);
        assert_eq!(std::fs::read(&path).unwrap(), b"not ours");
        assert!(is_taken(&End::bind(path.clone()).unwrap_err()));
        assert_eq!(std::fs::read(&path).unwrap(), b"not ours");
        std::fs::remove_file(&path).unwrap();

        let end = End::bind(path.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        // A socket like ours, but another one.
        let other = UnixListener::bind(&path).unwrap();
        drop(end);
        assert!(path.exists());
        drop(other);
        // Left behind by somebody who has gone.
        drop(End::bind(path.clone()).unwrap());
        assert!(!path.exists());

        std::os::unix::fs::symlink(dir.path().join("nowhere"), &path).unwrap();
        assert!(is_taken(&End::bind(path.clone()).unwrap_err()));
        assert!(path.symlink_metadata().is_ok());
    }
}
