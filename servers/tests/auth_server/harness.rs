//! An authentication server in this process, and a local server that sends one datagram after the
//! other.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command as Process};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use kvs_proto::link::original::{
    ClientExchange, ExchangeProgress, GroupRequest, GroupResponse, LinkCommand, decode_int,
    encode_int,
};
use kvs_proto::{Int, Text};
use kvs_servers::auth::{Config, Error, Server};
use kvs_servers::console::Output;
use kvs_servers::shutdown::{Reason, Shutdown};

/// Longer than any step of these tests takes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Above the ports that Linux gives to sockets which ask for none, with many above it.
pub(crate) const LISTEN_PORT: u16 = 62000;

/// An address that no other test uses.
pub(crate) fn own_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

pub(crate) fn own_config(port: u16) -> Config {
    Config { listen: SocketAddr::new(own_ip(), port), quit_timeout: TIMEOUT, ..Config::default() }
}

pub(crate) fn text(s: &str) -> Text {
    Text::new(s.as_bytes()).unwrap()
}

/// Sends each line that a server prints to the test.
pub(crate) struct LineSink(pub(crate) Sender<String>, pub(crate) Vec<u8>);

impl Write for LineSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.extend(bytes);
        while let Some(end) = self.1.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.1.drain(..=end).collect();
            let _ = self.0.send(String::from_utf8(line).unwrap().trim_end().to_owned());
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A forked child holds a copy of every descriptor, and so every port, until it calls exec. Servers
/// in this process hold a read lock, so that a port is free as soon as they have closed it.
pub(crate) static SPAWN_LOCK: RwLock<()> = RwLock::new(());

pub(crate) fn spawn(command: &mut Process) -> Child {
    let _guard = SPAWN_LOCK.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// An authentication server in this process.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) printed: Receiver<String>,
    ended: Receiver<Result<(), Error>>,
    _ports: RwLockReadGuard<'static, ()>,
}

impl TestServer {
    pub(crate) fn start(config: &Config) -> Self {
        Self::serve(Server::bind(config).unwrap())
    }

    pub(crate) fn serve(server: Server) -> Self {
        let ports = SPAWN_LOCK.read().unwrap_or_else(PoisonError::into_inner);
        let address = server.local_addr();
        let shutdown = Shutdown::new();
        let (lines, printed) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let requested = shutdown.clone();
        thread::spawn(move || {
            let output = Output::new(LineSink(lines, Vec::new())).unwrap();
            end.send(server.run(&requested, &output)).unwrap();
        });
        Self { address, shutdown, printed, ended, _ports: ports }
    }

    pub(crate) fn connect(&self) -> RawLocalServer {
        RawLocalServer::connect(self.address, self.address.ip())
    }

    pub(crate) fn next_line(&self) -> String {
        self.printed.recv_timeout(TIMEOUT).expect("a line is printed")
    }

    /// Waits for the end of the server. Returns the lines that were not read yet.
    pub(crate) fn ended(self) -> Vec<String> {
        self.ended.recv_timeout(TIMEOUT).expect("the server ends").unwrap();
        self.printed.iter().collect()
    }

    /// Shuts the server down and returns the lines that were not read yet.
    pub(crate) fn quit(self) -> Vec<String> {
        self.shutdown.request(Reason::Console);
        self.ended()
    }
}

pub(crate) fn socket(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

pub(crate) fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 200];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram arrives");
    (buffer[..len].to_vec(), from)
}

/// All datagrams that were sent to `socket` have been received.
pub(crate) fn assert_nothing_more(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 200]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// Sends a datagram and returns the integer that answers it from the same address.
pub(crate) fn request_int(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) -> Int {
    socket.send_to(datagram, to).unwrap();
    let (answer, from) = receive(socket);
    assert_eq!(from, to, "answered from another port");
    decode_int(&answer).expect("an integer")
}

pub(crate) fn send_connect(socket: &UdpSocket, server: SocketAddr) -> u16 {
    request_int(socket, server, &LinkCommand::Connect.encode()).try_into().unwrap()
}

