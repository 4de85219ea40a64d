//! A session before it is logged in. The login is the same in both protocols.
//!
//! A login needs three things, which arrive in any order after the application has sent its secret:
//! the callback connection, the group's secret from the directory, and the permission of the login
//! throttle. Secrets are compared in constant time, and neither is ever logged.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_proto::v1::server::{ClientMessage, MainChannel};
use kvs_proto::{Protocol, Text};
use mio::Registry;
use subtle::ConstantTimeEq;

use crate::directory::Unavailable;
use crate::local::group::group::Group;
use crate::local::group::subscriber::Subscriber;
use crate::local::limits::limit::Limit;
use crate::local::limits::login_throttle::Admission;
use crate::local::metrics::labels::LoginOutcome;
use crate::local::net::connection::AcceptedConnection;
use crate::local::net::context::Context;
use crate::local::net::socket::Socket;
use crate::local::session::active::Active;
use crate::local::session::callback::{Callback, CallbackStatus};
use crate::local::session::close_reason::CloseReason;
use crate::local::session::main_connection::MainConnection;
use crate::local::session::request_context::RequestContext;

/// A login in progress.
#[derive(Debug)]
pub(super) struct LoginSession {
    channel: MainChannel,
    progress: LoginProgress,
    callback: Option<Callback>,
    /// The login throttle postpones the comparison of the secrets until then.
    throttled_until: Option<Instant>,
    deadline: Instant,
    timeout: Duration,
}

enum LoginProgress {
    /// The application has not named an existing group.
    Group,
    /// The application has named its group.
    Secret { group: Arc<Group> },
    /// The application has sent its secret.
    Verification(Box<Verification>),
}

/// The inputs of the verification. Boxed, because a session outlives its login.
struct Verification {
    group: Arc<Group>,
    secret: Text,
    expected: Lookup,
}

/// The secret that the directory has for the group.
enum Lookup {
    Pending,
    /// `None`: the directory has no such group.
    Done(Option<Text>),
}

impl fmt::Debug for LoginProgress {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginProgress").field("group", &self.group()).finish_non_exhaustive()
    }
}

impl LoginProgress {
    fn group(&self) -> Option<&Arc<Group>> {
        match self {
            Self::Group => None,
            Self::Secret { group } => Some(group),
            Self::Verification(verification) => Some(&verification.group),
        }
    }
}

/// A successful login.
#[derive(Debug)]
pub(super) struct CompletedLogin {
    /// The membership in the group.
    pub(super) active: Active,
    /// The main channel, which goes on in protocol v1.
    pub(super) channel: MainChannel,
    /// The callback connection.
    pub(super) callback: Callback,
    /// The protocol of the session.
    pub(super) protocol: Protocol,
}

