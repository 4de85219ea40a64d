//! The share of one machine, and the groups of a local server that reconnects.

use std::time::{Duration, Instant};

use kvs_proto::link::original::LinkCommand;
use kvs_servers::auth::Config;

use crate::harness::*;

#[test]
fn machine_gets_its_share_of_links_and_no_more() {
    let config = Config { links_per_machine: 3, ..own_config(LISTEN_PORT) };
    let server = TestServer::start(&config);
    let neighbour = server.connect();
    let greedy = own_ip();
    let links = [0; 3].map(|_| RawLocalServer::connect(server.address, greedy));
    let refused = socket(greedy);
    refused.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    // A later Connect is answered later: by then the refused one has been read.
    RawLocalServer::connect(server.address, own_ip());
    assert_nothing_more(&refused);
    assert!(neighbour.create("g", "abcde"));
    // A link that it closes makes room for another one.
    links[1].disconnect();
    links[1].wait_until_closed();
    RawLocalServer::connect(server.address, greedy);
}

#[test]
fn machine_over_its_share_replaces_its_own_idle_link() {
    let config =
        Config { links_per_machine: 2, idle_timeout: Duration::ZERO, ..own_config(LISTEN_PORT) };
    let server = TestServer::start(&config);
    let oldest = server.connect();
    let greedy = own_ip();
    let [owner, idle] = [0; 2].map(|_| RawLocalServer::connect(server.address, greedy));
    assert!(owner.create("g", "abcde"));
    let newcomer = RawLocalServer::connect(server.address, greedy);
    idle.wait_until_closed();
    assert!(newcomer.find("g") && !oldest.find("h"), "a link of another machine was closed");
}

#[test]
fn machine_gets_its_share_of_groups_and_no_more() {
    let server = TestServer::start(&Config { groups_per_machine: 3, ..own_config(LISTEN_PORT) });
    let (one, other) = (server.connect(), server.connect());
    let stranger = RawLocalServer::connect(server.address, own_ip());
    assert!(one.create("a", "abcde") && other.create("b", "abcde") && one.create("c", "abcde"));
    assert!(!one.create("d", "abcde") && !other.create("d", "abcde"));
    assert_eq!(one.secret("d"), None, "it was stored");
    assert!(stranger.create("d", "abcde"));
    assert!(one.delete("a") && other.create("a", "abcde"));
    // A closed link no longer counts.
    one.disconnect();
    one.wait_until_closed();
    assert!(other.create("c", "abcde") && !other.create("e", "abcde"));
}

/// A local server that has reconnected: it has the same close address.
fn reconnect(server: &TestServer, old: &RawLocalServer) -> RawLocalServer {
    let mut new = RawLocalServer::request_ports(server.address, server.address.ip());
    new.close = old.close.try_clone().unwrap();
    new
}

#[test]
fn name_stays_taken_while_its_local_server_reconnects() {
    let inherit_timeout = Duration::from_millis(300);
    let config = Config { inherit_timeout, groups_per_machine: 2, ..own_config(LISTEN_PORT) };
    let server = TestServer::start(&config);
    let (old, other) = (server.connect(), RawLocalServer::connect(server.address, own_ip()));
    assert!(old.create("kept", "abcde") && old.create("left", "abcde"));
    let start = Instant::now();
    let new = reconnect(&server, &old);
    new.send_connect_2();
    old.wait_until_closed();
    // The groups exist for every link but the successor.
    for name in ["kept", "left"] {
        assert!(
            other.find(name) && !other.create(name, "other") || start.elapsed() >= inherit_timeout
        );
    }
    assert!(!new.find("kept") && new.secret("kept").is_none());
    // A group that the successor deletes is gone at once.
    assert!(!new.delete("kept") && !other.find("kept"));
    assert!(new.create("kept", "again"));
    while other.find("left") {
        assert!(start.elapsed() < TIMEOUT, "the group is never removed");
    }
    assert!(start.elapsed() >= inherit_timeout, "the group was removed too early");
    assert_eq!(other.secret("kept"), Some(text("again")));
    assert!(new.create("left", "later"), "removed groups are counted");
}

#[test]
fn group_registered_before_a_late_connect_2_stays() {
    let inherit_timeout = Duration::ZERO;
    let server = TestServer::start(&Config { inherit_timeout, ..own_config(LISTEN_PORT) });
    let (old, other) = (server.connect(), server.connect());
    assert!(old.create("kept", "abcde") && old.create("left", "abcde"));
    let new = reconnect(&server, &old);
    assert!(!new.create("kept", "abcde"));
    new.send_connect_2();
    old.wait_until_closed();
    let start = Instant::now();
    while other.find("left") {
        assert!(start.elapsed() < TIMEOUT, "the group is never removed");
    }
    assert_eq!(other.secret("kept"), Some(text("abcde")));
    // The group belongs to the new link.
    new.disconnect();
    new.wait_until_closed();
    assert!(!other.find("kept"));
}
