//! The recorded conversations of the original programs, each with one of its two sides replaced by
//! a program of this project.
//!
//! The test plays one side from the recording; the program must send, byte for byte, what the
//! original sent. Only random data differs: secrets and ports are substituted in the recording. A
//! message recorded before the played side's next message must have arrived before that is sent;
//! the recording defines no other order across channels.

#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{
    AuthServer, Channel, DEADLINE, LocalServer, OFFER, Ports, Program, Protocol, RawV1App,
    RecordedMessage, ScriptedServer, Sockets, TestEnv, Transcript, compile_c, connection_builder,
    on_both_protocols,
};

const FIRST_SECRET: &[u8] = b"VKHMp";
const SECOND_SECRET: &[u8] = b"s2rgv";
const PORT: i32 = 58033;

/// The flag of a forced close, on the callback channel.
const FORCED_CLOSE: [u8; 4] = (-1i32).to_ne_bytes();
/// The flag on the close port by which the authentication server makes a local server quit.
const QUIT: [u8; 4] = (-10i32).to_ne_bytes();

// The local server; the test plays the application.

/// Plays the application; `force_close` is called where the server is to send the flag of a forced
/// close.
fn replay_to_local_server(server: &LocalServer, conversation: &Transcript, force_close: impl Fn()) {
    let mut main = Channel::connect("main", server.socket()).expect("the server listens");
    let mut callback: Option<Channel> = None;
    for (n, RecordedMessage { channel, from, bytes }) in conversation.messages.iter().enumerate() {
        let is_main = channel == "main";
        if !is_main && callback.is_none() {
            // The original application connects this channel after it has sent the secret.
            let path = server.callback_socket();
            callback = Some(Channel::connect("callback", path).expect("the server listens"));
        }
        if from == "server" {
            if !is_main && *bytes == FORCED_CLOSE {
                force_close();
            }
            let channel = if is_main { Some(&mut main) } else { callback.as_mut() };
            channel.expect("both channels are connected").expect(bytes);
        } else {
            // Bytes that the server has sent beyond the recording were sent too early.
            for channel in [Some(&main), callback.as_ref()].into_iter().flatten() {
                let early = channel.waiting();
                assert!(early.is_empty(), "before message {n}: {}", early.escape_ascii());
            }
            let channel = if is_main { Some(&mut main) } else { callback.as_mut() };
            channel.expect("both channels are connected").send(bytes);
        }
    }
    for mut channel in [Some(main), callback].into_iter().flatten() {
        // When the server has closed the connection already, this fails; both orders are legal.
        let _ = channel.stream().shutdown(Shutdown::Write);
        channel.expect_end();
    }
}

#[test]
fn local_server_sends_the_original_bytes_of_a_full_session() {
    let env = TestEnv::builder().group("g1").start();
    let mut conversation = Transcript::load("app-full-session");
    conversation.substitute(FIRST_SECRET, env.secret().as_bytes());
    replay_to_local_server(&env.server, &conversation, || {
        env.server.send("Delete group");
        env.server.expect_line("Insert group id:");
        env.server.send("g1");
    });
    env.server.expect_next(&["Group deleted!"]);
}

#[test]
fn local_server_sends_the_original_bytes_for_unknown_group() {
    let env = TestEnv::without_group();
    let conversation = Transcript::load("app-unknown-group");
    replay_to_local_server(&env.server, &conversation, || unreachable!("nothing was connected"));
}

#[test]
fn local_server_sends_the_original_bytes_for_wrong_secret() {
    let env = TestEnv::without_group();
    env.server.create_group("g2");
    let conversation = Transcript::load("app-wrong-secret");
    replay_to_local_server(&env.server, &conversation, || unreachable!("nothing was connected"));
}

// The library; the test plays the server.

/// Plays the server to the application that connects to `server`. An application that offers
/// protocol v2 appends the offer to the group name, its first message; nothing else differs from
/// the recording. The server responds with 1, as a server does that does not know v2.
fn replay_to_library(server: &ScriptedServer, conversation: &Transcript, protocol: Protocol) {
    let mut offer = match protocol {
        Protocol::V1 => None,
        Protocol::V2 => Some(OFFER),
    };
    let mut main = server.accept_main();
    let mut callback = None;
    for (n, RecordedMessage { channel, from, bytes }) in conversation.messages.iter().enumerate() {
        let channel = match channel.as_str() {
            "main" => &mut main,
            _ => callback.get_or_insert_with(|| server.accept_callback()),
        };
        if from == "server" {
            channel.send(bytes);
        } else {
            if conversation.messages.get(n + 1).is_some_and(|next| next.from == "app") {
                expect_nothing_behind(channel, bytes);
            }
            let seen = channel.text();
            let awaited = [bytes, offer.take().unwrap_or_default()].concat();
            assert_eq!(
                seen.escape_ascii().to_string(),
                awaited.escape_ascii().to_string(),
                "message {n} of the recording"
            );
        }
    }
    for mut channel in [Some(main), callback].into_iter().flatten() {
        channel.expect_end();
    }
}

