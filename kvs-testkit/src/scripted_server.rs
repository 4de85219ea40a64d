//! A local server of which the test chooses every byte, for tests of the library.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvs_proto::Protocol;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tempfile::TempDir;

use crate::channel::Channel;
use crate::sockets::{Sockets, private_dir};
use crate::wait::DEADLINE;

/// The offer of protocol v2 that the library appends to the name of the group.
pub const OFFER: &[u8] = b"\0kvs2";

/// The welcome frame of a server that accepts values of 16 MiB.
pub const WELCOME: [u8; 24] =
    [0, 0, 0, 0, 0, 0, 0, 0, 134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

/// The two listening sockets of a local server, in a directory of their own.
#[derive(Debug)]
pub struct ScriptedServer {
    socket: PathBuf,
    callback_socket: PathBuf,
    _dir: TempDir,
    main: UnixListener,
    callback: OnceLock<UnixListener>,
}

impl ScriptedServer {
    /// Listens on both paths.
    ///
    /// # Panics
    /// If a socket cannot be bound.
    pub fn start() -> Self {
        let server = Self::start_like_v1();
        server.callback_listener();
        server
    }

    /// Listens on the main path only, and binds the callback path when it accepts a callback
    /// channel, as the original server does after it has received the secret.
    ///
    /// # Panics
    /// If the socket cannot be bound.
    pub fn start_like_v1() -> Self {
        let dir = private_dir();
        let [socket, callback_socket] = ["sock", "sock_cb"].map(|name| dir.path().join(name));
        let main = listen(&socket);
        Self { socket, callback_socket, _dir: dir, main, callback: OnceLock::new() }
    }

    /// Accepts the main channel of an application.
    ///
    /// # Panics
    /// If none connects.
    pub fn accept_main(&self) -> Channel {
        accept("main", &self.main)
    }

    /// Accepts the callback channel of an application.
    ///
    /// # Panics
    /// If none connects.
    pub fn accept_callback(&self) -> Channel {
        accept("callback", self.callback_listener())
    }

    /// Accepts a v1 login up to the callback channel, which is connected and not greeted yet;
    /// returns both channels.
    ///
    /// # Panics
    /// If no application logs in, or it deviates from the protocol.
    pub fn accept_login(&self, group: &str, secret: &str) -> (Channel, Channel) {
        let mut main = self.accept_main();
        main.send_int(1);
        main.expect(group.as_bytes());
        main.send_int(1);
        main.expect(secret.as_bytes());
        (main, self.accept_callback())
    }

    /// Completes a v1 login; returns both channels.
    ///
    /// # Panics
    /// If no application logs in, or it deviates from the protocol.
    pub fn login(&self, group: &str, secret: &str) -> (Channel, Channel) {
        let (mut main, mut callback) = self.accept_login(group, secret);
        callback.send_int(1);
        main.send_int(1);
        (main, callback)
    }

    /// Completes a login in this protocol; returns both channels.
    ///
    /// # Panics
    /// If no application logs in, or it deviates from the protocol.
    pub fn login_with(&self, protocol: Protocol, group: &str, secret: &str) -> (Channel, Channel) {
        if protocol == Protocol::V1 {
            return self.login(group, secret);
        }
        let mut main = self.accept_main();
        main.send_int(1);
        main.expect(group.as_bytes());
        main.expect(OFFER);
        main.send_int(2);
        main.expect(secret.as_bytes());
        let mut callback = self.accept_callback();
        callback.send_int(1);
        main.send_int(1);
        main.send(&WELCOME);
        (main, callback)
    }

    fn callback_listener(&self) -> &UnixListener {
        self.callback.get_or_init(|| listen(&self.callback_socket))
    }
}

impl Sockets for ScriptedServer {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn callback_socket(&self) -> &Path {
        &self.callback_socket
    }
}

fn listen(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path)
        .unwrap_or_else(|error| panic!("listening on {}: {error}", path.display()));
    // accept(2) observes the receive timeout of the listening socket.
    let limit = TimeVal::seconds(DEADLINE.as_secs().cast_signed());
    setsockopt(&listener, sockopt::ReceiveTimeout, &limit).expect("a timeout can be set");
    listener
}

fn accept(name: &'static str, listener: &UnixListener) -> Channel {
    match listener.accept() {
        Ok((stream, _)) => Channel::new(name, stream),
        Err(error) => panic!("no application connected its {name} channel: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw_v1::RawV1App;
    use std::thread;

    #[test]
    fn scripted_server_and_raw_v1_app_agree_on_protocol_v1() {
        let server = ScriptedServer::start();
        thread::scope(|scope| {
            let app = scope.spawn(|| {
                let mut app = RawV1App::login(&server, "g", "abcde");
                app.put("k", "v");
                let value = app.get("k");
                let change = app.next_change();
                app.close();
                (value, change)
            });
            let (mut main, mut callback) = server.login("g", "abcde");
            main.expect_int(0);
            main.send_int(1);
            main.expect(b"k");
            main.send_int(1);
            // The next code follows the value at once.
            main.expect(b"v\x01\0\0\0");
            main.send_int(1);
            main.expect(b"k");
            main.send_int(1);
            main.send(b"v\0");
            callback.send_int(1);
            callback.expect_int(1);
            let mut key = [0; 100];
            key[0] = b'k';
            callback.send(&key);
            main.expect_int(4);
            main.expect_end();
            callback.expect_end();
            assert_eq!(app.join().unwrap(), (Some("v".into()), "k".into()));
        });
    }
}
