//! The authentication server's side: [`LinkCommand::decode`], and a [`CommandPort`] that is spoken to from several
//! addresses.
//!
//! The model: the exchange that each sender has under way, in the order of their beginnings. A group is stored,
//! deleted or told only at the end of a whole exchange of one sender, and never more than one. When an exchange
//! ends, the older ones that may change something are over; and a sender that has changed something, or wanted to, cannot begin another
//! change once somebody else has been heard. There are four senders, so no limit of the [`CommandPort`] is ever met.

use std::collections::{BTreeSet, HashMap};

use kvs_proto::link::original::{
    CommandPort, LinkCommand, LinkDirectory, LinkEvent, encode_secret,
};
use kvs_proto::{MAX_TEXT, Text};

use crate::Input;
use crate::input::text;

/// The commands with the words of `docs/PROTOCOL.md` §4.
const COMMANDS: [(LinkCommand, &[u8]); 7] = [
    (LinkCommand::Connect, b"Connect"),
    (LinkCommand::Connect2, b"Connect_2"),
    (LinkCommand::FindGroup, b"FindGroup"),
    (LinkCommand::NewGroup, b"NewGroup"),
    (LinkCommand::GetSecret, b"GetSecret"),
    (LinkCommand::DeleteGroup, b"DeleteGroup"),
    (LinkCommand::CloseConnection, b"CloseConnection"),
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

impl LinkDirectory for Registry {
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
    let mut link = CommandPort::default();
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
                link.clear_exchanges();
                assert!(!link.has_exchanges());
                model.exchanges.clear();
                continue;
            }
        };
        model.receive(from, &datagram, &mut link, &mut registry);
    }
}

/// What is under way.
#[derive(Default)]
struct Model {
    /// The half-done exchange of each sender, the oldest first.
    exchanges: Vec<(u8, Step)>,
    /// Who cannot begin another change once somebody else has been heard.
    spent: BTreeSet<u8>,
    /// Who gave the last command.
    last: Option<u8>,
}

#[derive(Clone, Copy)]
enum Step {
    Name(LinkCommand),
    Secret(Text),
    One(Text),
}

impl Model {
    fn receive(
        &mut self,
        from: u8,
        datagram: &[u8],
        link: &mut CommandPort<u8>,
        real: &mut Registry,
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

    /// What the protocol says.
    fn play(
        &mut self,
        from: u8,
        datagram: &[u8],
        groups: &mut Registry,
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
            let is_late = self.last != Some(from) && self.spent.contains(&from);
            return match command {
                LinkCommand::CloseConnection => {
                    self.exchanges.clear();
                    (vec![], Some(LinkEvent::Closed))
                }
                LinkCommand::Connect | LinkCommand::Connect2 => (vec![], None),
                _ if is_change && is_late => (vec![], None),
                command => {
                    self.exchanges.retain(|(starter, _)| *starter != from);
                    self.exchanges.push((from, Step::Name(command)));
                    self.last = Some(from);
                    (int(true), None)
                }
            };
        }
        let Some(at) = self.exchanges.iter().position(|(starter, _)| *starter == from) else {
            return (vec![], None);
        };
        let step = self.exchanges[at].1;
        let (next, reply, event) = go_on(step, datagram, groups);
        match next {
            Some(next) => self.exchanges[at].1 = next,
            None => {
                let later = self.exchanges.split_off(at + 1);
                self.exchanges.pop();
                if step.changes() {
                    self.spent.insert(from);
                }
                self.exchanges.retain(|(starter, step)| {
                    if step.changes() {
                        self.spent.insert(*starter);
                    }
                    !step.changes()
                });
                self.exchanges.extend(later);
            }
        }
        (reply, event)
    }
}

impl Step {
    fn changes(&self) -> bool {
        use LinkCommand::{DeleteGroup, NewGroup};
        matches!(self, Self::Name(NewGroup | DeleteGroup) | Self::Secret(_))
    }
}

fn int(yes: bool) -> Vec<u8> {
    if yes { 1i32 } else { -1 }.to_ne_bytes().to_vec()
}

/// The next step of an exchange (`None`: it is over), what is answered, and what has happened.
fn go_on(
    step: Step,
    datagram: &[u8],
    groups: &mut Registry,
) -> (Option<Step>, Vec<u8>, Option<LinkEvent>) {
    let is_text = |len| (1..=len).contains(&datagram.len()) && !datagram.contains(&0);
    match step {
        Step::Name(command) if is_text(MAX_TEXT) => {
            let name = text(datagram);
            let known = groups.secret(&name);
            let next = match (command, known) {
                (LinkCommand::NewGroup, None) => Some(Step::Secret(name)),
                (LinkCommand::GetSecret, Some(secret)) => Some(Step::One(secret)),
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
        Step::Secret(name) => {
            let end = datagram.iter().position(|&byte| byte == 0).unwrap_or(0);
            let padded = datagram.len() == 8 && datagram[end..].iter().all(|&byte| byte == 0);
            if !padded || end == 0 {
                return (Some(step), vec![], None);
            }
            // Another sender may have stored it meanwhile.
            let stored = groups.insert(name, text(&datagram[..end]));
            let event = if stored { Some(LinkEvent::Created(name)) } else { None };
            (None, int(stored), event)
        }
        Step::One(secret) if datagram == 1i32.to_ne_bytes() => {
            (None, secret.as_bytes().to_vec(), None)
        }
        _ => (Some(step), vec![], None),
    }
}
