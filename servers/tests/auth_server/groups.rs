//! Groups: creation, lookup and deletion over one link and over several.

use std::time::Duration;

use kvs_proto::link::original::LinkCommand;
use kvs_servers::auth::Config;
use kvs_servers::shutdown::Reason;

use crate::harness::*;

#[test]
fn groups_are_created_found_read_and_deleted() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let local = server.connect();
    assert!(!local.find("g1"));
    assert_eq!(local.secret("g1"), None);
    assert!(!local.delete("g1"));
    assert!(local.create("g1", "VKHMp"));
    assert!(local.find("g1"));
    assert_eq!(local.secret("g1"), Some(text("VKHMp")));
    assert!(!local.create("g1", "other"));
    assert_eq!(local.secret("g1"), Some(text("VKHMp")), "a refused creation changed the secret");
    assert!(local.delete("g1"));
    assert!(!local.find("g1"));
    local.disconnect();
    let lines = [0; 5].map(|_| server.next_line());
    assert_eq!(
        lines[1..],
        ["New Local Server Connected", "Group created!", "Group deleted!", "Connection closed"]
    );
    assert_eq!(server.quit(), ["Exiting Authentification Server..."]);
}

#[test]
fn group_name_is_unique_across_local_servers() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let (here, there) = (server.connect(), RawLocalServer::connect(server.address, own_ip()));
    assert!(here.create("g", "abcde"));
    assert!(there.find("g"));
    assert!(!there.create("g", "other"));
    assert_eq!(there.secret("g"), Some(text("abcde")));
}

#[test]
fn concurrent_creation_of_one_name_succeeds_once() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let (one, other) = (server.connect(), server.connect());
    for local in [&one, &other] {
        let port = local.command_port();
        assert_eq!(request_int(&local.commands, port, &LinkCommand::NewGroup.encode()), 1);
        assert_eq!(request_int(&local.commands, port, b"g"), 1, "the name is free");
    }
    assert_eq!(request_int(&one.commands, one.command_port(), b"first\0\0\0"), 1);
    assert_eq!(request_int(&other.commands, other.command_port(), b"last!\0\0\0"), -1);
    assert_eq!(other.secret("g"), Some(text("first")));
}

#[test]
fn group_is_deleted_by_its_own_machine_only() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let owner = server.connect();
    let neighbour = server.connect();
    let stranger = RawLocalServer::connect(server.address, own_ip());
    assert!(owner.create("g1", "abcde"));
    assert!(owner.create("g2", "abcde"));
    assert!(!stranger.delete("g1"));
    assert!(stranger.find("g1"));
    assert!(neighbour.delete("g1"));
    assert!(owner.delete("g2"));
}

#[test]
fn another_machine_cannot_use_the_ports() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let local = server.connect();
    let stranger = socket(own_ip());
    assert_eq!(
        request_int(&local.commands, local.command_port(), &LinkCommand::NewGroup.encode()),
        1
    );
    // None of these restarts the exchange, closes the link, or redirects the close flag.
    for datagram in [LinkCommand::FindGroup.encode(), LinkCommand::CloseConnection.encode()] {
        stranger.send_to(&datagram, local.command_port()).unwrap();
    }
    stranger.send_to(&LinkCommand::Connect2.encode(), local.close_port()).unwrap();
    assert_eq!(request_int(&local.commands, local.command_port(), b"g"), 1);
    assert_eq!(request_int(&local.commands, local.command_port(), b"abcde\0\0\0"), 1);
    // A later datagram is answered later: by then all of the above have been read.
    server.connect().disconnect();
    server.shutdown.request(Reason::Console);
    local.wait_for_close();
    assert_nothing_more(&stranger);
}

#[test]
fn another_socket_of_the_machine_may_restart_a_command() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let mut local = server.connect();
    assert_eq!(
        request_int(&local.commands, local.command_port(), &LinkCommand::NewGroup.encode()),
        1
    );
    let abandoned = std::mem::replace(&mut local.commands, socket(server.address.ip()));
    assert!(local.create("g", "abcde"));
    // Late datagrams of the old socket belong to no exchange.
    abandoned.send_to(b"late", local.command_port()).unwrap();
    abandoned.send_to(b"xxxxx\0\0\0", local.command_port()).unwrap();
    assert!(!local.find("late"));
    assert_eq!(local.secret("g"), Some(text("abcde")));
}

#[test]
fn incomplete_command_times_out() {
    let config = Config { exchange_timeout: Duration::ZERO, ..own_config(LISTEN_PORT) };
    let server = TestServer::start(&config);
    let local = server.connect();
    for _ in 0..3 {
        // The name is too late each time and gets no answer: the next answer is the one to
        // FindGroup.
        local.find("");
        local.send(b"g");
    }
    local.find("");
}