/// The library sends nothing after a value before the server has read it. There is no event for
/// that, so the test observes the channel for a while.
fn expect_nothing_behind(channel: &Channel, value: &[u8]) {
    let end = Instant::now() + Duration::from_millis(100);
    while Instant::now() < end {
        let waiting = channel.waiting();
        assert!(value.starts_with(&waiting), "behind the value: {}", waiting.escape_ascii());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs the C program for one conversation; it must print these lines.
fn replay_to_c_library(protocol: Protocol, name: &str, printed: &[&str]) {
    let server = ScriptedServer::start_like_v1();
    let app = Program::new(compile_c("tests/c/replay_app.c"))
        .served_by(&server)
        .protocol(protocol)
        .arg(name)
        .spawn();
    replay_to_library(&server, &Transcript::load(name), protocol);
    // The program waits for this line where it must notice a closed connection; otherwise it has
    // exited.
    app.end_input_with("closed");
    let finished = app.finish();
    assert_eq!(finished.stdout, printed);
    assert_eq!(finished.stderr, [""; 0], "the library prints nothing");
    assert!(finished.status.success(), "{}", finished.status);
}

on_both_protocols! {
    fn c_functions_send_the_original_bytes_of_a_full_session(protocol: Protocol) {
        replay_to_c_library(protocol,
            "app-full-session",
            &[
                "establish_connection 0",
                "put_value 1",
                "get_value 1 v1",
                "get_value -7 -",
                "register_callback 1",
                "register_callback -7",
                "put_value 1",
                "callback k1",
                "get_value 1 v2",
                "delete_value 1",
                "delete_value -7",
                "put_value -2",
                "close_connection -2",
            ],
        );
    }
}

on_both_protocols! {
    fn c_functions_send_the_original_bytes_for_unknown_group(protocol: Protocol) {
        replay_to_c_library(protocol,"app-unknown-group", &["establish_connection -7"]);
    }
}

on_both_protocols! {
    fn c_functions_send_the_original_bytes_for_wrong_secret(protocol: Protocol) {
        replay_to_c_library(protocol,"app-wrong-secret", &["establish_connection -9"]);
    }
}

on_both_protocols! {
    fn rust_crate_sends_the_original_bytes_of_a_full_session(protocol: Protocol) {
        let server = ScriptedServer::start_like_v1();
        let conversation = Transcript::load("app-full-session");
        let (closed, is_closed) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                replay_to_library(&server, &conversation, protocol);
                closed.send(()).expect("the application waits for it");
            });
            let builder = connection_builder(&server, protocol);
            let app = builder.open("g1", "VKHMp").expect("the recorded responses accept it");
            let (changed, changes) = std::sync::mpsc::channel();
            let code = |error: kvs::Error| error.code();
            app.put("k1", "v1").unwrap();
            assert_eq!(app.get("k1").unwrap().as_deref(), Some(&b"v1"[..]));
            assert_eq!(app.get("nokey").unwrap(), None);
            let watch = |key| {
                let changed = changed.clone();
                let send = move |key: &[u8]| changed.send(key.to_vec()).expect("the test listens");
                app.watch(key, send)
            };
            watch("k1").unwrap();
            assert_eq!(watch("nokey").map_err(code), Err(-7));
            app.put("k1", "v2").unwrap();
            assert_eq!(changes.recv_timeout(DEADLINE).expect("the callback is called"), b"k1");
            assert_eq!(app.get("k1").unwrap().as_deref(), Some(&b"v2"[..]));
            assert!(app.delete("k1").unwrap());
            assert!(!app.delete("k1").unwrap());
            let closed = is_closed.recv_timeout(DEADLINE);
            closed.expect("the library closes on the close flag of the server");
            assert_eq!(app.put("k1", "v3").map_err(code), Err(-2));
            assert_eq!(app.close().map_err(code), Err(-2));
        });
    }
}

