//! The authentication server, and what talks to it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::ops::Deref;
use std::process::ExitStatus;

use crate::{Console, DEADLINE, Ports, Process, Program, bin};

/// A running `KVS-AuthServer` on ports of its own.
#[derive(Debug)]
pub struct AuthServer {
    process: Process,
    port: u16,
    /// Reserved as long as it may be started again.
    _ports: Option<Ports>,
}

/// How an [`AuthServer`] is started.
#[derive(Debug)]
pub struct AuthServerBuilder {
    program: Program,
    port: Option<u16>,
    ports: Option<Ports>,
}

impl AuthServer {
    /// Starts one and waits until it listens.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One that is still to be started: on ports of its own, its console over pipes.
    pub fn builder() -> AuthServerBuilder {
        AuthServerBuilder { program: Program::new(bin("KVS-AuthServer")), port: None, ports: None }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)
    }

    /// Kills it (SIGKILL) and starts another on the same port, whose table is empty.
    ///
    /// # Panics
    /// When it does not start.
    pub fn kill9_and_restart(&mut self) {
        self.process.kill9();
        self.restart();
    }

    /// Starts another on the same port, after the end of this one; that exit status.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) -> ExitStatus {
        let status = self.process.wait_exit();
        let builder = Self::builder().port(self.port);
        let other = builder.start();
        self.process = other.process;
        status
    }
}

impl AuthServerBuilder {
    /// Listens on this port of 127.0.0.1 (0: one that the kernel chooses) instead of on one of a
    /// reserved block.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Listens on the first port of this block.
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.program = self.program.arg(arg);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.program = self.program.env(name, value);
        self
    }

    /// What stands at its standard input and output.
    pub fn console(mut self, console: Console) -> Self {
        self.program = self.program.console(console);
        self
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(self) -> AuthServer {
        let (port, ports) = match (self.port, self.ports) {
            (Some(port), ports) => (port, ports),
            (None, ports) => {
                let ports = ports.unwrap_or_else(Ports::reserve);
                (ports.port(0), Some(ports))
            }
        };
        let listen = format!("{}:{port}", Ipv4Addr::LOCALHOST);
        let process = self.program.arg("--listen").arg(listen).spawn();
        let line = process.expect_log("`listening on …`", |line| line.contains("listening on "));
        let (_, addr) = line.split_once("listening on ").expect("it was looked for");
        let addr: SocketAddr =
            addr.trim().parse().unwrap_or_else(|_| panic!("an address in {line:?}"));
        AuthServer { process, port: addr.port(), _ports: ports }
    }
}

impl Deref for AuthServer {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

/// A local server without a program: it speaks the UDP protocol byte by byte.
#[derive(Debug)]
pub struct RawLocalServer {
    /// Whence commands go to the listen port and to the command port.
    pub commands: UdpSocket,
    /// Whence `Connect_2` goes, and where the close flag arrives.
    pub close: UdpSocket,
    /// The command port that the authentication server gave.
    pub port: u16,
}

impl RawLocalServer {
    /// Connects to the authentication server at `addr`.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn connect(addr: SocketAddrV4) -> Self {
        let commands = udp();
        send(&commands, addr, &command("Connect"));
        let answer = receive(&commands, "a port");
        let port = i32::from_ne_bytes(answer.as_slice().try_into().expect("an int"));
        let port = u16::try_from(port).unwrap_or_else(|_| panic!("port {port}"));
        let close = udp();
        send(&close, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port + 1), &command("Connect_2"));
        Self { commands, close, port }
    }

    /// Sends a datagram to the command port.
    pub fn send(&self, bytes: &[u8]) {
        send(&self.commands, SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port), bytes);
    }

    /// Sends a command to the command port.
    pub fn command(&self, word: &str) {
        self.send(&command(word));
    }

    /// Receives a datagram from the command port.
    ///
    /// # Panics
    /// When none comes.
    pub fn receive(&self) -> Vec<u8> {
        receive(&self.commands, "an answer")
    }

    /// Receives an answer that is an int.
    ///
    /// # Panics
    /// When none comes.
    pub fn int(&self) -> i32 {
        let answer = self.receive();
        i32::from_ne_bytes(
            answer.as_slice().try_into().unwrap_or_else(|_| {
                panic!("an int awaited, \"{}\" received", answer.escape_ascii())
            }),
        )
    }

    fn ask(&self, word: &str, name: &str) -> bool {
        self.command(word);
        assert_eq!(self.int(), 1, "ready for {word}");
        self.send(name.as_bytes());
        match self.int() {
            1 => true,
            -1 => false,
            other => panic!("{other} is no answer to {word}"),
        }
    }

    /// Whether the group exists at the authentication server.
    pub fn find_group(&self, name: &str) -> bool {
        self.ask("FindGroup", name)
    }

    /// Stores a group; `false` when its name is taken.
    pub fn new_group(&self, name: &str, secret: &str) -> bool {
        if !self.ask("NewGroup", name) {
            return false;
        }
        let mut bytes = [0; 8];
        bytes[..secret.len()].copy_from_slice(secret.as_bytes());
        self.send(&bytes);
        assert_eq!(self.int(), 1, "the secret was stored");
        true
    }

    /// The secret of a group, if it exists.
    pub fn get_secret(&self, name: &str) -> Option<String> {
        if !self.ask("GetSecret", name) {
            return None;
        }
        self.send(&1i32.to_ne_bytes());
        Some(String::from_utf8_lossy(&self.receive()).into_owned())
    }

    /// Forgets a group; whether it existed.
    pub fn delete_group(&self, name: &str) -> bool {
        self.ask("DeleteGroup", name)
    }
}

/// The 100 bytes of a command.
fn command(word: &str) -> [u8; 100] {
    let mut bytes = [0; 100];
    bytes[..word.len()].copy_from_slice(word.as_bytes());
    bytes
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("the kernel has a free port");
    socket.set_read_timeout(Some(DEADLINE)).expect("the deadline is not zero");
    socket
}

fn send(socket: &UdpSocket, to: SocketAddrV4, bytes: &[u8]) {
    socket.send_to(bytes, to).unwrap_or_else(|error| panic!("sending to {to}: {error}"));
}

fn receive(socket: &UdpSocket, what: &str) -> Vec<u8> {
    let mut bytes = [0; 2048];
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((count, _)) => return bytes[..count].to_vec(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{what} did not come from the authentication server: {error}"),
        }
    }
}
