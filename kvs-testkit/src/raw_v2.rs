//! A v2 application without the library, of which the test chooses every frame.

use std::path::Path;

use kvs_proto::v2::event::ServerEvent;
use kvs_proto::v2::request::{EntriesBuilder, Request, WatchTarget};
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN, Version, response};

use crate::channel::Channel;
use crate::sockets::Sockets;

/// A v2 application in the test's process.
///
/// Most methods send one request and wait for its response. [`send_request`](Self::send_request)
/// and [`response`](Self::response) do one of the two. Tests use the channels for everything else.
#[derive(Debug)]
pub struct RawV2App {
    /// The main channel.
    pub main: Channel,
    /// The callback channel.
    pub callback: Channel,
    /// The longest value that the server accepts.
    pub max_value: u64,
    last_number: u32,
}

/// A response, or the welcome frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawResponse {
    /// The number of the request.
    pub number: u32,
    /// The status.
    pub status: Status,
    /// The version of the key, a cursor, or the longest value.
    pub version: Version,
    /// A value, or a page of keys.
    pub body: Vec<u8>,
}

/// A received change event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent {
    /// The key.
    pub key: Vec<u8>,
    /// The version of the key; 0 if it was deleted.
    pub version: Version,
    /// The application watches the key.
    pub by_key: bool,
    /// The application watches a prefix of the key.
    pub by_prefix: bool,
}

/// Any frame, valid or not. The body length is that of `body` unless [`body_len`](Self::body_len)
/// overrides it.
#[derive(Debug, Clone, Default)]
pub struct RawFrame<'a> {
    /// The body length in the header.
    pub body_len: Option<u32>,
    /// The number.
    pub number: u32,
    /// The kind.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The reserved bytes, which should be 0.
    pub reserved: [u8; 2],
    /// The key length in the header.
    pub key_len: u32,
    /// The version.
    pub version: u64,
    /// The bytes after the header.
    pub body: &'a [u8],
}

impl RawFrame<'_> {
    /// The encoded frame.
    pub fn bytes(&self) -> Vec<u8> {
        let body_len =
            self.body_len.unwrap_or_else(|| u32::try_from(self.body.len()).expect("short"));
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.body.len());
        bytes.extend(body_len.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.reserved);
        bytes.extend(self.key_len.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.body);
        bytes
    }
}

/// An encoded request.
pub fn encode_request(number: u32, request: Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(number, &mut bytes);
    bytes
}

/// An encoded put.
pub fn encode_put(number: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
    encode_request(number, Request::Put { key, value, expected: None })
}

/// The entries of a put_many request.
pub fn entries<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> EntriesBuilder {
    let mut entries = EntriesBuilder::default();
    pairs.into_iter().for_each(|(key, value)| entries.push(key, value));
    entries
}

impl Channel {
    /// As [`begin_login`](Self::begin_login), with the offer of protocol v2.
    ///
    /// # Panics
    /// If the server does not know the group, does not accept the offer, or closes the connection.
    pub fn begin_v2_login(&mut self, group: &str, secret: &str) {
        self.expect_int(1);
        self.send(&[group.as_bytes(), b"\0kvs2"].concat());
        self.expect_int(2);
        self.send(secret.as_bytes());
    }

    /// Receives one frame.
    ///
    /// # Panics
    /// If none arrives, or something else.
    pub fn frame(&mut self) -> (FrameHeader, Vec<u8>) {
        let header = self.take(HEADER_LEN).try_into().expect("so many were asked for");
        let header = FrameHeader::decode(&header).expect("the server sends frames");
        let body = self.take(header.body_len as usize);
        (header, body)
    }

    /// Receives one response.
    ///
    /// # Panics
    /// If none arrives.
    pub fn response(&mut self) -> RawResponse {
        let (header, body) = self.frame();
        let Response { number, status, version, body } =
            Response::decode(&header, &body).expect("the server sends responses");
        RawResponse { number, status, version, body: body.to_vec() }
    }
}

impl RawV2App {
    /// Connects from unnamed sockets and logs in. The server pairs channels by process then, so
    /// only one such login of this process may be in progress at a time.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn login(server: &impl Sockets, group: &str, secret: &str) -> Self {
        let connect = |name, path: &Path| {
            Channel::connect(name, path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let mut main = connect("main", server.socket());
        main.begin_v2_login(group, secret);
        let mut callback = connect("callback", server.callback_socket());
        callback.expect_int(1);
        Self::begin(main, callback)
    }

    /// Connects and logs in under a name that tells it apart from other applications of this
    /// process.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn login_as(
        server: &impl Sockets,
        dir: &Path,
        name: &str,
        group: &str,
        secret: &str,
    ) -> Self {
        let [main, callback] =
            Channel::connect_pair_as(server, dir, name, |main| main.begin_v2_login(group, secret));
        Self::begin(main, callback)
    }

