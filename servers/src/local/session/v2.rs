//! A session in protocol v2: pipelined requests and their responses, in order, on the main channel;
//! change events on the callback channel, which the [subscriber] writes.
//!
//! What an application makes the server keep is bounded and charged to its user: a frame that
//! arrives in pieces, responses that the application does not read, and the unserved requests
//! behind them. So is its time: requests that were read and do not fit in the session's time slice
//! stay unserved, too. A write that the store has not committed holds back the responses to
//! later requests ([`PendingResponses`]). Further writes are submitted meanwhile; any other request
//! stays unserved until all writes before it are committed, so that it sees their effect.
//!
//! [subscriber]: crate::local::group::subscriber

use std::mem;
use std::sync::Arc;

use kvs_proto::v2::request::{FrameLimits, Request, RequestKind};
use kvs_proto::v2::response::{self, Response, Status};
use kvs_proto::v2::{Decoded, FrameDecoder, HEADER_LEN, MAX_KEY, NO_VERSION, Version};
use kvs_table::Value;

use crate::local::group::group::Group;
use crate::local::group::outcome::Outcome;
use crate::local::group::submission::{Requester, Submission};
use crate::local::limits::charge::{Charge, subscription_bytes};
use crate::local::net::context::Context;
use crate::local::net::socket::{Received, Socket};
use crate::local::session::active::Active;
use crate::local::session::close_reason::CloseReason;
use crate::local::session::main_connection::MainConnection;
use crate::local::session::pending_responses::{
    PendingResponse, PendingResponses, ResponseProgress,
};
use crate::local::session::request_context::RequestContext;
use crate::local::session::time_budget::{BYTES_PER_WORK, WORK_PER_CLOCK_READ};
use crate::local::session::unserved_input::{Rest, UnservedInput};

/// Responses are written when they have so many bytes, and no further request is served until the
/// kernel has taken them.
const MAX_OUTPUT: usize = 256 * 1024;

/// A frame in pieces with a longer body needs room in its user's quota; only puts are so long.
/// Every frame in pieces is charged, but a deletion must not be refused because the quota is
/// exhausted.
const MAX_UNCHECKED_BODY: usize = MAX_KEY + 4;

/// A session in protocol v2.
#[derive(Debug)]
pub(super) struct V2Session {
    /// The membership in the group.
    pub(super) active: Active,
    /// `None` after the application has closed it.
    callback: Option<Socket>,
    limits: FrameLimits,
    decoder: FrameDecoder,
    /// Charges a long frame that arrives in pieces.
    partial_frame: Option<Charge>,
    unserved: UnservedInput,
    responses: PendingResponses,
    /// Charges unserved requests and the responses that the application does not read.
    buffers: Option<Charge>,
}

impl V2Session {
    /// The session of an application that has just logged in. Appends the server's first message to
    /// `output`.
    pub(super) fn new(
        active: Active,
        callback: Socket,
        limits: FrameLimits,
        output: &mut Vec<u8>,
    ) -> Self {
        Response::new(0, Status::Welcome, limits.max_value as u64).encode(output);
        Self {
            active,
            callback: Some(callback),
            limits,
            decoder: FrameDecoder::default(),
            partial_frame: None,
            unserved: UnservedInput::default(),
            responses: PendingResponses::default(),
            buffers: None,
        }
    }

    /// Whether requests were read that are not served yet.
    pub(super) fn has_unserved_input(&self) -> bool {
        !self.unserved.is_empty()
    }

    /// Whether no request can be served until the store has committed a pending write.
    pub(super) fn awaits_commits(&self) -> bool {
        self.responses.is_full() || (self.unserved.awaits_commits && !self.responses.is_empty())
    }

