//! Pairs of ports that are released, and links that are replaced when ports run out.

use std::time::{Duration, Instant};

use kvs_proto::link::original::LinkCommand;
use kvs_servers::auth::Config;

use crate::harness::*;

#[test]
fn ports_of_a_closed_link_are_given_out_again() {
    let server =
        TestServer::start(&Config { port_cooldown: Duration::ZERO, ..own_config(LISTEN_PORT) });
    let ports = [0; 4].map(|_| {
        let local = server.connect();
        local.disconnect();
        local.wait_until_closed();
        local.port
    });
    assert_eq!(ports, [LISTEN_PORT + 1; 4]);
}

#[test]
fn returned_ports_cool_down_while_others_are_free() {
    // Two pairs: 65532 and 65534.
    let server = TestServer::start(&Config { port_cooldown: TIMEOUT * 100, ..own_config(65531) });
    let ports = [0; 5].map(|_| {
        let local = server.connect();
        local.disconnect();
        local.wait_until_closed();
        local.port
    });
    // Without another pair, the one that has cooled down longest is given out.
    assert_eq!(ports, [65532, 65534, 65532, 65534, 65532]);
}

#[test]
fn connect_without_a_free_pair_is_not_answered() {
    let server = TestServer::start(&own_config(65531));
    let [first, second] = [server.connect(), server.connect()];
    let late = socket(server.address.ip());
    late.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    assert!(first.create("g", "abcde"));
    second.disconnect();
    second.wait_until_closed();
    // The only response is the one to the Connect that could be served.
    assert_eq!(send_connect(&late, server.address), second.port);
    assert_nothing_more(&late);
}

#[test]
fn unused_ports_are_released_after_the_timeout() {
    let wait = Duration::from_millis(100);
    let server = TestServer::start(&Config { confirm_timeout: wait, ..own_config(LISTEN_PORT) });
    let used = server.connect();
    let ip = server.address.ip();
    let start = Instant::now();
    let unused = RawLocalServer::request_ports(server.address, ip);
    unused.wait_until_closed();
    assert!(start.elapsed() >= wait, "released too early");
    assert!(used.create("g", "abcde"), "a confirmed link was closed, too");
}

#[test]
fn idle_link_without_groups_is_replaced_when_ports_run_out() {
    // Three pairs: 65530, 65532, 65534.
    let server = TestServer::start(&Config { idle_timeout: Duration::ZERO, ..own_config(65529) });
    let [owner, idle, active] = [0; 3].map(|_| server.connect());
    assert_eq!([owner.port, idle.port, active.port], [65530, 65532, 65534]);
    assert!(owner.create("g", "abcde"));
    idle.find("");
    active.find("");
    // The link with a group stays although it is the oldest. Then the one idle longest is replaced.
    let first = RawLocalServer::request_ports(server.address, server.address.ip());
    assert_eq!(first.port, idle.port);
    // `first` is not confirmed yet and has its own timeout.
    assert_eq!(server.connect().port, active.port);
    assert!(owner.find("g"));
}

#[test]
fn unconfirmed_link_keeps_its_ports_when_none_are_left() {
    // Two pairs: 65532 and 65534.
    let server = TestServer::start(&Config { idle_timeout: Duration::ZERO, ..own_config(65531) });
    let [first, second] =
        [0; 2].map(|_| RawLocalServer::request_ports(server.address, server.address.ip()));
    let late = socket(server.address.ip());
    late.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    for local in [first, second] {
        assert_eq!(send_connect(&local.commands, server.address), local.port);
    }
    server.quit();
    assert_nothing_more(&late);
}

#[test]
fn idle_link_is_kept_while_other_ports_are_free() {
    let server =
        TestServer::start(&Config { idle_timeout: Duration::ZERO, ..own_config(LISTEN_PORT) });
    let idle = server.connect();
    for _ in 0..20 {
        assert_ne!(server.connect().port, idle.port);
    }
    assert!(idle.create("g", "abcde"));
}
