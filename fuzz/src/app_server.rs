//! The local server's side of one application, as a protocol: [`MainChannel`] and [`CallbackChannel`].
//!
//! Whatever is read, and however it is grouped: what is stored is what [`Reading`] finds in the same reads, every
//! byte that is answered is the one of the protocol, and nothing of a malformed read counts. The state
//! holds nothing on the heap, and what one read sets off is never more than an answer and a flag.

use std::collections::HashMap;

use kvs_proto::Protocol;
use kvs_proto::v1::server::{CallbackChannel, ClientMessage, MainChannel};
use kvs_proto::{INT_LEN, MAX_TEXT};

use crate::Input;
use crate::reading::{Event, Reading};

/// The most that one read may set off: the length of a value, the value, its NUL, and a ready flag.
const MOST_AT_ONCE: usize = INT_LEN + MAX_TEXT + 1 + INT_LEN;

/// Plays one script.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut application = Application::new();
    let mut notifier = Changes::new();
    while let Some(kind) = input.byte() {
        match kind % 11 {
            0 => application.read(input.chunk()),
            1 => application.read(&code(input.choice(6))),
            2 => application.read(input.text().as_bytes()),
            3 => {
                let value = input.text();
                application.read(&[value.as_bytes(), &code(input.choice(6))].concat());
            }
            4 => application.answer(true),
            5 => application.answer(false),
            6 => notifier.notify(input.text()),
            7 => notifier.read(&1i32.to_ne_bytes()),
            8 => notifier.read(input.chunk()),
            9 => notifier.close(),
            _ => application.read(&[input.text().as_bytes(), b"\0kvs2"].concat()),
        }
    }
}

fn code(code: u8) -> [u8; INT_LEN] {
    i32::from(code).to_ne_bytes()
}

/// A session, and what should be in it.
struct Application {
    session: MainChannel,
    reading: Reading,
    stored: HashMap<Vec<u8>, Vec<u8>>,
    expected: HashMap<Vec<u8>, Vec<u8>>,
    /// The group or secret that waits for its answer.
    asked: Option<ClientMessage>,
    /// Whether a framed session was offered. What follows its login is not the business of this target.
    offers_framed: bool,
    /// Whether the server is ready for values and watches.
    ready: bool,
    over: bool,
}

impl Application {
    fn new() -> Self {
        let mut out = Vec::new();
        let session = MainChannel::accept(&mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        Self {
            session,
            reading: Reading::new(),
            stored: HashMap::new(),
            expected: HashMap::new(),
            asked: None,
            offers_framed: false,
            ready: true,
            over: false,
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
        let requests = self.session.receive(bytes, &mut out).map(Iterator::collect::<Vec<_>>);
        let expected = match self.over {
            true => Err(crate::reading::Broken),
            false => self.reading.read(bytes),
        };
        assert_eq!(requests.is_err(), expected.is_err(), "{bytes:?}: {requests:?} {expected:?}");
        let (Ok(requests), Ok(events)) = (requests, expected) else {
            assert!(self.session.is_closed());
            self.over = true;
            return;
        };
        assert!(requests.len() <= 2);
        let mut answer = Vec::new();
        for event in events {
            self.expect(event, &mut answer);
        }
        for request in requests {
            self.serve(request, &mut out);
        }
        assert_eq!(out, answer);
        assert!(out.len() <= MOST_AT_ONCE);
        assert_eq!(self.stored, self.expected);
        assert_eq!(self.session.is_closed(), self.over);
    }

    /// What the reading says must happen.
    fn expect(&mut self, event: Event, answer: &mut Vec<u8>) {
        let int = |answer: &mut Vec<u8>, int: i32| answer.extend(int.to_ne_bytes());
        match event {
            Event::Ready => int(answer, 1),
            Event::Begin => {
                int(answer, i32::from(self.ready));
                if !self.ready {
                    self.reading.answered();
                }
            }
            Event::Goodbye => self.over = true,
            Event::Put(key, value) => {
                self.expected.insert(key, value);
            }
            Event::Get(key) => {
                match self.expected.get(&key) {
                    Some(value) => {
                        int(answer, value.len() as i32);
                        answer.extend(value);
                        answer.push(0);
                    }
                    None => int(answer, -1),
                }
                self.reading.answered();
            }
            Event::Delete(key) => {
                int(answer, if self.expected.remove(&key).is_some() { 1 } else { -1 });
                self.reading.answered();
            }
            Event::Watch(key) => {
                int(answer, if self.expected.contains_key(&key) { 1 } else { -1 });
                self.reading.answered();
            }
            // Answered later.
            Event::Group(_, framed) => self.offers_framed = framed,
            Event::Secret(_) => {}
        }
    }

    /// What a server does with a request.
    fn serve(&mut self, request: ClientMessage, out: &mut Vec<u8>) {
        match request {
            ClientMessage::Group(_) | ClientMessage::Secret(_) => self.asked = Some(request),
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

    /// The answer to a group or secret, if one is due; or else to the next value or watch.
    fn answer(&mut self, yes: bool) {
        if self.over {
            return;
        }
        let mut out = Vec::new();
        match self.asked.take() {
            Some(ClientMessage::Group(hello)) => {
                assert_eq!(hello.offer == Protocol::V2, self.offers_framed);
                self.session.respond_to_group(yes.then_some(hello.offer), &mut out);
                self.reading.group_exists();
                let answer = if yes && self.offers_framed { 2 } else { i32::from(yes) };
                assert_eq!(std::mem::take(&mut out), answer.to_ne_bytes());
                self.over = !yes;
            }
            Some(ClientMessage::Secret(_)) => {
                self.session.respond_to_secret(yes, &mut out);
                self.reading.answered();
                assert_eq!(std::mem::take(&mut out), i32::from(yes).to_ne_bytes());
                self.over = !yes || self.offers_framed;
            }
            _ => {
                self.ready = yes;
                return;
            }
        }
        assert!(!self.over || self.session.is_closed() || self.offers_framed);
    }
}

/// The callback channel, and what should be said on it.
struct Changes {
    notifier: CallbackChannel,
    /// The key that is announced, and what of the ready flag is here.
    announced: Option<(kvs_proto::Text, Vec<u8>)>,
    over: bool,
}

impl Changes {
    fn new() -> Self {
        let mut out = Vec::new();
        let notifier = CallbackChannel::accept(&mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        Self { notifier, announced: None, over: false }
    }

    fn notify(&mut self, key: kvs_proto::Text) {
        if !self.notifier.is_idle() {
            return;
        }
        let mut out = Vec::new();
        self.notifier.notify(key, &mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        self.announced = Some((key, Vec::new()));
    }

    fn close(&mut self) {
        if !self.notifier.is_idle() {
            return;
        }
        let mut out = Vec::new();
        self.notifier.close(&mut out);
        assert_eq!(out, (-1i32).to_ne_bytes());
        self.over = true;
    }

    fn read(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        let result = self.notifier.receive(bytes, &mut out);
        let mut expected = Vec::new();
        let mut broken = false;
        for &byte in bytes {
            match self.announced.take() {
                Some((key, mut flag)) if !self.over => {
                    flag.push(byte);
                    if flag.len() < INT_LEN {
                        self.announced = Some((key, flag));
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
                self.over = true;
                break;
            }
        }
        assert_eq!(result.is_err(), broken);
        assert_eq!(out, expected);
        assert_eq!(self.notifier.is_idle(), !self.over && self.announced.is_none());
    }
}
