//! An application without the library in a framed session: every frame is the test's.

use std::path::Path;

use kvs_proto::v2::event::ServerEvent;
use kvs_proto::v2::request::{EntriesBuilder, Request, WatchTarget};
use kvs_proto::v2::response::{Response, Status};
use kvs_proto::v2::{FrameHeader, HEADER_LEN, Version, response};

use crate::{Channel, Sockets};

/// An application in a framed session. Its process is the test's.
///
/// The methods are single requests, each of which waits for its answer; what they do not cover is done with
/// [`ask`](Self::ask) and [`answer`](Self::answer), or on the channels directly.
#[derive(Debug)]
pub struct FramedApp {
    /// The main channel.
    pub main: Channel,
    /// The callback channel.
    pub callback: Channel,
    /// The longest value that the server takes.
    pub max_value: u64,
    last_number: u32,
}

/// An answer, or what the server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Of the request.
    pub number: u32,
    /// How it went.
    pub status: Status,
    /// Of the key, or a cursor, or the longest value.
    pub version: Version,
    /// A value, or keys.
    pub body: Vec<u8>,
}

/// A change as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Of this key.
    pub key: Vec<u8>,
    /// Its version; 0: it was deleted.
    pub version: Version,
    /// It is watched by itself.
    pub by_key: bool,
    /// It is watched by a prefix.
    pub by_prefix: bool,
}

/// Any frame, of bytes: nothing in it need fit together. The body length is that of `body` unless
/// [`body_len`](Self::body_len) says otherwise.
#[derive(Debug, Clone, Default)]
pub struct RawFrame<'a> {
    /// What the header says about its length.
    pub body_len: Option<u32>,
    /// The number.
    pub number: u32,
    /// The kind.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// What should be 0.
    pub reserved: [u8; 2],
    /// What the header says about the length of the key.
    pub key_len: u32,
    /// The version.
    pub version: u64,
    /// What follows the header.
    pub body: &'a [u8],
}

impl RawFrame<'_> {
    /// As it goes over the wire.
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

/// A request as it goes over the wire.
pub fn framed(number: u32, request: Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(number, &mut bytes);
    bytes
}

/// A put as it goes over the wire.
pub fn framed_put(number: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
    framed(number, Request::Put { key, value, expected: None })
}

/// Several puts in one message.
pub fn entries<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> EntriesBuilder {
    let mut entries = EntriesBuilder::default();
    pairs.into_iter().for_each(|(key, value)| entries.push(key, value));
    entries
}

impl Channel {
    /// As [`begin_login`](Self::begin_login), with the offer of a framed session, which must be taken.
    ///
    /// # Panics
    /// When the server does not know the group, does not take the offer, or ends the login.
    pub fn begin_framed_login(&mut self, group: &str, secret: &str) {
        self.expect_int(1);
        self.send(&[group.as_bytes(), b"\0kvs2"].concat());
        self.expect_int(2);
        self.send(secret.as_bytes());
    }

    /// Receives one frame.
    ///
    /// # Panics
    /// When none comes, or something else.
    pub fn frame(&mut self) -> (FrameHeader, Vec<u8>) {
        let header = self.take(HEADER_LEN).try_into().expect("so many were asked for");
        let header = FrameHeader::decode(&header).expect("the server sends frames");
        let body = self.take(header.body_len as usize);
        (header, body)
    }

    /// Receives one answer.
    ///
    /// # Panics
    /// When none comes.
    pub fn answer(&mut self) -> Reply {
        let (header, body) = self.frame();
        let Response { number, status, version, body } =
            Response::decode(&header, &body).expect("the server sends answers");
        Reply { number, status, version, body: body.to_vec() }
    }
}

impl FramedApp {
    /// Connects and logs in. The sockets have no names: only one of this process at a time.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn login(server: &impl Sockets, group: &str, secret: &str) -> Self {
        let connect = |name, path: &Path| {
            Channel::connect(name, path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let mut main = connect("main", server.socket());
        main.begin_framed_login(group, secret);
        let mut callback = connect("callback", server.callback_socket());
        callback.expect_int(1);
        Self::begin(main, callback)
    }

    /// Connects and logs in under a name that tells it apart from other applications of this process.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn login_as(
        server: &impl Sockets,
        dir: &Path,
        name: &str,
        group: &str,
        secret: &str,
    ) -> Self {
        let [main, callback] =
            Channel::both_as(server, dir, name, |main| main.begin_framed_login(group, secret));
        Self::begin(main, callback)
    }

