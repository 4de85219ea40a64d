//! What a server tells whoever has started it and watches over it: systemd, or any other that sets `NOTIFY_SOCKET`
//! (sd_notify(3)). Without that variable all of this does nothing.
//!
//! - `READY=1` comes when whoever connects is served, so what is ordered after the server finds it.
//! - `STATUS=` is a sentence for people (`systemctl status`) about what may change while the server runs.
//! - `STOPPING=1` comes when the server begins to quit. How long that takes is limited by the server itself (half a
//!   minute at most), so it never asks for more time than its unit gives.
//! - `RELOADING=1`, and `READY=1` after it, stand around a change of the options.
//!
//! There is no watchdog: it would have to be fed by a thread that wakes for nothing else, and would say that this
//! thread lives. A thread of the server that fails ends the server ([`end_with`](crate::shutdown::end_with)).
//!
//! A message is one datagram. A supervisor that does not read is waited for for a second at most, and whatever goes
//! wrong is a line in the log: a server serves no worse because nobody watches it.

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

/// How long a message may wait for a supervisor that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// The variable with the address of the supervisor's socket.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Whoever watches over this process, or nobody. Clones speak to the same one.
#[derive(Debug, Clone, Default)]
pub struct Supervisor(Option<Arc<Link>>);

struct Link {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Not held while a message is sent.
    phase: Mutex<Phase>,
}

/// What was told already: a reload while the server starts or stops says nothing about whether it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Stopping,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// The one that `NOTIFY_SOCKET` names, a path or (`@…`) an abstract name.
    pub fn from_env() -> Self {
        let Some(name) = env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match Link::new(&name) {
            Ok(link) => Self(Some(Arc::new(link))),
            Err(error) => {
                tracing::warn!(
                    "the supervisor is told nothing: {NOTIFY_SOCKET} is {name:?}: {error}"
                );
                Self::default()
            }
        }
    }

    /// What the server does now, in a sentence.
    pub fn status(&self, status: impl Display) {
        self.tell(&[NotifyState::Status(&line(status))]);
    }

    /// The server serves. To be called once.
    pub fn ready(&self) {
        self.enter(Phase::Serving);
        self.tell(&[NotifyState::Ready]);
    }

    /// The server begins to quit, because of `reason`. To be called once.
    pub fn stopping(&self, reason: impl Display) {
        self.enter(Phase::Stopping);
        let status = line(format_args!("Quitting: {reason}"));
        self.tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
    }

    /// Changes the options of the running server by `reload`, and tells that it does.
    pub fn reload<T>(&self, reload: impl FnOnce() -> T) -> T {
        let is_serving =
            || self.0.as_ref().is_some_and(|link| *link.phase.lock() == Phase::Serving);
        let told = is_serving();
        if told {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => self.tell(&[NotifyState::Reloading, now]),
                Err(error) => tracing::warn!("the clock cannot be read: {error}"),
            }
        }
        let result = reload();
        if told && is_serving() {
            self.tell(&[NotifyState::Ready]);
        }
        result
    }

    fn enter(&self, phase: Phase) {
        if let Some(link) = &self.0 {
            *link.phase.lock() = phase;
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(link) = &self.0 else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(error) = link.socket.send_to_addr(message.as_bytes(), &link.address) {
            tracing::warn!("the supervisor cannot be told {:?}: {error}", message.trim_end());
        }
    }
}

impl Link {
    fn new(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::other("it must begin with / or @")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, address, phase: Mutex::new(Phase::Starting) })
    }
}

/// In one line, as each line of a message is an order to the supervisor.
fn line(text: impl Display) -> String {
    text.to_string().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A supervisor, and its end of the socket.
    fn supervisor(dir: &tempfile::TempDir) -> (Supervisor, UnixDatagram) {
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Supervisor(Some(Arc::new(Link::new(path.as_os_str()).unwrap()))), socket)
    }

    fn told(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..count].to_vec()).unwrap())
    }

    #[test]
    fn a_reload_is_told_between_ready_and_the_end_and_at_no_other_time() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, socket) = supervisor(&dir);
        assert_eq!(supervisor.reload(|| 1), 1);
        assert_eq!(told(&socket), None);
        supervisor.ready();
        assert_eq!(told(&socket).as_deref(), Some("READY=1\n"));
        supervisor.reload(|| {
            let message = told(&socket).unwrap();
            let since_boot = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(since_boot.trim_end().parse::<u64>().unwrap() > 0);
            assert_eq!(told(&socket), None);
        });
        assert_eq!(told(&socket).as_deref(), Some("READY=1\n"));
        supervisor.reload(|| {
            told(&socket).unwrap();
            supervisor.stopping("it was told to");
            assert_eq!(
                told(&socket).as_deref(),
                Some("STOPPING=1\nSTATUS=Quitting: it was told to\n")
            );
        });
        supervisor.reload(|| ());
        assert_eq!(told(&socket), None, "it serves no more");
    }

    #[test]
    fn nothing_in_a_status_is_an_order() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, socket) = supervisor(&dir);
        supervisor.status("at /a\nMAINPID=1");
        assert_eq!(told(&socket).as_deref(), Some("STATUS=at /a MAINPID=1\n"));
    }

    #[test]
    fn a_supervisor_that_does_not_read_or_has_gone_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, socket) = supervisor(&dir);
        // Until its queue is full: then the wait is limited.
        let begin = std::time::Instant::now();
        while begin.elapsed() < PATIENCE {
            supervisor.status("again");
        }
        assert!(begin.elapsed() < PATIENCE * 10);
        drop(socket);
        supervisor.status("to nobody");
    }

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        let name = format!("kvs-supervisor-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let link = Link::new(OsStr::new(&format!("@{name}"))).unwrap();
        Supervisor(Some(Arc::new(link))).ready();
        assert_eq!(told(&socket).as_deref(), Some("READY=1\n"));
        for bad in ["vsock:2:1", "relative", &format!("/{}", "x".repeat(108))] {
            assert!(Link::new(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
