//! `Connect`: which ports answer it, and when a link is confirmed.

use std::net::UdpSocket;

use kvs_proto::Int;
use kvs_proto::link::original::{LinkCommand, decode_int};
use kvs_servers::auth::Server;

use crate::harness::*;

#[test]
fn connect_is_answered_with_the_first_free_port_and_printed() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let first = RawLocalServer::request_ports(server.address, server.address.ip());
    let second = RawLocalServer::request_ports(server.address, server.address.ip());
    assert_eq!((first.port, second.port), (LISTEN_PORT + 1, LISTEN_PORT + 3));
    assert_eq!(
        server.quit(),
        [
            request_line(&first.commands),
            request_line(&second.commands),
            "Exiting Authentification Server...".into()
        ]
    );
}

#[test]
fn port_zero_is_replaced_by_a_free_port() {
    let server = TestServer::start(&own_config(0));
    assert_ne!(server.address.port(), 0);
    assert!(server.connect().create("g", "abcde"));
}

#[test]
fn repeated_connect_gets_the_same_port_until_it_is_used() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let local = RawLocalServer::request_ports(server.address, server.address.ip());
    for _ in 0..3 {
        assert_eq!(send_connect(&local.commands, server.address), local.port);
    }
    local.find("");
    // The port is in use, so the same address is now another local server.
    assert_eq!(send_connect(&local.commands, server.address), local.port + 2);
    assert_eq!(
        server.quit(),
        [
            &request_line(&local.commands),
            "New Local Server Connected",
            &request_line(&local.commands),
            "Exiting Authentification Server..."
        ]
    );
}

#[test]
fn listen_port_ignores_everything_but_connect() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let client = socket(server.address.ip());
    let mut dirty = LinkCommand::Connect.encode();
    dirty[99] = b'x';
    let mut long = LinkCommand::Connect.encode().to_vec();
    long.push(0);
    let others = [LinkCommand::FindGroup, LinkCommand::Connect2, LinkCommand::CloseConnection];
    for other in others {
        client.send_to(&other.encode(), server.address).unwrap();
    }
    for malformed in [&b""[..], b"Connect", &dirty, &long, &[0; 100], &[0xff; 1400]] {
        client.send_to(malformed, server.address).unwrap();
    }
    assert_eq!(send_connect(&client, server.address), LISTEN_PORT + 1);
    assert_eq!(server.next_line(), request_line(&client));
    assert_eq!(server.quit(), ["Exiting Authentification Server..."]);
    assert_nothing_more(&client);
}

#[test]
fn pair_with_one_taken_port_is_skipped() {
    let config = own_config(LISTEN_PORT);
    let taken = |port| UdpSocket::bind((config.listen.ip(), port)).unwrap();
    let _others = (taken(LISTEN_PORT + 1), taken(LISTEN_PORT + 4));
    let server = TestServer::start(&config);
    assert_eq!(server.connect().port, LISTEN_PORT + 5);
    // The free half of a skipped pair is not kept.
    drop((taken(LISTEN_PORT + 2), taken(LISTEN_PORT + 3)));
}

#[test]
fn connects_queued_before_the_server_runs_are_answered() {
    let server = Server::bind(&own_config(LISTEN_PORT)).unwrap();
    let address = server.local_addr();
    let clients: Vec<UdpSocket> = (0..150).map(|_| socket(address.ip())).collect();
    for client in &clients {
        client.send_to(&LinkCommand::Connect.encode(), address).unwrap();
    }
    let _server = TestServer::serve(server);
    for (n, client) in (0..).zip(&clients) {
        assert_eq!(decode_int(&receive(client).0), Some(Int::from(LISTEN_PORT) + 1 + 2 * n));
    }
}

#[test]
fn new_local_server_is_printed_once_when_confirmed() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let by_connect_2 = RawLocalServer::request_ports(server.address, server.address.ip());
    assert_eq!(server.next_line(), request_line(&by_connect_2.commands));
    by_connect_2.send_connect_2();
    assert_eq!(server.next_line(), "New Local Server Connected");
    let by_command = RawLocalServer::request_ports(server.address, server.address.ip());
    assert_eq!(server.next_line(), request_line(&by_command.commands));
    by_command.find("");
    assert_eq!(server.next_line(), "New Local Server Connected");
    for local in [&by_connect_2, &by_command] {
        local.send_connect_2();
        local.find("");
    }
    for local in [by_connect_2, by_command] {
        local.disconnect();
        assert_eq!(server.next_line(), "Connection closed");
    }
    assert_eq!(server.quit(), ["Exiting Authentification Server..."]);
}

#[test]
fn invalid_datagrams_do_not_confirm_a_link() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let local = RawLocalServer::request_ports(server.address, server.address.ip());
    local.send(b"malformed");
    local.send(&LinkCommand::Connect.encode());
    local.send(&LinkCommand::Connect2.encode());
    local.close.send_to(b"malformed", local.close_port()).unwrap();
    local.close.send_to(&LinkCommand::CloseConnection.encode(), local.close_port()).unwrap();
    // A later datagram is answered later: by then all of the above have been read.
    let other = server.connect();
    assert!(other.port > local.port);
    other.disconnect();
    // Still unconfirmed: the same port once more.
    assert_eq!(send_connect(&local.commands, server.address), local.port);
    let mut lines = server.quit();
    lines.retain(|line| line == "New Local Server Connected");
    assert_eq!(lines.len(), 1, "only the other one is connected");
}
