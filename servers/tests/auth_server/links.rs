//! The end of a link: a local server disconnects, or is replaced by its successor.

use kvs_servers::shutdown::Reason;

use crate::harness::*;

#[test]
fn disconnect_closes_the_ports_and_deletes_the_groups() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let (leaving, staying) = (server.connect(), server.connect());
    assert!(leaving.create("g1", "abcde"));
    assert!(staying.create("g2", "abcde"));
    leaving.disconnect();
    leaving.wait_until_closed();
    assert!(!staying.find("g1"));
    assert!(staying.find("g2"), "a group of another link was deleted");
}

#[test]
fn restarted_local_server_replaces_its_old_link() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let (killed, other) = (server.connect(), server.connect());
    assert!(killed.create("g1", "first"));
    assert!(other.create("g2", "abcde"));
    let mut successor = RawLocalServer::request_ports(server.address, server.address.ip());
    successor.close = killed.close.try_clone().unwrap();
    successor.send_connect_2();
    // The name is free at once.
    assert!(successor.create("g1", "again"));
    assert!(other.find("g2"), "a link with another close port was closed, too");
    killed.wait_until_closed();
    successor.send_connect_2();
    assert_eq!(other.secret("g1"), Some(text("again")), "a repeated Connect_2 closed its own link");
}

#[test]
fn late_connect_2_does_not_harm_the_successor() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    // Its Connect_2 is delayed.
    let mut predecessor = RawLocalServer::request_ports(server.address, server.address.ip());
    predecessor.find("");
    let successor = server.connect();
    predecessor.close = successor.close.try_clone().unwrap();
    assert!(successor.create("g", "abcde"));
    predecessor.send_connect_2();
    predecessor.find("");
    assert!(successor.find("g"));
    server.shutdown.request(Reason::Console);
    successor.wait_for_close();
}
