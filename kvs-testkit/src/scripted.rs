//! A local server that says what the test says, for the library to talk to.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tempfile::TempDir;

use crate::{Channel, DEADLINE, Session, Sockets, private_dir};

/// What follows the name of the group when the library would rather have a framed session.
pub const OFFER: &[u8] = b"\0kvs2";

/// The first frame of a server that takes values of 16 MiB.
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
    /// When it cannot.
    pub fn start() -> Self {
        let server = Self::like_the_original();
        server.callback_listener();
        server
    }

    /// Listens on the main path only. The callback path appears when a callback channel is awaited,
    /// which the original server does after it has received the secret.
    ///
    /// # Panics
    /// When it cannot.
    pub fn like_the_original() -> Self {
        let dir = private_dir();
        let [socket, callback_socket] = ["sock", "sock_cb"].map(|name| dir.path().join(name));
        let main = listen(&socket);
        Self { socket, callback_socket, _dir: dir, main, callback: OnceLock::new() }
    }

    /// Waits for an application to connect its main channel.
    ///
    /// # Panics
    /// When none does.
    pub fn accept_main(&self) -> Channel {
        accept("main", &self.main)
    }

    /// Waits for an application to connect its callback channel.
    ///
    /// # Panics
    /// When none does.
    pub fn accept_callback(&self) -> Channel {
        accept("callback", self.callback_listener())
    }

    /// Plays its part of a login up to the callback channel, which has connected and awaits its
    /// greeting; both channels.
    ///
    /// # Panics
    /// When no application logs in, or not so.
    pub fn half_a_login(&self, group: &str, secret: &str) -> (Channel, Channel) {
        let mut main = self.accept_main();
        main.send_int(1);
        main.expect(group.as_bytes());
        main.send_int(1);
        main.expect(secret.as_bytes());
        (main, self.accept_callback())
    }

    /// Plays its part of a whole login; both channels.
    ///
    /// # Panics
    /// When no application logs in, or not so.
    pub fn login(&self, group: &str, secret: &str) -> (Channel, Channel) {
        let (mut main, mut callback) = self.half_a_login(group, secret);
        callback.send_int(1);
        main.send_int(1);
        (main, callback)
    }

    /// Plays its part of a whole login to this kind of session; both channels.
    ///
    /// # Panics
    /// When no application logs in, or not so.
    pub fn login_speaking(
        &self,
        session: Session,
        group: &str,
        secret: &str,
    ) -> (Channel, Channel) {
        if session == Session::Original {
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
    // accept(2) keeps to the receive timeout of the listening socket.
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
    use crate::RawApp;
    use std::thread;

    #[test]
    fn the_scripted_server_and_the_raw_application_understand_each_other() {
        let server = ScriptedServer::start();
        thread::scope(|scope| {
            let app = scope.spawn(|| {
                let mut app =
                    RawApp::login(server.socket(), server.callback_socket(), "g", "abcde");
                app.put("k", "v");
                let value = app.get("k");
                let change = app.change();
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
