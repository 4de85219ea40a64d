//! The load generator: many connections, one event loop, three protocols.
//!
//! It costs every server the same: the same loop waits for events (epoll, edge-triggered), reads
//! once, checks the responses, and sends the next requests with one call. Only the bytes differ
//! ([`WireProtocol`]): protocol v2 of kvs (with the encoder and decoder of `kvs_proto`), RESP for
//! Redis, the text protocol for memcached. Responses are decoded only as far as it takes to check
//! them.
//!
//! A connection has a fixed number of requests in flight. At the end of a measurement the generator
//! receives all pending responses, so that the next measurement begins with idle connections.

mod connection;
mod load;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::unix::net::UnixStream as BlockingStream;
use std::thread;
use std::time::Duration;

use kvs_proto::Protocol;
use mio::net::UnixStream;
use mio::{Interest, Poll, Token};

use self::connection::Connection;
use self::worker::{Outcome, Worker};
use crate::error::{Error, IoContext, Result, failed};
use crate::keys::Shape;
use crate::login::log_in;
use crate::measure::{Interrupt, Limit, Measurement, histogram};
use crate::servers::Server;
use crate::system::kvs::Address;

pub(crate) use load::{Load, Source};
pub(crate) use wire::WireProtocol;

/// Connections to one server, in one or more threads.
#[derive(Debug)]
pub(crate) struct Generator {
    workers: Vec<Worker>,
}

impl Generator {
    /// Connects `clients` clients with `depth` requests in flight each, spread over `threads`
    /// threads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a kvs server without protocol v2.
    pub(crate) fn kvs(address: &Address, clients: u32, depth: u32, threads: u32) -> Result<Self> {
        Self::connect(WireProtocol::KvsV2, clients, depth, threads, || {
            let both = log_in(address, Protocol::V2)?;
            Ok((both.main, Some(both.callback)))
        })
    }

    /// The same as [`kvs`](Self::kvs) for the other servers.
    pub(crate) fn other(
        server: &Server,
        wire: WireProtocol,
        clients: u32,
        depth: u32,
        threads: u32,
    ) -> Result<Self> {
        Self::connect(wire, clients, depth, threads, || {
            let stream = BlockingStream::connect(&server.socket)
                .io_context(|| format!("connecting to {}", server.socket.display()))?;
            Ok((stream, None))
        })
    }

    fn connect(
        wire: WireProtocol,
        clients: u32,
        depth: u32,
        threads: u32,
        mut open: impl FnMut() -> Result<(BlockingStream, Option<BlockingStream>)>,
    ) -> Result<Self> {
        let mut workers = Vec::new();
        for thread in 0..threads.clamp(1, clients.max(1)) {
            let threads = threads.clamp(1, clients.max(1));
            let share = clients / threads + u32::from(thread < clients % threads);
            let poll = Poll::new().io_context(|| "making an epoll".into())?;
            let mut connections = Vec::new();
            for token in 0..share as usize {
                let (stream, callback) = open()?;
                let what = || "preparing a connection".to_owned();
                stream.set_nonblocking(true).io_context(what)?;
                let mut stream = UnixStream::from_std(stream);
                // Without write interest: otherwise each read of the server would be an event.
                let interest = Interest::READABLE;
                poll.registry().register(&mut stream, Token(token), interest).io_context(what)?;
                connections.push(Connection {
                    stream,
                    wire,
                    in_flight: VecDeque::with_capacity(depth as usize),
                    number: 0,
                    input: vec![0; 16 * 1024],
                    filled: 0,
                    output: Vec::new(),
                    sent: 0,
                    wants_write_events: false,
                    _callback: callback,
                });
            }
            workers.push(Worker { poll, connections, depth: depth as usize });
        }
        Ok(Self { workers })
    }

    /// Stores each key from 0 to `count` once.
    pub(crate) fn fill(
        &mut self,
        shape: Shape,
        count: u32,
        value: &[u8],
        interrupt: &Interrupt,
    ) -> Result<()> {
        let load = Load { source: Source::Each(shape), value, reads: 0 };
        let Some(worker) = self.workers.first_mut() else { return failed("no connections") };
        worker.run(&load, Limit::Operations(count.into()), 0, 1, interrupt).map(drop)
    }

    /// Warms up, without a result.
    pub(crate) fn warm_up(&mut self, load: &Load<'_>, measurement: &Measurement) -> Result<()> {
        self.run_once(load, measurement.warm_up, measurement).map(drop)
    }

    /// Measures, without a warm-up.
    pub(crate) fn run_once(
        &mut self,
        load: &Load<'_>,
        limit: Limit,
        measurement: &Measurement,
    ) -> Result<Outcome> {
        let interrupt = &measurement.interrupt;
        if let [worker] = self.workers.as_mut_slice() {
            return worker.run(load, limit, measurement.position, 1, interrupt);
        }
        let workers = self.workers.len() as u64;
        let outcomes: Vec<Result<Outcome>> = thread::scope(|scope| {
            let mut threads = Vec::new();
            for (n, worker) in self.workers.iter_mut().enumerate() {
                let limit = match limit {
                    Limit::Operations(all) => Limit::Operations(all.div_ceil(workers)),
                    limit => limit,
                };
                let position = measurement.position + n as u64;
                threads.push(
                    scope.spawn(move || worker.run(load, limit, position, workers, interrupt)),
                );
            }
            let panicked = || failed("a thread of the load generator has panicked");
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
        });
        let mut all = Outcome { operations: 0, time: Duration::ZERO, times: histogram() };
        for outcome in outcomes {
            let outcome = outcome?;
            all.operations += outcome.operations;
            all.time = all.time.max(outcome.time);
            all.times.add(&outcome.times).map_err(|error| Error::Failed(error.to_string()))?;
        }
        Ok(all)
    }
}