    /// Serves requests that were read earlier. Returns whether there were any to serve.
    pub(super) fn serve_unserved_input(
        &mut self,
        main: &mut MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<bool, CloseReason> {
        if !self.has_unserved_input() || self.awaits_commits() {
            return Ok(false);
        }
        requests.budget.begin();
        let unserved = mem::take(&mut self.unserved);
        requests.recorder.resume(unserved.read_at);
        let rest = self.serve_bytes(unserved.bytes(), main, requests)?;
        self.unserved = unserved.keep(rest, requests.recorder.since());
        Ok(true)
    }

    /// Serves requests from `read` until the time slice is over, the application does not read its
    /// responses, or a request must wait for pending writes. The rest is kept.
    pub(super) fn serve(
        &mut self,
        read: &[u8],
        main: &mut MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        debug_assert!(self.unserved.is_empty(), "what was read earlier is served first");
        let rest = self.serve_bytes(read, main, requests)?;
        if !rest.is_empty() {
            self.unserved = UnservedInput::copy_of(read, rest, requests.recorder.since());
        }
        Ok(())
    }

    fn serve_bytes(
        &mut self,
        bytes: &[u8],
        main: &mut MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<Rest, CloseReason> {
        let served = self.serve_frames(bytes, main, requests);
        if served.is_err() {
            // Earlier requests are answered; whether the application reads it no longer matters.
            let _ = main.socket.write(requests.output);
        }
        served
    }

    fn serve_frames(
        &mut self,
        mut bytes: &[u8],
        main: &mut MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<Rest, CloseReason> {
        loop {
            if requests.output.len() >= MAX_OUTPUT {
                write(main, requests)?;
            }
            if main.socket.is_write_blocked()
                || requests.budget.is_exhausted()
                || self.responses.is_full()
            {
                return Ok(Rest { len: bytes.len(), ..Rest::default() });
            }
            let (limits, partial_frame) = (self.limits, &mut self.partial_frame);
            let mut refusal = Status::TooLarge;
            let unserved = bytes;
            let next = self.decoder.next(&mut bytes, |header, is_partial| {
                let mut check = limits.check(header);
                if check.is_ok() && is_partial {
                    let len = header.body_len as usize;
                    if len > MAX_UNCHECKED_BODY {
                        let checked = main.user.check_quota(0, len as u64);
                        check = match main.is_within_limits(checked) {
                            true => Ok(()),
                            false => Err(Status::Limit),
                        };
                    }
                    *partial_frame = Some(Charge::buffer(&main.user, len));
                }
                refusal = check.err().unwrap_or(refusal);
                check.is_ok()
            })?;
            let mut handler = Handler {
                active: &self.active,
                responses: &mut self.responses,
                main: &mut *main,
                requests: &mut *requests,
            };
            match next {
                Decoded::Incomplete => return Ok(Rest::default()),
                Decoded::Rejected(header) => {
                    self.partial_frame = None;
                    handler.requests.budget.spend(1);
                    handler.respond(header.number, RequestKind::of(&header), refusal, NO_VERSION);
                }
                Decoded::Frame(header, body) => {
                    // What is stored is charged as a pair.
                    self.partial_frame = None;
                    let kind = RequestKind::of(&header);
                    if !handler.responses.is_empty() && !is_write(kind) {
                        let is_whole = unserved.len() - bytes.len() == HEADER_LEN + body.len();
                        let (request, len) = match is_whole {
                            true => (Vec::new(), unserved.len()),
                            // It came in pieces, the first of which the decoder had.
                            false => ([&header.encode()[..], body].concat(), bytes.len()),
                        };
                        return Ok(Rest { request, len, awaits_commits: true });
                    }
                    handler.requests.budget.spend(1 + body.len() / BYTES_PER_WORK);
                    match Request::decode(&header, body, limits)? {
                        Err(status) => handler.respond(header.number, kind, status, NO_VERSION),
                        Ok(Request::Close) => return Err(self.active.closed_by_client()),
                        Ok(request) => handler.handle(header.number, kind, request)?,
                    }
                }
            }
        }
    }

    /// The store has decided the write with this ticket: appends the responses that are complete
    /// now.
    ///
    /// # Errors
    /// [`CloseReason::StorageFailed`] when the failed write is the next to respond to.
    pub(super) fn committed(
        &mut self,
        ticket: u64,
        outcome: Outcome,
        main: &mut MainConnection,
        requests: &mut RequestContext<'_>,
    ) -> Result<(), CloseReason> {
        self.responses.complete(ticket, progress_of(outcome, main));
        while let Some(response) = self.responses.pop_completed() {
            let ResponseProgress::Completed(status, version) = response.progress else {
                // Earlier requests are answered; whether the application reads it no longer
                // matters.
                let _ = main.socket.write(requests.output);
                return Err(CloseReason::StorageFailed);
            };
            requests.recorder.resume(response.read_at);
            Response::new(response.number, status, version).encode(requests.output);
            requests.recorder.count(response.kind, status);
            requests.recorder.written();
        }
        Ok(())
    }

    /// Charges the user for what waits for the application.
    pub(super) fn charge_buffers(&mut self, main: &MainConnection) {
        let bytes = main.socket.buffered() + self.unserved.buffered();
        self.buffers = (bytes > 0).then(|| Charge::buffer(&main.user, bytes));
    }

    /// The callback connection, unless it was lost.
    pub(super) fn callback(&mut self) -> Option<&mut Socket> {
        self.callback.as_mut()
    }

    /// The callback connection may be written, or read, although nothing may arrive on it.
    pub(super) fn callback_ready(&mut self, is_readable: bool) -> Result<(), CloseReason> {
        let Some(callback) = &mut self.callback else { return self.send_events() };
        if is_readable {
            match callback.read(&mut [0]) {
                Received::Bytes(_) => return Err(CloseReason::UnexpectedBytes),
                Received::End => return self.callback_lost(),
                Received::Nothing => {}
            }
        }
        match self.active.subscriber.write(true) {
            Ok(_) => self.send_events(),
            Err(_) => self.callback_lost(),
        }
    }

    /// Asks the application to close.
    pub(super) fn close(&mut self) -> Result<(), CloseReason> {
        self.active.begin_closing();
        if self.callback.is_none() {
            // The end of the connection is the only way to inform the application.
            return Err(CloseReason::ClosedByServer);
        }
        self.active.subscriber.send_close().or_else(|_| self.callback_lost())
    }

    /// Sends pending events.
    pub(super) fn send_events(&mut self) -> Result<(), CloseReason> {
        let subscriber = &self.active.subscriber;
        if subscriber.is_over_quota() {
            return Err(CloseReason::TooManyEvents);
        }
        if self.callback.is_none() {
            return Ok(());
        }
        subscriber.clear_scheduled();
        match subscriber.write(false) {
            Ok(_) => Ok(()),
            Err(_) => self.callback_lost(),
        }
    }

    fn callback_lost(&mut self) -> Result<(), CloseReason> {
        self.callback = None;
        self.active.callback_lost()
    }

    /// Leaves the group.
    pub(super) fn end(self, main: MainConnection, context: &Context) {
        self.active.leave(main.socket, self.callback, context);
    }
}

/// Whether a request changes the table, so that it may be submitted behind pending writes.
fn is_write(kind: RequestKind) -> bool {
    matches!(kind, RequestKind::Put | RequestKind::PutMany | RequestKind::Delete)
}

/// What the response to `outcome` says. A limit that was reached is logged.
fn progress_of(outcome: Outcome, main: &MainConnection) -> ResponseProgress {
    match outcome {
        Outcome::Stored(version) => ResponseProgress::Completed(Status::Ok, version),
        Outcome::Deleted => ResponseProgress::Completed(Status::Ok, NO_VERSION),
        Outcome::NoSuchKey => ResponseProgress::Completed(Status::NoSuchKey, NO_VERSION),
        Outcome::Conflict(version) => ResponseProgress::Completed(Status::Conflict, version),
        Outcome::TooLarge => ResponseProgress::Completed(Status::TooLarge, NO_VERSION),
        Outcome::LimitReached(limit) => {
            main.is_within_limits(Err(limit));
            ResponseProgress::Completed(Status::Limit, NO_VERSION)
        }
        Outcome::StorageFailed => ResponseProgress::Failed,
    }
}

/// Writes the responses that were collected.
fn write(main: &mut MainConnection, requests: &mut RequestContext<'_>) -> Result<(), CloseReason> {
    main.socket.write(requests.output).map_err(|_| CloseReason::ConnectionLost)?;
    requests.recorder.written();
    Ok(())
}

/// Handles one request.
#[derive(Debug)]
struct Handler<'a, 'r> {
    active: &'a Active,
    responses: &'a mut PendingResponses,
    main: &'a mut MainConnection,
    requests: &'a mut RequestContext<'r>,
}

impl Handler<'_, '_> {
    fn handle(
        &mut self,
        number: u32,
        kind: RequestKind,
        request: Request<'_>,
    ) -> Result<(), CloseReason> {
        let Active { group, number: application, .. } = self.active;
        tracing::debug!(pid = self.main.peer.pid, ?request, "request");
        let outcome = match request {
            Request::Get(key) => return self.get(number, key),
            Request::Put { key, value, expected } => {
                return self.submit(number, kind, |group, requester| {
                    group.put(key, value, expected, requester)
                });
            }
            Request::Delete { key, expected } => {
                return self.submit(number, kind, |group, requester| {
                    group.delete(key, expected, requester)
                });
            }
            Request::PutMany(entries) => {
                self.requests.budget.spend(WORK_PER_CLOCK_READ);
                return self
                    .submit(number, kind, |group, requester| group.put_many(entries, requester));
            }
            Request::Keys { prefix, cursor, limit } => {
                let page = group.keys(prefix, cursor, limit as usize);
                let mut body = Vec::new();
                page.keys().for_each(|key| response::push_key(key, &mut body));
                self.requests.budget.spend(WORK_PER_CLOCK_READ);
                Response { number, status: Status::Ok, version: page.next, body: &body }
                    .encode(self.requests.output);
                self.requests.recorder.count(kind, Status::Ok);
                return Ok(());
            }
            Request::Watch(target) => {
                let bytes = subscription_bytes(target.bytes().len()) as u64;
                match self.main.user.check_quota(0, bytes) {
                    Ok(()) => group
                        .subscribe(target, *application, &self.main.user)
                        .map_or(Outcome::NoSuchKey, Outcome::Stored),
                    Err(limit) => Outcome::LimitReached(limit),
                }
            }
            Request::Unwatch(target) => match group.unsubscribe(target, *application) {
                true => Outcome::Deleted,
                false => Outcome::NoSuchKey,
            },
            // Handled by the caller; it has no response.
            Request::Close => return Ok(()),
        };
        self.respond_to(number, kind, outcome)
    }

    /// Submits a write. Its response follows now, or when the store has decided it.
    fn submit(
        &mut self,
        number: u32,
        kind: RequestKind,
        submit: impl FnOnce(&Arc<Group>, Requester<'_>) -> Submission,
    ) -> Result<(), CloseReason> {
        let (context, session) = (self.requests.context, self.main.id);
        let ticket = self.responses.next_ticket();
        let mut completion = || context.completion(session, ticket);
        let requester = Requester { user: &self.main.user, completion: &mut completion };
        match submit(&self.active.group, requester) {
            Submission::Done(applied) => {
                // Each notification costs work.
                self.requests.budget.spend(applied.fan_out());
                let outcome = applied.schedule(&mut self.requests.notifications);
                self.respond_to(number, kind, outcome)
            }
            Submission::Pending => {
                let read_at = self.requests.recorder.since();
                let progress = ResponseProgress::Submitted;
                self.responses.push(PendingResponse { number, kind, read_at, progress });
                Ok(())
            }
        }
    }

    /// Responds to a request with this outcome, behind the responses that are pending.
    fn respond_to(
        &mut self,
        number: u32,
        kind: RequestKind,
        outcome: Outcome,
    ) -> Result<(), CloseReason> {
        match progress_of(outcome, self.main) {
            ResponseProgress::Completed(status, version) => {
                self.respond(number, kind, status, version)
            }
            _ if self.responses.is_empty() => return Err(CloseReason::StorageFailed),
            progress => {
                let read_at = self.requests.recorder.since();
                self.responses.push(PendingResponse { number, kind, read_at, progress });
            }
        }
        Ok(())
    }

    /// Sends a response without a body, behind those that are pending.
    fn respond(&mut self, number: u32, kind: RequestKind, status: Status, version: Version) {
        if self.responses.is_empty() {
            Response::new(number, status, version).encode(self.requests.output);
            self.requests.recorder.count(kind, status);
        } else {
            let read_at = self.requests.recorder.since();
            let progress = ResponseProgress::Completed(status, version);
            self.responses.push(PendingResponse { number, kind, read_at, progress });
        }
    }

    /// A short value is copied; a long one is shared with the table until it is written.
    fn get(&mut self, number: u32, key: &[u8]) -> Result<(), CloseReason> {
        let output = &mut *self.requests.output;
        let before = output.len();
        let mut status = Status::Ok;
        let long = self.active.group.get(key, |pair| {
            let Some(pair) = pair else {
                status = Status::NoSuchKey;
                Response::new(number, status, NO_VERSION).encode(output);
                return None;
            };
            let response =
                Response { number, status: Status::Ok, version: pair.version, body: &[] };
            match pair.value {
                Value::Inline(body) => {
                    Response { body, ..response }.encode(output);
                    None
                }
                Value::Shared(value) => {
                    output.extend_from_slice(&response.encode_header(value.len()));
                    Some(value)
                }
            }
        });
        if let Some(value) = long {
            let checked = self.main.user.check_buffer_quota(value.len() as u64);
            if self.main.is_within_limits(checked) {
                self.requests.budget.spend(1 + value.len() / BYTES_PER_WORK);
                write(self.main, self.requests)?;
                self.main.socket.write_shared(value).map_err(|_| CloseReason::ConnectionLost)?;
            } else {
                self.requests.output.truncate(before);
                status = Status::Limit;
                Response::new(number, status, NO_VERSION).encode(self.requests.output);
            }
        }
        self.requests.recorder.count(RequestKind::Get, status);
        Ok(())
    }
}
