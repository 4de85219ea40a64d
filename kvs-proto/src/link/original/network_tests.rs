//! Both roles over a network that loses, delays and repeats datagrams.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::client::{ClientExchange, ExchangeProgress};
use super::command::LinkCommand;
use super::group::{GroupRequest, GroupResponse};
use super::server::CommandPort;
use super::test_directory::{TestDirectory, text};
use crate::text::Text;

/// What the network does to one datagram.
#[derive(Debug, Clone, Copy)]
enum Delivery {
    Normal,
    Lost,
    /// It arrives after so many other datagrams.
    Late(usize),
    Twice,
    /// It arrives, and a copy after so many other datagrams.
    Again(usize),
}

fn delivery() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        4 => Just(Delivery::Normal),
        2 => Just(Delivery::Lost),
        2 => (1usize..8).prop_map(Delivery::Late),
        1 => Just(Delivery::Twice),
    ]
}

/// A worse network: copies of all datagrams, and late ones.
fn bad_delivery() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        4 => Just(Delivery::Normal),
        1 => Just(Delivery::Lost),
        2 => (1usize..30).prop_map(Delivery::Late),
        4 => (0usize..30).prop_map(Delivery::Again),
    ]
}

/// Both roles, and a network between them that is faulty until `deliveries` is empty.
struct Network {
    deliveries: std::vec::IntoIter<Delivery>,
    link: CommandPort<usize>,
    table: TestDirectory,
    /// The current socket of the local server. Datagrams to its earlier sockets are lost.
    socket: usize,
    /// Datagrams in flight: how many arrive before it, the client socket, whether it goes to the
    /// server, and its bytes.
    in_flight: Vec<(usize, usize, bool, Vec<u8>)>,
}

impl Network {
    fn send(&mut self, socket: usize, to_server: bool, datagram: Vec<u8>) {
        // A client cannot distinguish a repeated ready flag from a verdict.
        let may_be_repeated = to_server && LinkCommand::decode(&datagram).is_none();
        let delay = match self.deliveries.next().unwrap_or(Delivery::Normal) {
            Delivery::Lost => return,
            Delivery::Late(others) => others,
            Delivery::Twice if may_be_repeated => {
                self.in_flight.push((0, socket, to_server, datagram.clone()));
                0
            }
            Delivery::Again(others) => {
                self.in_flight.push((others, socket, to_server, datagram.clone()));
                0
            }
            Delivery::Normal | Delivery::Twice => 0,
        };
        self.in_flight.push((delay, socket, to_server, datagram));
    }

    /// The next datagram that arrives; `None` when only late ones are left.
    fn arrival(&mut self) -> Option<(usize, bool, Vec<u8>)> {
        let next = self.in_flight.iter().position(|(delay, ..)| *delay == 0)?;
        let (_, socket, to_server, datagram) = self.in_flight.remove(next);
        for (delay, ..) in &mut self.in_flight {
            *delay = delay.saturating_sub(1);
        }
        Some((socket, to_server, datagram))
    }

    /// One attempt from a new socket; `None` after a timeout.
    fn attempt(&mut self, request: GroupRequest) -> Option<GroupResponse> {
        self.socket += 1;
        let (mut exchange, datagram) = ClientExchange::start(request);
        self.send(self.socket, true, datagram);
        while let Some((socket, to_server, datagram)) = self.arrival() {
            if to_server {
                let mut reply = Vec::new();
                self.link.receive(socket, &datagram, &mut self.table, &mut reply);
                if !reply.is_empty() {
                    self.send(socket, false, reply);
                }
            } else if socket == self.socket {
                match exchange.receive(&datagram) {
                    ExchangeProgress::Send(next) => self.send(socket, true, next),
                    ExchangeProgress::Done(response) => return Some(response),
                    ExchangeProgress::Ignored => {}
                }
            }
        }
        None
    }

    /// Repeats the request until it has a response, and returns whether it was repeated.
    fn repeat(&mut self, request: GroupRequest) -> (GroupResponse, bool) {
        for tries in 0.. {
            if let Some(response) = self.attempt(request) {
                return (response, tries > 0);
            }
        }
        unreachable!("`deliveries` becomes empty, then every attempt succeeds")
    }

