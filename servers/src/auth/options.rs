//! The options of `KVS-AuthServer`, and the [`Config`] that they give.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::FalseyValueParser;

use super::config::Config;
use crate::startup::{CommonOptions, ServerOptions};

const AFTER_HELP: &str = "\
Console (standard input, whole lines):
  Quit    ask all local servers to close, wait for them (5 s at most), exit
SIGTERM and SIGINT do the same, unless --keep-local-servers is set; the end of the input does not.
With --config, SIGHUP reads the log level again.

Each local server uses two more UDP ports, from the listen port upwards: allow them in a firewall.

Exit codes: 0 after Quit, SIGTERM or SIGINT; 1 when it cannot start or continue; 2 for an
invalid option or file.

Example, for local servers on several machines:
  KVS-AuthServer --listen 0.0.0.0:58032";

/// Keeps the secrets of all groups for the local servers of one or several machines.
#[derive(Debug, Parser)]
#[command(name = "KVS-AuthServer", version, after_help = AFTER_HELP)]
pub struct Options {
    /// Where local servers reach this server: an IP address and a UDP port
    #[arg(long, env = "KVS_LISTEN", value_name = "ADDR:PORT",
          default_value_t = Config::default().listen, value_parser = address_and_port)]
    listen: SocketAddr,

    /// Local servers that one machine (IPv4 address or IPv6 network of 64 bits) may have connected
    #[arg(long, env = "KVS_LINKS_PER_MACHINE", value_name = "NUMBER",
          default_value_t = Config::default().links_per_machine)]
    links_per_machine: usize,

    /// Groups that one machine may have; beyond that, new names are answered as if they were taken
    #[arg(long, env = "KVS_GROUPS_PER_MACHINE", value_name = "NUMBER",
          default_value_t = Config::default().groups_per_machine)]
    groups_per_machine: usize,

    /// Seconds after which ports that a sender of Connect was given and has not used are released
    #[arg(long, env = "KVS_CONFIRM_WAIT", value_name = "SECONDS",
          default_value_t = Config::default().confirm_timeout.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    confirm_wait: u64,

    /// At SIGTERM and SIGINT, exit alone: the local servers keep running and register their groups
    /// with the server that is started next; nothing is lost. Quit on the console still closes them
    #[arg(long, env = "KVS_KEEP_LOCAL_SERVERS", value_parser = FalseyValueParser::new())]
    keep_local_servers: bool,

    /// A TOML file that sets options by their names without the dashes, such as `listen =
    /// "0.0.0.0:58032"`. The command line overrides the environment, and both override the file.
    /// SIGHUP reads the file again and applies the log level
    #[arg(long, value_name = "FILE", env = "KVS_AUTH_CONFIG")]
    config: Option<PathBuf>,

    /// The options that both servers have.
    #[command(flatten)]
    common: CommonOptions,
}

impl ServerOptions for Options {
    const NAME: &str = "KVS-AuthServer";

    fn common(&self) -> &CommonOptions {
        &self.common
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Options {
    /// The configuration that these options give.
    pub fn config(&self) -> Config {
        Config {
            listen: self.listen,
            links_per_machine: self.links_per_machine,
            groups_per_machine: self.groups_per_machine,
            confirm_timeout: Duration::from_secs(self.confirm_wait),
            keep_local_servers: self.keep_local_servers,
            ..Config::default()
        }
    }
}

fn address_and_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address, a colon and a port, such as 127.0.0.1:58032 or [::1]:58032".into()
    })
}
