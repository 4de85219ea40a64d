//! Datagrams of hostile or broken peers: they change nothing, and delay no other link.
//!
//! After each hostile act an honest local server ([`HonestServer`]) checks that its groups are
//! intact, that its requests are answered, and that no group has appeared.
//!
//! The protocol limits what can be tested on the honest server's own machine: any process there can
//! send `CloseConnection`, or a whole exchange, from its own socket, and no server could tell it
//! from the local server. So these two are left out there.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs_proto::link::original::{LinkCommand, encode_int};
use kvs_servers::shutdown::Reason;

use crate::harness::*;
use crate::honest::HonestServer;

/// All commands but the one that closes the link.
const COMMANDS: [LinkCommand; 6] = [
    LinkCommand::Connect,
    LinkCommand::Connect2,
    LinkCommand::FindGroup,
    LinkCommand::NewGroup,
    LinkCommand::GetSecret,
    LinkCommand::DeleteGroup,
];

/// Datagrams that are no part of any exchange, with a description.
fn malformed() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = vec![
        ("nothing".into(), Vec::new()),
        ("64 KiB".into(), vec![b'x'; 65_507]),
        ("64 KiB of NULs".into(), vec![0; 65_507]),
        ("100 NULs".into(), vec![0; 100]),
        ("an unknown command".into(), {
            let mut unknown = b"DropGroups".to_vec();
            unknown.resize(100, 0);
            unknown
        }),
        ("half an integer".into(), vec![1, 0]),
        ("an integer".into(), encode_int(1).to_vec()),
        ("the close flag".into(), encode_int(-10).to_vec()),
        ("the name of a group".into(), b"mine".to_vec()),
        ("a secret".into(), b"xxxxx\0\0\0".to_vec()),
    ];
    for command in COMMANDS.into_iter().chain([LinkCommand::CloseConnection]) {
        let whole = command.encode();
        for len in 0..whole.len() {
            all.push((format!("{len} bytes of {command:?}"), whole[..len].to_vec()));
        }
        for more in [&b"\0"[..], b"x", &[0; 50]] {
            let what = format!("{command:?} and {} bytes", more.len());
            all.push((what, [&whole[..], more].concat()));
        }
        for at in [0, 50, 99] {
            let mut other = whole;
            other[at] = b'?';
            all.push((format!("{command:?} with a wrong byte"), other.to_vec()));
        }
    }
    all
}

#[test]
fn malformed_datagrams_change_nothing_on_any_port() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let mut honest = HonestServer::new(server.connect());
    let ports = [server.address, honest.local.command_port(), honest.local.close_port()];
    let here = server.address.ip();
    for ip in [here, own_ip()] {
        // One socket for all datagrams, except on the honest server's machine, where several of
        // them could be a valid exchange.
        let one = socket(ip);
        for (n, (what, bytes)) in malformed().iter().enumerate() {
            let own = socket(ip);
            for port in ports {
                let from = if ip == here { &own } else { &one };
                from.send_to(bytes, port).unwrap();
            }
            if bytes.len() > 1000 || n % 20 == 0 {
                honest.check(&format!("{what} from {ip}"));
            }
        }
        honest.check("all of it");
    }
    honest.local.disconnect();
    honest.local.wait_until_closed();
    let lines = server.quit();
    let closed = lines.iter().filter(|line| *line == "Connection closed").count();
    assert_eq!(closed, 1, "another socket disconnected it");
}

#[test]
fn complete_exchanges_from_another_machine_change_nothing() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let mut honest = HonestServer::new(server.connect());
    let stranger = socket(own_ip());
    let exchanges: [&[&[u8]]; 6] = [
        &[&LinkCommand::NewGroup.encode(), b"evil", b"xxxxx\0\0\0"],
        &[&LinkCommand::DeleteGroup.encode(), b"mine"],
        &[&LinkCommand::GetSecret.encode(), b"mine", &encode_int(1)],
        &[&LinkCommand::FindGroup.encode(), b"mine"],
        &[&LinkCommand::CloseConnection.encode()],
        &[&LinkCommand::Connect2.encode(), &encode_int(-10)],
    ];
    for exchange in exchanges {
        for port in [honest.local.command_port(), honest.local.close_port()] {
            for datagram in exchange {
                stranger.send_to(datagram, port).unwrap();
            }
        }
        honest.check("an exchange from another machine");
    }
    assert_nothing_more(&stranger);
    server.shutdown.request(Reason::Console);
    honest.local.wait_for_close();
}

