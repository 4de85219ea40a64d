//! Sessions over a store that commits late: real sockets, reactors and groups ([`SteppedServer`]),
//! and a [`StalledStore`] that completes writes when the test asks for it, in any order.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvs_proto::v2::request::{EntriesBuilder, Request, WatchTarget};
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN, Version};
use kvs_proto::{Protocol, Text, v1};
use kvs_store::testing::{StalledStore, StalledStoreControl};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::local::fuzzing::SteppedServer;
use crate::local::group::registry::Groups;
use crate::local::session::pending_responses::MAX_PENDING;

const REACTORS: usize = 2;

/// A response, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ClientResponse {
    number: u32,
    status: Status,
    version: Version,
    body: Vec<u8>,
}

/// A server with one group.
struct Server {
    inner: SteppedServer,
    dir: TempDir,
}

/// An application that is logged in.
struct App {
    main: UnixStream,
    _callback: UnixStream,
}

fn text(bytes: &[u8]) -> Text {
    Text::new(bytes).unwrap()
}

impl Server {
    fn with_groups(groups: Groups) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bind = |name| UnixListener::bind(dir.path().join(name)).unwrap();
        let inner = SteppedServer::with_groups(bind("main"), bind("callback"), REACTORS, groups);
        let inner = inner.unwrap();
        inner.add_group(text(b"g"), text(b"s"));
        Self { inner, dir }
    }

    /// A server with the memory store.
    fn in_memory() -> Self {
        Self::with_groups(Groups::default())
    }

    /// A server whose store decides when its control is used.
    fn stalled() -> (Self, StalledStoreControl) {
        let created = Arc::new(Mutex::new(None));
        let control = Arc::clone(&created);
        let server = Self::with_groups(Groups::new(Box::new(move |_| {
            let (store, control) = StalledStore::new();
            *created.lock().unwrap() = Some(control);
            Box::new(store)
        })));
        let control = control.lock().unwrap().take().unwrap();
        (server, control)
    }

    /// Polls the reactors until none has anything to do.
    fn settle(&mut self) {
        while (0..REACTORS).fold(false, |busy, reactor| {
            let is_busy = self.inner.poll(reactor).unwrap();
            busy || is_busy
        }) {}
    }

    fn login(&mut self, protocol: Protocol) -> App {
        let connect = |dir: &Path, name| {
            let stream = UnixStream::connect(dir.join(name)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream
        };
        let mut main = connect(self.dir.path(), "main");
        let hello = v1::Hello { group: text(b"g"), offer: protocol };
        main.write_all(&hello.encode()).unwrap();
        self.settle();
        main.write_all(b"s").unwrap();
        self.settle();
        assert!(self.inner.complete_lookup(|_| Ok(Some(text(b"s")))));
        let callback = connect(self.dir.path(), "callback");
        self.settle();
        let mut app = App { main, _callback: callback };
        let accepted = if protocol == Protocol::V2 { 2 } else { 1 };
        assert_eq!([app.int(), app.int(), app.int()], [1, accepted, 1]);
        if protocol == Protocol::V2 {
            assert_eq!(app.response().status, Status::Welcome);
        }
        app
    }
}

impl App {
    fn int(&mut self) -> i32 {
        let mut bytes = [0; 4];
        self.main.read_exact(&mut bytes).unwrap();
        i32::from_ne_bytes(bytes)
    }

    fn send_int(&mut self, int: i32) {
        self.main.write_all(&int.to_ne_bytes()).unwrap();
    }

    fn response(&mut self) -> ClientResponse {
        let mut header = [0; HEADER_LEN];
        self.main.read_exact(&mut header).unwrap();
        let header = FrameHeader::decode(&header).unwrap();
        let mut body = vec![0; header.body_len as usize];
        self.main.read_exact(&mut body).unwrap();
        let Response { number, status, version, body } = Response::decode(&header, &body).unwrap();
        ClientResponse { number, status, version, body: body.to_vec() }
    }