    fn begin(mut main: Channel, callback: Channel) -> Self {
        main.expect_int(1);
        let welcome = main.answer();
        assert_eq!((welcome.number, welcome.status), (0, Status::Welcome));
        assert!(welcome.body.is_empty());
        Self { main, callback, max_value: welcome.version, last_number: 0 }
    }

    /// Sends a request and does not wait for its answer; its number.
    ///
    /// # Panics
    /// When the server does not take it.
    pub fn ask(&mut self, request: Request<'_>) -> u32 {
        self.last_number += 1;
        self.main.send(&framed(self.last_number, request));
        self.last_number
    }

    /// Receives the answer to the request of this number.
    ///
    /// # Panics
    /// When another comes, or none.
    pub fn answer(&mut self, number: u32) -> Reply {
        let reply = self.main.answer();
        assert_eq!(reply.number, number, "an answer out of order: {reply:?}");
        reply
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Panics
    /// When none comes.
    pub fn call(&mut self, request: Request<'_>) -> Reply {
        let number = self.ask(request);
        self.answer(number)
    }

    /// Status and version of the answer to a request.
    ///
    /// # Panics
    /// When none comes, or one with a body.
    pub fn outcome(&mut self, request: Request<'_>) -> (Status, Version) {
        let reply = self.call(request);
        assert!(reply.body.is_empty(), "{reply:?}");
        (reply.status, reply.version)
    }

    /// A request that must succeed; the version in its answer.
    ///
    /// # Panics
    /// When it does not.
    pub fn done(&mut self, request: Request<'_>) -> Version {
        let (status, version) = self.outcome(request);
        assert_eq!(status, Status::Ok, "{request:?}");
        version
    }

    /// Stores a value; its version.
    ///
    /// # Panics
    /// When it is refused.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Version {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.done(Request::Put { key, value, expected: None })
    }

    /// Asks for a value; with its version.
    ///
    /// # Panics
    /// When the answer is neither a value nor that there is none.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Option<(Version, Vec<u8>)> {
        let reply = self.call(Request::Get(key.as_ref()));
        match reply.status {
            Status::Ok => Some((reply.version, reply.body)),
            Status::NoSuchKey => None,
            status => panic!("{status:?} to a get"),
        }
    }

    /// Deletes a pair; whether there was one.
    ///
    /// # Panics
    /// When the answer is something else.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> bool {
        match self.outcome(Request::Delete { key: key.as_ref(), expected: None }) {
            (Status::Ok, 0) => true,
            (Status::NoSuchKey, 0) => false,
            other => panic!("{other:?} to a delete"),
        }
    }

    /// Watches a key that exists; its version.
    ///
    /// # Panics
    /// When it does not exist.
    pub fn watch(&mut self, key: impl AsRef<[u8]>) -> Version {
        self.done(Request::Watch(WatchTarget::Key(key.as_ref())))
    }

    /// Watches all keys with a prefix.
    ///
    /// # Panics
    /// When it is refused.
    pub fn watch_prefix(&mut self, prefix: impl AsRef<[u8]>) {
        self.done(Request::Watch(WatchTarget::Prefix(prefix.as_ref())));
    }

    /// All keys with a prefix, page by page, sorted.
    ///
    /// # Panics
    /// When a page is refused.
    pub fn keys(&mut self, prefix: impl AsRef<[u8]>, limit: u32) -> Vec<Vec<u8>> {
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            let reply = self.call(Request::Keys { prefix: prefix.as_ref(), cursor, limit });
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

    /// Receives one change; `None`: it is asked to close.
    ///
    /// # Panics
    /// When none comes.
    pub fn news(&mut self) -> Option<Told> {
        let (header, body) = self.callback.frame();
        match ServerEvent::decode(&header, &body).expect("the server sends changes") {
            ServerEvent::Changed { key, version, matched_by: watches } => Some(Told {
                key: key.to_vec(),
                version,
                by_key: watches.key,
                by_prefix: watches.prefix,
            }),
            ServerEvent::Close => None,
        }
    }

    /// Receives one change: its key and version.
    ///
    /// # Panics
    /// When none comes.
    pub fn change(&mut self) -> (Vec<u8>, Version) {
        let told = self.news().expect("a change was awaited, not the request to close");
        (told.key, told.version)
    }

    /// Says goodbye and closes both sockets.
    pub fn close(mut self) {
        self.ask(Request::Close);
    }

    /// Everything that the server had to do for this application is done: it answers, and what it has told was
    /// told before.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn expect_service(&mut self) {
        assert_eq!(self.get("no such key"), None);
    }
}
