//! Shared key-value pairs for the programs of one machine, with a callback when a key changes.
//!
//! A program joins one *group* of its local server by name and secret, and shares that group's pairs
//! with every other program of the group:
//!
//! ```no_run
//! use kvs::Connection;
//!
//! # fn main() -> Result<(), kvs::Error> {
//! let connection = Connection::open("weather", "VKHMp")?;
//! connection.put("temperature", "21.5")?;
//! assert_eq!(connection.get("temperature")?.as_deref(), Some(&b"21.5"[..]));
//! connection.watch("temperature", |key| println!("{} has changed", key.escape_ascii()))?;
//! connection.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Sessions
//! With a `KVS-LocalServer` of this project a connection speaks *framed sessions*: every operation is one round trip, and
//! acknowledged; keys have up to 64 KiB and values up to 64 MiB (16 MiB unless the server says otherwise), any bytes;
//! there are versions, prefixes, several puts in one message, and [pipelines](Connection::pipeline). With a server
//! of the original system, when told so ([`Protocol::V1`], `KVS_PROTOCOL=original`), or in a group whose name has more
//! than 95 bytes, it speaks the *original* protocol.
//!
//! # Limits
//! Group names and secrets have at most [`MAX_TEXT`] = 99 bytes, none of them NUL; in an original session keys and
//! values, too. All but values have at least one byte. Nothing need be UTF-8.
//!
//! # Threads
//! A [`Connection`] may be used by any number of threads at once. In a framed session none waits for the round trip of
//! another; in an original one their calls take turns. Callbacks run on
//! one thread of the library per connection, one after the other, and may call everything.
//!
//! # Time
//! No call waits longer for the server than the [timeout](Builder::timeout), 5 s unless set otherwise.
//!
//! # Fork
//! A forked child starts without connections: what it inherits answers [`Error::NotConnected`], and its
//! descriptors are closed in the child. It may open its own.
//!
//! # The C library
//! With the feature `capi` (on by default) the crate also is `libkvs`: the C functions of `include/kvs.h`.

#![deny(unsafe_code)]

mod builder;
mod callbacks;
#[cfg(feature = "capi")]
#[allow(unsafe_code)]
mod capi;
mod channel;
mod codes;
mod connection;
mod disconnect;
mod error;
mod fair_mutex;
#[allow(unsafe_code)]
mod fork;
mod multiplexer;
mod original;
#[allow(unsafe_code)]
mod panic_points;
mod shared;
#[allow(unsafe_code)]
mod sys;
#[allow(unsafe_code)]
mod thread;

pub use builder::{Builder, DEFAULT_SOCKET, DEFAULT_TIMEOUT};
pub use callbacks::Change;
pub use connection::{Answer, Connection, Pipeline, Swap, Versioned};
pub use disconnect::DisconnectReason;
pub use error::{Error, Invalid};
pub use kvs_proto::v2::{MAX_KEY, MAX_VALUE, Malformed, NO_VERSION, Version};
pub use kvs_proto::{MAX_TEXT, Protocol, TextError};

/// The version of the library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
