//! A login to a kvs server without the library: for the connections of the load generator, and for
//! idle ones.
//!
//! It performs the steps of [`LoginExchange`] (`docs/PROTOCOL.md` §1 and §7). Both sockets are
//! bound first, to names with the same ending, which distinguishes the logins of one process. The
//! names are in the directory of the server, and are removed as soon as the sockets are connected.

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

use crate::error::{Error, IoContext, Result, failed};
use crate::servers::SERVER_TIMEOUT;
use crate::system::kvs::Address;

/// Both sockets of a session, connected and blocking.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    /// The main channel.
    pub(crate) main: UnixStream,
    /// The callback channel.
    pub(crate) callback: UnixStream,
}

/// Logs in.
///
/// # Errors
/// [`Error::Unavailable`] when the server does not know that protocol of session.
pub(crate) fn log_in(address: &Address, protocol: Protocol) -> Result<LoggedIn> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = address.socket.parent().unwrap_or(Path::new("/tmp"));
    // The library counts from 1; this does not come near it.
    let name = |stem: &str| dir.join(format!("{stem}{}_9{number:09}", std::process::id()));
    let mut main = BoundSocket::bind(name("app_socket_"))?;
    let callback = BoundSocket::bind(name("app_socket_cb_"))?;
    let mut callback_socket = address.socket.clone().into_os_string();
    callback_socket.push("_cb");
    main.connect(&address.socket)?;
    let mut connected = None;
    let mut callback = Some(callback);

    let text = |what: &str, text: &str| {
        Text::new(text.as_bytes()).map_err(|error| Error::Failed(format!("{what}: {error}")))
    };
    let mut login = LoginExchange::new(
        text("group", &address.group)?,
        text("secret", &address.secret)?,
        protocol,
    );
    let negotiated = loop {
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
                end.stream.read_exact(&mut int).io_context(|| "login: receiving".into())?;
                login
                    .received(int)
                    .map_err(|violation| Error::Failed(format!("login: {violation:?}")))?;
            }
            LoginStep::Send(bytes) => {
                main.stream.write_all(&bytes).io_context(|| "login: sending".into())?;
                login.sent();
            }
            LoginStep::ConnectCallback => {
                if let Some(mut end) = callback.take() {
                    end.connect(Path::new(&callback_socket))?;
                    connected = Some(end);
                }
                login.connected();
            }
            LoginStep::Done(LoginResult::LoggedIn(negotiated)) => break negotiated,
            LoginStep::Done(result) => return failed(format!("login: {result:?}")),
        }
    };
    if negotiated != protocol {
        return Err(Error::Unavailable("the server does not support protocol v2".into()));
    }
    if protocol == Protocol::V2 {
        welcome(&mut main.stream)?;
    }
    match connected {
        Some(callback) => Ok(LoggedIn { main: main.stream, callback: callback.stream }),
        None => failed("login: done without a callback channel"),
    }
}

/// Receives the first frame of a server.
fn welcome(main: &mut UnixStream) -> Result<()> {
    let mut header = [0; HEADER_LEN];
    main.read_exact(&mut header).io_context(|| "login: receiving the welcome frame".into())?;
    let response = FrameHeader::decode(&header).and_then(|header| match header.body_len {
        0 => Response::decode(&header, &[]),
        _ => Err(kvs_proto::v2::Malformed::Header("a welcome frame with a body")),
    });
    match response {
        Ok(response) if response.status == Status::Welcome => Ok(()),
        other => failed(format!("login: {other:?} in position of a greeting")),
    }
}

/// A socket that is bound to a path until it is connected.
#[derive(Debug)]
struct BoundSocket {
    stream: UnixStream,
    path: PathBuf,
}

impl BoundSocket {
    fn bind(path: PathBuf) -> Result<Self> {
        let what = || format!("binding {}", path.display());
        let socket: OwnedFd =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .io_context(what)?;
        let address = SocketAddrUnix::new(&path).io_context(what)?;
        bind(&socket, &address).io_context(what)?;
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(SERVER_TIMEOUT)).io_context(what)?;
        stream.set_write_timeout(Some(SERVER_TIMEOUT)).io_context(what)?;
        Ok(Self { stream, path })
    }

    fn connect(&mut self, server: &Path) -> Result<()> {
        let what = || format!("connecting to {}", server.display());
        let address = SocketAddrUnix::new(server).io_context(what)?;
        let result = connect(&self.stream, &address).io_context(what);
        let _ = fs::remove_file(&self.path);
        result
    }
}
