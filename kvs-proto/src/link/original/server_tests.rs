//! [`CommandPort`] against legal exchanges, repeated and late datagrams, and arbitrary senders.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::client::{ClientExchange, ExchangeProgress};
use super::command::{COMMAND_LEN, LinkCommand};
use super::datagram::{NO, YES, decode_int, decode_name, encode_int, encode_secret};
use super::directory::{LinkDirectory, LinkEvent};
use super::group::{GroupRequest, GroupResponse};
use super::server::{CommandPort, MAX_EXCHANGES, MAX_RETIRED};
use super::test_directory::{TestDirectory, text};
use crate::integer::{INT_LEN, Int};
use crate::text::Text;

/// Plays both roles against each other, on a network without faults.
fn play(
    link: &mut CommandPort<u16>,
    table: &mut TestDirectory,
    request: GroupRequest,
) -> GroupResponse {
    let (mut exchange, mut datagram) = ClientExchange::start(request);
    for _ in 0..8 {
        let mut reply = Vec::new();
        link.receive(1, &datagram, table, &mut reply);
        match exchange.receive(&reply) {
            ExchangeProgress::Send(next) => datagram = next,
            ExchangeProgress::Done(response) => return response,
            ExchangeProgress::Ignored => panic!("{reply:?} was ignored"),
        }
    }
    panic!("{request:?} does not end")
}

fn new_group(name: &str, secret: &str) -> GroupRequest {
    GroupRequest::New { name: text(name), secret: text(secret) }
}

#[test]
fn every_request_gets_its_response() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    let mut play = |request| play(&mut link, &mut table, request);
    assert_eq!(play(GroupRequest::Find(text("g"))), GroupResponse::No);
    assert_eq!(play(new_group("g", "abcde")), GroupResponse::Yes);
    assert_eq!(play(new_group("g", "other")), GroupResponse::No);
    assert_eq!(play(GroupRequest::Find(text("g"))), GroupResponse::Yes);
    assert_eq!(play(GroupRequest::Secret(text("g"))), GroupResponse::Secret(text("abcde")));
    assert_eq!(play(GroupRequest::Delete(text("g"))), GroupResponse::Yes);
    assert_eq!(play(GroupRequest::Delete(text("g"))), GroupResponse::No);
    assert_eq!(play(GroupRequest::Secret(text("g"))), GroupResponse::No);
}

#[test]
fn group_is_stored_only_with_its_secret() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    let mut reply = Vec::new();
    link.receive(1, &LinkCommand::NewGroup.encode(), &mut table, &mut reply);
    link.receive(1, b"g", &mut table, &mut reply);
    assert!(table.0.is_empty());
    // A repeated name is not a secret, nor are eight bytes without a NUL.
    for repeated in [&b"g"[..], b"12345678", b"\0\0\0\0\0\0\0\0", b"ab\0cd\0\0\0"] {
        assert_eq!(link.receive(1, repeated, &mut table, &mut Vec::new()), None);
        assert!(table.0.is_empty(), "{repeated:?} was stored");
    }
    assert_eq!(
        link.receive(1, &encode_secret(&text("abcde")), &mut table, &mut Vec::new()),
        Some(LinkEvent::Created(text("g")))
    );
}

#[test]
fn taken_name_ends_the_exchange() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    table.insert(text("g"), text("abcde"));
    let mut reply = Vec::new();
    link.receive(1, &LinkCommand::NewGroup.encode(), &mut table, &mut Vec::new());
    link.receive(1, b"g", &mut table, &mut reply);
    assert_eq!(decode_int(&reply), Some(NO));
    assert!(!link.has_exchanges());
}

#[test]
fn unexpected_datagrams_do_not_end_an_exchange() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    table.insert(text("g"), text("abcde"));
    let mut reply = Vec::new();
    link.receive(1, &LinkCommand::GetSecret.encode(), &mut table, &mut Vec::new());
    link.receive(1, &[0; 8], &mut table, &mut Vec::new());
    link.receive(1, b"g", &mut table, &mut Vec::new());
    link.receive(1, b"g", &mut table, &mut Vec::new());
    link.receive(1, &encode_int(YES), &mut table, &mut reply);
    assert_eq!(reply, b"abcde");
}

#[test]
fn command_replaces_an_incomplete_exchange() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    link.receive(1, &LinkCommand::NewGroup.encode(), &mut table, &mut Vec::new());
    link.receive(1, b"g", &mut table, &mut Vec::new());
    assert_eq!(play(&mut link, &mut table, GroupRequest::Find(text("g"))), GroupResponse::No);
    assert_eq!(play(&mut link, &mut table, new_group("g", "abcde")), GroupResponse::Yes);
}

