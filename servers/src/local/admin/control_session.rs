//! The thread of one connection of the control socket: reads requests, writes responses.
//!
//! Requests wait for the directory, so each connection has a thread. A request must be complete
//! within [`REQUEST_TIMEOUT`] of its first byte, and the peer must read each line of a response
//! within [`RESPONSE_TIMEOUT`]. No lock is held while a line is written.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_proto::control::{AdminErrorKind, AdminRequest, AdminResponse, Bytes, MAX_REQUEST_LEN};

use crate::local::admin::administration::{Administration, group_id};
use crate::local::admin::control_requests::{
    carry_out, invalid_id, not_found, not_understood, quitting,
};
use crate::local::admin::control_slots::{ControlSlot, close};
use crate::local::admin::control_status::StatusParts;
use crate::shutdown::Reason;

/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request may take from its first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the peer may take to read a line of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection.
pub(super) struct ControlSession {
    slot: ControlSlot,
    stream: Arc<UnixStream>,
    administration: Arc<Administration>,
}

impl Drop for ControlSession {
    fn drop(&mut self) {
        close(&self.stream);
    }
}

impl ControlSession {
    pub(super) fn new(
        slot: ControlSlot,
        stream: Arc<UnixStream>,
        administration: Arc<Administration>,
    ) -> Self {
        Self { slot, stream, administration }
    }

    /// Serves the connection until it ends.
    pub(super) fn run(self) {
        // An error means that the peer was too slow or has disconnected.
        let _ = self.serve_requests();
    }

    fn serve_requests(&self) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        let mut lines = RequestLines { stream: &self.stream, received: Vec::new() };
        loop {
            match lines.next()? {
                NextLine::Line(line) => self.serve(&line)?,
                NextLine::TooLong => {
                    let message = format!("a request has {MAX_REQUEST_LEN} bytes at most");
                    // Where the next request begins is unknown, so the connection is closed.
                    let kind = AdminErrorKind::Invalid;
                    return self.send(&AdminResponse::Error { kind, message });
                }
                NextLine::End => return Ok(()),
            }
        }
    }

    fn serve(&self, line: &[u8]) -> io::Result<()> {
        let administration = &self.administration;
        let request = match AdminRequest::decode(line) {
            Ok(request) => request,
            Err(error) => return self.send(&not_understood(&error)),
        };
        if administration.is_quitting() {
            return self.send(&quitting());
        }
        // The idle time of the connection starts again with each request.
        if !self.slot.wait_for_peer() {
            return Ok(());
        }
        match request {
            AdminRequest::Status { group } => return self.send_status(group.as_ref()),
            AdminRequest::Quit {} => {
                let sent = self.send(&AdminResponse::Quitting {});
                administration.quit(Reason::Control);
                return sent;
            }
            _ => {}
        }
        if !self.slot.begin_operation() {
            return Ok(());
        }
        let response = carry_out(administration, request);
        self.slot.wait_for_peer();
        self.send(&response)
    }

    fn send_status(&self, group: Option<&Bytes>) -> io::Result<()> {
        let administration = &self.administration;
        let groups = match group {
            None => administration.all(),
            Some(id) => match group_id(&id.0).map(|id| administration.group(&id)) {
                Ok(Some(group)) => vec![group],
                Ok(None) => return self.send(&not_found(id)),
                Err(error) => return self.send(&invalid_id(&error)),
            },
        };
        let mut parts = StatusParts::new(groups);
        while let Some(part) = parts.next_part() {
            self.send(&part)?;
            // A peer that reads its response is not idle.
            self.slot.wait_for_peer();
        }
        self.send(&parts.last_part())
    }

    /// Writes a response within [`RESPONSE_TIMEOUT`].
    fn send(&self, response: &AdminResponse) -> io::Result<()> {
        let line = response.encode();
        let (mut rest, deadline) = (&line[..], Instant::now() + RESPONSE_TIMEOUT);
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(time_left(deadline)?))?;
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The time until `deadline`.
///
/// # Errors
/// `TimedOut` when it has passed.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Reads the requests of a connection.
struct RequestLines<'a> {
    stream: &'a UnixStream,
    /// Bytes of the next requests: [`MAX_REQUEST_LEN`] at most.
    received: Vec<u8>,
}

enum NextLine {
    /// A line without its line feed.
    Line(Vec<u8>),
    TooLong,
    End,
}

impl RequestLines<'_> {
    /// Waits for the next line.
    fn next(&mut self) -> io::Result<NextLine> {
        let mut deadline = None;
        let mut buffer = [0; MAX_REQUEST_LEN];
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let rest = self.received.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.pop();
                return Ok(NextLine::Line(line));
            }
            let space = MAX_REQUEST_LEN - self.received.len();
            if space == 0 {
                return Ok(NextLine::TooLong);
            }
            let now = Instant::now();
            let begun = !self.received.is_empty();
            let until = match begun {
                true => *deadline.get_or_insert(now + REQUEST_TIMEOUT),
                false => now + IDLE_TIMEOUT,
            };
            self.stream.set_read_timeout(Some(time_left(until)?))?;
            let mut stream = self.stream;
            match stream.read(&mut buffer[..space]) {
                Ok(0) => return Ok(NextLine::End),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
