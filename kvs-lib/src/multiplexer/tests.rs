//! The multiplexer against a server of the test.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use kvs_proto::v2::{FrameHeader, HEADER_LEN};

use super::*;
use kvs_proto::v2::response::{Response, Status};

const TIMEOUT: Duration = Duration::from_secs(10);

fn deadline() -> Deadline {
    Deadline::after(TIMEOUT)
}

fn pair() -> (Multiplexer, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(TIMEOUT)).unwrap();
    theirs.set_write_timeout(Some(TIMEOUT)).unwrap();
    let mut channel = ClientChannel::from_socket(ours.into());
    channel.set_timeout(TIMEOUT);
    (Multiplexer::new(channel), theirs)
}

/// The number and the key of the next request; `None` at the end of the stream.
fn request(server: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut header = [0; HEADER_LEN];
    server.read_exact(&mut header).ok()?;
    let header = FrameHeader::decode(&header).unwrap();
    let mut body = vec![0; header.body_len as usize];
    server.read_exact(&mut body).unwrap();
    body.truncate(header.key_len as usize);
    Some((header.number, body))
}

/// Responds with the key, repeated up to `len` bytes. Waits until there is room to send.
fn respond(server: &mut UnixStream, number: u32, key: &[u8], len: usize) {
    let body: Vec<u8> = key.iter().copied().cycle().take(len).collect();
    let mut frame = Vec::new();
    Response { number, status: Status::Ok, version: 1, body: &body }.encode(&mut frame);
    server.write_all(&frame).unwrap();
}

/// Reads a request only after the response to the previous one was sent, as a server may.
fn serve(mut server: UnixStream, len: usize) {
    while let Some((number, key)) = request(&mut server) {
        respond(&mut server, number, &key, len);
    }
}

fn gets(prefix: &str, count: usize) -> RequestBatch {
    let mut requests = RequestBatch::default();
    for n in 0..count {
        requests.push(&Request::Get(format!("{prefix}-{n}").as_bytes()));
    }
    requests
}

fn expect_gets(prefix: &str, count: usize, len: usize, replies: &[OwnedResponse]) {
    assert_eq!(replies.len(), count);
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!((reply.status, reply.body.len()), (Status::Ok, len));
        assert!(reply.body.starts_with(format!("{prefix}-{n}").as_bytes()), "{prefix}-{n}");
    }
}

#[test]
fn pipeline_larger_than_the_socket_buffers_does_not_block() {
    const COUNT: usize = 20_000;
    let (multiplexer, server) = pair();
    thread::scope(|scope| {
        scope.spawn(|| serve(server, 1000));
        let replies = multiplexer.call(gets("k", COUNT), deadline()).unwrap();
        expect_gets("k", COUNT, 1000, &replies);
        multiplexer.close(false).unwrap();
    });
}

#[test]
fn each_of_many_threads_gets_its_own_replies() {
    const THREADS: usize = 16;
    let (multiplexer, server) = pair();
    thread::scope(|scope| {
        scope.spawn(|| serve(server, 300));
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let multiplexer = &multiplexer;
                scope.spawn(move || {
                    for round in 0..200 {
                        let prefix = format!("{thread}-{round}");
                        let count = 1 + round % 40;
                        let replies = multiplexer.call(gets(&prefix, count), deadline()).unwrap();
                        expect_gets(&prefix, count, 300, &replies);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(multiplexer.drain(deadline()));
        multiplexer.close(false).unwrap();
    });
}

/// Waits for a condition without an event. Nearly always it holds at once.
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = deadline();
    while !condition() {
        assert!(deadline.remaining().is_some(), "{what}");
        thread::yield_now();
    }
}

type CallThread<'scope> = thread::ScopedJoinHandle<'scope, CallResult>;

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    multiplexer: &'scope Multiplexer,
    prefix: &'static str,
    count: usize,
) -> CallThread<'scope> {
    scope.spawn(move || multiplexer.call(gets(prefix, count), deadline()))
}

/// A call without a reply yet whose thread is the reader; and the number and key of its request.
fn spawn_reader<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    multiplexer: &'scope Multiplexer,
    server: &mut UnixStream,
) -> (CallThread<'scope>, u32, Vec<u8>) {
    let reader = spawn(scope, multiplexer, "first", 1);
    let (number, key) = request(server).unwrap();
    wait_for("a thread reads", || multiplexer.lock().is_reading);
    (reader, number, key)
}

/// The reader gets its reply and stops reading, while another thread cannot send because the socket
/// is full, and the server reads nothing until its responses are read.
#[test]
fn sender_goes_on_when_the_reader_stops_reading() {
    const COUNT: usize = 20_000;
    let (multiplexer, mut server) = pair();
    thread::scope(|scope| {
        let (first, number, key) = spawn_reader(scope, &multiplexer, &mut server);
        let second = spawn(scope, &multiplexer, "second", COUNT);
        let unread = || {
            let channel = multiplexer.lock().channel.clone().unwrap();
            crate::sys::unread_by_peer(std::os::fd::AsFd::as_fd(&*channel)).unwrap()
        };
        wait_for("the socket is full", || unread() > 100_000);
        respond(&mut server, number, &key, 10);
        expect_gets("first", 1, 10, &first.join().unwrap().unwrap());
        scope.spawn(|| serve(server, 1000));
        expect_gets("second", COUNT, 1000, &second.join().unwrap().unwrap());
        multiplexer.close(false).unwrap();
    });
}

