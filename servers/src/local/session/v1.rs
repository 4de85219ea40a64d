//! A session in protocol v1: one operation at a time, and one change event at a time.

use std::mem;
use std::time::Instant;

use kvs_proto::v1::server::{ClientMessage, MainChannel};
use kvs_proto::v2::request::{RequestKind, WatchTarget};
use kvs_proto::v2::response::Status;
use kvs_proto::{MAX_TEXT, Text};

use crate::local::group::outcome::Outcome;
use crate::local::group::submission::{Requester, Submission};
use crate::local::limits::charge::subscription_bytes;
use crate::local::net::context::Context;
use crate::local::session::active::Active;
use crate::local::session::callback::{Callback, CallbackStatus};
use crate::local::session::close_reason::CloseReason;
use crate::local::session::main_connection::MainConnection;
use crate::local::session::request_context::RequestContext;

/// More than a correct application ever sends without waiting, so that one read takes all of it.
pub(super) const READ_LEN: usize = 4096;

/// A session in protocol v1.
#[derive(Debug)]
pub(super) struct V1Session {
    /// The membership in the group.
    pub(super) active: Active,
    channel: MainChannel,
    /// `None` after the application has closed it.
    callback: Option<Callback>,
    /// Boxed, because it is rare and large.
    pending: Option<Box<PendingWrite>>,
}

/// A write that the store has not decided yet. The session is not read until it has.
#[derive(Debug)]
struct PendingWrite {
    kind: RequestKind,
    /// When it was read, if that is measured.
    read_at: Option<Instant>,
    /// What the protocol sends after the write.
    output: Vec<u8>,
    /// What was read together with the write. Protocol v1 has at most one message behind it.
    next: Option<ClientMessage>,
}

/// Whether a message was handled completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handled {
    Done,
    /// It was a write of this kind, which the store has not decided yet.
    Pending(RequestKind),
}

impl V1Session {
    /// The session of an application that has just logged in.
    pub(super) fn new(active: Active, channel: MainChannel, callback: Callback) -> Self {
        Self { active, channel, callback: Some(callback), pending: None }
    }

    /// Handles what one `read` brought.
    pub(super) fn serve(
        &mut self,
        read: &[u8],
        main: &MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        let messages = self.channel.receive(read, requests.output)?;
        self.handle_all(messages, main, requests)
    }

    /// Whether the session waits for the store.
    pub(super) fn awaits_commit(&self) -> bool {
        self.pending.is_some()
    }

    /// The store has decided the pending write.
    pub(super) fn committed(
        &mut self,
        outcome: Outcome,
        main: &MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        requests.recorder.resume(pending.read_at);
        self.finish_write(pending.kind, outcome, requests)?;
        requests.output.extend_from_slice(&pending.output);
        self.handle_all(pending.next.into_iter(), main, requests)
    }

    fn handle_all(
        &mut self,
        mut messages: impl Iterator<Item = ClientMessage>,
        main: &MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        while let Some(message) = messages.next() {
            if let Handled::Pending(kind) = self.handle(message, main, requests)? {
                let read_at = requests.recorder.since();
                let output = mem::take(requests.output);
                let next = messages.next();
                let pending = PendingWrite { kind, read_at, output, next };
                self.pending = Some(Box::new(pending));
                break;
            }
        }
        Ok(())
    }