    fn begin(mut main: Channel, callback: Channel) -> Self {
        main.expect_int(1);
        let welcome = main.response();
        assert_eq!((welcome.number, welcome.status), (0, Status::Welcome));
        assert!(welcome.body.is_empty());
        Self { main, callback, max_value: welcome.version, last_number: 0 }
    }

    /// Sends a request without waiting for its response; returns its number.
    ///
    /// # Panics
    /// If the send fails or times out.
    pub fn send_request(&mut self, request: Request<'_>) -> u32 {
        self.last_number += 1;
        self.main.send(&encode_request(self.last_number, request));
        self.last_number
    }

    /// Receives the response to the request of this number.
    ///
    /// # Panics
    /// If another one arrives, or none.
    pub fn response(&mut self, number: u32) -> RawResponse {
        let reply = self.main.response();
        assert_eq!(reply.number, number, "a response out of order: {reply:?}");
        reply
    }

    /// Sends a request and waits for its response.
    ///
    /// # Panics
    /// If none arrives.
    pub fn request(&mut self, request: Request<'_>) -> RawResponse {
        let number = self.send_request(request);
        self.response(number)
    }

    /// Sends a request; returns status and version of its response.
    ///
    /// # Panics
    /// If none arrives, or one with a body.
    pub fn status_of(&mut self, request: Request<'_>) -> (Status, Version) {
        let reply = self.request(request);
        assert!(reply.body.is_empty(), "{reply:?}");
        (reply.status, reply.version)
    }

    /// Sends a request that must succeed; returns the version in its response.
    ///
    /// # Panics
    /// If it does not succeed.
    pub fn expect_ok(&mut self, request: Request<'_>) -> Version {
        let (status, version) = self.status_of(request);
        assert_eq!(status, Status::Ok, "{request:?}");
        version
    }

    /// Stores a value; returns its version.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Version {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.expect_ok(Request::Put { key, value, expected: None })
    }

    /// Reads a value and its version.
    ///
    /// # Panics
    /// If the response is neither a value nor "no such key".
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Option<(Version, Vec<u8>)> {
        let reply = self.request(Request::Get(key.as_ref()));
        match reply.status {
            Status::Ok => Some((reply.version, reply.body)),
            Status::NoSuchKey => None,
            status => panic!("{status:?} to a get"),
        }
    }

    /// Deletes a pair; `false` if the key does not exist.
    ///
    /// # Panics
    /// If the request fails otherwise.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> bool {
        match self.status_of(Request::Delete { key: key.as_ref(), expected: None }) {
            (Status::Ok, 0) => true,
            (Status::NoSuchKey, 0) => false,
            other => panic!("{other:?} to a delete"),
        }
    }

    /// Watches an existing key; returns its version.
    ///
    /// # Panics
    /// If it does not exist.
    pub fn watch(&mut self, key: impl AsRef<[u8]>) -> Version {
        self.expect_ok(Request::Watch(WatchTarget::Key(key.as_ref())))
    }

    /// Watches all keys with a prefix.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn watch_prefix(&mut self, prefix: impl AsRef<[u8]>) {
        self.expect_ok(Request::Watch(WatchTarget::Prefix(prefix.as_ref())));
    }

    /// All keys with a prefix, page by page, sorted.
    ///
    /// # Panics
    /// If a page is refused.
    pub fn keys(&mut self, prefix: impl AsRef<[u8]>, limit: u32) -> Vec<Vec<u8>> {
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            let reply = self.request(Request::Keys { prefix: prefix.as_ref(), cursor, limit });
            assert_eq!(reply.status, Status::Ok);
            let keys = response::decode_keys(&reply.body).expect("a page is whole");
            all.extend(keys.into_iter().map(<[u8]>::to_vec));
            cursor = reply.version;
            if cursor == 0 {
                all.sort();
                return all;
            }
        }
    }

    /// Receives one event: a change, or `None` for the request to close.
    ///
    /// # Panics
    /// If none arrives.
    pub fn next_event(&mut self) -> Option<RawEvent> {
        let (header, body) = self.callback.frame();
        match ServerEvent::decode(&header, &body).expect("the server sends events") {
            ServerEvent::Changed { key, version, matched_by } => Some(RawEvent {
                key: key.to_vec(),
                version,
                by_key: matched_by.key,
                by_prefix: matched_by.prefix,
            }),
            ServerEvent::Close => None,
        }
    }

    /// Receives one change event; returns its key and version.
    ///
    /// # Panics
    /// If none arrives.
    pub fn next_change(&mut self) -> (Vec<u8>, Version) {
        let event =
            self.next_event().expect("a change event was expected, not the request to close");
        (event.key, event.version)
    }

    /// Sends the close request and closes both sockets.
    pub fn close(mut self) {
        self.send_request(Request::Close);
    }

    /// Waits for a response: the server has then processed all earlier requests of this application
    /// and sent their events.
    ///
    /// # Panics
    /// If none arrives.
    pub fn expect_served(&mut self) {
        assert_eq!(self.get("no such key"), None);
    }
}
