//! The authentication server as the network sees it: a server that really runs, and real datagrams.
//!
//! Every test has an address of its own in 127.0.0.0/8, so that ports mean the same in each of them, and
//! "another machine" is another such address. That something is *not* answered is shown by what is
//! answered next: one socket sees its answers in the order in which it asked.

#![allow(clippy::unwrap_used, reason = "all of this is test, the helpers included")]

#[path = "auth_server/hostile.rs"]
mod hostile;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, Command as Process, ExitStatus, Output as Finished, Stdio};
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

/// Longer than anything here takes: what is waited for longer does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Above the ports that Linux gives to sockets which ask for none, with many above it.
const LISTEN_PORT: u16 = 62000;

/// An address on which only this test has ports.
fn own_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

fn own_config(port: u16) -> Config {
    Config { listen: SocketAddr::new(own_ip(), port), quit_wait: PATIENCE, ..Config::default() }
}

fn text(s: &str) -> Text {
    Text::new(s.as_bytes()).unwrap()
}

/// Hands on each line that a server prints.
struct Printer(Sender<String>, Vec<u8>);

impl Write for Printer {
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

/// A child has a copy of every descriptor, and so holds every port, until it has become another program.
/// Servers that run here read-lock this, so that their ports are free when they close them.
static NO_CHILD_BEGINS: RwLock<()> = RwLock::new(());

fn spawn(command: &mut Process) -> Child {
    let _guard = NO_CHILD_BEGINS.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// A server that runs, and what it prints.
struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    printed: Receiver<String>,
    ended: Receiver<Result<(), Error>>,
    _ports: RwLockReadGuard<'static, ()>,
}

impl Running {
    fn start(config: &Config) -> Self {
        Self::serve(Server::bind(config).unwrap())
    }

    fn serve(server: Server) -> Self {
        let ports = NO_CHILD_BEGINS.read().unwrap_or_else(PoisonError::into_inner);
        let address = server.local_addr();
        let shutdown = Shutdown::new();
        let (lines, printed) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let requested = shutdown.clone();
        thread::spawn(move || {
            let output = Output::new(Printer(lines, Vec::new())).unwrap();
            end.send(server.run(&requested, &output)).unwrap();
        });
        Self { address, shutdown, printed, ended, _ports: ports }
    }

    fn connect(&self) -> LocalServer {
        LocalServer::connect(self.address, self.address.ip())
    }

    fn next_line(&self) -> String {
        self.printed.recv_timeout(PATIENCE).expect("nothing more is printed")
    }

    /// Waits for the end of the server. Returns all lines that had not been taken.
    fn ended(self) -> Vec<String> {
        self.ended.recv_timeout(PATIENCE).expect("the server does not end").unwrap();
        self.printed.iter().collect()
    }

    /// Ends the server, with whom it has not got to wait for any more.
    fn quit(self) -> Vec<String> {
        self.shutdown.request(Reason::Console);
        self.ended()
    }
}

fn socket(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 200];
    let (len, from) = socket.recv_from(&mut buffer).expect("no answer");
    (buffer[..len].to_vec(), from)
}

/// Whatever `socket` was sent has been received.
fn assert_nothing_more(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 200]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// Sends, and returns the integer that is answered from there.
fn ask_int(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) -> Int {
    socket.send_to(datagram, to).unwrap();
    let (answer, from) = receive(socket);
    assert_eq!(from, to, "answered from another port");
    decode_int(&answer).expect("an integer")
}

fn say_connect(socket: &UdpSocket, server: SocketAddr) -> u16 {
    ask_int(socket, server, &LinkCommand::Connect.encode()).try_into().unwrap()
}

/// What `server` prints for a `Connect` from `socket`.
fn request_line(socket: &UdpSocket) -> String {
    let from = socket.local_addr().unwrap();
    format!(
        "Authentification server received connection request from ({}, {})",
        from.ip(),
        from.port()
    )
}

/// The local server's side of a link, without any of its cleverness.
struct LocalServer {
    commands: UdpSocket,
    close: UdpSocket,
    server: SocketAddr,
    port: u16,
}

