//! Connections of the test's own process by the crate `kvs`.

use kvs_proto::Protocol;

use crate::sockets::Sockets;
use crate::wait::DEADLINE;

/// Connects to `server` in protocol v2 and logs in.
///
/// # Errors
/// As [`kvs::Builder::open`].
pub fn connect(
    server: &impl Sockets,
    group: &str,
    secret: &str,
) -> Result<kvs::Connection, kvs::Error> {
    connection_builder(server, Protocol::V2).open(group, secret)
}

/// A builder of connections to `server` in `protocol`, whose calls time out after [`DEADLINE`].
pub fn connection_builder(server: &impl Sockets, protocol: Protocol) -> kvs::Builder {
    kvs::Connection::builder()
        .socket(server.socket())
        .callback_socket(server.callback_socket())
        .timeout(DEADLINE)
        .protocol(protocol)
}
