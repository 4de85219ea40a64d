//! Admits the connections of applications on behalf of all reactors.
//!
//! The first reactor owns it. It accepts on both sockets, checks the connection quota of the peer's
//! user, distributes main connections over the reactors, and pairs callback connections with their
//! sessions. While the server quits, connections are closed at once, unless the listening sockets
//! outlive the server: then they wait for the next one.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_proto::v1::server::refuse;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::local::limits::connections::Channel;
use crate::local::limits::permit::ConnectionPermit;
use crate::local::limits::quota::Quotas;
use crate::local::metrics::counters::Metrics;
use crate::local::metrics::labels::LoginOutcome;
use crate::local::net::acceptor::Acceptor;
use crate::local::net::connection::{AcceptedConnection, Peer};
use crate::local::net::mailbox::{Address, Mailbox, Message, SessionId};
use crate::local::net::pairing::Pairing;

/// The most connections accepted from one listener before the sessions are served again.
const ACCEPT_BURST: usize = 32;

/// The sockets on which applications connect.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The main socket.
    pub(crate) main: UnixListener,
    /// The callback socket.
    pub(crate) callback: UnixListener,
    /// Whether the sockets outlive the server (socket activation).
    pub(crate) are_activated: bool,
}

/// Admits connections. See the [module](self).
#[derive(Debug)]
pub(crate) struct Dispatcher {
    listeners: Listeners,
    acceptor: Acceptor,
    quotas: Arc<Quotas>,
    pairing: Pairing,
    login_timeout: Duration,
    metrics: Metrics,
    reactors: Vec<Arc<Mailbox>>,
    /// The index of the reactor that gets the next main connection.
    next: usize,
    /// A burst ended while connections may still wait.
    has_more: bool,
    /// The server quits.
    is_closed: bool,
}

impl Dispatcher {
    /// Registers the listeners for events with these tokens. Main connections go to `reactors` in
    /// turn; a callback connection waits for `login_timeout`.
    ///
    /// # Errors
    /// A listener cannot be registered.
    pub(crate) fn new(
        mut listeners: Listeners,
        (main, callback): (Token, Token),
        registry: &Registry,
        quotas: Arc<Quotas>,
        reactors: Vec<Arc<Mailbox>>,
        login_timeout: Duration,
        metrics: Metrics,
    ) -> io::Result<Self> {
        registry.register(&mut listeners.main, main, Interest::READABLE)?;
        registry.register(&mut listeners.callback, callback, Interest::READABLE)?;
        Ok(Self {
            listeners,
            acceptor: Acceptor::new("applications"),
            quotas,
            pairing: Pairing::default(),
            login_timeout,
            metrics,
            reactors,
            next: 0,
            has_more: false,
            is_closed: false,
        })
    }

    /// Accepts a burst of connections from each socket. Every connection is an event, so the events
    /// during a pause need no attention: [`expire`](Self::expire) resumes.
    pub(crate) fn accept(&mut self) {
        self.has_more = false;
        if self.is_closed && self.listeners.are_activated {
            return;
        }
        // Callbacks first: when descriptors are short, logins that have begun come before new ones.
        for channel in [Channel::Callback, Channel::Main] {
            for accepted in 1.. {
                let listener = match channel {
                    Channel::Main => &self.listeners.main,
                    Channel::Callback => &self.listeners.callback,
                };
                let Some(stream) = self.acceptor.accept(listener) else { break };
                self.admit(stream, channel);
                if accepted == ACCEPT_BURST {
                    self.has_more = true;
                    break;
                }
            }
        }
    }

    /// Whether connections may wait that no event will report.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Refuses all further connections.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// A session waits for the callback connection of `peer`.
    pub(crate) fn await_callback(&mut self, peer: Peer, address: Address) {
        self.pairing.add_session(peer, address);
    }

    /// A session has received a callback connection that belongs to another login.
    pub(crate) fn return_callback(&mut self, connection: AcceptedConnection) {
        self.pairing.add_callback(connection, self.login_timeout);
    }

    /// A session no longer waits for its callback connection.
    pub(crate) fn cancel_pairing(&mut self, session: SessionId) {
        self.pairing.cancel(session);
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.pairing.deadline(), self.acceptor.paused_until()].into_iter().flatten().min()
    }

    /// Closes unclaimed callback connections, and resumes after a pause.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.pairing.expire(now);
        if self.acceptor.resume(now) {
            self.accept();
        }
    }

    fn admit(&mut self, mut stream: UnixStream, channel: Channel) {
        if self.is_closed {
            return;
        }
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!("connection closed: the kernel does not report its user: {error}");
                return;
            }
        };
        let Ok(permit) = ConnectionPermit::acquire(&self.quotas, peer.uid, peer.pid, channel)
        else {
            if channel == Channel::Main {
                self.metrics.login(LoginOutcome::Limit);
            }
            let mut refusal = Vec::new();
            refuse(&mut refusal);
            // Nothing was written before, so the socket has room for it. If the peer has closed
            // already, the connection is refused all the same.
            let _ = stream.write(&refusal);
            return;
        };
        let connection = AcceptedConnection { stream, peer, permit };
        match channel {
            Channel::Main => {
                self.reactors[self.next].send(Message::Serve(connection));
                self.next = (self.next + 1) % self.reactors.len();
            }
            Channel::Callback => self.pairing.add_callback(connection, self.login_timeout),
        }
    }
}