impl LocalServer {
    /// Says `Connect` and does not use the ports yet.
    fn ask_for_ports(server: SocketAddr, ip: IpAddr) -> Self {
        let commands = socket(ip);
        let port = say_connect(&commands, server);
        Self { commands, close: socket(ip), server, port }
    }

    /// Connects and says `Connect_2`, and makes sure that both have been heard.
    fn connect(server: SocketAddr, ip: IpAddr) -> Self {
        let this = Self::ask_for_ports(server, ip);
        this.say_connect_2();
        this.find("");
        this
    }

    fn command_port(&self) -> SocketAddr {
        SocketAddr::new(self.server.ip(), self.port)
    }

    fn close_port(&self) -> SocketAddr {
        SocketAddr::new(self.server.ip(), self.port + 1)
    }

    fn send(&self, datagram: &[u8]) {
        self.commands.send_to(datagram, self.command_port()).unwrap();
    }

    fn say_connect_2(&self) {
        self.close.send_to(&LinkCommand::Connect2.encode(), self.close_port()).unwrap();
    }

    fn say_goodbye(&self) {
        self.send(&LinkCommand::CloseConnection.encode());
    }

    fn ask(&self, question: GroupRequest) -> GroupResponse {
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

    /// Whether the group exists. An empty name is never sent: only the command's answer is waited for.
    fn find(&self, name: &str) -> bool {
        if name.is_empty() {
            let ready =
                ask_int(&self.commands, self.command_port(), &LinkCommand::FindGroup.encode());
            assert_eq!(ready, 1);
            return false;
        }
        self.ask(GroupRequest::Find(text(name))) == GroupResponse::Yes
    }

    fn create(&self, name: &str, secret: &str) -> bool {
        self.ask(GroupRequest::New { name: text(name), secret: text(secret) }) == GroupResponse::Yes
    }

    fn secret(&self, name: &str) -> Option<Text> {
        match self.ask(GroupRequest::Secret(text(name))) {
            GroupResponse::Secret(secret) => Some(secret),
            GroupResponse::No => None,
            GroupResponse::Yes => panic!("a secret was asked for"),
        }
    }

    fn delete(&self, name: &str) -> bool {
        self.ask(GroupRequest::Delete(text(name))) == GroupResponse::Yes
    }

    /// Waits until the server has closed both ports: binds them to find out.
    fn wait_until_closed(&self) {
        let start = Instant::now();
        for port in [self.command_port(), self.close_port()] {
            while UdpSocket::bind(port).is_err() {
                assert!(start.elapsed() < PATIENCE, "{port} stays open");
                thread::yield_now();
            }
        }
    }

    /// Waits for the close flag.
    fn wait_for_close(&self) {
        assert_eq!(receive(&self.close), (encode_int(-10).to_vec(), self.close_port()));
    }
}

// --- Connect -----------------------------------------------------------------------------------------

#[test]
fn connect_is_answered_with_the_first_port_above_and_printed() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let first = LocalServer::ask_for_ports(server.address, server.address.ip());
    let second = LocalServer::ask_for_ports(server.address, server.address.ip());
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
fn port_zero_is_replaced_by_a_real_one() {
    let server = Running::start(&own_config(0));
    assert_ne!(server.address.port(), 0);
    assert!(server.connect().create("g", "abcde"));
}

#[test]
fn a_repeated_connect_gets_the_same_port_until_it_is_used() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let local = LocalServer::ask_for_ports(server.address, server.address.ip());
    for _ in 0..3 {
        assert_eq!(say_connect(&local.commands, server.address), local.port);
    }
    local.find("");
    // Now the same address is another local server: the port is in use.
    assert_eq!(say_connect(&local.commands, server.address), local.port + 2);
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
fn what_is_not_connect_is_ignored_on_the_listen_port() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let client = socket(server.address.ip());
    let mut dirty = LinkCommand::Connect.encode();
    dirty[99] = b'x';
    let mut long = LinkCommand::Connect.encode().to_vec();
    long.push(0);
    let others = [LinkCommand::FindGroup, LinkCommand::Connect2, LinkCommand::CloseConnection];
    for other in others {
        client.send_to(&other.encode(), server.address).unwrap();
    }
    for rubbish in [&b""[..], b"Connect", &dirty, &long, &[0; 100], &[0xff; 1400]] {
        client.send_to(rubbish, server.address).unwrap();
    }
    assert_eq!(say_connect(&client, server.address), LISTEN_PORT + 1);
    assert_eq!(server.next_line(), request_line(&client));
    assert_eq!(server.quit(), ["Exiting Authentification Server..."]);
    assert_nothing_more(&client);
}