#[test]
fn command_to_anothers_port_does_not_disturb_an_exchange() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let mut honest = HonestServer::new(server.connect());
    let neighbour = server.connect();
    let interrupt = |by: &RawLocalServer| {
        for command in COMMANDS {
            by.commands.send_to(&command.encode(), honest.local.command_port()).unwrap();
            by.close.send_to(&command.encode(), honest.local.close_port()).unwrap();
        }
    };
    let port = honest.local.command_port();
    for (n, from) in [&honest.local.commands, &socket(server.address.ip())].iter().enumerate() {
        let name = format!("g{n}");
        for datagram in [&LinkCommand::NewGroup.encode()[..], name.as_bytes(), b"abcde\0\0\0"] {
            interrupt(&neighbour);
            assert_eq!(request_int(from, port, datagram), 1, "{}", datagram.escape_ascii());
        }
        assert_eq!(honest.local.secret(&name), Some(text("abcde")));
    }
    honest.check("commands of a neighbour");
    // The close flag was not redirected.
    server.shutdown.request(Reason::Console);
    honest.local.wait_for_close();
}

#[test]
fn close_address_is_not_redirected() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let honest = HonestServer::new(server.connect());
    let forger = socket(server.address.ip());
    forger.send_to(&LinkCommand::Connect2.encode(), honest.local.close_port()).unwrap();
    honest.local.find("");
    // A later datagram is answered later: by then all of the above have been read.
    server.connect().disconnect();
    server.shutdown.request(Reason::Console);
    honest.local.wait_for_close();
    assert_nothing_more(&forger);
}

/// Sends datagrams as fast as possible, in its own thread, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    fn of(datagrams: Vec<(SocketAddr, Vec<u8>)>, ip: IpAddr) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let socket = UdpSocket::bind((ip, 0)).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                for (to, datagram) in &datagrams {
                    // A full buffer drops it.
                    let _ = socket.send_to(datagram, to);
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn flood_on_one_port_spares_the_others_and_ends() {
    let server = TestServer::start(&own_config(LISTEN_PORT));
    let flooded = server.connect();
    assert!(flooded.create("flooded", "abcde"));
    let mut honest = HonestServer::new(server.connect());
    let to = |port, datagram: &[u8]| (port, datagram.to_vec());
    let flood = Flood::of(
        vec![
            to(flooded.command_port(), &LinkCommand::DeleteGroup.encode()),
            to(flooded.command_port(), &LinkCommand::NewGroup.encode()),
            to(flooded.command_port(), &[0xff; 1400]),
            to(flooded.close_port(), &LinkCommand::Connect2.encode()),
        ],
        server.address.ip(),
    );
    let foreign = Flood::of(
        vec![
            to(flooded.command_port(), &LinkCommand::CloseConnection.encode()),
            to(server.address, &LinkCommand::DeleteGroup.encode()),
            to(server.address, b""),
        ],
        own_ip(),
    );
    for _ in 0..100 {
        honest.check("a flood on another port");
    }
    let sent = [flood, foreign].map(|flood| flood.sent.load(Ordering::SeqCst));
    assert!(sent.iter().all(|sent| *sent > 1000), "no flood: {sent:?} datagrams");
    // The receive buffer may still be full, which drops our datagrams for a while.
    flooded.commands.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let start = Instant::now();
    loop {
        flooded.send(&LinkCommand::FindGroup.encode());
        if flooded.commands.recv(&mut [0; 8]).is_ok() {
            break;
        }
        assert!(start.elapsed() < TIMEOUT, "the flooded port does not recover");
    }
    let fresh = socket(server.address.ip());
    assert_eq!(request_int(&fresh, flooded.command_port(), &LinkCommand::FindGroup.encode()), 1);
    assert_eq!(request_int(&fresh, flooded.command_port(), b"flooded"), 1);
    // The listen port, too.
    server.connect();
}