on_both_protocols! {
    fn rust_crate_sends_the_original_bytes_of_failed_logins(protocol: Protocol) {
        for (name, group, secret, code) in
            [("app-unknown-group", "nogroup", "12345", -7), ("app-wrong-secret", "g2", "wrong", -9)]
        {
            let server = ScriptedServer::start_like_v1();
            let conversation = Transcript::load(name);
            thread::scope(|scope| {
                scope.spawn(|| replay_to_library(&server, &conversation, protocol));
                let login = connection_builder(&server, protocol).open(group, secret);
                let error = login.expect_err("the recorded responses refuse it");
                assert_eq!(error.code(), code, "{name}");
            });
        }
    }
}

// The two servers.

/// One side of a conversation over UDP: three sockets, each with the address of its peer.
struct UdpPeers {
    listen: UdpPeer,
    command: UdpPeer,
    close: UdpPeer,
}

struct UdpPeer {
    name: &'static str,
    socket: UdpSocket,
    peer: Option<SocketAddr>,
}

impl UdpPeer {
    fn new(name: &'static str, port: u16) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", port)).expect("the port is free");
        socket.set_read_timeout(Some(DEADLINE)).expect("the deadline is not zero");
        Self { name, socket, peer: None }
    }

    fn to(mut self, port: u16) -> Self {
        self.peer = Some(([127, 0, 0, 1], port).into());
        self
    }

    fn send(&self, bytes: &[u8]) {
        let peer = self.peer.expect("the recording begins with the other side's message");
        self.socket.send_to(bytes, peer).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// The next datagram, and its sender.
    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = [0; 2048];
        match self.socket.recv_from(&mut bytes) {
            Ok((count, peer)) => (bytes[..count].to_vec(), peer),
            Err(error) => panic!("no datagram came for the {}: {error}", self.name),
        }
    }

    fn expect(&self, n: usize, recorded: &[u8]) -> SocketAddr {
        let (seen, peer) = self.receive();
        assert_eq!(
            seen.escape_ascii().to_string(),
            recorded.escape_ascii().to_string(),
            "message {n} of the recording, {}",
            self.name
        );
        peer
    }

    fn expect_nothing_more(&self) {
        self.socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        let mut bytes = [0; 2048];
        match self.socket.recv_from(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok((count, _)) => {
                panic!("{}: {} after the end", self.name, bytes[..count].escape_ascii())
            }
            Err(error) => panic!("{}: {error}", self.name),
        }
    }
}

impl UdpPeers {
    fn by_channel(&mut self, channel: &str) -> &mut UdpPeer {
        match channel {
            "listen port" => &mut self.listen,
            "command port" => &mut self.command,
            _ => &mut self.close,
        }
    }

    fn expect_nothing_more(&self) {
        for end in [&self.listen, &self.command, &self.close] {
            end.expect_nothing_more();
        }
    }
}

#[test]
fn auth_server_sends_the_original_bytes_of_a_full_session() {
    let auth = AuthServer::start();
    let conversation = Transcript::load("auth-full-session");
    let [hello, port, rest @ ..] = &conversation.messages[..] else {
        panic!("it begins with Connect")
    };

    let listen = UdpPeer::new("listen port", 0).to(auth.addr().port());
    listen.send(&hello.bytes);
    assert_eq!(port.bytes, PORT.to_ne_bytes(), "the one number that differs");
    let (answer, from) = listen.receive();
    assert_eq!(from.port(), auth.addr().port());
    let given = i32::from_ne_bytes(answer.try_into().expect("the port is an int"));
    let given = u16::try_from(given).expect("a port");

    let mut ends = UdpPeers {
        listen,
        command: UdpPeer::new("command port", 0).to(given),
        close: UdpPeer::new("close port", 0).to(given + 1),
    };
    for (n, RecordedMessage { channel, from, bytes }) in rest.iter().enumerate() {
        let end = ends.by_channel(channel);
        if from == "local-server" {
            end.send(bytes);
        } else {
            if *bytes == QUIT {
                auth.send("Quit");
            }
            let peer = end.expect(n + 2, bytes);
            assert_eq!(Some(peer), end.peer, "message {} comes from the {channel}", n + 2);
        }
    }
    auth.expect_line("Exiting Authentification Server...");
    assert!(auth.wait_exit().success());
    ends.expect_nothing_more();
}