#[test]
fn a_pair_of_which_one_port_is_taken_is_skipped() {
    let config = own_config(LISTEN_PORT);
    let taken = |port| UdpSocket::bind((config.listen.ip(), port)).unwrap();
    let _others = (taken(LISTEN_PORT + 1), taken(LISTEN_PORT + 4));
    let server = Running::start(&config);
    assert_eq!(server.connect().port, LISTEN_PORT + 5);
    // The free half of a skipped pair is not kept.
    drop((taken(LISTEN_PORT + 2), taken(LISTEN_PORT + 3)));
}

#[test]
fn many_connects_that_came_before_the_server_ran_are_all_answered() {
    let server = Server::bind(&own_config(LISTEN_PORT)).unwrap();
    let address = server.local_addr();
    let clients: Vec<UdpSocket> = (0..150).map(|_| socket(address.ip())).collect();
    for client in &clients {
        client.send_to(&LinkCommand::Connect.encode(), address).unwrap();
    }
    let _server = Running::serve(server);
    for (n, client) in (0..).zip(&clients) {
        assert_eq!(decode_int(&receive(client).0), Some(Int::from(LISTEN_PORT) + 1 + 2 * n));
    }
}

// --- Ports that come back ----------------------------------------------------------------------------

#[test]
fn ports_of_a_closed_connection_are_given_out_again() {
    let server = Running::start(&Config { port_rest: Duration::ZERO, ..own_config(LISTEN_PORT) });
    let ports = [0; 4].map(|_| {
        let local = server.connect();
        local.say_goodbye();
        local.wait_until_closed();
        local.port
    });
    assert_eq!(ports, [LISTEN_PORT + 1; 4]);
}

#[test]
fn ports_rest_before_they_are_given_out_again_while_there_are_others() {
    // Two pairs: 65532 and 65534.
    let server = Running::start(&Config { port_rest: PATIENCE * 100, ..own_config(65531) });
    let ports = [0; 5].map(|_| {
        let local = server.connect();
        local.say_goodbye();
        local.wait_until_closed();
        local.port
    });
    // When there is no other, it is the one that has rested longest.
    assert_eq!(ports, [65532, 65534, 65532, 65534, 65532]);
}

#[test]
fn without_a_free_pair_connect_is_not_answered_and_the_others_are_served() {
    let server = Running::start(&own_config(65531));
    let [first, second] = [server.connect(), server.connect()];
    let late = socket(server.address.ip());
    late.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    assert!(first.create("g", "abcde"));
    second.say_goodbye();
    second.wait_until_closed();
    // The only answer is the one to the Connect that can be answered.
    assert_eq!(say_connect(&late, server.address), second.port);
    assert_nothing_more(&late);
}

#[test]
fn ports_that_are_not_used_are_taken_back() {
    let wait = Duration::from_millis(100);
    let server = Running::start(&Config { confirm_wait: wait, ..own_config(LISTEN_PORT) });
    let used = server.connect();
    let ip = server.address.ip();
    let start = Instant::now();
    let unused = LocalServer::ask_for_ports(server.address, ip);
    unused.wait_until_closed();
    assert!(start.elapsed() >= wait, "taken back too early");
    assert!(used.create("g", "abcde"), "a confirmed link was taken back, too");
}

