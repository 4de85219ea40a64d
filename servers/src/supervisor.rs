//! Notifies the service manager of the state of a server: systemd, or another one that sets
//! `NOTIFY_SOCKET` (sd_notify(3)). Without that variable, all of this does nothing.
//!
//! - `READY=1`: connections are served, so that units ordered after the server can connect.
//! - `STATUS=`: a sentence for people (`systemctl status`) about state that changes while the
//!   server runs.
//! - `STOPPING=1`: the server begins to quit. The server itself limits how long that takes (half a
//!   minute at most), so it never needs more time than its unit grants.
//! - `RELOADING=1`, then `READY=1`: the options are being changed, then have been.
//!
//! There is no watchdog: a thread would have to wake for nothing else, and would show only that
//! this thread lives. A server thread that fails shuts the server down
//! ([`shut_down_on_failure`](crate::shutdown::shut_down_on_failure)).
//!
//! A message is one datagram. Sending waits a second at most for a supervisor that does not read.
//! Errors are logged and have no other effect.

use std::env;
use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;

/// How long sending may wait for a supervisor that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The environment variable with the address of the supervisor's socket.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The supervisor of this process, if there is one. Clones notify the same one.
#[derive(Debug, Clone, Default)]
pub struct Supervisor(Option<Arc<NotifySocket>>);

struct NotifySocket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Not held while a message is sent.
    phase: Mutex<ServerPhase>,
}

/// What the supervisor knows. A reload is reported only while the server serves: its `READY=1`
/// would be wrong while the server starts or stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerPhase {
    Starting,
    Serving,
    Stopping,
}

impl fmt::Debug for NotifySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifySocket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// The supervisor that `NOTIFY_SOCKET` names: a path, or (`@…`) an abstract name.
    pub fn from_env() -> Self {
        let Some(name) = env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match NotifySocket::new(&name) {
            Ok(socket) => Self(Some(Arc::new(socket))),
            Err(error) => {
                tracing::warn!(
                    "cannot notify the supervisor: {NOTIFY_SOCKET} is {name:?}: {error}"
                );
                Self::default()
            }
        }
    }

    /// Reports the state of the server, in a sentence.
    pub fn status(&self, status: impl Display) {
        self.notify(&[NotifyState::Status(&line(status))]);
    }

    /// Reports that the server serves. To be called once.
    pub fn ready(&self) {
        self.enter(ServerPhase::Serving);
        self.notify(&[NotifyState::Ready]);
    }

    /// Reports that the server quits because of `reason`. To be called once.
    pub fn stopping(&self, reason: impl Display) {
        self.enter(ServerPhase::Stopping);
        let status = line(format_args!("Quitting: {reason}"));
        self.notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
    }

    /// Changes the options of the running server with `reload`, and reports the change.
    pub fn reload<T>(&self, reload: impl FnOnce() -> T) -> T {
        let is_serving =
            || self.0.as_ref().is_some_and(|socket| *socket.phase.lock() == ServerPhase::Serving);
        let is_reported = is_serving();
        if is_reported {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => self.notify(&[NotifyState::Reloading, now]),
                Err(error) => tracing::warn!("cannot read the clock: {error}"),
            }
        }
        let result = reload();
        if is_reported && is_serving() {
            self.notify(&[NotifyState::Ready]);
        }
        result
    }

    fn enter(&self, phase: ServerPhase) {
        if let Some(socket) = &self.0 {
            *socket.phase.lock() = phase;
        }
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.0 else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = socket.socket.send_to_addr(message.as_bytes(), &socket.address) {
            tracing::warn!("cannot notify the supervisor of {:?}: {error}", message.trim_end());
        }
    }
}

impl NotifySocket {
    fn new(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::other("it must begin with / or @")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { socket, address, phase: Mutex::new(ServerPhase::Starting) })
    }
}

/// Joins lines, because each line of a message is an assignment of its own.
fn line(text: impl Display) -> String {
    text.to_string().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A supervisor, and the supervisor's end of the socket.
    fn supervisor(dir: &tempfile::TempDir) -> (Supervisor, UnixDatagram) {
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Supervisor(Some(Arc::new(NotifySocket::new(path.as_os_str()).unwrap()))), socket)
    }

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..count].to_vec()).unwrap())
    }

    #[test]
    fn reload_is_reported_only_while_the_server_serves() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, socket) = supervisor(&dir);
        assert_eq!(supervisor.reload(|| 1), 1);
        assert_eq!(received(&socket), None);
        supervisor.ready();
        assert_eq!(received(&socket).as_deref(), Some("READY=1\n"));
        supervisor.reload(|| {
            let message = received(&socket).unwrap();
            let since_boot = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(since_boot.trim_end().parse::<u64>().unwrap() > 0);
            assert_eq!(received(&socket), None);
        });
        assert_eq!(received(&socket).as_deref(), Some("READY=1\n"));
        supervisor.reload(|| {
            received(&socket).unwrap();
            supervisor.stopping("SIGTERM");
            assert_eq!(
                received(&socket).as_deref(),
                Some("STOPPING=1\nSTATUS=Quitting: SIGTERM\n")
            );
        });
        supervisor.reload(|| ());
        assert_eq!(received(&socket), None, "the server does not serve");
    }

    #[test]
    fn status_cannot_contain_another_assignment() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, socket) = supervisor(&dir);
        supervisor.status("at /a\nMAINPID=1");
        assert_eq!(received(&socket).as_deref(), Some("STATUS=at /a MAINPID=1\n"));
    }

    #[test]
    fn stopped_supervisor_delays_the_server_briefly() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, socket) = supervisor(&dir);
        // Once the queue is full, each send waits for the timeout.
        let begin = std::time::Instant::now();
        while begin.elapsed() < SEND_TIMEOUT {
            supervisor.status("again");
        }
        assert!(begin.elapsed() < SEND_TIMEOUT * 10);
        drop(socket);
        supervisor.status("closed");
    }

    #[test]
    fn address_is_a_path_or_an_abstract_name() {
        let name = format!("kvs-supervisor-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let notify = NotifySocket::new(OsStr::new(&format!("@{name}"))).unwrap();
        Supervisor(Some(Arc::new(notify))).ready();
        assert_eq!(received(&socket).as_deref(), Some("READY=1\n"));
        for bad in ["vsock:2:1", "relative", &format!("/{}", "x".repeat(108))] {
            assert!(NotifySocket::new(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
