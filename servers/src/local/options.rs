//! The options of `KVS-LocalServer`, and the [`Config`] that they give.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::FalseyValueParser;
use kvs_proto::default_paths;
use kvs_proto::v2::{DEFAULT_MAX_VALUE, MAX_VALUE};

use crate::local::config::Config;
use crate::local::limits::limit::Limits;
use crate::local::net::listener::{MAX_PATH, Mode};
use crate::startup::{CommonOptions, ServerOptions};

/// The least value of `--max-value-bytes`: the longest value of protocol v1.
const MIN_MAX_VALUE: usize = kvs_proto::MAX_TEXT;

/// Serves the groups and key-value pairs of one machine to its applications.
///
/// Applications connect over UNIX sockets (libkvs); a KVS-AuthServer keeps the secrets of the
/// groups. All data is in memory: a restarted server starts empty.
#[derive(Debug, Parser)]
#[command(
    name = "KVS-LocalServer",
    version,
    after_help = "\
Commands on standard input, each a line (the first three ask for a group id):
  Create group
  Delete group
  Show group info
  Show application status
  Quit

The end of standard input is not Quit: the server keeps running. SIGTERM and SIGINT are
like Quit. With --config, SIGHUP reads the log level again.
Responses go to standard output, the log and errors to standard error.

Exit codes: 0 after Quit, SIGTERM or SIGINT; 1 when it cannot start or continue; 2 for an
invalid option or file.

Examples:
  KVS-LocalServer --auth 192.0.2.1:58032
  KVS-LocalServer </dev/null >/var/log/kvs.log 2>&1 &"
)]
pub struct Options {
    /// The authentication server: host name or address, and UDP port
    #[arg(long, value_name = "HOST:PORT", env = "KVS_AUTH", default_value = "127.0.0.1:58032",
        value_parser = host_and_port)]
    auth: String,

    /// Where applications connect
    #[arg(long, value_name = "PATH", env = "KVS_SOCKET",
        default_value = default_paths::DEFAULT_SOCKET)]
    socket: PathBuf,

    /// Where the callback channels of applications connect [default: the --socket path followed by
    /// _cb]
    #[arg(long, value_name = "PATH", env = "KVS_CALLBACK_SOCKET")]
    callback_socket: Option<PathBuf>,

    /// Where `kvs admin` connects, which only the server's user and root may do; empty disables it
    /// [default: the --socket path followed by _control]
    #[arg(long, value_name = "PATH", env = "KVS_CONTROL_SOCKET")]
    control_socket: Option<OsString>,

    /// Permissions of the first two sockets in octal: users with write permission may connect, with
    /// 660 for example the server's user and group [default: according to the umask]
    #[arg(long, value_name = "OCTAL", env = "KVS_SOCKET_MODE")]
    socket_mode: Option<Mode>,

    /// Applications that one user may have connected; one process may have half of them. Capped at
    /// three quarters of the connections that the limit of open files admits, so that other users
    /// can connect
    #[arg(long, value_name = "COUNT", env = "KVS_MAX_CONNECTIONS_PER_USER",
        default_value_t = Limits::default().connections)]
    max_connections_per_user: usize,

    /// Pairs whose value one user may have stored
    #[arg(long, value_name = "COUNT", env = "KVS_MAX_PAIRS_PER_USER",
        default_value_t = Limits::default().pairs)]
    max_pairs_per_user: u64,

    /// Bytes of those pairs, keys and values together; each watch counts as 512, each pending
    /// change event as 256. A plain number, no K, M or G
    #[arg(long, value_name = "BYTES", env = "KVS_MAX_BYTES_PER_USER",
        default_value_t = Limits::default().bytes)]
    max_bytes_per_user: u64,

    /// The longest value in bytes, from 99 to 67108864 (64 MiB). A plain number, no K, M or G.
    /// Programs that use protocol v1 are always limited to 99 bytes
    #[arg(long, value_name = "BYTES", env = "KVS_MAX_VALUE_BYTES",
        default_value_t = DEFAULT_MAX_VALUE, value_parser = value_bytes)]
    max_value_bytes: usize,

    /// Seconds that an application may take to log in
    #[arg(long, value_name = "SECONDS", env = "KVS_LOGIN_TIMEOUT", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    login_timeout: u64,

    /// Exit, with all data lost, when the authentication server does not answer; otherwise
    /// connected applications keep working and the server reconnects automatically
    #[arg(long, env = "KVS_EXIT_ON_AUTH_LOSS", value_parser = FalseyValueParser::new())]
    exit_on_auth_loss: bool,

    /// Serve metrics for Prometheus and a page for browsers over HTTP at this loopback address,
    /// such as 127.0.0.1:9464. Port 0 selects a free port; the log names it
    #[arg(long, value_name = "ADDR:PORT", env = "KVS_METRICS", value_parser = loopback)]
    metrics: Option<SocketAddr>,

    /// A TOML file that sets options by their names without the dashes, such as `login-timeout =
    /// 30`. The command line overrides the environment, and both override the file. SIGHUP reads
    /// the file again and applies the log level
    #[arg(long, value_name = "FILE", env = "KVS_LOCAL_CONFIG")]
    config: Option<PathBuf>,

    /// The options that both servers have.
    #[command(flatten)]
    common: CommonOptions,
}