#[test]
fn a_silent_local_server_without_groups_gives_way_when_no_ports_are_left() {
    // Three pairs: 65530, 65532, 65534.
    let server = Running::start(&Config { silence: Duration::ZERO, ..own_config(65529) });
    let [owner, quiet, lively] = [0; 3].map(|_| server.connect());
    assert_eq!([owner.port, quiet.port, lively.port], [65530, 65532, 65534]);
    assert!(owner.create("g", "abcde"));
    quiet.find("");
    lively.find("");
    // The one with a group stays although it is the oldest; then whoever has been silent longest goes.
    let first = LocalServer::ask_for_ports(server.address, server.address.ip());
    assert_eq!(first.port, quiet.port);
    // `first` is not confirmed yet, and has its own term.
    assert_eq!(server.connect().port, lively.port);
    assert!(owner.find("g"));
}

#[test]
fn who_has_just_asked_for_ports_keeps_them_when_none_are_left() {
    // Two pairs: 65532 and 65534.
    let server = Running::start(&Config { silence: Duration::ZERO, ..own_config(65531) });
    let [first, second] =
        [0; 2].map(|_| LocalServer::ask_for_ports(server.address, server.address.ip()));
    let late = socket(server.address.ip());
    late.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    for local in [first, second] {
        assert_eq!(say_connect(&local.commands, server.address), local.port);
    }
    server.quit();
    assert_nothing_more(&late);
}

#[test]
fn a_silent_local_server_is_left_alone_while_there_are_other_ports() {
    let server = Running::start(&Config { silence: Duration::ZERO, ..own_config(LISTEN_PORT) });
    let quiet = server.connect();
    for _ in 0..20 {
        assert_ne!(server.connect().port, quiet.port);
    }
    assert!(quiet.create("g", "abcde"));
}

// --- Confirmation ------------------------------------------------------------------------------------

#[test]
fn a_new_local_server_is_printed_once_at_its_first_sign() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let by_greeting = LocalServer::ask_for_ports(server.address, server.address.ip());
    assert_eq!(server.next_line(), request_line(&by_greeting.commands));
    by_greeting.say_connect_2();
    assert_eq!(server.next_line(), "New Local Server Connected");
    let by_command = LocalServer::ask_for_ports(server.address, server.address.ip());
    assert_eq!(server.next_line(), request_line(&by_command.commands));
    by_command.find("");
    assert_eq!(server.next_line(), "New Local Server Connected");
    for local in [&by_greeting, &by_command] {
        local.say_connect_2();
        local.find("");
    }
    for local in [by_greeting, by_command] {
        local.say_goodbye();
        assert_eq!(server.next_line(), "Connection closed");
    }
    assert_eq!(server.quit(), ["Exiting Authentification Server..."]);
}

#[test]
fn what_is_no_command_confirms_nothing() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let local = LocalServer::ask_for_ports(server.address, server.address.ip());
    local.send(b"rubbish");
    local.send(&LinkCommand::Connect.encode());
    local.send(&LinkCommand::Connect2.encode());
    local.close.send_to(b"rubbish", local.close_port()).unwrap();
    local.close.send_to(&LinkCommand::CloseConnection.encode(), local.close_port()).unwrap();
    // Whoever comes later is answered later: by then everything above has been read.
    let other = server.connect();
    assert!(other.port > local.port);
    other.say_goodbye();
    // Still unconfirmed: the same port once more.
    assert_eq!(say_connect(&local.commands, server.address), local.port);
    let mut lines = server.quit();
    lines.retain(|line| line == "New Local Server Connected");
    assert_eq!(lines.len(), 1, "only the other one is connected");
}

// --- Groups ------------------------------------------------------------------------------------------

#[test]
fn groups_are_created_found_told_and_deleted_and_the_changes_printed() {
    let server = Running::start(&own_config(LISTEN_PORT));
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
    local.say_goodbye();
    let lines = [0; 5].map(|_| server.next_line());
    assert_eq!(
        lines[1..],
        ["New Local Server Connected", "Group created!", "Group deleted!", "Connection closed"]
    );
    assert_eq!(server.quit(), ["Exiting Authentification Server..."]);
}