/// As above, and a third call waits behind the thread that cannot send.
#[test]
fn calls_behind_a_full_socket_get_their_replies() {
    const COUNT: usize = 20_000;
    let (multiplexer, mut server) = pair();
    thread::scope(|scope| {
        let (first, number, key) = spawn_reader(scope, &multiplexer, &mut server);
        let second = spawn(scope, &multiplexer, "second", COUNT);
        wait_for("two wait", || multiplexer.lock().requests.len() == 2);
        let third = spawn(scope, &multiplexer, "third", 100);
        wait_for("three wait", || multiplexer.lock().requests.len() == 3);
        respond(&mut server, number, &key, 10);
        expect_gets("first", 1, 10, &first.join().unwrap().unwrap());
        scope.spawn(|| serve(server, 1000));
        expect_gets("second", COUNT, 1000, &second.join().unwrap().unwrap());
        expect_gets("third", 100, 1000, &third.join().unwrap().unwrap());
        multiplexer.close(false).unwrap();
    });
}

/// A thread that has sent its own requests leaves those enqueued meanwhile to a waiting thread;
/// otherwise it might not return while others are busy. The test sees it return before the server
/// reads any of the others' requests.
#[test]
fn sender_returns_while_others_have_requests_to_send() {
    const COUNT: usize = 20_000;
    let (multiplexer, mut server) = pair();
    let (sent, is_sent) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let multiplexer = &multiplexer;
        let first = scope.spawn(move || {
            let slot = Arc::new(CallSlot::default());
            let channel = multiplexer.enqueue(gets("first", COUNT), &slot).unwrap();
            multiplexer.flush(&channel, deadline()).unwrap();
            sent.send(()).unwrap();
            multiplexer.wait_for_replies(&channel, &slot, deadline())
        });
        wait_for("the first has no room", || multiplexer.lock().is_reading);
        // When one of the two reads, the other one waits.
        let second = spawn(scope, multiplexer, "second", COUNT);
        wait_for("two are there", || multiplexer.lock().requests.len() == 2);
        let third = spawn(scope, multiplexer, "third", 1);
        let waiting = || multiplexer.lock().requests.waiting().count();
        wait_for("both wait", || waiting() == 2);
        for _ in 0..COUNT {
            let (number, key) = request(&mut server).unwrap();
            respond(&mut server, number, &key, 20);
        }
        is_sent.recv_timeout(TIMEOUT).expect("the first has nothing more to send");
        scope.spawn(|| serve(server, 20));
        expect_gets("first", COUNT, 20, &first.join().unwrap().unwrap());
        expect_gets("second", COUNT, 20, &second.join().unwrap().unwrap());
        expect_gets("third", 1, 20, &third.join().unwrap().unwrap());
        multiplexer.close(false).unwrap();
    });
}

#[test]
fn close_fails_waiting_calls_at_once() {
    let (multiplexer, mut server) = pair();
    thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..4).map(|_| scope.spawn(|| multiplexer.call(gets("k", 1), deadline()))).collect();
        for _ in 0..4 {
            request(&mut server).unwrap();
        }
        multiplexer.close(false).unwrap();
        for thread in waiting {
            let failed = thread.join().unwrap().unwrap_err();
            assert!(matches!(failed, CallFailure::Closed), "{failed:?}");
        }
        let failed = multiplexer.call(gets("k", 1), deadline()).unwrap_err();
        assert!(matches!(failed, CallFailure::Closed), "{failed:?}");
        assert!(request(&mut server).is_none());
    });
}

#[test]
fn response_without_a_request_is_malformed() {
    for (wrong, status) in [(2, Status::Ok), (0, Status::Ok), (1, Status::Welcome)] {
        let (multiplexer, mut server) = pair();
        thread::scope(|scope| {
            let call = scope.spawn(|| multiplexer.call(gets("k", 1), deadline()));
            let (number, _) = request(&mut server).unwrap();
            assert_eq!(number, 1);
            server.write_all(&Response::new(wrong, status, 1).encode_header(0)).unwrap();
            let failed = call.join().unwrap().unwrap_err();
            assert!(matches!(failed, CallFailure::Malformed(_)), "{failed:?}");
        });
    }
}

#[test]
fn request_numbers_wrap_around() {
    let (multiplexer, server) = pair();
    multiplexer.lock().requests = RequestMap::new(u32::MAX - 1);
    thread::scope(|scope| {
        scope.spawn(|| serve(server, 10));
        for _ in 0..3 {
            let replies = multiplexer.call(gets("k", 3), deadline()).unwrap();
            expect_gets("k", 3, 10, &replies);
        }
        multiplexer.close(false).unwrap();
    });
}
