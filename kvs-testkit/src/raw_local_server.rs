//! A local server without a program, for tests of the authentication server.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use crate::wait::DEADLINE;

/// Speaks the local server's side of the UDP protocol byte by byte.
#[derive(Debug)]
pub struct RawLocalServer {
    /// Sends commands to the listen port and to the command port.
    pub commands: UdpSocket,
    /// Sends `Connect_2`, and receives the close flag.
    pub close: UdpSocket,
    /// The command port that the authentication server assigned.
    pub port: u16,
}

impl RawLocalServer {
    /// Connects to the authentication server at `addr`.
    ///
    /// # Panics
    /// If the server does not respond.
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
    /// If none arrives.
    pub fn receive(&self) -> Vec<u8> {
        receive(&self.commands, "an answer")
    }

    /// Receives a response that is an int.
    ///
    /// # Panics
    /// If none arrives.
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

    /// Returns whether the group exists at the authentication server.
    pub fn find_group(&self, name: &str) -> bool {
        self.ask("FindGroup", name)
    }

    /// Registers a group; `false` if its name is taken.
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

    /// Deletes a group; `false` if it does not exist.
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