#[test]
fn a_group_name_is_unique_over_all_local_servers() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let (here, there) = (server.connect(), LocalServer::connect(server.address, own_ip()));
    assert!(here.create("g", "abcde"));
    assert!(there.find("g"));
    assert!(!there.create("g", "other"));
    assert_eq!(there.secret("g"), Some(text("abcde")));
}

#[test]
fn two_local_servers_in_the_middle_of_creating_one_name_do_not_both_succeed() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let (one, other) = (server.connect(), server.connect());
    for local in [&one, &other] {
        let port = local.command_port();
        assert_eq!(ask_int(&local.commands, port, &LinkCommand::NewGroup.encode()), 1);
        assert_eq!(ask_int(&local.commands, port, b"g"), 1, "nobody has created it yet");
    }
    assert_eq!(ask_int(&one.commands, one.command_port(), b"first\0\0\0"), 1);
    assert_eq!(ask_int(&other.commands, other.command_port(), b"last!\0\0\0"), -1);
    assert_eq!(other.secret("g"), Some(text("first")));
}

#[test]
fn a_group_is_deleted_by_its_machine_only() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let owner = server.connect();
    let neighbour = server.connect();
    let stranger = LocalServer::connect(server.address, own_ip());
    assert!(owner.create("g1", "abcde"));
    assert!(owner.create("g2", "abcde"));
    assert!(!stranger.delete("g1"));
    assert!(stranger.find("g1"));
    assert!(neighbour.delete("g1"));
    assert!(owner.delete("g2"));
}

#[test]
fn another_machine_cannot_use_the_ports() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let local = server.connect();
    let stranger = socket(own_ip());
    assert_eq!(ask_int(&local.commands, local.command_port(), &LinkCommand::NewGroup.encode()), 1);
    // None of this restarts the exchange, ends the link, or redirects the close flag.
    for datagram in [LinkCommand::FindGroup.encode(), LinkCommand::CloseConnection.encode()] {
        stranger.send_to(&datagram, local.command_port()).unwrap();
    }
    stranger.send_to(&LinkCommand::Connect2.encode(), local.close_port()).unwrap();
    assert_eq!(ask_int(&local.commands, local.command_port(), b"g"), 1);
    assert_eq!(ask_int(&local.commands, local.command_port(), b"abcde\0\0\0"), 1);
    // Whoever comes later is answered later: by then everything above has been read.
    server.connect().say_goodbye();
    server.shutdown.request(Reason::Console);
    local.wait_for_close();
    assert_nothing_more(&stranger);
}

#[test]
fn another_socket_of_the_same_machine_may_begin_again() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let mut local = server.connect();
    assert_eq!(ask_int(&local.commands, local.command_port(), &LinkCommand::NewGroup.encode()), 1);
    let given_up = std::mem::replace(&mut local.commands, socket(server.address.ip()));
    assert!(local.create("g", "abcde"));
    // What the old socket still says belongs to nothing.
    given_up.send_to(b"late", local.command_port()).unwrap();
    given_up.send_to(b"xxxxx\0\0\0", local.command_port()).unwrap();
    assert!(!local.find("late"));
    assert_eq!(local.secret("g"), Some(text("abcde")));
}

#[test]
fn a_command_left_half_done_for_too_long_is_forgotten() {
    let config = Config { exchange_wait: Duration::ZERO, ..own_config(LISTEN_PORT) };
    let server = Running::start(&config);
    let local = server.connect();
    for _ in 0..3 {
        // The name is too late each time and gets no answer: the next answer is the one to FindGroup.
        local.find("");
        local.send(b"g");
    }
    local.find("");
}

// --- Goodbye, and those who never say it -------------------------------------------------------------

#[test]
fn goodbye_closes_the_ports_and_takes_forgotten_groups_along() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let (leaving, staying) = (server.connect(), server.connect());
    assert!(leaving.create("g1", "abcde"));
    assert!(staying.create("g2", "abcde"));
    leaving.say_goodbye();
    leaving.wait_until_closed();
    assert!(!staying.find("g1"));
    assert!(staying.find("g2"), "a group of somebody else went along");
}