    /// Whether bytes, or the end of the stream, can be read.
    fn can_read(&mut self) -> bool {
        self.main.set_nonblocking(true).unwrap();
        let peeked = nix::sys::socket::recv(
            std::os::fd::AsRawFd::as_raw_fd(&self.main),
            &mut [0],
            nix::sys::socket::MsgFlags::MSG_PEEK,
        );
        self.main.set_nonblocking(false).unwrap();
        peeked != Err(nix::errno::Errno::EAGAIN)
    }

    fn is_at_end(&mut self) -> bool {
        match self.main.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn encode(requests: &[Request<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, request) in (1..).zip(requests) {
        request.encode(number, &mut bytes);
    }
    bytes
}

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Request<'a> {
    Request::Put { key, value, expected: None }
}

#[test]
fn read_behind_pending_write_sees_it() {
    let (mut server, control) = Server::stalled();
    let mut app = server.login(Protocol::V2);
    app.main.write_all(&encode(&[put(b"k", b"v"), Request::Get(b"k"), put(b"k", b"w")])).unwrap();
    server.settle();
    // The second put waits behind the get.
    assert_eq!(control.pending(), 1);
    assert!(!app.can_read());
    control.complete(0);
    server.settle();
    assert_eq!((app.response().number, app.response().body), (1, b"v".to_vec()));
    assert!(!app.can_read());
    control.complete_all();
    server.settle();
    assert_eq!((app.response().number, app.can_read()), (3, false));
}

#[test]
fn early_completion_waits_for_the_responses_before_it() {
    let (mut server, control) = Server::stalled();
    let mut app = server.login(Protocol::V2);
    app.main.write_all(&encode(&[put(b"a", b""), put(b"b", b""), put(b"c", b"")])).unwrap();
    server.settle();
    assert_eq!(control.pending(), 3);
    control.complete(2);
    control.complete(1);
    server.settle();
    assert!(!app.can_read());
    control.complete(0);
    server.settle();
    assert_eq!([1, 2, 3].map(|_| app.response().version), [1, 2, 3]);
}

#[test]
fn close_waits_for_pending_writes() {
    let (mut server, control) = Server::stalled();
    let mut app = server.login(Protocol::V2);
    app.main.write_all(&encode(&[put(b"k", b"v"), Request::Close])).unwrap();
    server.settle();
    assert!(!app.can_read());
    control.complete_all();
    server.settle();
    assert_eq!(app.response().status, Status::Ok);
    assert!(app.is_at_end());
}

#[test]
fn session_with_too_many_pending_writes_is_not_read() {
    let (mut server, control) = Server::stalled();
    let mut app = server.login(Protocol::V2);
    let requests = vec![put(b"k", b"v"); MAX_PENDING + 100];
    app.main.write_all(&encode(&requests)).unwrap();
    server.settle();
    assert_eq!(control.pending(), MAX_PENDING);
    control.complete_all();
    server.settle();
    assert_eq!(control.pending(), 100);
    control.complete_all();
    server.settle();
    for number in 1..=requests.len() as u32 {
        // The socket takes fewer responses than these at once.
        server.settle();
        assert_eq!(app.response().number, number);
    }
}

#[test]
fn failed_store_closes_the_session_in_place_of_the_response() {
    let (mut server, control) = Server::stalled();
    let mut app = server.login(Protocol::V2);
    app.main.write_all(&encode(&[put(b"a", b"")])).unwrap();
    server.settle();
    control.fail_next(1);
    app.main.write_all(&encode(&[put(b"b", b""), put(b"c", b"")])).unwrap();
    server.settle();
    // The failure is reported first, and must not overtake the response before it.
    control.complete(1);
    server.settle();
    assert!(!app.can_read());
    control.complete_all();
    server.settle();
    assert_eq!(app.response().status, Status::Ok);
    assert!(app.is_at_end());
    let mut other = server.login(Protocol::V2);
    other.main.write_all(&encode(&[Request::Get(b"b")])).unwrap();
    server.settle();
    assert_eq!(other.response().status, Status::NoSuchKey);
}

#[test]
fn write_to_a_removed_group_closes_the_session() {
    let mut server = Server::in_memory();
    let mut app = server.login(Protocol::V2);
    app.main.write_all(&encode(&[put(b"k", b"v")])).unwrap();
    server.settle();
    assert_eq!(app.response().status, Status::Ok);
    server.inner.delete_group(&text(b"g"));
    app.main.write_all(&encode(&[Request::Get(b"k"), put(b"k", b"v")])).unwrap();
    server.settle();
    assert_eq!(app.response().status, Status::NoSuchKey);
    assert!(app.is_at_end());
}

#[test]
fn removing_a_group_closes_sessions_with_pending_writes() {
    for protocol in [Protocol::V1, Protocol::V2] {
        let (mut server, control) = Server::stalled();
        let mut app = server.login(protocol);
        match protocol {
            Protocol::V2 => app.main.write_all(&encode(&[put(b"k", b"v")])).unwrap(),
            Protocol::V1 => {
                app.send_int(0);
                server.settle();
                app.main.write_all(b"k").unwrap();
                server.settle();
                assert_eq!([app.int(), app.int()], [1, 1]);
                app.main.write_all(b"v").unwrap();
            }
        }
        server.settle();
        assert_eq!((control.pending(), app.can_read()), (1, false));
        server.inner.delete_group(&text(b"g"));
        server.settle();
        assert!(app.is_at_end());
    }
}

#[test]
fn completion_for_a_closed_session_is_ignored() {
    let (mut server, control) = Server::stalled();
    let mut app = server.login(Protocol::V2);
    app.main.write_all(&encode(&[put(b"k", b"v")])).unwrap();
    server.settle();
    // Bytes that are no frame end the session at once.
    let mut other = server.login(Protocol::V2);
    app.main.write_all(&[0xff; HEADER_LEN]).unwrap();
    server.settle();
    assert!(app.is_at_end());
    control.complete_all();
    server.settle();
    other.main.write_all(&encode(&[Request::Get(b"k")])).unwrap();
    server.settle();
    assert_eq!(other.response().body, b"v", "the write was committed all the same");
}

#[test]
fn v1_session_waits_for_its_pending_write() {
    let (mut server, control) = Server::stalled();
    let mut app = server.login(Protocol::V1);
    app.send_int(0);
    server.settle();
    app.main.write_all(b"k").unwrap();
    server.settle();
    assert_eq!([app.int(), app.int()], [1, 1]);
    // The value, and together with it the code of the next operation: a read.
    app.main.write_all(&[&b"v"[..], &1_i32.to_ne_bytes()].concat()).unwrap();
    server.settle();
    assert_eq!((control.pending(), app.can_read()), (1, false));
    control.complete_all();
    server.settle();
    assert_eq!(app.int(), 1);
    app.main.write_all(b"k").unwrap();
    server.settle();
    assert_eq!(app.int(), 1, "the length of the value");
    app.main.read_exact(&mut [0; 2]).unwrap();
    // A delete is answered when it is committed.
    app.send_int(2);
    server.settle();
    app.main.write_all(b"k").unwrap();
    server.settle();
    assert_eq!((app.int(), app.can_read()), (1, false));
    control.complete_all();
    server.settle();
    assert_eq!(app.int(), 1);
    // A failed one ends the session.
    control.fail_next(1);
    app.send_int(0);
    server.settle();
    app.main.write_all(b"k").unwrap();
    server.settle();
    assert_eq!([app.int(), app.int()], [1, 1]);
    app.main.write_all(b"v").unwrap();
    server.settle();
    control.complete_all();
    server.settle();
    assert!(app.is_at_end());
}

/// A request of the property test.
#[derive(Debug, Clone)]
enum Op {
    Get(u8),
    Put(u8, Vec<u8>, Option<Version>),
    Delete(u8, Option<Version>),
    PutMany(Vec<u8>),
    Keys,
    Watch(u8),
    Unwatch(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || b'a'..b'e';
    let expected = || proptest::option::weighted(0.3, 0..8_u64);
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        Just(vec![b'v'; 9_000]),
        // Longer than the server allows: rejected.
        Just(vec![b'v'; 11_000]),
    ];
    prop_oneof![
        4 => (key(), value, expected()).prop_map(|(key, value, at)| Op::Put(key, value, at)),
        2 => (key(), expected()).prop_map(|(key, at)| Op::Delete(key, at)),
        1 => proptest::collection::vec(key(), 1..4).prop_map(Op::PutMany),
        2 => key().prop_map(Op::Get),
        1 => Just(Op::Keys),
        1 => key().prop_map(Op::Watch),
        1 => key().prop_map(Op::Unwatch),
    ]
}

fn encode_ops(ops: &[Op]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, op) in (1..).zip(ops) {
        match op {
            Op::Get(key) => Request::Get(&[*key]).encode(number, &mut bytes),
            Op::Put(key, value, expected) => {
                let (key, expected) = (&[*key][..], *expected);
                Request::Put { key, value, expected }.encode(number, &mut bytes);
            }
            Op::Delete(key, expected) => {
                let (key, expected) = (&[*key][..], *expected);
                Request::Delete { key, expected }.encode(number, &mut bytes);
            }
            Op::PutMany(keys) => {
                let mut entries = EntriesBuilder::default();
                keys.iter().for_each(|key| entries.push(&[*key], b"many"));
                Request::PutMany(entries.entries()).encode(number, &mut bytes);
            }
            Op::Keys => {
                let all = Request::Keys { prefix: b"", cursor: 0, limit: 100 };
                all.encode(number, &mut bytes);
            }
            Op::Watch(key) => {
                Request::Watch(WatchTarget::Key(&[*key])).encode(number, &mut bytes);
            }
            Op::Unwatch(key) => {
                Request::Unwatch(WatchTarget::Key(&[*key])).encode(number, &mut bytes);
            }
        }
    }
    bytes
}