#[test]
fn exchange_ignores_datagrams_of_other_sockets() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    table.insert(text("old"), text("abcde"));
    link.receive(2, &LinkCommand::DeleteGroup.encode(), &mut table, &mut Vec::new());
    // A late name of an abandoned exchange: its group must not be deleted.
    let mut reply = Vec::new();
    assert_eq!(link.receive(1, b"old", &mut table, &mut reply), None);
    assert!(reply.is_empty());
    assert!(table.secret(&text("old")).is_some());
    link.receive(2, b"new", &mut table, &mut reply);
    assert_eq!(decode_int(&reply), Some(NO));
}

const MAIN: u16 = 0;

/// Sends a deletion from `from`, and returns whether the group was deleted.
fn delete(link: &mut CommandPort<u16>, from: u16, table: &mut TestDirectory) -> bool {
    let mut reply = Vec::new();
    link.receive(from, &LinkCommand::DeleteGroup.encode(), table, &mut reply);
    link.receive(from, b"g", table, &mut reply) == Some(LinkEvent::Deleted(text("g")))
}

#[test]
fn command_of_another_socket_does_not_disturb_an_exchange() {
    let (mut link, mut table) = (CommandPort::with_main_address(MAIN), TestDirectory::default());
    for from in [MAIN, 1] {
        table.0.clear();
        let mut send = |from, datagram: &[u8]| {
            let mut reply = Vec::new();
            link.receive(from, datagram, &mut table, &mut reply);
            reply
        };
        for datagram in [&LinkCommand::NewGroup.encode()[..], b"g"] {
            assert_eq!(decode_int(&send(from, datagram)), Some(YES));
            // One more exchange would replace the oldest.
            for other in (2u16..).take(MAX_EXCHANGES - 2) {
                send(other, &LinkCommand::DeleteGroup.encode());
                send(other, &LinkCommand::Connect.encode());
                send(other, b"");
            }
        }
        assert_eq!(decode_int(&send(from, &encode_secret(&text("abcde")))), Some(YES));
        assert_eq!(table.secret(&text("g")), Some(text("abcde")));
    }
}

#[test]
fn incomplete_exchanges_are_bounded_and_the_oldest_is_dropped() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    table.insert(text("g"), text("abcde"));
    for from in 0..1000 {
        link.receive(from, &LinkCommand::DeleteGroup.encode(), &mut table, &mut Vec::new());
        let (exchanges, retired) = link.sizes();
        assert!(exchanges <= MAX_EXCHANGES && retired <= MAX_RETIRED);
    }
    let oldest = 1000 - MAX_EXCHANGES as u16;
    for (from, deleted) in [(oldest - 1, false), (oldest, true)] {
        let event = link.receive(from, b"g", &mut table, &mut Vec::new());
        assert_eq!(event == Some(LinkEvent::Deleted(text("g"))), deleted, "from {from}");
    }
}

#[test]
fn end_of_an_exchange_ends_the_older_ones() {
    let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
    table.insert(text("g"), text("abcde"));
    // Abandoned, and retried from a new socket; then the group is created again.
    link.receive(7, &LinkCommand::DeleteGroup.encode(), &mut table, &mut Vec::new());
    assert!(delete(&mut link, 8, &mut table));
    assert_eq!(play(&mut link, &mut table, new_group("g", "again")), GroupResponse::Yes);
    // The late name of the first attempt, then copies of both attempts.
    assert_eq!(link.receive(7, b"g", &mut table, &mut Vec::new()), None);
    assert!(!delete(&mut link, 7, &mut table) && !delete(&mut link, 8, &mut table));
    assert_eq!(table.secret(&text("g")), Some(text("again")));
    // A retired socket can query, and a client with one socket for everything is served.
    let mut reply = Vec::new();
    link.receive(8, &LinkCommand::FindGroup.encode(), &mut table, &mut reply);
    assert_eq!(decode_int(&reply), Some(YES));
    assert!(delete(&mut link, 9, &mut table));
    table.insert(text("g"), text("abcde"));
    assert!(delete(&mut link, 9, &mut table), "no other socket has sent a command since");
}

#[test]
fn main_address_is_never_retired() {
    let (mut link, mut table) = (CommandPort::with_main_address(MAIN), TestDirectory::default());
    for _ in 0..3 {
        table.insert(text("g"), text("abcde"));
        assert!(delete(&mut link, MAIN, &mut table));
        play(&mut link, &mut table, GroupRequest::Find(text("g")));
    }
}

#[test]
fn link_over_quota_is_refused_new_groups_only() {
    struct OverQuota(TestDirectory);
    impl LinkDirectory for OverQuota {
        fn secret(&self, name: &Text) -> Option<Text> {
            self.0.secret(name)
        }
        fn insert(&mut self, _: Text, _: Text) -> bool {
            panic!("stored over quota")
        }
        fn remove(&mut self, name: &Text) -> bool {
            self.0.remove(name)
        }
        fn has_quota_for(&self, _: &Text) -> bool {
            false
        }
    }
    let (mut link, mut table) = (CommandPort::default(), OverQuota(TestDirectory::default()));
    table.0.insert(text("g"), text("abcde"));
    let mut reply = Vec::new();
    link.receive(1, &LinkCommand::NewGroup.encode(), &mut table, &mut Vec::new());
    link.receive(1, b"new", &mut table, &mut reply);
    assert_eq!(decode_int(&reply), Some(NO));
    link.receive(1, &LinkCommand::DeleteGroup.encode(), &mut table, &mut Vec::new());
    let event = link.receive(1, b"g", &mut table, &mut Vec::new());
    assert_eq!(event, Some(LinkEvent::Deleted(text("g"))));
}

