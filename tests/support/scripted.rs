//! A local server that says what the test says, for the library to talk to.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tempfile::TempDir;

use crate::{Channel, DEADLINE};

/// The two listening sockets of a local server, in a directory of their own.
#[derive(Debug)]
pub struct ScriptedServer {
    dir: TempDir,
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
        let dir = crate::local::private_dir();
        let main = listen(&dir.path().join("sock"));
        Self { dir, main, callback: OnceLock::new() }
    }

    /// The path of the main socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// The path of the callback socket: the other path and `_cb`.
    pub fn callback_socket(&self) -> PathBuf {
        self.dir.path().join("sock_cb")
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

    fn callback_listener(&self) -> &UnixListener {
        self.callback.get_or_init(|| listen(&self.callback_socket()))
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
        let (socket, callback_socket) = (server.socket(), server.callback_socket());
        let app = thread::spawn(move || {
            let mut app = RawApp::login(&socket, &callback_socket, "g", "abcde");
            app.put("k", "v");
            let value = app.get("k");
            let change = app.change();
            app.close();
            (value, change)
        });
        let mut main = server.accept_main();
        main.send_int(1);
        main.expect(b"g");
        main.send_int(1);
        main.expect(b"abcde");
        let mut callback = server.accept_callback();
        callback.send_int(1);
        main.send_int(1);
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
    }
}
