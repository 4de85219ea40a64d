//! The error of an authentication server that cannot start or continue.

use std::io;
use std::net::SocketAddr;

/// Why the authentication server cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listen port cannot be opened.
    #[error("cannot listen on {address}: {source}{}", advice(source))]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// No pair of ports exists above the listen port, and each local server is given one.
    #[error("cannot listen on {0}: local servers need ports above it, so 65533 is the highest")]
    NoPortsAbove(SocketAddr),
    /// The system refuses what is needed to wait for datagrams.
    #[error("cannot prepare to wait for datagrams: {0}")]
    SetUp(#[source] io::Error),
    /// Waiting for datagrams failed.
    #[error("cannot wait for datagrams: {0}")]
    Wait(#[source] io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ". Is another KVS-AuthServer running? --listen chooses another port"
        }
        _ => "",
    }
}