/// A datagram of any sender, well-formed or not.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let command = select(&LinkCommand::ALL[..]).prop_map(|(command, _)| command.encode().to_vec());
    let name = select(vec![&b"a"[..], b"b", b"four", &[b'n'; 99]]).prop_map(<[u8]>::to_vec);
    let secret = select(vec!["abcde", "xyz", "1234567"])
        .prop_map(|secret| encode_secret(&text(secret)).to_vec());
    let int =
        prop_oneof![Just(YES), Just(NO), any::<Int>()].prop_map(|value| encode_int(value).to_vec());
    let almost = (select(&LinkCommand::ALL[..]), 0..COMMAND_LEN, any::<u8>(), any::<bool>())
        .prop_map(|((command, _), at, byte, cut)| {
            let mut datagram = command.encode().to_vec();
            datagram[at] = byte;
            datagram.truncate(if cut { at } else { COMMAND_LEN });
            datagram
        });
    let arbitrary = vec(any::<u8>(), 0..120);
    prop_oneof![4 => command, 4 => name, 3 => secret, 2 => int, 1 => almost, 1 => arbitrary]
}

type NamesWithSecrets = Vec<(Text, Option<Text>)>;

proptest! {
    /// Datagrams of several senders in any order: a group is stored or deleted, and a secret sent,
    /// only at the end of a complete exchange with one sender.
    #[test]
    fn only_a_complete_exchange_has_an_effect(
        deliveries in vec((0u16..2, datagram(), 1usize..3), 0..60)
    ) {
        let (mut link, mut table) = (CommandPort::default(), TestDirectory::default());
        table.insert(text("b"), text("old"));
        // The last command of each sender, and the names that it has sent after it, each with the
        // secret that it had then: another sender can delete the group before the secret is sent.
        let mut current: HashMap<u16, (LinkCommand, NamesWithSecrets)> = HashMap::new();
        let copies = deliveries.iter().flat_map(|(from, datagram, copies)| {
            std::iter::repeat_n((*from, datagram), *copies)
        });
        for (from, datagram) in copies {
            let before = table.0.clone();
            let mut reply = Vec::new();
            let event = link.receive(from, datagram, &mut table, &mut reply);
            if let Some(command) = LinkCommand::decode(datagram) {
                let opens = !matches!(
                    command,
                    LinkCommand::Connect | LinkCommand::Connect2 | LinkCommand::CloseConnection
                );
                // A retired sender gets no response.
                let accepted = decode_int(&reply) == Some(YES);
                prop_assert!(opens >= accepted && reply.len() == INT_LEN * usize::from(accepted));
                if accepted {
                    current.insert(from, (command, Vec::new()));
                }
                prop_assert!(!opens || accepted || command.is_change());
                let closes = command == LinkCommand::CloseConnection;
                prop_assert_eq!(event == Some(LinkEvent::Closed), closes);
                prop_assert_eq!(&before, &table.0);
                continue;
            }
            let (command, names) = match current.get_mut(&from) {
                Some((command, names)) => (Some(*command), names),
                None => (None, &mut Vec::new()),
            };
            match event {
                Some(LinkEvent::Created(name)) => {
                    prop_assert_eq!(command, Some(LinkCommand::NewGroup));
                    prop_assert_eq!(names.first().map(|(name, _)| name), Some(&name));
                    prop_assert!(!before.contains_key(&name));
                    prop_assert_eq!(&encode_secret(&table.0[&name])[..], datagram);
                }
                Some(LinkEvent::Deleted(name)) => {
                    prop_assert_eq!(command, Some(LinkCommand::DeleteGroup));
                    prop_assert!(names.is_empty());
                    prop_assert_eq!(name.as_bytes(), datagram);
                    prop_assert!(before.contains_key(&name) && !table.0.contains_key(&name));
                }
                None => prop_assert_eq!(&before, &table.0),
                Some(LinkEvent::Closed) => prop_assert!(false, "closed by {:?}", datagram),
            }
            if !reply.is_empty() && !matches!(decode_int(&reply), Some(YES | NO)) {
                prop_assert_eq!(command, Some(LinkCommand::GetSecret));
                prop_assert_eq!(decode_int(datagram), Some(YES));
                let secret = names.first().and_then(|(_, secret)| *secret);
                prop_assert_eq!(secret.as_ref().map(Text::as_bytes), Some(&reply[..]));
            }
            prop_assert!(command.is_some() || reply.is_empty(), "a response without a command");
            if command.is_some() {
                names.extend(decode_name(datagram).map(|name| (name, before.get(&name).copied())));
            }
        }
    }
}
