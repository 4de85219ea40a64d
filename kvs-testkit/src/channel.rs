//! A raw socket between an application and a local server: the test chooses every byte.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv,
    send, sendmsg, socket,
};

use crate::sockets::Sockets;
use crate::wait::DEADLINE;

/// Either end of one of the two stream sockets between an application and its local server.
#[derive(Debug)]
pub struct Channel {
    name: &'static str,
    stream: UnixStream,
}

impl Channel {
    /// Connects to `path` from an unnamed socket.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(name: &'static str, path: &Path) -> io::Result<Self> {
        Ok(Self::new(name, UnixStream::connect(path)?))
    }

    /// Connects to `path` from a socket bound to `own`, as the original application does.
    ///
    /// # Errors
    /// As `bind(2)` and `connect(2)`.
    pub fn connect_from(name: &'static str, own: &Path, path: &Path) -> io::Result<Self> {
        let socket: OwnedFd =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(own)?)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self::new(name, socket.into()))
    }

    /// Connects to `path` from a name in `dir` that tells the application `app` apart from others
    /// of this process. `name` is `main` or `callback`.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn connect_as(name: &'static str, path: &Path, dir: &Path, app: &str) -> Self {
        let infix = if name == "callback" { "cb_" } else { "" };
        let own = dir.join(format!("app_socket_{infix}{app}"));
        let channel = Self::connect_from(name, &own, path)
            .unwrap_or_else(|error| panic!("{} to {}: {error}", own.display(), path.display()));
        std::fs::remove_file(&own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
        channel
    }

    /// Connects both channels of the application `app`. `login` runs on the main channel before the
    /// callback channel is connected; the callback channel's greeting has been received.
    pub(crate) fn connect_pair_as(
        server: &impl Sockets,
        dir: &Path,
        app: &str,
        login: impl FnOnce(&mut Self),
    ) -> [Self; 2] {
        let mut main = Self::connect_as("main", server.socket(), dir, app);
        login(&mut main);
        let mut callback = Self::connect_as("callback", server.callback_socket(), dir, app);
        callback.expect_int(1);
        [main, callback]
    }

    pub(crate) fn new(name: &'static str, stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("the deadline is not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("the deadline is not zero");
        Self { name, stream }
    }

    /// Sends group and secret. The verdict follows once the callback channel is connected.
    ///
    /// # Panics
    /// If the server does not know the group, or closes the connection.
    pub fn begin_login(&mut self, group: &str, secret: &str) {
        self.expect_int(1);
        self.send(group.as_bytes());
        self.expect_int(1);
        self.send(secret.as_bytes());
    }

    /// Sends these bytes in one call.
    ///
    /// # Panics
    /// If the send fails or times out.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_send(bytes) {
            panic!("{}: sending {}: {error}", self.name, bytes.escape_ascii());
        }
    }

    /// Sends these bytes in one call.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends these bytes out of band.
    ///
    /// # Errors
    /// As `send(2)`.
    pub fn try_send_out_of_band(&mut self, bytes: &[u8]) -> io::Result<()> {
        let flags = MsgFlags::MSG_OOB | MsgFlags::MSG_NOSIGNAL;
        send(self.stream.as_raw_fd(), bytes, flags)?;
        Ok(())
    }

    /// Sends these bytes and descriptors in one call.
    ///
    /// # Errors
    /// As `sendmsg(2)`.
    pub fn try_send_with(&mut self, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> io::Result<()> {
        let passed: Vec<RawFd> = passed.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[ControlMessage::ScmRights(&passed)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        if sent == bytes.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Sends a flag, a code or a length.
    ///
    /// # Panics
    /// If the send fails or times out.
    pub fn send_int(&mut self, int: i32) {
        self.send(&int.to_ne_bytes());
    }

    /// Receives exactly `count` bytes.
    ///
    /// # Panics
    /// If they do not arrive.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.take_awaiting(count, &format!("{count} bytes"))
    }

    fn take_awaiting(&mut self, count: usize, what: &str) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut have = 0;
        while have < count {
            match self.stream.read(&mut bytes[have..]) {
                Ok(0) => self.fail(what, &bytes[..have], "the end of the stream"),
                Ok(more) => have += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.fail(what, &bytes[..have], &error.to_string()),
            }
        }
        bytes
    }

    fn fail(&self, what: &str, seen: &[u8], end: &str) -> ! {
        let name = self.name;
        panic!("{name}: {what} awaited, \"{}\" seen, then: {end}", seen.escape_ascii());
    }

    /// Receives a flag, a code or a length.
    ///
    /// # Panics
    /// If none arrives.
    pub fn int(&mut self) -> i32 {
        let bytes = self.take_awaiting(4, "an int");
        i32::from_ne_bytes(bytes.try_into().expect("four bytes were asked for"))
    }

    /// Receives exactly these bytes.
    ///
    /// # Panics
    /// If other bytes arrive, or none.
    pub fn expect(&mut self, bytes: &[u8]) {
        let seen = self.take_awaiting(bytes.len(), &format!("\"{}\"", bytes.escape_ascii()));
        assert_eq!(
            seen.escape_ascii().to_string(),
            bytes.escape_ascii().to_string(),
            "on the channel {}",
            self.name
        );
    }

    /// Receives a flag, a code or a length; `None` if the peer closes first.
    pub fn int_or_end(&mut self) -> Option<i32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes).ok().map(|()| i32::from_ne_bytes(bytes))
    }

    /// Receives exactly this flag, code or length.
    ///
    /// # Panics
    /// If another one arrives, or none.
    pub fn expect_int(&mut self, int: i32) {
        let seen = self.int();
        assert_eq!(seen, int, "on the channel {}", self.name);
    }

    /// Receives what one `read` returns: a text, if the peer has sent nothing else. Empty at the
    /// end of the stream.
    ///
    /// # Panics
    /// If nothing arrives.
    pub fn text(&mut self) -> Vec<u8> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(count) => return bytes[..count].to_vec(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.fail("a text", &[], &error.to_string()),
            }
        }
    }

    /// Receives everything until the peer closes.
    ///
    /// # Panics
    /// If the peer does not close.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return all,
                Ok(count) => all.extend(&bytes[..count]),
                // The peer has closed with unread bytes in its socket.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.fail("the end of the stream", &all, &error.to_string()),
            }
        }
    }

    /// Waits until the peer closes without having sent anything.
    ///
    /// # Panics
    /// If bytes arrive, or the peer does not close.
    pub fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "{}: \"{}\" before the end", self.name, rest.escape_ascii());
    }

    /// The bytes that have arrived and have not been received. Does not wait.
    pub fn waiting(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let count = recv(self.stream.as_raw_fd(), &mut bytes, flags).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    /// The number of bytes that have arrived and have not been received.
    pub fn unread(&self) -> usize {
        let count = rustix::io::ioctl_fionread(&self.stream).expect("it is a socket");
        usize::try_from(count).expect("a socket holds less")
    }

    /// The socket itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// A key as protocol v1 sends it on the callback channel.
pub fn padded(key: &str) -> Vec<u8> {
    let mut bytes = key.as_bytes().to_vec();
    bytes.resize(100, 0);
    bytes
}

impl Channel {
    /// Receives a flag that must be one of `allowed`.
    pub(crate) fn flag(&mut self, what: &str, allowed: &[i32]) -> Result<i32, String> {
        let mut bytes = [0; 4];
        self.stream
            .read_exact(&mut bytes)
            .map_err(|error| format!("{} on {} did not come: {error}", what, self.name))?;
        let flag = i32::from_ne_bytes(bytes);
        if allowed.contains(&flag) {
            Ok(flag)
        } else {
            Err(format!("{what} on {} is {flag}", self.name))
        }
    }
}