/// The line that is printed for a `Connect` from `socket`.
pub(crate) fn request_line(socket: &UdpSocket) -> String {
    let from = socket.local_addr().unwrap();
    format!(
        "Authentification server received connection request from ({}, {})",
        from.ip(),
        from.port()
    )
}

/// The local server's side of a link: one socket, no retries.
pub(crate) struct RawLocalServer {
    pub(crate) commands: UdpSocket,
    pub(crate) close: UdpSocket,
    pub(crate) server: SocketAddr,
    pub(crate) port: u16,
}

impl RawLocalServer {
    /// Sends `Connect` and does not use the ports yet.
    pub(crate) fn request_ports(server: SocketAddr, ip: IpAddr) -> Self {
        let commands = socket(ip);
        let port = send_connect(&commands, server);
        Self { commands, close: socket(ip), server, port }
    }

    /// Sends `Connect` and `Connect_2`, and waits until both have been processed.
    pub(crate) fn connect(server: SocketAddr, ip: IpAddr) -> Self {
        let this = Self::request_ports(server, ip);
        this.send_connect_2();
        this.find("");
        this
    }

    pub(crate) fn command_port(&self) -> SocketAddr {
        SocketAddr::new(self.server.ip(), self.port)
    }

    pub(crate) fn close_port(&self) -> SocketAddr {
        SocketAddr::new(self.server.ip(), self.port + 1)
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        self.commands.send_to(datagram, self.command_port()).unwrap();
    }

    pub(crate) fn send_connect_2(&self) {
        self.close.send_to(&LinkCommand::Connect2.encode(), self.close_port()).unwrap();
    }

    pub(crate) fn disconnect(&self) {
        self.send(&LinkCommand::CloseConnection.encode());
    }

    pub(crate) fn ask(&self, question: GroupRequest) -> GroupResponse {
        let (mut exchange, mut datagram) = ClientExchange::start(question);
        loop {
            self.send(&datagram);
            let (answer, from) = receive(&self.commands);
            assert_eq!(from, self.command_port(), "answered from another port");
            match exchange.receive(&answer) {
                ExchangeProgress::Send(next) => datagram = next,
                ExchangeProgress::Done(answer) => return answer,
                ExchangeProgress::Ignored => panic!("{answer:?} is no answer to {question:?}"),
            }
        }
    }

    /// Whether the group exists. With an empty name, only the response to the command is awaited.
    pub(crate) fn find(&self, name: &str) -> bool {
        if name.is_empty() {
            let ready =
                request_int(&self.commands, self.command_port(), &LinkCommand::FindGroup.encode());
            assert_eq!(ready, 1);
            return false;
        }
        self.ask(GroupRequest::Find(text(name))) == GroupResponse::Yes
    }

    pub(crate) fn create(&self, name: &str, secret: &str) -> bool {
        self.ask(GroupRequest::New { name: text(name), secret: text(secret) }) == GroupResponse::Yes
    }

    pub(crate) fn secret(&self, name: &str) -> Option<Text> {
        match self.ask(GroupRequest::Secret(text(name))) {
            GroupResponse::Secret(secret) => Some(secret),
            GroupResponse::No => None,
            GroupResponse::Yes => panic!("Yes is no response to Secret"),
        }
    }

    pub(crate) fn delete(&self, name: &str) -> bool {
        self.ask(GroupRequest::Delete(text(name))) == GroupResponse::Yes
    }

    /// Waits until the server has closed both ports: binds them to find out.
    pub(crate) fn wait_until_closed(&self) {
        let start = Instant::now();
        for port in [self.command_port(), self.close_port()] {
            while UdpSocket::bind(port).is_err() {
                assert!(start.elapsed() < TIMEOUT, "{port} stays open");
                thread::yield_now();
            }
        }
    }

    /// Waits for the close flag.
    pub(crate) fn wait_for_close(&self) {
        assert_eq!(receive(&self.close), (encode_int(-10).to_vec(), self.close_port()));
    }
}
