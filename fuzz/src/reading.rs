//! What a server makes of the reads of a main channel: `docs/PROTOCOL.md` §1 to §3 once more, written without a
//! look at `kvs_proto::v1::server`, as slow and as plain as the text.

use std::collections::VecDeque;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// And whether a framed session is offered.
    Group(Vec<u8>, bool),
    Secret(Vec<u8>),
    Put(Vec<u8>, Vec<u8>),
    Get(Vec<u8>),
    Delete(Vec<u8>),
    Watch(Vec<u8>),
    /// Nothing that counts; the server says 1: go on.
    Ready,
    /// A value, or a key to watch, is to follow, if the server is ready for it.
    Begin,
    Goodbye,
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Due {
    Group,
    Secret,
    Code,
    Key(i32),
    Value(Vec<u8>),
    /// It is the server's turn.
    Nothing,
}

/// The protocol was broken: nothing of this read counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// The reader of one channel.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    due: Due,
    /// The beginning of a function code.
    code: VecDeque<u8>,
}

impl Reading {
    pub(crate) fn new() -> Self {
        Self { due: Due::Group, code: VecDeque::new() }
    }

    /// The server has answered a group name with yes.
    pub(crate) fn group_exists(&mut self) {
        self.due = Due::Secret;
    }

    /// The server has answered a secret with yes, or a key, or is not ready for what was to follow.
    pub(crate) fn answered(&mut self) {
        self.due = Due::Code;
    }

    /// One read.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Broken> {
        let due = std::mem::replace(&mut self.due, Due::Nothing);
        match due {
            Due::Nothing => Err(Broken),
            Due::Group => hello(bytes),
            Due::Secret => Ok(vec![Event::Secret(string(bytes)?)]),
            Due::Code => self.codes(bytes),
            Due::Key(code) => {
                let key = string(bytes)?;
                Ok(vec![match code {
                    0 => {
                        self.due = Due::Value(key);
                        Event::Begin
                    }
                    1 => Event::Get(key),
                    2 => Event::Delete(key),
                    _ => Event::Watch(key),
                }])
            }
            // "Bytes without a NUL are the whole value; bytes with a NUL are the value followed by exactly one
            // 4-byte code. Anything else is a protocol error."
            Due::Value(key) => {
                let end = match bytes.contains(&0) {
                    true => bytes.len().checked_sub(4).ok_or(Broken)?,
                    false => bytes.len(),
                };
                let (value, code) = bytes.split_at(end);
                let value = match value {
                    [] => Vec::new(),
                    value => string(value)?,
                };
                self.due = Due::Code;
                let mut events = vec![Event::Put(key, value)];
                if !code.is_empty() {
                    if !(0..=4).contains(&int(code)) {
                        return Err(Broken);
                    }
                    events.extend(self.codes(code)?);
                }
                Ok(events)
            }
        }
    }

    /// "An unknown function code is not answered."
    fn codes(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Broken> {
        self.code.extend(bytes);
        while self.code.len() >= 4 {
            let code: Vec<u8> = self.code.drain(..4).collect();
            match int(&code) {
                0..=4 if !self.code.is_empty() => return Err(Broken),
                4 => {
                    self.due = Due::Nothing;
                    return Ok(vec![Event::Goodbye]);
                }
                function @ 0..=3 => {
                    self.due = Due::Key(function);
                    return Ok(vec![if function == 3 { Event::Begin } else { Event::Ready }]);
                }
                _ => {}
            }
        }
        self.due = Due::Code;
        Ok(Vec::new())
    }
}

/// "Group name ‖ NUL ‖ "kvs2", at most 100 bytes in all. What follows the NUL without beginning with `kvs` is a
/// protocol error."
fn hello(bytes: &[u8]) -> Result<Vec<Event>, Broken> {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let name = string(parts.next().unwrap_or_default())?;
    let framed = match parts.next() {
        None => false,
        Some(offer) if bytes.len() <= 100 && offer.starts_with(b"kvs") => {
            offer[3..].contains(&b'2')
        }
        Some(_) => return Err(Broken),
    };
    Ok(vec![Event::Group(name, framed)])
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_ne_bytes(bytes.try_into().expect("four bytes"))
}

fn string(bytes: &[u8]) -> Result<Vec<u8>, Broken> {
    match bytes.len() <= 99 && !bytes.contains(&0) {
        true => Ok(bytes.to_vec()),
        false => Err(Broken),
    }
}
