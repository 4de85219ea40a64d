//! The authentication server's role of the link: [`LinkCommand::decode`], and a [`CommandPort`]
//! that receives datagrams from several addresses.
//!
//! The model has the exchange of each sender, in the order in which they began. A group is stored,
//! deleted or its secret sent only at the end of a complete exchange of one sender, and never more
//! than one group per datagram. The end of an exchange ends the older ones that can change a group.
//! A sender of such an exchange is retired: it cannot begin another one after a command of another
//! sender. Four senders never reach a limit of the [`CommandPort`].

use std::collections::{BTreeSet, HashMap};

use kvs_proto::link::original::{
    CommandPort, LinkCommand, LinkDirectory, LinkEvent, encode_secret,
};
use kvs_proto::{MAX_TEXT, Text};

use crate::Input;
use crate::input::text;

/// The commands, with their words in `docs/PROTOCOL.md` §4.
const COMMANDS: [(LinkCommand, &[u8]); 7] = [
    (LinkCommand::Connect, b"Connect"),
    (LinkCommand::Connect2, b"Connect_2"),
    (LinkCommand::FindGroup, b"FindGroup"),
    (LinkCommand::NewGroup, b"NewGroup"),
    (LinkCommand::GetSecret, b"GetSecret"),
    (LinkCommand::DeleteGroup, b"DeleteGroup"),
    (LinkCommand::CloseConnection, b"CloseConnection"),
];

/// All groups. Those with the prefix `x` belong to another local server.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct ModelDirectory {
    groups: HashMap<Text, Text>,
    changes: usize,
}

fn is_foreign(name: &Text) -> bool {
    name.as_bytes().first() == Some(&b'x')
}

impl LinkDirectory for ModelDirectory {
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

/// Replays one script.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut link = CommandPort::default();
    let mut registry = ModelDirectory::default();
    for name in [&b"b"[..], b"xb"] {
        registry.groups.insert(text(name), text(b"old"));
    }
    let mut model = PortModel::default();
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
                link.clear_exchanges();
                assert!(!link.has_exchanges());
                model.exchanges.clear();
                continue;
            }
        };
        model.receive(from, &datagram, &mut link, &mut registry);
    }
}

/// The state that the protocol requires.
#[derive(Default)]
struct PortModel {
    /// The incomplete exchange of each sender, oldest first.
    exchanges: Vec<(u8, ExchangeStep)>,
    /// The retired senders.
    retired: BTreeSet<u8>,
    /// The sender of the last command.
    last: Option<u8>,
}

#[derive(Clone, Copy)]
enum ExchangeStep {
    Name(LinkCommand),
    Secret(Text),
    One(Text),
}

impl PortModel {
    fn receive(
        &mut self,
        from: u8,
        datagram: &[u8],
        link: &mut CommandPort<u8>,
        real: &mut ModelDirectory,
    ) {
        let before = real.clone();
        let mut expected = before.clone();
        let (reply, event) = self.play(from, datagram, &mut expected);
        let mut real_reply = Vec::new();
        let real_event = link.receive(from, datagram, real, &mut real_reply);
        assert_eq!((real_reply, real_event), (reply, event), "{datagram:?}");
        assert_eq!(*real, expected);
        assert!(real.changes <= before.changes + 1);
        assert_eq!(link.has_exchanges(), !self.exchanges.is_empty());
    }

    /// The reply and the event that the protocol requires.
    fn play(
        &mut self,
        from: u8,
        datagram: &[u8],
        groups: &mut ModelDirectory,
    ) -> (Vec<u8>, Option<LinkEvent>) {
        let command = COMMANDS.iter().find(|(_, word)| {
            let mut padded = word.to_vec();
            padded.resize(100, 0);
            datagram == padded
        });
        let command = command.map(|(command, _)| *command);
        assert_eq!(LinkCommand::decode(datagram), command);
        if let Some(command) = command {
            let is_change = matches!(command, LinkCommand::NewGroup | LinkCommand::DeleteGroup);
            let is_late = self.last != Some(from) && self.retired.contains(&from);
            return match command {
                LinkCommand::CloseConnection => {
                    self.exchanges.clear();
                    (vec![], Some(LinkEvent::Closed))
                }
                LinkCommand::Connect | LinkCommand::Connect2 => (vec![], None),
                _ if is_change && is_late => (vec![], None),
                command => {
                    self.exchanges.retain(|(sender, _)| *sender != from);
                    self.exchanges.push((from, ExchangeStep::Name(command)));
                    self.last = Some(from);
                    (int(true), None)
                }
            };
        }
        let Some(at) = self.exchanges.iter().position(|(sender, _)| *sender == from) else {
            return (vec![], None);
        };
        let step = self.exchanges[at].1;
        let (next, reply, event) = advance(step, datagram, groups);
        match next {
            Some(next) => self.exchanges[at].1 = next,
            None => {
                let later = self.exchanges.split_off(at + 1);
                self.exchanges.pop();
                if step.is_change() {
                    self.retired.insert(from);
                }
                self.exchanges.retain(|(sender, step)| {
                    if step.is_change() {
                        self.retired.insert(*sender);
                    }
                    !step.is_change()
                });
                self.exchanges.extend(later);
            }
        }
        (reply, event)
    }
}

impl ExchangeStep {
    fn is_change(&self) -> bool {
        use LinkCommand::{DeleteGroup, NewGroup};
        matches!(self, Self::Name(NewGroup | DeleteGroup) | Self::Secret(_))
    }
}

fn int(yes: bool) -> Vec<u8> {
    if yes { 1i32 } else { -1 }.to_ne_bytes().to_vec()
}

/// The next step of an exchange (`None`: it has ended), the reply, and the event.
fn advance(
    step: ExchangeStep,
    datagram: &[u8],
    groups: &mut ModelDirectory,
) -> (Option<ExchangeStep>, Vec<u8>, Option<LinkEvent>) {
    let is_text = |len| (1..=len).contains(&datagram.len()) && !datagram.contains(&0);
    match step {
        ExchangeStep::Name(command) if is_text(MAX_TEXT) => {
            let name = text(datagram);
            let known = groups.secret(&name);
            let next = match (command, known) {
                (LinkCommand::NewGroup, None) => Some(ExchangeStep::Secret(name)),
                (LinkCommand::GetSecret, Some(secret)) => Some(ExchangeStep::One(secret)),
                _ => None,
            };
            let (yes, event) = match command {
                LinkCommand::NewGroup => (known.is_none(), None),
                LinkCommand::DeleteGroup if groups.remove(&name) => {
                    (true, Some(LinkEvent::Deleted(name)))
                }
                LinkCommand::DeleteGroup => (false, None),
                _ => (known.is_some(), None),
            };
            (next, int(yes), event)
        }
        ExchangeStep::Secret(name) => {
            let end = datagram.iter().position(|&byte| byte == 0).unwrap_or(0);
            let padded = datagram.len() == 8 && datagram[end..].iter().all(|&byte| byte == 0);
            if !padded || end == 0 {
                return (Some(step), vec![], None);
            }
            // Another sender may have stored the group meanwhile.
            let stored = groups.insert(name, text(&datagram[..end]));
            let event = if stored { Some(LinkEvent::Created(name)) } else { None };
            (None, int(stored), event)
        }
        ExchangeStep::One(secret) if datagram == 1i32.to_ne_bytes() => {
            (None, secret.as_bytes().to_vec(), None)
        }
        _ => (Some(step), vec![], None),
    }
}
