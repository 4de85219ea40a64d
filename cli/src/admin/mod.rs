//! `kvs admin`: administration of a local server, from any terminal or script on its machine.
//!
//! - `args`: the command line.
//! - `endpoint`: which control socket to connect to. `trust`: whether its owner is trusted.
//! - `client`: requests and responses of the control protocol, [`kvs_proto::control`].
//! - `secret_file`: the file of `create --secret-file`.
//! - `commands`: create, delete, info, status, quit. `status_table`, `status_json`: their output.
//! - `error`: messages, names and exit codes.
//!
//! Results go to standard output; questions, errors and confirmations go to standard error. With
//! `--json`, standard output has one object.

mod args;
mod client;
mod commands;
mod endpoint;
mod error;
mod secret_file;
mod status_json;
mod status_table;
mod trust;

pub(crate) use args::AdminArgs;
pub(crate) use commands::run;
pub(crate) use endpoint::SocketOption;
