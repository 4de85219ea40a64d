//! An application without the library: every byte is the test's.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, recv,
    send, sendmsg, socket,
};

use crate::{DEADLINE, Sockets};

/// One of the two stream sockets between an application and its local server, either end of it.
#[derive(Debug)]
pub struct Channel {
    name: &'static str,
    stream: UnixStream,
}

impl Channel {
    /// Connects to `path`, from a socket without a name.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(name: &'static str, path: &Path) -> io::Result<Self> {
        Ok(Self::new(name, UnixStream::connect(path)?))
    }

    /// Connects to `path`, from a socket that is bound to `own` before, as the original application
    /// does.
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

    /// Connects to `path` under a name that tells its application apart from others of this process. `name`
    /// is `main` or `callback`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn connect_as(name: &'static str, path: &Path, dir: &Path, app: &str) -> Self {
        let infix = if name == "callback" { "cb_" } else { "" };
        let own = dir.join(format!("app_socket_{infix}{app}"));
        let channel = Self::connect_from(name, &own, path)
            .unwrap_or_else(|error| panic!("{} to {}: {error}", own.display(), path.display()));
        std::fs::remove_file(&own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
        channel
    }

    /// Main and callback channel of an application with such a name. The callback channel is connected when `login`
    /// has done its part on the main one, and has been greeted.
    pub(crate) fn both_as(
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

    /// All of a login that goes over the main channel but for the verdict, which the server gives when the
    /// callback channel stands.
    ///
    /// # Panics
    /// When the server does not know the group, or ends the login.
    pub fn begin_login(&mut self, group: &str, secret: &str) {
        self.expect_int(1);
        self.send(group.as_bytes());
        self.expect_int(1);
        self.send(secret.as_bytes());
    }

    /// Sends these bytes in one call.
    ///
    /// # Panics
    /// When the peer does not take them.
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

    /// Sends these bytes in one call, and with them the descriptors.
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
    /// When the peer does not take it.
    pub fn send_int(&mut self, int: i32) {
        self.send(&int.to_ne_bytes());
    }

    /// Receives exactly `count` bytes.
    ///
    /// # Panics
    /// When they do not come.
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
    /// When none comes.
    pub fn int(&mut self) -> i32 {
        let bytes = self.take_awaiting(4, "an int");
        i32::from_ne_bytes(bytes.try_into().expect("four bytes were asked for"))
    }

    /// Receives exactly these bytes.
    ///
    /// # Panics
    /// When others come, or none.
    pub fn expect(&mut self, bytes: &[u8]) {
        let seen = self.take_awaiting(bytes.len(), &format!("\"{}\"", bytes.escape_ascii()));
        assert_eq!(
            seen.escape_ascii().to_string(),
            bytes.escape_ascii().to_string(),
            "on the channel {}",
            self.name
        );
    }

    /// Receives a flag, a code or a length; `None` when the peer closes before.
    pub fn int_or_end(&mut self) -> Option<i32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes).ok().map(|()| i32::from_ne_bytes(bytes))
    }

    /// Receives exactly this flag, code or length.
    ///
    /// # Panics
    /// When another comes, or none.
    pub fn expect_int(&mut self, int: i32) {
        let seen = self.int();
        assert_eq!(seen, int, "on the channel {}", self.name);
    }

    /// Receives what one `read` returns: a text, when the peer has sent nothing else. Empty at the end
    /// of the stream.
    ///
    /// # Panics
    /// When nothing comes.
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

    /// Receives all that comes until the peer closes.
    ///
    /// # Panics
    /// When the peer does not close.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return all,
                Ok(count) => all.extend(&bytes[..count]),
                // The peer has closed before it read all that was sent to it.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.fail("the end of the stream", &all, &error.to_string()),
            }
        }
    }

    /// Waits until the peer closes, and lets it send nothing before.
    ///
    /// # Panics
    /// When something comes, or the peer does not close.
    pub fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "{}: \"{}\" before the end", self.name, rest.escape_ascii());
    }

    /// What has arrived and has not been received yet. Does not wait.
    pub fn waiting(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let count = recv(self.stream.as_raw_fd(), &mut bytes, flags).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    /// How many bytes have arrived and have not been received yet.
    pub fn unread(&self) -> usize {
        let count = rustix::io::ioctl_fionread(&self.stream).expect("it is a socket");
        usize::try_from(count).expect("a socket holds less")
    }

    /// The socket itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// A key as it goes over the callback channel.
pub fn padded(key: &str) -> Vec<u8> {
    let mut bytes = key.as_bytes().to_vec();
    bytes.resize(100, 0);
    bytes
}

/// An application that keeps every habit of the original: it sends its secret before it connects the
/// callback channel, connects that once, and sends the next code straight after a value.
///
/// Its process is the test's. The methods are single operations of the protocol; what they do not
/// cover is done on the channels directly.
#[derive(Debug)]
pub struct RawApp {
    /// The main channel.
    pub main: Channel,
    /// The callback channel.
    pub callback: Channel,
}

impl RawApp {
    /// Connects and logs in.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn login(socket: &Path, callback_socket: &Path, group: &str, secret: &str) -> Self {
        Self::try_login(socket, callback_socket, group, secret)
            .unwrap_or_else(|end| panic!("login to {group} with {secret}: {end}"))
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// At which point the login ended, in words: `no such group` and `wrong secret` are the server's
    /// answers, anything else is not an answer.
    pub fn try_login(
        socket: &Path,
        callback_socket: &Path,
        group: &str,
        secret: &str,
    ) -> Result<Self, String> {
        let connect = |name, path| {
            Channel::connect(name, path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let mut main = connect("main", socket)?;
        main.flag("connection flag", &[1])?;
        main.try_send(group.as_bytes()).map_err(|error| error.to_string())?;
        if main.flag("answer to the group", &[0, 1])? == 0 {
            return Err("no such group".into());
        }
        main.try_send(secret.as_bytes()).map_err(|error| error.to_string())?;
        let mut callback = connect("callback", callback_socket)?;
        callback.flag("connection flag", &[1])?;
        if main.flag("verdict", &[0, 1])? == 0 {
            return Err("wrong secret".into());
        }
        Ok(Self { main, callback })
    }

    /// Connects and logs in under a name that tells it apart from other applications of this process:
    /// both sockets are bound to paths in `dir` that end with it, for as long as it takes to connect.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn login_as(
        server: &impl Sockets,
        dir: &Path,
        name: &str,
        group: &str,
        secret: &str,
    ) -> Self {
        let mut app = Self::await_verdict_as(server, dir, name, group, secret);
        app.main.expect_int(1);
        app
    }

    /// The same, but for the verdict, which has not been received.
    ///
    /// # Panics
    /// When the login ends before.
    pub fn await_verdict_as(
        server: &impl Sockets,
        dir: &Path,
        name: &str,
        group: &str,
        secret: &str,
    ) -> Self {
        let [main, callback] =
            Channel::both_as(server, dir, name, |main| main.begin_login(group, secret));
        Self { main, callback }
    }

    /// Stores a value. The original has no answer to it.
    pub fn put(&mut self, key: &str, value: &str) {
        self.main.send_int(0);
        self.main.expect_int(1);
        self.main.send(key.as_bytes());
        self.main.expect_int(1);
        self.main.send(value.as_bytes());
    }

    /// Asks for a value.
    pub fn get(&mut self, key: &str) -> Option<String> {
        self.main.send_int(1);
        self.main.expect_int(1);
        self.main.send(key.as_bytes());
        let len = self.main.int();
        if len == -1 {
            return None;
        }
        let len = usize::try_from(len).unwrap_or_else(|_| panic!("length {len}"));
        let mut value = self.main.take(len + 1);
        assert_eq!(value.pop(), Some(0), "a NUL follows the value");
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// Registers for the changes of a key; whether it exists.
    pub fn register(&mut self, key: &str) -> bool {
        self.main.send_int(3);
        self.main.expect_int(1);
        self.main.send(key.as_bytes());
        match self.main.int() {
            1 => true,
            -1 => false,
            other => panic!("answer {other} to the registration of {key}"),
        }
    }

    /// Receives one change on the callback channel; its key.
    pub fn change(&mut self) -> String {
        self.callback.expect_int(1);
        self.callback.send_int(1);
        let padded = self.callback.take(100);
        let (key, padding) = padded
            .split_at(padded.iter().position(|&byte| byte == 0).expect("a NUL after the key"));
        assert!(padding.iter().all(|&byte| byte == 0), "NULs after the key");
        String::from_utf8_lossy(key).into_owned()
    }

    /// Says goodbye and closes both sockets.
    pub fn close(mut self) {
        self.main.send_int(4);
    }
}

impl Channel {
    /// Receives a flag that must be one of `allowed`.
    fn flag(&mut self, what: &str, allowed: &[i32]) -> Result<i32, String> {
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