#[test]
fn local_server_sends_the_original_bytes_to_the_auth_server() {
    let mut conversation = Transcript::load("auth-full-session");
    let ports = Ports::reserve();
    let (listen, given) = (ports.port(0), ports.port(1));
    conversation.substitute(&PORT.to_ne_bytes(), &i32::from(given).to_ne_bytes());
    let mut play = Play {
        ends: UdpPeers {
            listen: UdpPeer::new("listen port", listen),
            command: UdpPeer::new("command port", given),
            close: UdpPeer::new("close port", given + 1),
        },
        messages: conversation.messages.clone(),
        next: 0,
    };

    let mut server = LocalServer::builder(format!("127.0.0.1:{listen}")).spawn();
    play.until_after("Connect_2");
    server.expect_next(&[&format!("Port Number: {given}")]);

    // Each of these sends one or two commands to the authentication server, in this order.
    let first = create_group(&mut server, &mut play, "g1", FIRST_SECRET);
    let app = log_in(&server, &mut play, "g1", &first).expect("the secret is right");
    app.close();
    type_command(&server, "Show group info", "g1");
    play.exchange("GetSecret");
    server.expect_next(&["Name: g1", &format!("Secret: {first}"), "Number of key-value pairs: 0"]);
    type_command(&server, "Delete group", "g1");
    play.exchange("DeleteGroup");
    server.expect_next(&["Group deleted!"]);
    create_group(&mut server, &mut play, "g2", SECOND_SECRET);
    let refused = log_in(&server, &mut play, "g2", "wrong").expect_err("the secret is wrong");
    assert_eq!(refused, "wrong secret");
    play.until_after("CloseConnection");
    assert_eq!(play.next, play.messages.len(), "the whole recording was played");

    server.expect_line("Exiting Local Server...");
    assert!(server.wait_exit().success());
    play.ends.expect_nothing_more();
}

/// The authentication server's side of the recording, played message by message.
struct Play {
    ends: UdpPeers,
    messages: Vec<RecordedMessage>,
    next: usize,
}

impl Play {
    /// Receives the local server's next message, or sends the authentication server's.
    fn step(&mut self) -> RecordedMessage {
        let n = self.next;
        self.next += 1;
        let message = self.messages[n].clone();
        let end = self.ends.by_channel(&message.channel);
        if message.from == "local-server" {
            end.peer = Some(end.expect(n, &message.bytes));
        } else {
            end.send(&message.bytes);
        }
        message
    }

    /// Plays up to and including the local server's next `command`.
    fn until_after(&mut self, command: &str) {
        while !is_command(&self.step(), command) {}
    }

    /// Plays the next exchange, which must be this one: up to the next command or to the end.
    fn exchange(&mut self, command: &str) {
        let first = self.step();
        assert!(is_command(&first, command), "{command} is next in the recording, not {first:?}");
        while self
            .messages
            .get(self.next)
            .is_some_and(|message| message.channel == "command port" && message.bytes.len() != 100)
        {
            self.step();
        }
    }

    /// Receives the random secret of a new group and substitutes it for the recorded one.
    fn learn_secret(&mut self, recorded: &[u8]) -> String {
        let message = &self.messages[self.next];
        assert_eq!(
            message.bytes,
            [recorded, &[0; 3]].concat(),
            "the secret is next in the recording"
        );
        let (seen, _) = self.ends.command.receive();
        let (secret, padding) = seen.split_at(5);
        assert_eq!(padding, [0; 3], "the secret is padded to 8 bytes");
        assert!(secret.iter().all(u8::is_ascii_alphanumeric), "{}", secret.escape_ascii());
        for message in &mut self.messages[self.next..] {
            if message.bytes.starts_with(recorded) {
                message.bytes[..recorded.len()].copy_from_slice(secret);
            }
        }
        self.next += 1;
        String::from_utf8(secret.to_vec()).expect("it is ASCII")
    }
}

fn is_command(message: &RecordedMessage, command: &str) -> bool {
    let word = message.bytes.strip_prefix(command.as_bytes());
    message.bytes.len() == 100 && word.is_some_and(|rest| rest.iter().all(|&byte| byte == 0))
}

fn type_command(server: &LocalServer, command: &str, group: &str) {
    server.send(command);
    server.expect_next(&["Insert group id:"]);
    server.send(group);
}

fn create_group(server: &mut LocalServer, play: &mut Play, group: &str, recorded: &[u8]) -> String {
    type_command(server, "Create group", group);
    play.exchange("FindGroup");
    play.until_after("NewGroup");
    // The ready flag, the name and its acknowledgement; then the secret and the confirmation.
    for _ in 0..3 {
        play.step();
    }
    let secret = play.learn_secret(recorded);
    play.step();
    server.expect_next(&[&format!("Group created with secret {secret}!")]);
    secret
}

/// Logs in while the authentication server's side of it is played.
fn log_in(
    server: &LocalServer,
    play: &mut Play,
    group: &str,
    secret: &str,
) -> Result<RawV1App, String> {
    thread::scope(|scope| {
        let app = scope.spawn(|| RawV1App::try_login(server, group, secret));
        play.exchange("GetSecret");
        app.join().expect("the application's side does not fail")
    })
}
