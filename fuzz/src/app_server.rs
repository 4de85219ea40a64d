//! The local server's role of protocol v1: [`MainChannel`] and [`CallbackChannel`].
//!
//! For any reads: the stored pairs are those of [`MainChannelModel`] for the same reads, every
//! response is the one that the protocol requires, and a malformed read has no effect. One read
//! causes at most one response and one flag.

use std::collections::HashMap;

use kvs_proto::Protocol;
use kvs_proto::v1::server::{CallbackChannel, ClientMessage, MainChannel};
use kvs_proto::{INT_LEN, MAX_TEXT};

use crate::Input;
use crate::v1_model::{MainChannelModel, ModelEvent, Violation};

/// The longest output of one read: the length of a value, the value, its NUL, and a ready flag.
const MAX_OUTPUT_LEN: usize = INT_LEN + MAX_TEXT + 1 + INT_LEN;

/// Replays one script.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut session = MainChannelCheck::new();
    let mut channel = CallbackChannelCheck::new();
    while let Some(kind) = input.byte() {
        match kind % 11 {
            0 => session.read(input.chunk()),
            1 => session.read(&code(input.choice(6))),
            2 => session.read(input.text().as_bytes()),
            3 => {
                let value = input.text();
                session.read(&[value.as_bytes(), &code(input.choice(6))].concat());
            }
            4 => session.respond(true),
            5 => session.respond(false),
            6 => channel.notify(input.text()),
            7 => channel.read(&1i32.to_ne_bytes()),
            8 => channel.read(input.chunk()),
            9 => channel.close(),
            _ => session.read(&[input.text().as_bytes(), b"\0kvs2"].concat()),
        }
    }
}

fn code(code: u8) -> [u8; INT_LEN] {
    i32::from(code).to_ne_bytes()
}

/// The main channel of a session, and its model.
struct MainChannelCheck {
    session: MainChannel,
    model: MainChannelModel,
    stored: HashMap<Vec<u8>, Vec<u8>>,
    expected: HashMap<Vec<u8>, Vec<u8>>,
    /// The group or secret whose response is pending.
    pending: Option<ClientMessage>,
    /// Whether v2 was offered. This target ends with the login of a v2 session.
    offers_v2: bool,
    /// Whether the server is ready for values and watches.
    ready: bool,
    is_closed: bool,
}

