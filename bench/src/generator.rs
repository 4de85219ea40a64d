//! The load generator: many connections, one loop, three protocols.
//!
//! It costs every server the same: for all of them the same loop waits for events (epoll, edge-triggered), reads once, looks at the
//! answers, and sends the next requests with one call. Only the bytes differ; [`Wire`] makes and reads them: the
//! framed session of kvs (with `kvs_proto`'s own encoder and decoder), RESP for Redis, the text protocol for memcached. None of them
//! is parsed further than it takes to know that the answer is right.
//!
//! A connection has a fixed number of requests under way. When a measurement is over, what is under way is
//! taken in, so that the next begins with quiet connections.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvs_proto::Protocol;
use kvs_proto::v2::request::Request;
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN};
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};

use crate::error::{Doing, Error, Result, failed};
use crate::keys::{Keys, Shape};
use crate::login::log_in;
use crate::measure::{Interrupt, Limit, Turn, histogram, nanos};
use crate::servers::{PATIENCE, Server};
use crate::subject::kvs::Address;

/// How long an event is waited for before the server counts as stuck.
const STUCK: Duration = PATIENCE;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The framed session of kvs.
    Framed,
    /// Redis.
    Resp,
    /// memcached's text protocol.
    Text,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// A put is done.
    Stored,
    /// A value of this length.
    Value(usize),
    /// No such key.
    Nothing,
}

