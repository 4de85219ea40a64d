//! One non-blocking connection with a fixed number of requests in flight.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::time::Instant;

use hdrhistogram::Histogram;
use mio::net::UnixStream;

use super::load::Load;
use super::wire::{WireProtocol, WireResponse};
use crate::error::{Error, IoContext, Result, failed};
use crate::measure::nanos;

/// A request in flight.
#[derive(Debug)]
pub(super) struct PendingRequest {
    pub(super) number: u32,
    pub(super) is_get: bool,
    pub(super) sent_at: Instant,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) wire: WireProtocol,
    pub(super) in_flight: VecDeque<PendingRequest>,
    pub(super) number: u32,
    pub(super) input: Vec<u8>,
    pub(super) filled: usize,
    pub(super) output: Vec<u8>,
    pub(super) sent: usize,
    /// Whether the poll also reports that the socket is writable, because bytes are pending.
    pub(super) wants_write_events: bool,
    /// The callback channel of a session of kvs, which must stay open.
    pub(super) _callback: Option<BlockingStream>,
}

/// The remaining requests of a measurement.
pub(super) struct Requests<'a> {
    pub(super) load: &'a Load<'a>,
    pub(super) key: Vec<u8>,
    pub(super) position: u64,
    pub(super) stride: u64,
    /// The number of remaining requests.
    pub(super) left: u64,
}

impl Connection {
    /// Appends the next request, if any is left.
    pub(super) fn append_request(&mut self, requests: &mut Requests<'_>, now: Instant) {
        if requests.left == 0 {
            return;
        }
        requests.left -= 1;
        let position = requests.position;
        requests.position += requests.stride;
        let Load { source, value, .. } = *requests.load;
        source.shape().write(source.at(position), &mut requests.key);
        self.number = self.number.wrapping_add(1).max(1);
        let is_get = requests.load.is_get(position);
        if is_get {
            self.wire.get(self.number, &requests.key, &mut self.output);
        } else {
            self.wire.put(self.number, &requests.key, value, &mut self.output);
        }
        self.in_flight.push_back(PendingRequest { number: self.number, is_get, sent_at: now });
    }

    /// Sends until the socket is full.
    pub(super) fn send(&mut self) -> Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).io_context(|| format!("{:?}: sending", self.wire)),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Handles an event of the socket, and returns the number of responses.
    pub(super) fn on_event(
        &mut self,
        requests: &mut Requests<'_>,
        times: &mut Histogram<u64>,
    ) -> Result<u64> {
        let mut operations = 0;
        while !self.in_flight.is_empty() {
            if self.filled == self.input.len() {
                self.input.resize(self.filled * 2, 0);
            }
            let free = self.input.len() - self.filled;
            let received = match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => {
                    return failed(format!("{:?}: the server has closed a connection", self.wire));
                }
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(error).io_context(|| format!("{:?}: receiving", self.wire));
                }
            };
            self.filled += received;
            operations += self.handle_responses(requests, times)?;
            self.send()?;
            // A short read: the socket is empty (epoll(7)), and more bytes cause another event.
            if received < free {
                break;
            }
        }
        self.send()?;
        Ok(operations)
    }

    /// Handles all complete responses, and appends a new request for each.
    fn handle_responses(
        &mut self,
        requests: &mut Requests<'_>,
        times: &mut Histogram<u64>,
    ) -> Result<u64> {
        let (mut at, mut operations) = (0, 0);
        let now = Instant::now();
        while let Some(request) = self.in_flight.front() {
            let decoded = self.wire.decode(&self.input[at..self.filled], request.number);
            let decoded =
                decoded.map_err(|what| Error::Failed(format!("{:?}: {what}", self.wire)))?;
            let Some((response, len)) = decoded else { break };
            let expected = match request.is_get {
                true => WireResponse::Value(requests.load.value.len()),
                false => WireResponse::Stored,
            };
            if response != expected {
                return failed(format!("{:?}: {response:?} instead of {expected:?}", self.wire));
            }
            times.saturating_record(nanos(now.saturating_duration_since(request.sent_at)));
            self.in_flight.pop_front();
            at += len;
            operations += 1;
            self.append_request(requests, now);
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(operations)
    }
}