impl LoginSession {
    /// Starts a login that must be finished within `timeout`. Appends the greeting to `output`.
    pub(super) fn start(timeout: Duration, output: &mut Vec<u8>) -> Self {
        Self {
            channel: MainChannel::accept(output),
            progress: LoginProgress::Group,
            callback: None,
            throttled_until: None,
            deadline: Instant::now() + timeout,
            timeout,
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn deadline(&self) -> Instant {
        self.throttled_until.map_or(self.deadline, |until| until.min(self.deadline))
    }

    /// The group that the application logs in to.
    pub(super) fn group(&self) -> Option<&Arc<Group>> {
        self.progress.group()
    }

    /// The callback connection, if it is here.
    pub(super) fn callback(&mut self) -> Option<&mut Socket> {
        self.callback.as_mut().map(|callback| &mut callback.socket)
    }

    /// The number of bytes that wait to be written on the callback connection.
    #[cfg(fuzzing)]
    pub(super) fn unsent(&self) -> usize {
        self.callback.as_ref().map_or(0, |callback| callback.socket.unsent())
    }

    /// Handles what one `read` brought.
    pub(super) fn serve(
        &mut self,
        read: &[u8],
        main: &MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        for message in self.channel.receive(read, requests.output)? {
            self.handle(message, main, requests)?;
        }
        Ok(())
    }

    fn handle(
        &mut self,
        message: ClientMessage,
        main: &MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        let context = requests.context;
        match message {
            ClientMessage::Group(hello) => {
                let group = context.groups.open_group(&hello.group);
                let found = group.is_some();
                tracing::debug!(pid = main.peer.pid, group = ?hello.group, found, "login");
                self.channel.respond_to_group(found.then_some(hello.offer), requests.output);
                if let Some(group) = group {
                    self.progress = LoginProgress::Secret { group };
                }
                Ok(())
            }
            ClientMessage::Secret(secret) => {
                if let LoginProgress::Secret { group } = &self.progress {
                    let group = Arc::clone(group);
                    context.await_callback(main.peer.clone(), main.id);
                    context.look_up_secret(&group, main.id);
                    let expected = Lookup::Pending;
                    let verification = Verification { group, secret, expected };
                    self.progress = LoginProgress::Verification(Box::new(verification));
                }
                Ok(())
            }
            ClientMessage::Close => Err(CloseReason::ClosedByClient),
            // The protocol itself lets no other message through before the login.
            _ => Err(CloseReason::NotLoggedIn),
        }
    }

    /// Whether the application was informed that there is no such group.
    pub(super) fn is_refused(&self) -> bool {
        self.channel.is_closed()
    }

    /// The callback connection was paired with this login.
    pub(super) fn callback_connected(
        &mut self,
        connection: AcceptedConnection,
        main: &MainConnection,
        registry: &Registry,
        context: &Context,
    ) -> Result<(), CloseReason> {
        if main.socket.has_hung_up() {
            // The application has abandoned this login; the connection is meant for its next one.
            context.return_callback(connection);
            return Err(CloseReason::ConnectionLost);
        }
        let mut socket = Socket::new(connection.stream, connection.permit);
        let token = main.callback_token();
        socket.register(registry, token).map_err(|_| CloseReason::ConnectionLost)?;
        match Callback::greet(socket) {
            Ok(callback) => self.callback = Some(callback),
            // This connection is left from an abandoned login; the right one has not arrived yet.
            Err(_) => context.await_callback(main.peer.clone(), main.id),
        }
        Ok(())
    }

    /// The callback connection may be read or written.
    pub(super) fn callback_ready(&mut self) -> Result<(), CloseReason> {
        let Some(callback) = &mut self.callback else { return Ok(()) };
        match callback.ready()? {
            CallbackStatus::Open => Ok(()),
            CallbackStatus::Lost => Err(CloseReason::ConnectionLost),
        }
    }

    /// The directory has looked up the secret of the group.
    pub(super) fn secret_received(
        &mut self,
        found: Result<Option<Text>, Unavailable>,
    ) -> Result<(), CloseReason> {
        let found = found.map_err(CloseReason::Unavailable)?;
        if let LoginProgress::Verification(verification) = &mut self.progress {
            verification.expected = Lookup::Done(found);
        }
        Ok(())
    }

    /// Checks the timeout, unless only the throttle's delay is over.
    pub(super) fn expire(&self, now: Instant) -> Result<(), CloseReason> {
        match self.throttled_until {
            Some(until) if until <= now => Ok(()),
            _ => Err(CloseReason::LoginTimeout(self.timeout)),
        }
    }

    /// Compares the secrets and joins the group, when everything is here and the throttle permits
    /// it; `None` until then. Appends the response to `output`.
    pub(super) fn finish(
        &mut self,
        main: &mut MainConnection,
        output: &mut Vec<u8>,
        context: &Context,
        now: Instant,
    ) -> Result<Option<CompletedLogin>, CloseReason> {
        let (LoginProgress::Verification(verification), Some(callback)) =
            (&self.progress, &self.callback)
        else {
            return Ok(None);
        };
        let Verification { group, secret, expected: Lookup::Done(expected) } = &**verification
        else {
            return Ok(None);
        };
        let is_right =
            expected.is_some_and(|expected| expected.as_bytes().ct_eq(secret.as_bytes()).into());
        let uid = main.peer.uid;
        match self.throttled_until {
            None => match group.login_throttle.admit(uid, is_right, now) {
                Admission::Now => {}
                Admission::At(then) => {
                    self.throttled_until = Some(then);
                    return Ok(None);
                }
                Admission::Denied => {
                    let (pid, name) = (main.peer.pid, group.name());
                    main.user.log_refusal(
                        Limit::FailedLogins,
                        format_args!("login of process {pid} to {name:?} refused"),
                    );
                    return Err(CloseReason::TooManyFailedLogins);
                }
            },
            Some(then) if then > now => return Ok(None),
            Some(_) if is_right => group.login_throttle.confirm(uid),
            Some(_) => {}
        }
        if !is_right {
            self.channel.respond_to_secret(false, output);
            // The login is refused whether or not the application receives the response.
            let _ = main.socket.write(output);
            return Err(CloseReason::WrongSecret);
        }
        let protocol = self.channel.negotiated();
        let (address, user) = (context.address(main.id), Arc::clone(&main.user));
        let counts = context.metrics.event_counters();
        let subscriber = Arc::new(match protocol {
            Protocol::V1 => Subscriber::v1(address, user, counts),
            Protocol::V2 => Subscriber::v2(address, user, counts, callback.socket.connection()),
        });
        let number = group
            .join(main.peer.pid, protocol, Arc::clone(&subscriber))
            .map_err(|_| CloseReason::GroupDeleted)?;
        let active = Active::new(Arc::clone(group), number, subscriber);
        context.metrics.login(LoginOutcome::Ok);
        self.channel.respond_to_secret(true, output);
        let channel = self.channel.clone();
        let callback = self.callback.take();
        Ok(callback.map(|callback| CompletedLogin { active, channel, callback, protocol }))
    }

    /// The login has failed: withdraws the request for its callback connection.
    pub(super) fn end(self, main: &MainConnection, context: &Context) {
        if matches!(self.progress, LoginProgress::Verification(_)) && self.callback.is_none() {
            context.cancel_pairing(main.id);
        }
    }
}