impl Wire {
    fn get(self, number: u32, key: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Framed => Request::Get(key).encode(number, out),
            Self::Resp => command(&[b"GET", key], out),
            Self::Text => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(key);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn put(self, number: u32, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Framed => Request::Put { key, value, expected: None }.encode(number, out),
            Self::Resp => command(&[b"SET", key, value], out),
            Self::Text => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(key);
                out.extend_from_slice(b" 0 0 ");
                decimal(value.len(), out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The answer at the front of these bytes and its length; `None` while it is not complete. `Err`: it is none.
    fn answer(
        self,
        bytes: &[u8],
        number: u32,
    ) -> std::result::Result<Option<(Said, usize)>, String> {
        match self {
            Self::Framed => framed_answer(bytes, number),
            Self::Resp => resp_answer(bytes),
            Self::Text => text_answer(bytes),
        }
    }
}

fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.push(b'*');
    decimal(words.len(), out);
    out.extend_from_slice(b"\r\n");
    for word in words {
        out.push(b'$');
        decimal(word.len(), out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn decimal(mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A digit.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn framed_answer(bytes: &[u8], number: u32) -> std::result::Result<Option<(Said, usize)>, String> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let header = FrameHeader::decode(header).map_err(|error| error.to_string())?;
    let len = header.body_len as usize;
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let answer = Response::decode(&header, body).map_err(|error| error.to_string())?;
    if answer.number != number {
        return Err(format!("an answer to request {} instead of {number}", answer.number));
    }
    let said = match answer.status {
        Status::Ok if body.is_empty() => Said::Stored,
        Status::Ok => Said::Value(len),
        Status::NoSuchKey => Said::Nothing,
        status => return Err(format!("{status:?}")),
    };
    Ok(Some((said, HEADER_LEN + len)))
}

/// The first line without its end, and the length with it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

fn number_of(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn resp_answer(bytes: &[u8]) -> std::result::Result<Option<(Said, usize)>, String> {
    let Some((line, at)) = line(bytes) else { return Ok(None) };
    match line {
        b"+OK" => Ok(Some((Said::Stored, at))),
        b"$-1" => Ok(Some((Said::Nothing, at))),
        [b'$', digits @ ..] => match number_of(digits) {
            Some(len) => match bytes.get(at + len..at + len + 2) {
                Some(b"\r\n") => Ok(Some((Said::Value(len), at + len + 2))),
                Some(_) => Err("a value that does not end where it should".into()),
                None => Ok(None),
            },
            None => Err(line.escape_ascii().to_string()),
        },
        line => Err(line.escape_ascii().to_string()),
    }
}

fn text_answer(bytes: &[u8]) -> std::result::Result<Option<(Said, usize)>, String> {
    const END: &[u8] = b"\r\nEND\r\n";
    let Some((line, at)) = line(bytes) else { return Ok(None) };
    match line {
        b"STORED" => Ok(Some((Said::Stored, at))),
        b"END" => Ok(Some((Said::Nothing, at))),
        line if line.starts_with(b"VALUE ") => {
            // VALUE key flags length
            let digits = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
            let Some(len) = number_of(digits) else {
                return Err(line.escape_ascii().to_string());
            };
            match bytes.get(at + len..at + len + END.len()) {
                Some(END) => Ok(Some((Said::Value(len), at + len + END.len()))),
                Some(_) => Err("a value that does not end where it should".into()),
                None => Ok(None),
            }
        }
        line => Err(line.escape_ascii().to_string()),
    }
}

/// What the requests are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    /// Which keys.
    pub(crate) source: Source<'a>,
    /// What is stored, and what a get must find, by its length.
    pub(crate) value: &'a [u8],
    /// How many of a hundred are gets.
    pub(crate) reads: u32,
}

/// Which keys.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// As drawn.
    Drawn(&'a Keys),
    /// Each once, one after the other.
    Each(Shape),
}

impl Source<'_> {
    fn shape(self) -> Shape {
        match self {
            Self::Drawn(keys) => keys.shape,
            Self::Each(shape) => shape,
        }
    }

    fn at(self, place: u64) -> u32 {
        match self {
            Self::Drawn(keys) => keys.at(place),
            // There are fewer keys than that.
            Self::Each(_) => place as u32,
        }
    }
}

impl Load<'_> {
    /// Whether the request at this place is a get: the same for every subject, and evenly mixed.
    fn is_get(&self, place: u64) -> bool {
        // 61 and 100 have no common divisor: of a hundred places in a row, each gives another remainder.
        (place % 100) * 61 % 100 < u64::from(self.reads)
    }
}

/// A request under way.
#[derive(Debug)]
struct Asked {
    number: u32,
    is_get: bool,
    at: Instant,
}

/// A connection.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    wire: Wire,
    under_way: VecDeque<Asked>,
    number: u32,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    sent: usize,
    /// The socket was full, so the event awaited is that it can be written to, too.
    waits_for_room: bool,
    /// The other channel of a framed session, which must stay open.
    _callback: Option<BlockingStream>,
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Answered within its time.
    pub(crate) operations: u64,
    /// How long it took.
    pub(crate) time: Duration,
    /// Each from its request to its answer.
    pub(crate) times: Histogram<u64>,
}

/// The connections of one thread.
#[derive(Debug)]
struct Worker {
    poll: Poll,
    connections: Vec<Connection>,
    depth: usize,
}

/// Connections to one server, in one or more threads.
#[derive(Debug)]
pub(crate) struct Generator {
    workers: Vec<Worker>,
}

impl Generator {
    /// Connects so many clients with so many requests under way each, spread over so many threads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a kvs server without the framed session.
    pub(crate) fn kvs(address: &Address, clients: u32, depth: u32, threads: u32) -> Result<Self> {
        Self::connect(Wire::Framed, clients, depth, threads, || {
            let both = log_in(address, Protocol::V2)?;
            Ok((both.main, Some(both.callback)))
        })
    }

    /// The same for the other servers.
    pub(crate) fn other(
        server: &Server,
        wire: Wire,
        clients: u32,
        depth: u32,
        threads: u32,
    ) -> Result<Self> {
        Self::connect(wire, clients, depth, threads, || {
            let stream = BlockingStream::connect(&server.socket)
                .doing(|| format!("connecting to {}", server.socket.display()))?;
            Ok((stream, None))
        })
    }

    fn connect(
        wire: Wire,
        clients: u32,
        depth: u32,
        threads: u32,
        mut open: impl FnMut() -> Result<(BlockingStream, Option<BlockingStream>)>,
    ) -> Result<Self> {
        let mut workers = Vec::new();
        for thread in 0..threads.clamp(1, clients.max(1)) {
            let threads = threads.clamp(1, clients.max(1));
            let share = clients / threads + u32::from(thread < clients % threads);
            let poll = Poll::new().doing(|| "making an epoll".into())?;
            let mut connections = Vec::new();
            for token in 0..share as usize {
                let (stream, callback) = open()?;
                let what = || "preparing a connection".to_owned();
                stream.set_nonblocking(true).doing(what)?;
                let mut stream = UnixStream::from_std(stream);
                // Not for writing: then every request that the server reads would be an event.
                let interest = Interest::READABLE;
                poll.registry().register(&mut stream, Token(token), interest).doing(what)?;
                connections.push(Connection {
                    stream,
                    wire,
                    under_way: VecDeque::with_capacity(depth as usize),
                    number: 0,
                    input: vec![0; 16 * 1024],
                    filled: 0,
                    output: Vec::new(),
                    sent: 0,
                    waits_for_room: false,
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

    /// Warms up without measuring.
    pub(crate) fn warm_up(&mut self, load: &Load<'_>, turn: &Turn) -> Result<()> {
        self.run_once(load, turn.warm_up, turn).map(drop)
    }

    /// Measures without warming up.
    pub(crate) fn run_once(
        &mut self,
        load: &Load<'_>,
        limit: Limit,
        turn: &Turn,
    ) -> Result<Outcome> {
        let interrupt = &turn.interrupt;
        if let [worker] = self.workers.as_mut_slice() {
            return worker.run(load, limit, turn.place, 1, interrupt);
        }
        let workers = self.workers.len() as u64;
        let outcomes: Vec<Result<Outcome>> = thread::scope(|scope| {
            let mut threads = Vec::new();
            for (n, worker) in self.workers.iter_mut().enumerate() {
                let limit = match limit {
                    Limit::Operations(all) => Limit::Operations(all.div_ceil(workers)),
                    limit => limit,
                };
                let place = turn.place + n as u64;
                threads
                    .push(scope.spawn(move || worker.run(load, limit, place, workers, interrupt)));
            }
            let gone = || failed("a thread of the load generator has panicked");
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
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

/// The requests of a run that are still to be made.
struct Requests<'a> {
    load: &'a Load<'a>,
    key: Vec<u8>,
    place: u64,
    stride: u64,
    /// So many are left.
    left: u64,
}

impl Worker {
    fn run(
        &mut self,
        load: &Load<'_>,
        limit: Limit,
        place: u64,
        stride: u64,
        interrupt: &Interrupt,
    ) -> Result<Outcome> {
        let left = match limit {
            Limit::Operations(most) => most,
            Limit::Time(_) => u64::MAX,
        };
        let key = load.source.shape().buffer();
        let mut requests = Requests { load, key, place, stride, left };
        let mut times = histogram();
        let begun = Instant::now();
        for connection in &mut self.connections {
            for _ in 0..self.depth {
                connection.ask(&mut requests, begun);
            }
            connection.send()?;
        }
        for n in 0..self.connections.len() {
            self.await_room(n)?;
        }
        let mut events = Events::with_capacity(1024);
        let mut operations = 0;
        // What was answered, and when, at the end of the measured time.
        let mut outcome = None;
        while self.connections.iter().any(|connection| !connection.under_way.is_empty()) {
            interrupt.check()?;
            loop {
                match self.poll.poll(&mut events, Some(STUCK)) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => interrupt.check()?,
                    result => break result.doing(|| "waiting for answers".into())?,
                }
            }
            if events.is_empty() {
                return failed(format!("no answer within {} s", STUCK.as_secs()));
            }
            for event in &events {
                let n = event.token().0;
                operations += self.connections[n].turn(&mut requests, &mut times)?;
                self.await_room(n)?;
            }
            let now = Instant::now();
            if outcome.is_none() && limit.is_over(begun, now, operations) {
                outcome = Some((operations, now.duration_since(begun)));
                requests.left = 0;
            }
        }
        let (operations, time) = outcome.unwrap_or((operations, begun.elapsed()));
        Ok(Outcome { operations, time, times })
    }
}

impl Worker {
    /// Has the poll tell when a socket that was full can be written to, and only then.
    fn await_room(&mut self, n: usize) -> Result<()> {
        let connection = &mut self.connections[n];
        let waits = connection.sent < connection.output.len();
        if waits == connection.waits_for_room {
            return Ok(());
        }
        connection.waits_for_room = waits;
        let interest = match waits {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let registry = self.poll.registry();
        let result = registry.reregister(&mut connection.stream, Token(n), interest);
        result.doing(|| "changing what is waited for".into())
    }
}

impl Connection {
    /// Appends the next request, if there is one.
    fn ask(&mut self, requests: &mut Requests<'_>, now: Instant) {
        if requests.left == 0 {
            return;
        }
        requests.left -= 1;
        let place = requests.place;
        requests.place += requests.stride;
        let Load { source, value, .. } = *requests.load;
        source.shape().write(source.at(place), &mut requests.key);
        self.number = self.number.wrapping_add(1).max(1);
        let is_get = requests.load.is_get(place);
        if is_get {
            self.wire.get(self.number, &requests.key, &mut self.output);
        } else {
            self.wire.put(self.number, &requests.key, value, &mut self.output);
        }
        self.under_way.push_back(Asked { number: self.number, is_get, at: now });
    }

    /// Sends what it can.
    fn send(&mut self) -> Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(|| format!("{:?}: sending", self.wire)),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Something has happened on it; how many answers have come.
    fn turn(&mut self, requests: &mut Requests<'_>, times: &mut Histogram<u64>) -> Result<u64> {
        let mut operations = 0;
        while !self.under_way.is_empty() {
            if self.filled == self.input.len() {
                self.input.resize(self.filled * 2, 0);
            }
            let room = self.input.len() - self.filled;
            let came = match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => {
                    return failed(format!("{:?}: the server has closed a connection", self.wire));
                }
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).doing(|| format!("{:?}: receiving", self.wire)),
            };
            self.filled += came;
            operations += self.take(requests, times)?;
            self.send()?;
            // Less than there was room for: nothing more is there (epoll(7)), and the next event will come.
            if came < room {
                break;
            }
        }
        self.send()?;
        Ok(operations)
    }

    /// Takes the answers that have come whole, and asks as much again.
    fn take(&mut self, requests: &mut Requests<'_>, times: &mut Histogram<u64>) -> Result<u64> {
        let (mut at, mut operations) = (0, 0);
        let now = Instant::now();
        while let Some(asked) = self.under_way.front() {
            let answer = self.wire.answer(&self.input[at..self.filled], asked.number);
            let answer =
                answer.map_err(|what| Error::Failed(format!("{:?}: {what}", self.wire)))?;
            let Some((said, len)) = answer else { break };
            let right = match asked.is_get {
                true => Said::Value(requests.load.value.len()),
                false => Said::Stored,
            };
            if said != right {
                return failed(format!("{:?}: {said:?} instead of {right:?}", self.wire));
            }
            times.saturating_record(nanos(now.saturating_duration_since(asked.at)));
            self.under_way.pop_front();
            at += len;
            operations += 1;
            self.ask(requests, now);
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(operations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// The answers that these bytes hold, when they come byte by byte.
    fn answers(wire: Wire, bytes: &[u8]) -> std::result::Result<Vec<Said>, String> {
        let (mut at, mut found) = (0, Vec::new());
        for end in 0..=bytes.len() {
            while let Some((said, len)) = wire.answer(&bytes[at..end], found.len() as u32 + 1)? {
                found.push(said);
                at += len;
            }
        }
        assert_eq!(at, bytes.len(), "nothing is left over");
        Ok(found)
    }

    #[test]
    fn answers_of_redis_are_found_however_they_are_cut() {
        let said = answers(Wire::Resp, b"+OK\r\n$3\r\nabc\r\n$-1\r\n$0\r\n\r\n$2\r\n\r\n\r\n");
        let value = Said::Value;
        assert_eq!(said.unwrap(), [Said::Stored, value(3), Said::Nothing, value(0), value(2)]);
    }

    #[test]
    fn what_redis_must_not_answer_is_found_out() {
        for bytes in [&b"-ERR no\r\n"[..], b":1\r\n", b"$x\r\n", b"$1\r\nabc\r\n", b"+QUEUED\r\n"] {
            assert!(answers(Wire::Resp, bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn answers_of_memcached_are_found_however_they_are_cut() {
        let bytes =
            b"STORED\r\nVALUE k 0 3\r\nabc\r\nEND\r\nEND\r\nVALUE k 0 5\r\nEND\r\n\r\nEND\r\n";
        let said = answers(Wire::Text, bytes).unwrap();
        assert_eq!(said, [Said::Stored, Said::Value(3), Said::Nothing, Said::Value(5)]);
    }

    #[test]
    fn what_memcached_must_not_answer_is_found_out() {
        for bytes in [&b"ERROR\r\n"[..], b"VALUE k 0 x\r\n", b"VALUE k 0 1\r\nabcdefgh\r\n"] {
            assert!(answers(Wire::Text, bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn answers_of_kvs_are_found_however_they_are_cut() {
        let mut bytes = Vec::new();
        Response::new(1, Status::Ok, 7).encode(&mut bytes);
        Response { body: b"abc", ..Response::new(2, Status::Ok, 7) }.encode(&mut bytes);
        Response::new(3, Status::NoSuchKey, 0).encode(&mut bytes);
        let said = answers(Wire::Framed, &bytes).unwrap();
        assert_eq!(said, [Said::Stored, Said::Value(3), Said::Nothing]);
    }

    #[test]
    fn an_answer_of_kvs_to_another_request_or_with_an_error_is_found_out() {
        for (number, status) in [(2, Status::Ok), (1, Status::Limit), (1, Status::Unknown)] {
            let mut bytes = Vec::new();
            Response::new(number, status, 0).encode(&mut bytes);
            assert!(answers(Wire::Framed, &bytes).is_err(), "{number} {status:?}");
        }
    }

    #[test]
    fn requests_are_those_of_the_protocols() {
        let bytes = |wire: Wire| {
            let mut out = Vec::new();
            wire.get(1, b"key", &mut out);
            wire.put(2, b"key", b"twelve bytes", &mut out);
            out
        };
        assert_eq!(
            bytes(Wire::Resp).as_slice(),
            b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$12\r\ntwelve bytes\r\n"
        );
        assert_eq!(bytes(Wire::Text).as_slice(), b"get key\r\nset key 0 0 12\r\ntwelve bytes\r\n");
        assert_eq!(bytes(Wire::Framed).len(), 2 * HEADER_LEN + 2 * 3 + 12);
    }

    #[test]
    fn a_mix_has_as_many_gets_as_it_says_and_they_do_not_come_in_a_row() {
        for reads in [0, 1, 50, 90, 100] {
            let load = Load { source: Source::Each(Shape::SHORT), value: b"", reads };
            let gets = |places: std::ops::Range<u64>| places.filter(|&n| load.is_get(n)).count();
            assert_eq!(gets(0..100), reads as usize);
            assert_eq!(gets(37..137), reads as usize);
            assert!(gets(0..20).abs_diff(reads as usize / 5) <= 2, "{reads}");
        }
    }

    /// A server for one connection that stores nothing and knows every key.
    fn serve(mut stream: BlockingStream, wire: Wire, value: &'static [u8]) {
        let mut bytes = Cursor::new(Vec::new());
        let mut header = [0; HEADER_LEN];
        while stream.read_exact(&mut header).is_ok() {
            assert_eq!(wire, Wire::Framed);
            let header = FrameHeader::decode(&header).unwrap();
            let mut body = vec![0; header.body_len as usize];
            stream.read_exact(&mut body).unwrap();
            let body = if header.kind == 1 { value } else { b"" };
            let answer = Response { body, ..Response::new(header.number, Status::Ok, 1) };
            bytes.get_mut().clear();
            answer.encode(bytes.get_mut());
            // In two pieces.
            let (front, rest) = bytes.get_ref().split_at(HEADER_LEN - 5);
            stream.write_all(front).unwrap();
            stream.write_all(rest).unwrap();
        }
    }

    #[test]
    fn the_generator_makes_every_request_and_takes_every_answer() {
        for (clients, depth, threads) in [(1, 1, 1), (3, 4, 1), (5, 2, 2)] {
            let mut servers = Vec::new();
            let mut generator = Generator::connect(Wire::Framed, clients, depth, threads, || {
                let (ours, theirs) = BlockingStream::pair().unwrap();
                servers.push(thread::spawn(move || serve(theirs, Wire::Framed, b"value")));
                Ok((ours, None))
            })
            .unwrap();
            let keys = Keys::draw(Shape::SHORT, 10, crate::keys::Distribution::Uniform, 1);
            let load = Load { source: Source::Drawn(&keys), value: b"value", reads: 50 };
            let turn = Turn {
                limit: Limit::Operations(300),
                warm_up: Limit::Operations(20),
                place: 0,
                interrupt: Interrupt::default(),
            };
            let outcome = generator.run_once(&load, turn.limit, &turn).unwrap();
            assert_eq!(outcome.times.len(), 300);
            let wrong = Load { value: b"another", ..load };
            let result = generator.run_once(&wrong, turn.limit, &turn);
            assert!(result.is_err(), "a value of the wrong length");
            drop(generator);
            servers.into_iter().for_each(|server| drop(server.join()));
        }
    }
}