    fn secret(&mut self, name: Text) -> Option<Text> {
        match self.repeat(GroupRequest::Secret(name)).0 {
            GroupResponse::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// Requests as a client on a bad network does: it confirms each change, as a 1 proves nothing.
    /// Datagrams in flight stay in flight.
    fn request_confirmed(&mut self, request: GroupRequest) -> GroupResponse {
        match request {
            GroupRequest::Find(name) => {
                let (response, _) = self.repeat(request);
                yes_if(response == GroupResponse::Yes && self.secret(name).is_some())
            }
            GroupRequest::Secret(name) => {
                self.secret(name).map_or(GroupResponse::No, GroupResponse::Secret)
            }
            GroupRequest::New { name, secret } => loop {
                let (response, repeated) = self.repeat(request);
                match self.secret(name) {
                    Some(stored) if response == GroupResponse::No => {
                        return yes_if(repeated && stored == secret);
                    }
                    Some(stored) => return yes_if(stored == secret),
                    None => {}
                }
            },
            GroupRequest::Delete(name) => loop {
                let (response, _) = self.repeat(request);
                if self.repeat(GroupRequest::Find(name)).0 == GroupResponse::No
                    || self.secret(name).is_none()
                {
                    return response;
                }
            },
        }
    }

    /// Repeats the request until it has a response, by the rules of `docs/PROTOCOL.md` §4.
    fn request(&mut self, request: GroupRequest) -> GroupResponse {
        let mut repeated = false;
        loop {
            let Some(response) = self.attempt(request) else {
                repeated = true;
                continue;
            };
            // No datagram of this request can reach the next one.
            self.in_flight.clear();
            return match (request, response) {
                (GroupRequest::New { name, secret }, GroupResponse::No) if repeated => {
                    match self.request(GroupRequest::Secret(name)) {
                        GroupResponse::Secret(stored) if stored == secret => GroupResponse::Yes,
                        _ => GroupResponse::No,
                    }
                }
                (GroupRequest::Delete(_), GroupResponse::No) if repeated => GroupResponse::Yes,
                _ => response,
            };
        }
    }
}

/// The kind of a request, a name and a secret.
fn request() -> impl Strategy<Value = (usize, &'static str, &'static str)> {
    (0usize..4, select(vec!["a", "four"]), select(vec!["abcde", "zzzz"]))
}

fn yes_if(yes: bool) -> GroupResponse {
    if yes { GroupResponse::Yes } else { GroupResponse::No }
}

fn secret_or_no(secret: Option<Text>) -> GroupResponse {
    secret.map_or(GroupResponse::No, GroupResponse::Secret)
}

proptest! {
    /// Copies arrive after the next requests have ended: every request still gets a correct
    /// response, and the late copies change nothing.
    #[test]
    fn late_copies_of_earlier_requests_change_nothing(
        deliveries in vec(bad_delivery(), 0..200),
        requests in vec(request(), 1..12),
    ) {
        let mut network = Network {
            deliveries: deliveries.into_iter(),
            link: CommandPort::default(),
            table: TestDirectory::default(),
            socket: 0,
            in_flight: Vec::new(),
        };
        let mut expected: HashMap<Text, Text> = HashMap::new();
        for (kind, name, secret) in requests {
            let (name, secret) = (text(name), text(secret));
            let known = expected.get(&name).copied();
            let (request, right) = match kind {
                0 => (GroupRequest::Find(name), yes_if(known.is_some())),
                1 => {
                    expected.entry(name).or_insert(secret);
                    let right = yes_if(known.is_none());
                    (GroupRequest::New { name, secret }, right)
                }
                2 => (GroupRequest::Secret(name), secret_or_no(known)),
                _ => {
                    expected.remove(&name);
                    (GroupRequest::Delete(name), GroupResponse::Yes)
                }
            };
            let response = network.request_confirmed(request);
            // After a repetition, a name taken with the same secret counts as stored, and an
            // unknown group as deleted.
            let excused = matches!(request, GroupRequest::Delete(_)) || known == Some(secret);
            prop_assert!(response == right || kind != 0 && kind != 2 && excused, "{:?}", request);
            prop_assert_eq!(&network.table.0, &expected);
        }
        // All late datagrams arrive at the end.
        network.deliveries = Vec::new().into_iter();
        network.in_flight.sort_by_key(|(delay, ..)| *delay);
        network.in_flight.iter_mut().for_each(|(delay, ..)| *delay = 0);
        while let Some((socket, to_server, datagram)) = network.arrival() {
            if to_server {
                network.link.receive(socket, &datagram, &mut network.table, &mut Vec::new());
            }
        }
        prop_assert_eq!(&network.table.0, &expected);
    }

    /// Datagrams are lost, late and repeated: every request still gets a correct response.
    #[test]
    fn requests_survive_a_bad_network(
        deliveries in vec(delivery(), 0..80),
        requests in vec(request(), 1..8),
    ) {
        let mut network = Network {
            deliveries: deliveries.into_iter(),
            link: CommandPort::default(),
            table: TestDirectory::default(),
            socket: 0,
            in_flight: Vec::new(),
        };
        let mut expected: HashMap<Text, Text> = HashMap::new();
        for (kind, name, secret) in requests {
            let (name, secret) = (text(name), text(secret));
            let known = expected.get(&name).copied();
            match kind {
                0 => {
                    let response = network.request(GroupRequest::Find(name));
                    prop_assert_eq!(response, yes_if(known.is_some()));
                }
                1 => {
                    let response = network.request(GroupRequest::New { name, secret });
                    // After a repetition, a name taken with the same secret counts as stored.
                    if known != Some(secret) {
                        prop_assert_eq!(response, yes_if(known.is_none()));
                    }
                    expected.entry(name).or_insert(secret);
                }
                2 => {
                    let response = network.request(GroupRequest::Secret(name));
                    prop_assert_eq!(response, secret_or_no(known));
                }
                _ => {
                    let response = network.request(GroupRequest::Delete(name));
                    // After a repetition, an unknown group counts as deleted.
                    prop_assert!(response == GroupResponse::Yes || known.is_none());
                    expected.remove(&name);
                }
            }
            prop_assert_eq!(&network.table.0, &expected);
        }
    }
}
