//! A v1 application without the library, of which the test chooses every byte.

use std::path::Path;

use crate::channel::Channel;
use crate::sockets::Sockets;

/// A v1 application in the test's process. It behaves as the original: it sends its secret before
/// it connects the callback channel, connects that once, and sends the next code straight after a
/// value.
///
/// Each method is one operation of the protocol. Tests use the channels for everything else.
#[derive(Debug)]
pub struct RawV1App {
    /// The main channel.
    pub main: Channel,
    /// The callback channel.
    pub callback: Channel,
}

impl RawV1App {
    /// Connects from unnamed sockets and logs in. The server pairs channels by process then, so
    /// only one such login of this process may be in progress at a time.
    ///
    /// # Panics
    /// If the login fails.
    pub fn login(server: &impl Sockets, group: &str, secret: &str) -> Self {
        Self::try_login(server, group, secret)
            .unwrap_or_else(|end| panic!("login to {group} with {secret}: {end}"))
    }

    /// Connects from unnamed sockets and logs in.
    ///
    /// # Errors
    /// Where the login failed, in words: `no such group` and `wrong secret` are the server's
    /// responses, anything else is a broken connection.
    pub fn try_login(server: &impl Sockets, group: &str, secret: &str) -> Result<Self, String> {
        let connect = |name, path: &Path| {
            Channel::connect(name, path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let mut main = connect("main", server.socket())?;
        main.flag("connection flag", &[1])?;
        main.try_send(group.as_bytes()).map_err(|error| error.to_string())?;
        if main.flag("answer to the group", &[0, 1])? == 0 {
            return Err("no such group".into());
        }
        main.try_send(secret.as_bytes()).map_err(|error| error.to_string())?;
        let mut callback = connect("callback", server.callback_socket())?;
        callback.flag("connection flag", &[1])?;
        if main.flag("verdict", &[0, 1])? == 0 {
            return Err("wrong secret".into());
        }
        Ok(Self { main, callback })
    }

    /// Connects and logs in under a name that tells it apart from other applications of this
    /// process: both sockets are bound to paths in `dir` that end with it until they are connected.
    ///
    /// # Panics
    /// If the login fails.
    pub fn login_as(
        server: &impl Sockets,
        dir: &Path,
        name: &str,
        group: &str,
        secret: &str,
    ) -> Self {
        let mut app = Self::login_before_verdict_as(server, dir, name, group, secret);
        app.main.expect_int(1);
        app
    }

    /// As [`login_as`](Self::login_as), without receiving the verdict.
    ///
    /// # Panics
    /// If the connection is closed.
    pub fn login_before_verdict_as(
        server: &impl Sockets,
        dir: &Path,
        name: &str,
        group: &str,
        secret: &str,
    ) -> Self {
        let [main, callback] =
            Channel::connect_pair_as(server, dir, name, |main| main.begin_login(group, secret));
        Self { main, callback }
    }

    /// Stores a value. Protocol v1 has no response to a put.
    pub fn put(&mut self, key: &str, value: &str) {
        self.main.send_int(0);
        self.main.expect_int(1);
        self.main.send(key.as_bytes());
        self.main.expect_int(1);
        self.main.send(value.as_bytes());
    }

    /// Reads a value.
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

    /// Watches a key; `false` if it does not exist.
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

    /// Receives one change event; returns its key.
    pub fn next_change(&mut self) -> String {
        self.callback.expect_int(1);
        self.callback.send_int(1);
        let padded = self.callback.take(100);
        let (key, padding) = padded
            .split_at(padded.iter().position(|&byte| byte == 0).expect("a NUL after the key"));
        assert!(padding.iter().all(|&byte| byte == 0), "NULs after the key");
        String::from_utf8_lossy(key).into_owned()
    }

    /// Sends the close code and closes both sockets.
    pub fn close(mut self) {
        self.main.send_int(4);
    }
}