#[test]
fn a_restarted_local_server_frees_what_its_predecessor_left() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let (killed, other) = (server.connect(), server.connect());
    assert!(killed.create("g1", "first"));
    assert!(other.create("g2", "abcde"));
    let mut successor = LocalServer::ask_for_ports(server.address, server.address.ip());
    successor.close = killed.close.try_clone().unwrap();
    successor.say_connect_2();
    // Directly after it, without waiting for anything: the name is free.
    assert!(successor.create("g1", "again"));
    assert!(other.find("g2"), "a link with another close port was forgotten, too");
    killed.wait_until_closed();
    successor.say_connect_2();
    assert_eq!(other.secret("g1"), Some(text("again")), "a repeated greeting forgot its own link");
}

#[test]
fn a_late_greeting_does_not_harm_the_successor() {
    let server = Running::start(&own_config(LISTEN_PORT));
    // Its Connect_2 is still on the way.
    let mut predecessor = LocalServer::ask_for_ports(server.address, server.address.ip());
    predecessor.find("");
    let successor = server.connect();
    predecessor.close = successor.close.try_clone().unwrap();
    assert!(successor.create("g", "abcde"));
    predecessor.say_connect_2();
    predecessor.find("");
    assert!(successor.find("g"));
    server.shutdown.request(Reason::Console);
    successor.wait_for_close();
}

// --- Quit --------------------------------------------------------------------------------------------

#[test]
fn quit_tells_every_local_server_and_serves_them_until_their_goodbye() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let locals = [server.connect(), LocalServer::connect(server.address, own_ip())];
    for (name, local) in ["g1", "g2"].iter().zip(&locals) {
        assert!(local.create(name, "abcde"));
    }
    server.shutdown.request(Reason::Console);
    for (name, local) in ["g1", "g2"].iter().zip(&locals) {
        local.wait_for_close();
        assert!(local.delete(name));
        local.say_goodbye();
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
fn quit_is_repeated_until_goodbye() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let (deaf, gone) = (server.connect(), server.connect());
    server.shutdown.request(Reason::Console);
    gone.wait_for_close();
    gone.say_goodbye();
    gone.wait_until_closed();
    for _ in 0..3 {
        deaf.wait_for_close();
    }
    deaf.say_goodbye();
    server.ended();
}

#[test]
fn quit_does_not_wait_for_ever() {
    let quit_wait = Duration::from_millis(200);
    let server = Running::start(&Config { quit_wait, ..own_config(LISTEN_PORT) });
    let silent = server.connect();
    assert!(silent.create("g", "abcde"));
    let start = Instant::now();
    let lines = server.quit();
    assert!(start.elapsed() >= quit_wait, "it did not wait at all");
    assert_eq!(lines.last().unwrap(), "Exiting Authentification Server...");
}

#[test]
fn quit_waits_for_nobody_who_cannot_be_told() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let unconfirmed = LocalServer::ask_for_ports(server.address, server.address.ip());
    let without_greeting = LocalServer::ask_for_ports(server.address, server.address.ip());
    without_greeting.find("");
    let start = Instant::now();
    server.quit();
    assert!(start.elapsed() < PATIENCE / 2);
    drop(unconfirmed);
}

#[test]
fn while_quitting_connect_is_not_answered_and_who_greets_is_told() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let local = server.connect();
    let greeting = LocalServer::ask_for_ports(server.address, server.address.ip());
    let connecting = socket(server.address.ip());
    server.shutdown.request(Reason::Console);
    local.wait_for_close();
    connecting.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    greeting.commands.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    greeting.say_connect_2();
    greeting.wait_for_close();
    local.find("");
    local.say_goodbye();
    greeting.say_goodbye();
    server.ended();
    for socket in [connecting, greeting.commands] {
        assert_nothing_more(&socket);
    }
}

