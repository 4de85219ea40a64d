//! What follows the login in an original session: one operation at a time, one change at a time.

use kvs_proto::v1::server::ClientMessage;
use kvs_proto::v2::request::{RequestKind, WatchTarget};
use kvs_proto::v2::response::Status;
use kvs_proto::{MAX_TEXT, Text};

use super::{Callback, CloseReason, Login, Member, Session, Stage};
use crate::local::group::registry::{Outcome, PendingNotifications};
use crate::local::limits::quota::{Limit, UserQuota, subscription_bytes};
use crate::local::metrics::Tally;
use crate::local::net::context::Context;
use crate::local::net::socket::Received;

/// More than any legal application ever has under way, so that one read takes all there is.
pub(super) const READ: usize = 4096;

impl Session {
    /// Takes what one `read` brought. Also of a login that may lead to a framed session.
    pub(super) fn serve_original(
        &mut self,
        read: &[u8],
        out: &mut Vec<u8>,
        notifications: &mut PendingNotifications,
        tally: &mut Tally<'_>,
        context: &Context,
    ) -> Result<(), CloseReason> {
        let mut requests = self.protocol.receive(read, out)?;
        requests.try_for_each(|request| self.serve(request, out, notifications, tally, context))
    }

    fn serve(
        &mut self,
        request: ClientMessage,
        out: &mut Vec<u8>,
        notifications: &mut PendingNotifications,
        tally: &mut Tally<'_>,
        context: &Context,
    ) -> Result<(), CloseReason> {
        let member = match (&self.stage, request) {
            (_, ClientMessage::Group(hello)) => {
                let group = context.groups.open_group(&hello.group);
                let found = group.is_some();
                tracing::debug!(pid = self.peer.pid, group = ?hello.group, found, "login");
                self.protocol.respond_to_group(found.then_some(hello.offer), out);
                if let Some(group) = group {
                    self.stage = Stage::Login(Login { group, secret: None, right: None });
                }
                return Ok(());
            }
            (_, ClientMessage::Secret(secret)) => {
                self.ask_for_secret(secret, context);
                return Ok(());
            }
            (_, ClientMessage::Close) => return Err(self.goodbye()),
            (Stage::Member(member), _) => member,
            // The protocol lets nothing else through before the verdict.
            (Stage::New | Stage::Login(_), _) => return Err(CloseReason::NotLoggedIn),
        };
        let pid = self.peer.pid;
        match request {
            ClientMessage::BeginPut(key) => {
                let allowed = member.group.check_put_quota(key.as_bytes(), MAX_TEXT, &self.user);
                let ready = is_allowed(allowed, &self.user, pid);
                self.protocol.respond_ready(ready, out);
                if !ready {
                    tally.count(RequestKind::Put, Status::Limit);
                }
            }
            ClientMessage::BeginWatch => {
                // The key is not known yet; it is a text.
                let allowed = self.user.check_quota(0, subscription_bytes(MAX_TEXT) as u64);
                let ready = is_allowed(allowed, &self.user, pid);
                self.protocol.respond_ready(ready, out);
                if !ready {
                    tally.count(RequestKind::Watch, Status::Limit);
                }
            }
            ClientMessage::Put { key, value } => {
                let change = member.group.put(key.as_bytes(), value.as_bytes(), &self.user);
                tracing::debug!(pid, ?key, watchers = change.watchers(), "put");
                if let Outcome::Limit(_) = change.settle(notifications) {
                    tally.count(RequestKind::Put, Status::Limit);
                    return Err(CloseReason::TableFull);
                }
                tally.count(RequestKind::Put, Status::Ok);
            }
            ClientMessage::Get(key) => {
                let protocol = &mut self.protocol;
                let found = member.group.get(key.as_bytes(), |pair| {
                    // What a framed session may store, but an original one cannot carry, is not there for it.
                    let value = pair.as_ref().map(|pair| pair.value.as_bytes());
                    let value = value.filter(|value| Text::new(value).is_ok());
                    protocol.respond_to_get(value, out);
                    value.is_some()
                });
                tracing::debug!(pid, ?key, found, "get");
                tally.count(RequestKind::Get, found_or_not(found));
            }
            ClientMessage::Delete(key) => {
                let change = member.group.delete(key.as_bytes(), None);
                let found = matches!(change.settle(notifications), Outcome::Done(_));
                tracing::debug!(pid, ?key, found, "delete");
                tally.count(RequestKind::Delete, found_or_not(found));
                self.protocol.respond_found(found, out);
            }
            ClientMessage::Watch(key) => {
                let watched = WatchTarget::Key(key.as_bytes());
                let outcome = member.group.subscribe(watched, member.number, &self.user);
                let found = matches!(outcome, Outcome::Done(_));
                tracing::debug!(pid, ?key, found, "watch");
                tally.count(RequestKind::Watch, found_or_not(found));
                self.protocol.respond_found(found, out);
            }
            ClientMessage::Group(_) | ClientMessage::Secret(_) | ClientMessage::Close => {}
        }
        Ok(())
    }

    /// The callback connection may be read or written; `false`: it has ended.
    pub(super) fn original_callback_ready(&mut self) -> Result<bool, CloseReason> {
        let Some(Callback { socket, notifier }) = &mut self.callback else { return Ok(true) };
        let mut buffer = [0; READ];
        let mut out = Vec::new();
        if socket.flush().is_err() {
            return Ok(false);
        }
        while !socket.is_write_blocked() {
            match socket.read(&mut buffer) {
                Received::Bytes(read) => {
                    notifier.receive(&buffer[..read], &mut out)?;
                    if socket.write(&mut out).is_err() {
                        return Ok(false);
                    }
                }
                Received::Nothing => break,
                Received::End => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Tells the next change, or that it is to close, if the callback channel is ready for it.
    pub(super) fn notify_original(&mut self) -> std::io::Result<()> {
        let (Some(Callback { socket, notifier }), Stage::Member(Member { subscriber, .. })) =
            (&mut self.callback, &self.stage)
        else {
            return Ok(());
        };
        if socket.is_write_blocked() || !notifier.is_idle() {
            return Ok(());
        }
        let mut out = Vec::new();
        if self.closing {
            notifier.close(&mut out);
        } else if let Some(key) = subscriber.next_key().and_then(|key| Text::new(&key).ok()) {
            // It could not have asked for a key that is no text.
            notifier.notify(key, &mut out);
        }
        socket.write(&mut out)
    }
}

/// How an operation went, as framed sessions say it.
fn found_or_not(found: bool) -> Status {
    if found { Status::Ok } else { Status::NoSuchKey }
}

/// Whether there was no limit in the way; if there was, it is logged.
pub(super) fn is_allowed(allowed: Result<(), Limit>, user: &UserQuota, pid: i32) -> bool {
    if let Err(limit) = allowed {
        user.log_refusal(limit, format_args!("an operation of process {pid} is refused"));
    }
    allowed.is_ok()
}
