//! The end of the server, and a start that fails.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvs_proto::link::original::LinkCommand;
use kvs_servers::auth::{Config, Server};
use kvs_servers::console::Output;
use kvs_servers::shutdown::{Reason, Shutdown};

use crate::harness::*;

#[test]
fn quit_serves_local_servers_until_they_disconnect() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let locals = [server.connect(), RawLocalServer::connect(server.address, own_ip())];
    for (name, local) in ["g1", "g2"].iter().zip(&locals) {
        assert!(local.create(name, "abcde"));
    }
    server.shutdown.request(Reason::Console);
    for (name, local) in ["g1", "g2"].iter().zip(&locals) {
        local.wait_for_close();
        assert!(local.delete(name));
        local.disconnect();
    }
    let lines = server.ended();
    assert_eq!(
        lines[lines.len() - 5..],
        [
            "Group deleted!",
            "Connection closed",
            "Group deleted!",
            "Connection closed",
            "Exiting Authentification Server..."
        ]
    );
}

#[test]
fn close_flag_is_repeated_until_disconnect() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let (slow, quick) = (server.connect(), server.connect());
    server.shutdown.request(Reason::Console);
    quick.wait_for_close();
    quick.disconnect();
    quick.wait_until_closed();
    for _ in 0..3 {
        slow.wait_for_close();
    }
    slow.disconnect();
    server.ended();
}

#[test]
fn quit_ends_after_the_timeout() {
    let quit_timeout = Duration::from_millis(200);
    let server = TestServer::start(&Config { quit_timeout, ..own_config(LISTEN_PORT) });
    let silent = server.connect();
    assert!(silent.create("g", "abcde"));
    let start = Instant::now();
    let lines = server.quit();
    assert!(start.elapsed() >= quit_timeout, "the server did not wait");
    assert_eq!(lines.last().unwrap(), "Exiting Authentification Server...");
}

#[test]
fn quit_does_not_wait_for_links_without_a_close_address() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let unconfirmed = RawLocalServer::request_ports(server.address, server.address.ip());
    let without_connect_2 = RawLocalServer::request_ports(server.address, server.address.ip());
    without_connect_2.find("");
    let start = Instant::now();
    server.quit();
    assert!(start.elapsed() < TIMEOUT / 2);
    drop(unconfirmed);
}

#[test]
fn quitting_server_answers_connect_2_with_the_close_flag() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let local = server.connect();
    let late = RawLocalServer::request_ports(server.address, server.address.ip());
    let connecting = socket(server.address.ip());
    server.shutdown.request(Reason::Console);
    local.wait_for_close();
    connecting.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    late.commands.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    late.send_connect_2();
    late.wait_for_close();
    local.find("");
    local.disconnect();
    late.disconnect();
    server.ended();
    for socket in [connecting, late.commands] {
        assert_nothing_more(&socket);
    }
}

#[test]
fn shutdown_requested_before_run_ends_the_server() {
    let server = Server::bind(&own_config(LISTEN_PORT)).unwrap();
    let shutdown = Shutdown::new();
    shutdown.request(Reason::Console);
    server.run(&shutdown, &Output::new(io::sink()).unwrap()).unwrap();
}

/// A slow terminal.
struct SlowSink(LineSink);

impl Write for SlowSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(100));
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn last_line_is_printed_before_run_returns() {
    let server = Server::bind(&own_config(LISTEN_PORT)).unwrap();
    let shutdown = Shutdown::new();
    shutdown.request(Reason::Console);
    let (lines, printed) = mpsc::channel();
    let output = Output::new(SlowSink(LineSink(lines, Vec::new()))).unwrap();
    server.run(&shutdown, &output).unwrap();
    assert_eq!(printed.try_recv().unwrap(), "Exiting Authentification Server...");
}

#[test]
fn unusable_listen_port_is_reported_with_the_reason() {
    let config = own_config(LISTEN_PORT);
    let _first = Server::bind(&config).unwrap();
    let message = Server::bind(&config).unwrap_err().to_string();
    let start = format!("cannot listen on {}: ", config.listen);
    assert!(message.starts_with(&start) && message.contains("in use"), "{message}");

    let config = own_config(65534);
    let message = Server::bind(&config).unwrap_err().to_string();
    assert!(message.contains("need ports above it"), "{message}");
    assert!(Server::bind(&Config { listen: SocketAddr::new(own_ip(), 65533), ..config }).is_ok());
}