    /// Responds to a write that the store has decided.
    fn finish_write(
        &mut self,
        kind: RequestKind,
        outcome: Outcome,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        match (kind, outcome) {
            (_, Outcome::StorageFailed) => return Err(CloseReason::StorageFailed),
            (RequestKind::Delete, Outcome::Deleted | Outcome::NoSuchKey) => {
                let found = outcome == Outcome::Deleted;
                requests.recorder.count(kind, found_status(found));
                self.channel.respond_found(found, requests.output);
            }
            (_, Outcome::Stored(_)) => requests.recorder.count(kind, Status::Ok),
            _ => {
                // Protocol v1 has no response to a value, and none to a delete that was refused.
                requests.recorder.count(kind, Status::Limit);
                return Err(CloseReason::TableFull);
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        message: ClientMessage,
        main: &MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<Handled, CloseReason> {
        let Active { group, number, .. } = &self.active;
        let (pid, user, context) = (main.peer.pid, &main.user, requests.context);
        // Only one write of the session is ever pending, so its ticket does not matter.
        let mut completion = || context.completion(main.id, 0);
        match message {
            ClientMessage::BeginPut(key) => {
                let checked = group.check_put_quota(key.as_bytes(), MAX_TEXT, user);
                let is_ready = main.is_within_limits(checked);
                self.channel.respond_ready(is_ready, requests.output);
                if !is_ready {
                    requests.recorder.count(RequestKind::Put, Status::Limit);
                }
            }
            ClientMessage::BeginWatch => {
                // The key is not known yet; it has at most so many bytes.
                let checked = user.check_quota(0, subscription_bytes(MAX_TEXT) as u64);
                let is_ready = main.is_within_limits(checked);
                self.channel.respond_ready(is_ready, requests.output);
                if !is_ready {
                    requests.recorder.count(RequestKind::Watch, Status::Limit);
                }
            }
            ClientMessage::Put { key, value } => {
                tracing::debug!(pid, ?key, "put");
                let requester = Requester { user, completion: &mut completion };
                let submission = group.put_unchecked(key.as_bytes(), value.as_bytes(), requester);
                let Submission::Done(applied) = submission else {
                    return Ok(Handled::Pending(RequestKind::Put));
                };
                let outcome = applied.schedule(&mut requests.notifications);
                self.finish_write(RequestKind::Put, outcome, requests)?;
            }
            ClientMessage::Get(key) => {
                let channel = &mut self.channel;
                let output = &mut *requests.output;
                let found = group.get(key.as_bytes(), |pair| {
                    // A value that protocol v1 cannot carry counts as absent.
                    let value = pair.as_ref().map(|pair| pair.value.as_bytes());
                    let value = value.filter(|value| Text::new(value).is_ok());
                    channel.respond_to_get(value, output);
                    value.is_some()
                });
                tracing::debug!(pid, ?key, found, "get");
                requests.recorder.count(RequestKind::Get, found_status(found));
            }
            ClientMessage::Delete(key) => {
                tracing::debug!(pid, ?key, "delete");
                let requester = Requester { user, completion: &mut completion };
                let Submission::Done(applied) = group.delete(key.as_bytes(), None, requester)
                else {
                    return Ok(Handled::Pending(RequestKind::Delete));
                };
                let outcome = applied.schedule(&mut requests.notifications);
                self.finish_write(RequestKind::Delete, outcome, requests)?;
            }
            ClientMessage::Watch(key) => {
                let target = WatchTarget::Key(key.as_bytes());
                let found = group.subscribe(target, *number, user).is_some();
                tracing::debug!(pid, ?key, found, "watch");
                requests.recorder.count(RequestKind::Watch, found_status(found));
                self.channel.respond_found(found, requests.output);
            }
            ClientMessage::Close => return Err(self.active.closed_by_client()),
            // Messages of a login, which the protocol does not let through after it.
            ClientMessage::Group(_) | ClientMessage::Secret(_) => {}
        }
        Ok(Handled::Done)
    }

    /// The callback connection, unless it was lost.
    pub(super) fn callback(&mut self) -> Option<&mut Callback> {
        self.callback.as_mut()
    }

    /// The number of bytes that wait to be written on the callback connection.
    #[cfg(fuzzing)]
    pub(super) fn unsent(&self) -> usize {
        self.callback.as_ref().map_or(0, |callback| callback.socket.unsent())
    }

    /// The callback connection may be read or written.
    pub(super) fn callback_ready(&mut self) -> Result<(), CloseReason> {
        let Some(callback) = &mut self.callback else { return self.send_events() };
        match callback.ready()? {
            CallbackStatus::Open => self.send_events(),
            CallbackStatus::Lost => self.callback_lost(),
        }
    }

    /// Asks the application to close, when the callback channel is ready for it.
    pub(super) fn close(&mut self) -> Result<(), CloseReason> {
        self.active.begin_closing();
        match self.callback {
            // The end of the connection is the only way to inform the application.
            None => Err(CloseReason::ClosedByServer),
            Some(_) => self.send_events(),
        }
    }

    /// Sends the next event, or the request to close, if the callback channel is ready for it.
    pub(super) fn send_events(&mut self) -> Result<(), CloseReason> {
        if self.active.subscriber.is_over_quota() {
            return Err(CloseReason::TooManyEvents);
        }
        let Some(Callback { socket, channel }) =
            self.callback.as_mut().filter(|callback| callback.is_idle())
        else {
            return Ok(());
        };
        let mut output = Vec::new();
        if self.active.is_closing() {
            channel.close(&mut output);
        } else if let Some(key) = self.active.subscriber.next_key()
            // Applications of protocol v1 watch no other keys.
            && let Ok(key) = Text::new(&key)
        {
            channel.notify(key, &mut output);
        }
        socket.write(&mut output).or_else(|_| self.callback_lost())
    }

    fn callback_lost(&mut self) -> Result<(), CloseReason> {
        self.callback = None;
        self.active.callback_lost()
    }

    /// Leaves the group.
    pub(super) fn end(self, main: MainConnection, context: &Context) {
        let callback = self.callback.map(|callback| callback.socket);
        self.active.leave(main.socket, callback, context);
    }
}

/// The status that protocol v2 has for the outcome.
fn found_status(found: bool) -> Status {
    if found { Status::Ok } else { Status::NoSuchKey }
}