#[test]
fn a_request_made_before_it_runs_ends_it() {
    let server = Server::bind(&own_config(LISTEN_PORT)).unwrap();
    let shutdown = Shutdown::new();
    shutdown.request(Reason::Console);
    server.run(&shutdown, &Output::new(io::sink()).unwrap()).unwrap();
}

/// A terminal that takes its time.
struct Slow(Printer);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(100));
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_last_line_is_printed_before_it_returns() {
    let server = Server::bind(&own_config(LISTEN_PORT)).unwrap();
    let shutdown = Shutdown::new();
    shutdown.request(Reason::Console);
    let (lines, printed) = mpsc::channel();
    let output = Output::new(Slow(Printer(lines, Vec::new()))).unwrap();
    server.run(&shutdown, &output).unwrap();
    assert_eq!(printed.try_recv().unwrap(), "Exiting Authentification Server...");
}

// --- Start -------------------------------------------------------------------------------------------

#[test]
fn a_listen_port_that_cannot_be_used_is_named_with_the_reason() {
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

// --- The program -------------------------------------------------------------------------------------

const PROGRAM: &str = env!("CARGO_BIN_EXE_KVS-AuthServer");

/// The program, running, without any of the environment that it reads.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    printed: Receiver<String>,
    logged: Receiver<String>,
}

fn command() -> Process {
    let mut command = Process::new(PROGRAM);
    for variable in ["LISTEN", "VERBOSE", "LINKS_PER_MACHINE", "GROUPS_PER_MACHINE", "CONFIRM_WAIT"]
    {
        command.env_remove(format!("KVS_{variable}"));
    }
    command
}

fn lines(stream: impl io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    lines
}

impl Program {
    /// Starts it on a free port and waits until it serves.
    fn start(command: &mut Process) -> (Self, SocketAddr) {
        command
            .env("KVS_LISTEN", SocketAddr::new(own_ip(), 0).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(command);
        let printed = lines(child.stdout.take().unwrap());
        let logged = lines(child.stderr.take().unwrap());
        let input = child.stdin.take();
        let address = loop {
            let line = logged.recv_timeout(PATIENCE).expect("it does not say that it listens");
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().parse().unwrap();
            }
        };
        (Self { child, input, printed, logged }, address)
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.input.as_ref().unwrap(), "{line}").unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let killed = spawn(Process::new("kill").args(["-s", signal, &pid])).wait().unwrap();
        assert!(killed.success());
    }

    /// Waits for the end: the exit status and all lines that had not been taken.
    fn end(&mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        // Both streams end when the program has ended.
        let take = |lines: &Receiver<String>| {
            let mut taken = Vec::new();
            loop {
                match lines.recv_timeout(PATIENCE) {
                    Ok(line) => taken.push(line),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return taken,
                    Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
                }
            }
        };
        let (printed, logged) = (take(&self.printed), take(&self.logged));
        (self.child.wait().unwrap(), printed, logged)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Process) -> Finished {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(command).wait_with_output().unwrap()
}

