//! The control socket: administration without the console (`docs/PROTOCOL.md` §8).
//!
//! Only root and the server's own user may connect. The mode of the path enforces this. Because an
//! administrator may have changed the mode, the server also checks the credentials of each
//! connection (`SO_PEERCRED`), and refuses another user with one line.

use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use kvs_proto::control::{AdminErrorKind, AdminResponse};
use mio::net::UnixListener;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;

use crate::local::admin::administration::Administration;
use crate::local::admin::control_session::ControlSession;
use crate::local::admin::control_slots::{ControlSlots, close};
use crate::local::net::acceptor::Acceptor;
use crate::local::net::listener::Listener;
use crate::log_limiter::LogLimiter;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);

/// The thread that accepts connections, and the connections.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    waker: Arc<Waker>,
    acceptor: Option<JoinHandle<()>>,
    slots: Arc<ControlSlots>,
}

impl ControlSocket {
    /// Serves until it is dropped.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub(crate) fn start(
        mut listener: Listener,
        administration: Arc<Administration>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let slots = Arc::new(ControlSlots::default());
        let mut socket = listener.take().ok_or_else(|| io::Error::other("the socket is in use"))?;
        poll.registry().register(&mut socket, LISTENER, Interest::READABLE)?;
        let sessions = Sessions { administration, slots: Arc::clone(&slots) };
        let acceptor = thread::Builder::new().name("control".into()).spawn(move || {
            if let Err(error) = accept(poll, &socket, &sessions) {
                tracing::error!("the control socket is no longer served: {error}");
            }
            drop(socket);
            // Removes the path.
            drop(listener);
        })?;
        Ok(Self { waker, acceptor: Some(acceptor), slots })
    }

    /// Removes the path. Open connections stay open.
    pub(crate) fn stop_accepting(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        match self.waker.wake() {
            Ok(()) if acceptor.join().is_ok() => {}
            Ok(()) => tracing::error!("the control socket's thread has panicked"),
            Err(error) => tracing::error!("cannot stop the thread of the control socket: {error}"),
        }
    }
}

impl Drop for ControlSocket {
    /// Closes all connections.
    fn drop(&mut self) {
        self.stop_accepting();
        self.slots.close_all();
    }
}

/// What the session of an accepted connection needs.
struct Sessions {
    administration: Arc<Administration>,
    slots: Arc<ControlSlots>,
}

/// Accepts connections until the waker fires.
fn accept(mut poll: Poll, socket: &UnixListener, sessions: &Sessions) -> io::Result<()> {
    let mut events = Events::with_capacity(8);
    let mut acceptor = Acceptor::new("administrators");
    let mut refusals = LogLimiter::default();
    loop {
        let pause = acceptor.paused_until();
        let timeout = pause.map(|until| until.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        if events.iter().any(|event| event.token() == WAKER) {
            return Ok(());
        }
        acceptor.resume(Instant::now());
        while let Some(stream) = acceptor.accept(socket) {
            admit(stream.into(), sessions, &mut refusals);
        }
    }
}

/// Starts the session of a connection, if its user may have one and a slot is free.
fn admit(stream: OwnedFd, sessions: &Sessions, refusals: &mut LogLimiter) {
    let stream = Arc::new(UnixStream::from(stream));
    let ours = geteuid().as_raw();
    match getsockopt(&stream, PeerCredentials) {
        Ok(peer) if peer.uid() == 0 || peer.uid() == ours => {}
        Ok(peer) => {
            if refusals.allow(Instant::now()) {
                let (pid, uid) = (peer.pid(), peer.uid());
                tracing::warn!(
                    pid,
                    uid,
                    "connection refused on the control socket: its user is neither root nor the \
                     server's user"
                );
            }
            let message = "only root and the server's user may administer it";
            return refuse(&stream, AdminErrorKind::Denied, message);
        }
        Err(error) => {
            return tracing::warn!("cannot identify the user of a control connection: {error}");
        }
    }
    let Some(slot) = ControlSlots::acquire(&sessions.slots, &stream) else {
        return refuse(
            &stream,
            AdminErrorKind::Busy,
            "too many administrators are connected and have operations under way; try again",
        );
    };
    let session = ControlSession::new(slot, stream, Arc::clone(&sessions.administration));
    let thread = thread::Builder::new().name("control-client".into()).spawn(move || session.run());
    if let Err(error) = thread {
        tracing::warn!("cannot start a thread for a control connection: {error}");
    }
}

/// Sends the reason and closes the connection. Never waits.
fn refuse(stream: &UnixStream, kind: AdminErrorKind, message: &str) {
    let response = AdminResponse::Error { kind, message: message.into() };
    // The send buffer of a new connection has room for one line. If the peer has disconnected, the
    // error does not matter.
    let _ =
        stream.set_nonblocking(true).and_then(|()| (&mut &*stream).write_all(&response.encode()));
    close(stream);
}
