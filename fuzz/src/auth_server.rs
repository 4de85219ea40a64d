//! The authentication server's side: [`Command::decode`], and a [`Link`] that is spoken to from several
//! addresses.
//!
//! The model: who gave the last command, and the datagrams of the same sender since. A group is stored, deleted
//! or told only at the end of a whole exchange of one sender that no command has interrupted, and never more
//! than one.

use std::collections::HashMap;

use kvs_proto::auth::{Command, Event, Groups, Link, encode_secret};
use kvs_proto::{MAX_TEXT, Text};

use crate::Input;
use crate::input::text;

/// The commands with the words of `docs/PROTOCOL.md` §4.
const COMMANDS: [(Command, &[u8]); 7] = [
    (Command::Connect, b"Connect"),
    (Command::Connect2, b"Connect_2"),
    (Command::FindGroup, b"FindGroup"),
    (Command::NewGroup, b"NewGroup"),
    (Command::GetSecret, b"GetSecret"),
    (Command::DeleteGroup, b"DeleteGroup"),
    (Command::CloseConnection, b"CloseConnection"),
];

/// All groups; those whose name begins with `x` belong to another local server.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Registry {
    groups: HashMap<Text, Text>,
    changes: usize,
}

fn is_foreign(name: &Text) -> bool {
    name.as_bytes().first() == Some(&b'x')
}

impl Groups for Registry {
    fn secret(&self, name: &Text) -> Option<Text> {
        self.groups.get(name).copied()
    }
    fn insert(&mut self, name: Text, secret: Text) -> bool {
        if self.groups.contains_key(&name) {
            return false;
        }
        self.changes += 1;
        self.groups.insert(name, secret).is_none()
    }
    fn remove(&mut self, name: &Text) -> bool {
        if is_foreign(name) {
            return false;
        }
        let removed = self.groups.remove(name).is_some();
        self.changes += usize::from(removed);
        removed
    }
}

/// Plays one script.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut link = Link::default();
    let mut registry = Registry::default();
    for name in [&b"b"[..], b"xb"] {
        registry.groups.insert(text(name), text(b"old"));
    }
    let mut model = Model::default();
    while let Some(kind) = input.byte() {
        let from = kind >> 6;
        let datagram = match kind % 8 {
            0 | 1 => COMMANDS[usize::from(input.choice(7))].0.encode().to_vec(),
            2 => input.text().as_bytes().to_vec(),
            3 => {
                let names = [&b"a"[..], b"b", b"xb", b"four"];
                names[usize::from(input.choice(4))].to_vec()
            }
            4 => encode_secret(&input.text()).to_vec(),
            5 => (i32::from(input.choice(4)) - 1).to_ne_bytes().to_vec(),
            6 => input.chunk().to_vec(),
            _ => {
                link.abandon();
                assert!(!link.is_busy());
                model.current = None;
                continue;
            }
        };
        model.receive(from, &datagram, &mut link, &mut registry);
    }
}

/// What is under way.
#[derive(Default)]
struct Model {
    current: Option<(u8, Step)>,
}

#[derive(Clone, Copy)]
enum Step {
    Name(Command),
    Secret(Text),
    One(Text),
}

impl Model {
    fn receive(&mut self, from: u8, datagram: &[u8], link: &mut Link<u8>, real: &mut Registry) {
        let before = real.clone();
        let mut expected = before.clone();
        let (reply, event) = self.play(from, datagram, &mut expected);
        let mut real_reply = Vec::new();
        let real_event = link.receive(from, datagram, real, &mut real_reply);
        assert_eq!((real_reply, real_event), (reply, event), "{datagram:?}");
        assert_eq!(*real, expected);
        assert!(real.changes <= before.changes + 1);
        assert_eq!(link.is_busy(), self.current.is_some());
    }

    /// What the protocol says.
    fn play(&mut self, from: u8, datagram: &[u8], groups: &mut Registry) -> (Vec<u8>, Event) {
        let command = COMMANDS.iter().find(|(_, word)| {
            let mut padded = word.to_vec();
            padded.resize(100, 0);
            datagram == padded
        });
        let command = command.map(|(command, _)| *command);
        assert_eq!(Command::decode(datagram), command);
        let int = |yes: bool| if yes { 1i32 } else { -1 }.to_ne_bytes().to_vec();
        if let Some(command) = command {
            self.current = None;
            return match command {
                Command::CloseConnection => (vec![], Event::Closed),
                Command::Connect | Command::Connect2 => (vec![], Event::Nothing),
                command => {
                    self.current = Some((from, Step::Name(command)));
                    (int(true), Event::Nothing)
                }
            };
        }
        let Some((_, step)) = self.current.filter(|(starter, _)| *starter == from) else {
            return (vec![], Event::Nothing);
        };
        let is_text = |len| (1..=len).contains(&datagram.len()) && !datagram.contains(&0);
        match step {
            Step::Name(command) if is_text(MAX_TEXT) => {
                let name = text(datagram);
                let known = groups.secret(&name);
                self.current = match (command, known) {
                    (Command::NewGroup, None) => Some((from, Step::Secret(name))),
                    (Command::GetSecret, Some(secret)) => Some((from, Step::One(secret))),
                    _ => None,
                };
                match command {
                    Command::NewGroup => (int(known.is_none()), Event::Nothing),
                    Command::DeleteGroup if groups.remove(&name) => {
                        (int(true), Event::Deleted(name))
                    }
                    Command::DeleteGroup => (int(false), Event::Nothing),
                    _ => (int(known.is_some()), Event::Nothing),
                }
            }
            Step::Secret(name) => {
                let end = datagram.iter().position(|&byte| byte == 0).unwrap_or(0);
                let padded = datagram.len() == 8 && datagram[end..].iter().all(|&byte| byte == 0);
                if !padded || end == 0 {
                    return (vec![], Event::Nothing);
                }
                self.current = None;
                assert!(groups.insert(name, text(&datagram[..end])), "nobody else has stored it");
                (int(true), Event::Created(name))
            }
            Step::One(secret) if datagram == 1i32.to_ne_bytes() => {
                self.current = None;
                (secret.as_bytes().to_vec(), Event::Nothing)
            }
            _ => (vec![], Event::Nothing),
        }
    }
}