impl MainChannelCheck {
    fn new() -> Self {
        let mut out = Vec::new();
        let session = MainChannel::accept(&mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        Self {
            session,
            model: MainChannelModel::new(),
            stored: HashMap::new(),
            expected: HashMap::new(),
            pending: None,
            offers_v2: false,
            ready: true,
            is_closed: false,
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            let mut out = Vec::new();
            assert_eq!(self.session.receive(bytes, &mut out).map(Iterator::count), Ok(0));
            assert!(out.is_empty());
            return;
        }
        let mut out = Vec::new();
        let messages = self.session.receive(bytes, &mut out).map(Iterator::collect::<Vec<_>>);
        let expected = match self.is_closed {
            true => Err(Violation),
            false => self.model.read(bytes),
        };
        assert_eq!(messages.is_err(), expected.is_err(), "{bytes:?}: {messages:?} {expected:?}");
        let (Ok(messages), Ok(events)) = (messages, expected) else {
            assert!(self.session.is_closed());
            self.is_closed = true;
            return;
        };
        assert!(messages.len() <= 2);
        let mut response = Vec::new();
        for event in events {
            self.expect(event, &mut response);
        }
        for message in messages {
            self.serve(message, &mut out);
        }
        assert_eq!(out, response);
        assert!(out.len() <= MAX_OUTPUT_LEN);
        assert_eq!(self.stored, self.expected);
        assert_eq!(self.session.is_closed(), self.is_closed);
    }

    /// Applies an event of the model.
    fn expect(&mut self, event: ModelEvent, response: &mut Vec<u8>) {
        let int = |response: &mut Vec<u8>, int: i32| response.extend(int.to_ne_bytes());
        match event {
            ModelEvent::Ready => int(response, 1),
            ModelEvent::Begin => {
                int(response, i32::from(self.ready));
                if !self.ready {
                    self.model.responded();
                }
            }
            ModelEvent::Close => self.is_closed = true,
            ModelEvent::Put(key, value) => {
                self.expected.insert(key, value);
            }
            ModelEvent::Get(key) => {
                match self.expected.get(&key) {
                    Some(value) => {
                        int(response, value.len() as i32);
                        response.extend(value);
                        response.push(0);
                    }
                    None => int(response, -1),
                }
                self.model.responded();
            }
            ModelEvent::Delete(key) => {
                int(response, if self.expected.remove(&key).is_some() { 1 } else { -1 });
                self.model.responded();
            }
            ModelEvent::Watch(key) => {
                int(response, if self.expected.contains_key(&key) { 1 } else { -1 });
                self.model.responded();
            }
            // `respond` sends the response later.
            ModelEvent::Group(_, offers_v2) => self.offers_v2 = offers_v2,
            ModelEvent::Secret(_) => {}
        }
    }

    /// Handles a message as a server does.
    fn serve(&mut self, message: ClientMessage, out: &mut Vec<u8>) {
        match message {
            ClientMessage::Group(_) | ClientMessage::Secret(_) => self.pending = Some(message),
            ClientMessage::Put { key, value } => {
                self.stored.insert(key.as_bytes().to_vec(), value.as_bytes().to_vec());
            }
            ClientMessage::BeginPut(_) | ClientMessage::BeginWatch => {
                self.session.respond_ready(self.ready, out)
            }
            ClientMessage::Get(key) => {
                let value = self.stored.get(key.as_bytes()).map(Vec::as_slice);
                self.session.respond_to_get(value, out);
            }
            ClientMessage::Delete(key) => {
                let found = self.stored.remove(key.as_bytes()).is_some();
                self.session.respond_found(found, out);
            }
            ClientMessage::Watch(key) => {
                self.session.respond_found(self.stored.contains_key(key.as_bytes()), out);
            }
            ClientMessage::Close => assert!(self.session.is_closed()),
        }
    }

    /// Responds to a pending group or secret; otherwise decides about later values and watches.
    fn respond(&mut self, yes: bool) {
        if self.is_closed {
            return;
        }
        let mut out = Vec::new();
        match self.pending.take() {
            Some(ClientMessage::Group(hello)) => {
                assert_eq!(hello.offer == Protocol::V2, self.offers_v2);
                self.session.respond_to_group(yes.then_some(hello.offer), &mut out);
                self.model.group_exists();
                let response = if yes && self.offers_v2 { 2 } else { i32::from(yes) };
                assert_eq!(std::mem::take(&mut out), response.to_ne_bytes());
                self.is_closed = !yes;
            }
            Some(ClientMessage::Secret(_)) => {
                self.session.respond_to_secret(yes, &mut out);
                self.model.responded();
                assert_eq!(std::mem::take(&mut out), i32::from(yes).to_ne_bytes());
                self.is_closed = !yes || self.offers_v2;
            }
            _ => {
                self.ready = yes;
                return;
            }
        }
        assert!(!self.is_closed || self.session.is_closed() || self.offers_v2);
    }
}

/// The callback channel, and its model.
struct CallbackChannelCheck {
    channel: CallbackChannel,
    /// The key of the current notification, and the received part of the ready flag.
    notified: Option<(kvs_proto::Text, Vec<u8>)>,
    is_closed: bool,
}

impl CallbackChannelCheck {
    fn new() -> Self {
        let mut out = Vec::new();
        let channel = CallbackChannel::accept(&mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        Self { channel, notified: None, is_closed: false }
    }

    fn notify(&mut self, key: kvs_proto::Text) {
        if !self.channel.is_idle() {
            return;
        }
        let mut out = Vec::new();
        self.channel.notify(key, &mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        self.notified = Some((key, Vec::new()));
    }

    fn close(&mut self) {
        if !self.channel.is_idle() {
            return;
        }
        let mut out = Vec::new();
        self.channel.close(&mut out);
        assert_eq!(out, (-1i32).to_ne_bytes());
        self.is_closed = true;
    }

    fn read(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        let result = self.channel.receive(bytes, &mut out);
        let mut expected = Vec::new();
        let mut broken = false;
        for &byte in bytes {
            match self.notified.take() {
                Some((key, mut flag)) if !self.is_closed => {
                    flag.push(byte);
                    if flag.len() < INT_LEN {
                        self.notified = Some((key, flag));
                    } else if flag == 1i32.to_ne_bytes() {
                        expected.extend(key.as_bytes());
                        expected.resize(expected.len() + 100 - key.as_bytes().len(), 0);
                    } else {
                        broken = true;
                    }
                }
                _ => broken = true,
            }
            if broken {
                self.is_closed = true;
                break;
            }
        }
        assert_eq!(result.is_err(), broken);
        assert_eq!(out, expected);
        assert_eq!(self.channel.is_idle(), !self.is_closed && self.notified.is_none());
    }
}