impl ServerOptions for Options {
    const NAME: &str = "KVS-LocalServer";

    fn common(&self) -> &CommonOptions {
        &self.common
    }

    fn check(&self) -> Result<(), String> {
        self.config().check().map_err(|error| error.to_string())
    }

    fn note(&self) -> Option<String> {
        let path = self.default_control_socket().err().filter(|_| self.control_socket.is_none())?;
        Some(format!(
            "no control socket: the path {} is too long; --control-socket sets another one",
            path.display()
        ))
    }
}

impl Options {
    /// The default path. If it is too long, the server has no control socket: it must not fail
    /// because of an option that is not set.
    fn default_control_socket(&self) -> Result<PathBuf, PathBuf> {
        let path = default_paths::control_socket(&self.socket);
        if path.as_os_str().len() <= MAX_PATH { Ok(path) } else { Err(path) }
    }

    /// The configuration that these options give.
    pub fn config(&self) -> Config {
        let callback_socket = self
            .callback_socket
            .clone()
            .unwrap_or_else(|| default_paths::callback_socket(&self.socket));
        let control_socket = match &self.control_socket {
            None => self.default_control_socket().ok(),
            Some(path) if path.is_empty() => None,
            Some(path) => Some(path.into()),
        };
        Config {
            auth: self.auth.clone(),
            socket: self.socket.clone(),
            callback_socket,
            control_socket,
            socket_mode: self.socket_mode,
            limits: Limits {
                connections: self.max_connections_per_user,
                pairs: self.max_pairs_per_user,
                bytes: self.max_bytes_per_user,
            },
            // The parser of the option checks the range.
            max_value: self.max_value_bytes,
            login_timeout: Duration::from_secs(self.login_timeout),
            exit_on_auth_loss: self.exit_on_auth_loss,
            metrics: self.metrics,
        }
    }
}

/// Checks the form. Whether the host exists shows at the connection.
fn host_and_port(address: &str) -> Result<String, String> {
    match address.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(address.to_string())
        }
        _ => Err("expected a host name or address, a colon, and a port from 1 to 65535".into()),
    }
}

/// Parses an address that only this machine reaches.
fn loopback(address: &str) -> Result<SocketAddr, String> {
    let parsed = match address.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| (Ipv4Addr::LOCALHOST, port).into()),
        None => address.parse::<SocketAddr>().ok(),
    };
    match parsed {
        Some(address) if address.ip().is_loopback() => Ok(address),
        Some(_) => {
            Err("only a loopback address is accepted, such as 127.0.0.1:9464 or [::1]:9464, \
                        because every client can read the names of all groups. From another \
                        machine use `ssh -L 9464:127.0.0.1:9464 THIS-MACHINE`, or a reverse proxy \
                        with authentication"
                .into())
        }
        None => Err("expected a loopback address, a colon and a port, such as 127.0.0.1:9464 or \
                     [::1]:9464"
            .into()),
    }
}

fn value_bytes(bytes: &str) -> Result<usize, String> {
    match bytes.parse() {
        Ok(bytes) if (MIN_MAX_VALUE..=MAX_VALUE).contains(&bytes) => Ok(bytes),
        _ => Err(format!("it must be a number of bytes from {MIN_MAX_VALUE} to {MAX_VALUE}")),
    }
}
