//! A client of kvs: key-value pairs shared by the programs of one machine, with callbacks on
//! change.
//!
//! A program joins one *group* of its local server by the group's name and secret. All programs of
//! the group share its pairs:
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
//! | to … | use |
//! |---|---|
//! | connect with other settings | [`Builder`] |
//! | update a value without losing a concurrent update | [`Connection::compare_and_swap`] |
//! | store several pairs atomically | [`Connection::put_many`] |
//! | list keys | [`Connection::keys`] |
//! | react to changes | [`Connection::watch`], [`Connection::watch_prefix`] |
//! | react to the end of the connection | [`Connection::on_disconnect`] |
//! | save round trips | [`Connection::pipeline`] |
//!
//! # Protocols
//! A connection speaks one of two protocols, which [`Connection::protocol`] returns. With a
//! `KVS-LocalServer` of this project it is **v2**: every operation is acknowledged after one round
//! trip; there are versions, prefixes, atomic puts of many pairs, and pipelines. With a server of
//! the original system it is **v1**, the original protocol; likewise if the program asks for it
//! ([`Protocol::V1`], `KVS_PROTOCOL=original`) or the group name has more than 95 bytes.
//!
//! # Limits
//! | | protocol v2 | protocol v1 |
//! |---|---|---|
//! | group name, secret | 1 to 99 bytes ([`MAX_TEXT`]), no NUL | the same |
//! | key | 1 to 65,536 bytes ([`MAX_KEY`]) | 1 to 99 bytes, no NUL |
//! | value | 0 to 16 MiB, or up to 64 MiB if the server is configured so | 0 to 99 bytes, no NUL |
//!
//! The server announces its limit for values, which never exceeds [`MAX_VALUE`]. Nothing needs to
//! be UTF-8. The server also limits the pairs and bytes of each user ([`Error::LimitReached`]).
//!
//! # Threads
//! Any number of threads may use a [`Connection`] at once. With protocol v2 no call waits for the
//! round trip of another; with protocol v1 calls are serialised.
//!
//! # Callbacks
//! The library has one thread per connection, which runs the callbacks one after the other, with
//! all signals blocked. A callback may call every function of the library, and may block: the
//! events of further changes are queued. When many are pending, those of one key are coalesced; the
//! last one of a key is not lost.
//!
//! # Timeouts
//! A call waits at most for the [timeout](Builder::timeout) of the connection for the server, 5 s
//! by default. A call that times out [closes](Error::closes) the connection.
//!
//! # Fork
//! A forked child starts without connections: calls on an inherited one return
//! [`Error::NotConnected`], and its descriptors are closed in the child. The child can open its
//! own.
//!
//! # The C library
//! With the feature `capi` (on by default) this crate also is `libkvs`: the C functions of
//! `include/kvs.h`.

#![deny(unsafe_code)]

mod arguments;
mod builder;
mod callbacks;
// Its doc comments contain C examples, which `rustdoc` would compile as Rust.
#[cfg(all(feature = "capi", not(doctest)))]
#[allow(unsafe_code)]
mod capi;
mod channel;
mod client_number;
mod codes;
mod connection;
mod deadline;
mod disconnect;
mod endpoint;
mod error;
mod fair_mutex;
#[allow(unsafe_code)]
mod fork;
mod generation;
mod login;
mod multiplexer;
#[allow(unsafe_code)]
mod panic_points;
mod pipeline;
mod session;
#[allow(unsafe_code)]
mod sys;

pub use builder::{Builder, DEFAULT_SOCKET, DEFAULT_TIMEOUT};
pub use callbacks::callback::KeyChange;
pub use connection::Connection;
pub use disconnect::DisconnectReason;
pub use error::{Error, Invalid};
pub use kvs_proto::v2::{MAX_KEY, MAX_VALUE, Malformed, NO_VERSION, Version};
pub use kvs_proto::{MAX_TEXT, Protocol, TextError};
pub use pipeline::{Pipeline, PipelineResult};
pub use session::results::{Swap, Versioned};

/// The version of the library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