#[test]
fn the_console_knows_quit_and_nothing_else() {
    let (mut program, _) = Program::start(&mut command());
    for line in ["quit", "Quit now", "", "Create group"] {
        program.type_line(line);
        assert_eq!(program.printed.recv_timeout(PATIENCE).unwrap(), "Unknown Command");
    }
    program.type_line("Quit");
    let (status, printed, _) = program.end();
    assert_eq!(printed, ["Exiting Authentification Server..."]);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_end_of_the_input_is_not_quit_but_a_signal_is() {
    for signal in ["TERM", "INT"] {
        let (mut program, address) = Program::start(&mut command());
        drop(program.input.take());
        // It serves; and it has had every opportunity to notice the end of its input.
        let local = LocalServer::connect(address, address.ip());
        assert!(local.create("g", "abcde"));
        local.say_goodbye();
        local.wait_until_closed();
        assert!(program.child.try_wait().unwrap().is_none());
        program.signal(signal);
        let (status, printed, _) = program.end();
        assert_eq!(printed.last().unwrap(), "Exiting Authentification Server...");
        assert_eq!(status.code(), Some(0), "after SIG{signal}");
    }
}

#[test]
fn operations_are_logged_when_asked_for_and_secrets_never() {
    let session = |command: &mut Process| {
        let (mut program, address) = Program::start(command);
        let local = LocalServer::connect(address, address.ip());
        assert!(local.create("group one", "s3cr7"));
        assert_eq!(local.secret("group one"), Some(text("s3cr7")));
        // What is taken along at the goodbye is logged, too.
        local.say_goodbye();
        local.wait_until_closed();
        program.type_line("Quit");
        let (_, printed, logged) = program.end();
        assert!(!printed.concat().contains("s3cr7") && !logged.concat().contains("s3cr7"));
        logged.iter().any(|line| line.contains("GetSecret"))
    };
    assert!(!session(&mut command()));
    assert!(session(command().arg("-v")));
    assert!(session(command().arg("--verbose")));
    assert!(session(command().env("KVS_VERBOSE", "1")));
    assert!(!session(command().env("KVS_VERBOSE", "0")));
}

#[test]
fn it_uses_all_descriptors_that_it_may_have_and_survives_their_end() {
    let limited = "ulimit -S -n 32; ulimit -H -n 64; exec \"$0\"";
    let mut shell = Process::new("sh");
    let (mut program, address) =
        Program::start(shell.env_remove("KVS_VERBOSE").args(["-c", limited, PROGRAM]));
    let first = LocalServer::connect(address, address.ip());
    // More than the soft limit allows.
    let within: Vec<UdpSocket> = (0..20).map(|_| socket(address.ip())).collect();
    for client in &within {
        say_connect(client, address);
    }
    // More than the hard limit allows.
    let beyond: Vec<UdpSocket> = (0..20).map(|_| socket(address.ip())).collect();
    for client in &beyond {
        client.send_to(&LinkCommand::Connect.encode(), address).unwrap();
    }
    let refusal = "wants to connect and is not answered: no more sockets";
    while !program.logged.recv_timeout(PATIENCE).expect("it does not say so").contains(refusal) {}
    // The others are refused, too, before a creation can have ended; nobody can fill the log with it.
    assert!(first.create("g", "abcde"));
    assert!(!program.logged.try_iter().any(|line| line.contains(refusal)));
    first.say_goodbye();
    first.wait_until_closed();
    say_connect(&socket(address.ip()), address);
    program.type_line("Quit");
    assert_eq!(program.end().0.code(), Some(0));
}

#[test]
fn what_cannot_start_says_why_and_exits_with_1() {
    let owner = socket(own_ip());
    let taken = owner.local_addr().unwrap();
    let finished = run(command().args(["--listen", &taken.to_string()]));
    assert_eq!(finished.status.code(), Some(1));
    let message = String::from_utf8(finished.stderr).unwrap();
    let start = format!("KVS-AuthServer: cannot listen on {taken}: ");
    assert!(message.starts_with(&start) && message.contains("in use"), "{message}");
    assert!(finished.stdout.is_empty());
}

#[test]
fn wrong_options_exit_with_2_and_the_help_names_everything() {
    for wrong in [&["--listen", "somewhere"][..], &["--listen"], &["--unknown"], &["word"]] {
        assert_eq!(run(command().args(wrong)).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(run(command().env("KVS_LISTEN", "somewhere")).status.code(), Some(2));
    let help = String::from_utf8(run(command().arg("--help")).stdout).unwrap();
    let words = [
        "--listen",
        "KVS_LISTEN",
        "127.0.0.1:58032",
        "--verbose",
        "KVS_VERBOSE",
        "--links-per-machine",
        "KVS_LINKS_PER_MACHINE",
        "--groups-per-machine",
        "KVS_GROUPS_PER_MACHINE",
        "--confirm-wait",
        "KVS_CONFIRM_WAIT",
        "Quit",
    ];
    for word in words {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
    let version = String::from_utf8(run(command().arg("--version")).stdout).unwrap();
    assert_eq!(version.trim(), format!("KVS-AuthServer {}", env!("CARGO_PKG_VERSION")));
}