/// The order of keys within a page depends on the table's random seed.
fn sorted_page(mut response: ClientResponse, op: &Op) -> ClientResponse {
    if matches!(op, Op::Keys) {
        let mut keys = kvs_proto::v2::response::decode_keys(&response.body).unwrap();
        keys.sort_unstable();
        response.body = keys.concat();
    }
    response
}

fn responses(app: &mut App, ops: &[Op]) -> Vec<ClientResponse> {
    ops.iter().map(|op| sorted_page(app.response(), op)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn late_store_gives_the_responses_of_the_memory_store(
        ops in proptest::collection::vec(op(), 1..40),
        split in any::<proptest::sample::Index>(),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 1..40),
    ) {
        let bytes = encode_ops(&ops);
        let mut server = Server::in_memory();
        let mut app = server.login(Protocol::V2);
        app.main.write_all(&bytes).unwrap();
        server.settle();
        let expected = responses(&mut app, &ops);

        let (mut server, control) = Server::stalled();
        let mut app = server.login(Protocol::V2);
        let (first, second) = bytes.split_at(split.index(bytes.len()));
        app.main.write_all(first).unwrap();
        server.settle();
        let mut order = order.iter().cycle();
        if control.pending() > 0 {
            control.complete(order.next().unwrap().index(control.pending()));
        }
        app.main.write_all(second).unwrap();
        server.settle();
        while control.pending() > 0 {
            control.complete(order.next().unwrap().index(control.pending()));
            server.settle();
        }
        prop_assert_eq!(responses(&mut app, &ops), expected);
        prop_assert!(!app.can_read());
    }
}
