//! A login to a kvs server without the library, for connections that the library does not make: those of the load
//! generator, and idle ones.
//!
//! It plays the steps that `kvs_proto` names (`docs/PROTOCOL.md` §1 and §7). Both sockets are bound first, to names with the same
//! ending, which tell the logins of one process apart; the names lie in the server's own directory, and are
//! removed as soon as the sockets are connected.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kvs_proto::Protocol;
use kvs_proto::v1::client::{ChannelKind, LoginExchange, LoginResult, LoginStep};
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN};
use kvs_proto::{INT_LEN, Text};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
};

use crate::error::{Doing, Error, Result, failed};
use crate::servers::PATIENCE;
use crate::subject::kvs::Address;

/// Both sockets, connected and blocking.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    /// For requests.
    pub(crate) main: UnixStream,
    /// For changes.
    pub(crate) callback: UnixStream,
}

/// Logs in.
///
/// # Errors
/// [`Error::Unavailable`] when the server does not know that kind of session.
pub(crate) fn log_in(address: &Address, kind: Protocol) -> Result<LoggedIn> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = address.socket.parent().unwrap_or(Path::new("/tmp"));
    // The library counts from 1; this does not come near it.
    let name = |stem: &str| dir.join(format!("{stem}{}_9{number:09}", std::process::id()));
    let mut main = End::bind(name("app_socket_"))?;
    let callback = End::bind(name("app_socket_cb_"))?;
    let mut callback_socket = address.socket.clone().into_os_string();
    callback_socket.push("_cb");
    main.connect(&address.socket)?;
    let mut connected = None;
    let mut callback = Some(callback);

    let text = |what: &str, text: &str| {
        Text::new(text.as_bytes()).map_err(|error| Error::Failed(format!("{what}: {error}")))
    };
    let mut login =
        LoginExchange::new(text("group", &address.group)?, text("secret", &address.secret)?, kind);
    let got = loop {
        match login.next() {
            LoginStep::Receive(channel, _) => {
                let mut int = [0; INT_LEN];
                let end = match (channel, &mut connected) {
                    (ChannelKind::Main, _) => &mut main,
                    (ChannelKind::Callback, Some(callback)) => callback,
                    (ChannelKind::Callback, None) => {
                        return failed("login: no callback channel yet");
                    }
                };
                end.stream.read_exact(&mut int).doing(|| "login: receiving".into())?;
                login
                    .received(int)
                    .map_err(|violation| Error::Failed(format!("login: {violation:?}")))?;
            }
            LoginStep::Send(bytes) => {
                main.stream.write_all(&bytes).doing(|| "login: sending".into())?;
                login.sent();
            }
            LoginStep::ConnectCallback => {
                if let Some(mut end) = callback.take() {
                    end.connect(Path::new(&callback_socket))?;
                    connected = Some(end);
                }
                login.connected();
            }
            LoginStep::Done(LoginResult::LoggedIn(got)) => break got,
            LoginStep::Done(result) => return failed(format!("login: {result:?}")),
        }
    };
    if got != kind {
        return Err(Error::Unavailable("the server has no framed session".into()));
    }
    if kind == Protocol::V2 {
        welcome(&mut main.stream)?;
    }
    match connected {
        Some(callback) => Ok(LoggedIn { main: main.stream, callback: callback.stream }),
        None => failed("login: done without a callback channel"),
    }
}

/// Takes the frame with which a server begins.
fn welcome(main: &mut UnixStream) -> Result<()> {
    let mut header = [0; HEADER_LEN];
    main.read_exact(&mut header).doing(|| "login: receiving the greeting".into())?;
    let answer = FrameHeader::decode(&header).and_then(|header| match header.body_len {
        0 => Response::decode(&header, &[]),
        _ => Err(kvs_proto::v2::Malformed::Header("a greeting with a body")),
    });
    match answer {
        Ok(answer) if answer.status == Status::Welcome => Ok(()),
        other => failed(format!("login: {other:?} in place of a greeting")),
    }
}

/// A socket that is bound to a path, until it is connected.
#[derive(Debug)]
struct End {
    stream: UnixStream,
    path: PathBuf,
}

impl End {
    fn bind(path: PathBuf) -> Result<Self> {
        let what = || format!("binding {}", path.display());
        let socket: OwnedFd =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .doing(what)?;
        let address = SocketAddrUnix::new(&path).doing(what)?;
        bind(&socket, &address).doing(what)?;
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).doing(what)?;
        stream.set_write_timeout(Some(PATIENCE)).doing(what)?;
        Ok(Self { stream, path })
    }

    fn connect(&mut self, server: &Path) -> Result<()> {
        let what = || format!("connecting to {}", server.display());
        let address = SocketAddrUnix::new(server).doing(what)?;
        let result = connect(&self.stream, &address).doing(what);
        let _ = fs::remove_file(&self.path);
        result
    }
}
