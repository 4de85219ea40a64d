//! The event loop of one thread.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use super::connection::{Connection, Requests};
use super::load::Load;
use crate::error::{IoContext, Result, failed};
use crate::measure::{Interrupt, Limit, histogram};
use crate::servers::SERVER_TIMEOUT;

/// The timeout of a response.
const RESPONSE_TIMEOUT: Duration = SERVER_TIMEOUT;

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The number of responses within its time.
    pub(crate) operations: u64,
    /// The duration of the run.
    pub(crate) time: Duration,
    /// The time from each request to its response.
    pub(crate) times: Histogram<u64>,
}

/// The connections of one thread.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) poll: Poll,
    pub(super) connections: Vec<Connection>,
    pub(super) depth: usize,
}

impl Worker {
    pub(super) fn run(
        &mut self,
        load: &Load<'_>,
        limit: Limit,
        position: u64,
        stride: u64,
        interrupt: &Interrupt,
    ) -> Result<Outcome> {
        let left = match limit {
            Limit::Operations(operations) => operations,
            Limit::Time(_) => u64::MAX,
        };
        let key = load.source.shape().buffer();
        let mut requests = Requests { load, key, position, stride, left };
        let mut times = histogram();
        let begun = Instant::now();
        for connection in &mut self.connections {
            for _ in 0..self.depth {
                connection.append_request(&mut requests, begun);
            }
            connection.send()?;
        }
        for n in 0..self.connections.len() {
            self.update_interest(n)?;
        }
        let mut events = Events::with_capacity(1024);
        let mut operations = 0;
        // The number of responses and the duration at the end of the measured time.
        let mut outcome = None;
        while self.connections.iter().any(|connection| !connection.in_flight.is_empty()) {
            interrupt.check()?;
            loop {
                match self.poll.poll(&mut events, Some(RESPONSE_TIMEOUT)) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => interrupt.check()?,
                    result => break result.io_context(|| "waiting for responses".into())?,
                }
            }
            if events.is_empty() {
                return failed(format!("no response within {} s", RESPONSE_TIMEOUT.as_secs()));
            }
            for event in &events {
                let n = event.token().0;
                operations += self.connections[n].on_event(&mut requests, &mut times)?;
                self.update_interest(n)?;
            }
            let now = Instant::now();
            if outcome.is_none() && limit.is_reached(begun, now, operations) {
                outcome = Some((operations, now.duration_since(begun)));
                requests.left = 0;
            }
        }
        let (operations, time) = outcome.unwrap_or((operations, begun.elapsed()));
        Ok(Outcome { operations, time, times })
    }
}

impl Worker {
    /// Requests write events for a socket with pending bytes, and only for such a socket.
    fn update_interest(&mut self, n: usize) -> Result<()> {
        let connection = &mut self.connections[n];
        let has_pending_bytes = connection.sent < connection.output.len();
        if has_pending_bytes == connection.wants_write_events {
            return Ok(());
        }
        connection.wants_write_events = has_pending_bytes;
        let interest = match has_pending_bytes {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let registry = self.poll.registry();
        let result = registry.reregister(&mut connection.stream, Token(n), interest);
        result.io_context(|| "changing the interest of a connection".into())
    }
}
