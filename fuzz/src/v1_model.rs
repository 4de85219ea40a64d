//! A model of how a server decodes the reads of a main channel: a second implementation of
//! `docs/PROTOCOL.md` §1 to §3, independent of `kvs_proto::v1::server`, as simple as the text.

use std::collections::VecDeque;

/// A decoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelEvent {
    /// The group, and whether v2 is offered.
    Group(Vec<u8>, bool),
    Secret(Vec<u8>),
    Put(Vec<u8>, Vec<u8>),
    Get(Vec<u8>),
    Delete(Vec<u8>),
    Watch(Vec<u8>),
    /// A function code with a key to follow: the server sends a ready flag.
    Ready,
    /// A value, or a key to watch, follows if the server is ready.
    Begin,
    Close,
}

/// The message that the model expects next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Group,
    Secret,
    Code,
    Key(i32),
    Value(Vec<u8>),
    /// None: a response of the server is pending.
    Nothing,
}

/// The application broke the protocol: this read has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation;

/// The model of one main channel.
#[derive(Debug, Clone)]
pub(crate) struct MainChannelModel {
    expected: Expected,
    /// The received part of a function code.
    code: VecDeque<u8>,
}

impl MainChannelModel {
    pub(crate) fn new() -> Self {
        Self { expected: Expected::Group, code: VecDeque::new() }
    }

    /// The server has confirmed the group.
    pub(crate) fn group_exists(&mut self) {
        self.expected = Expected::Secret;
    }

    /// The server has confirmed the secret, responded to a key, or refused a ready flag.
    pub(crate) fn responded(&mut self) {
        self.expected = Expected::Code;
    }

    /// Decodes one read.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Vec<ModelEvent>, Violation> {
        let expected = std::mem::replace(&mut self.expected, Expected::Nothing);
        match expected {
            Expected::Nothing => Err(Violation),
            Expected::Group => hello(bytes),
            Expected::Secret => Ok(vec![ModelEvent::Secret(string(bytes)?)]),
            Expected::Code => self.codes(bytes),
            Expected::Key(code) => {
                let key = string(bytes)?;
                Ok(vec![match code {
                    0 => {
                        self.expected = Expected::Value(key);
                        ModelEvent::Begin
                    }
                    1 => ModelEvent::Get(key),
                    2 => ModelEvent::Delete(key),
                    _ => ModelEvent::Watch(key),
                }])
            }
            // "Bytes without a NUL are the whole value, and bytes with a NUL are the value followed
            // by exactly one 4-byte code. Anything else is a protocol error."
            Expected::Value(key) => {
                let end = match bytes.contains(&0) {
                    true => bytes.len().checked_sub(4).ok_or(Violation)?,
                    false => bytes.len(),
                };
                let (value, code) = bytes.split_at(end);
                let value = match value {
                    [] => Vec::new(),
                    value => string(value)?,
                };
                self.expected = Expected::Code;
                let mut events = vec![ModelEvent::Put(key, value)];
                if !code.is_empty() {
                    if !(0..=4).contains(&int(code)) {
                        return Err(Violation);
                    }
                    events.extend(self.codes(code)?);
                }
                Ok(events)
            }
        }
    }

    /// "An unknown function code gets no response."
    fn codes(&mut self, bytes: &[u8]) -> Result<Vec<ModelEvent>, Violation> {
        self.code.extend(bytes);
        while self.code.len() >= 4 {
            let code: Vec<u8> = self.code.drain(..4).collect();
            match int(&code) {
                0..=4 if !self.code.is_empty() => return Err(Violation),
                4 => {
                    self.expected = Expected::Nothing;
                    return Ok(vec![ModelEvent::Close]);
                }
                function @ 0..=3 => {
                    self.expected = Expected::Key(function);
                    return Ok(vec![if function == 3 {
                        ModelEvent::Begin
                    } else {
                        ModelEvent::Ready
                    }]);
                }
                _ => {}
            }
        }
        self.expected = Expected::Code;
        Ok(Vec::new())
    }
}

/// "Group name ‖ NUL ‖ "kvs2", at most 100 bytes in all. Any other bytes after the NUL are a
/// protocol error."
fn hello(bytes: &[u8]) -> Result<Vec<ModelEvent>, Violation> {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let name = string(parts.next().unwrap_or_default())?;
    let offers_v2 = match parts.next() {
        None => false,
        Some(offer) if bytes.len() <= 100 && offer.starts_with(b"kvs") => {
            offer[3..].contains(&b'2')
        }
        Some(_) => return Err(Violation),
    };
    Ok(vec![ModelEvent::Group(name, offers_v2)])
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_ne_bytes(bytes.try_into().expect("four bytes"))
}

fn string(bytes: &[u8]) -> Result<Vec<u8>, Violation> {
    match bytes.len() <= 99 && !bytes.contains(&0) {
        true => Ok(bytes.to_vec()),
        false => Err(Violation),
    }
}
