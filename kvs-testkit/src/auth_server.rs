//! A running authentication server.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Deref;
use std::process::ExitStatus;

use crate::paths::bin;
use crate::ports::Ports;
use crate::process::Process;
use crate::program::Program;
use crate::terminal::Console;

/// A running `KVS-AuthServer` on ports of its own.
#[derive(Debug)]
pub struct AuthServer {
    process: Process,
    port: u16,
    /// Keeps the ports reserved for a restart.
    _ports: Option<Ports>,
}

/// Options of an [`AuthServer`].
#[derive(Debug)]
pub struct AuthServerBuilder {
    program: Program,
    port: Option<u16>,
    ports: Option<Ports>,
}

impl AuthServer {
    /// Starts a server on ports of its own and waits until it listens.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server to be configured: on ports of its own, with its console on pipes.
    pub fn builder() -> AuthServerBuilder {
        AuthServerBuilder { program: Program::new(bin("KVS-AuthServer")), port: None, ports: None }
    }

    /// The address of the server.
    pub fn addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)
    }

    /// Kills the server (SIGKILL) and starts another on the same port, with an empty table.
    ///
    /// # Panics
    /// If the new server does not start.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        self.restart();
    }

    /// Waits for the exit of this server and starts another on the same port. Returns the exit
    /// status of the first.
    ///
    /// # Panics
    /// If the server does not exit, or the new one does not start.
    pub fn restart(&mut self) -> ExitStatus {
        let status = self.process.wait_exit();
        let builder = Self::builder().port(self.port);
        let other = builder.start();
        self.process = other.process;
        status
    }
}

impl AuthServerBuilder {
    /// Listens on this port of 127.0.0.1 (0: the kernel chooses) instead of a reserved one.
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

    /// Selects its standard input and output.
    pub fn console(mut self, console: Console) -> Self {
        self.program = self.program.console(console);
        self
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Panics
    /// If it does not listen.
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
