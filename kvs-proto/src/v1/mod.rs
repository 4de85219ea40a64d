//! Protocol v1, the original one: application ↔ local server, over two UNIX stream sockets
//! (`docs/PROTOCOL.md` §1–§3).
//!
//! The *main* channel carries the login and one operation at a time. The *callback* channel carries
//! notifications of changed keys. [`server`] is the role of the local server on both channels,
//! [`client`] the role of the application.
//!
//! Strings have neither a length nor a terminator on the wire. They can be separated because each
//! is written by one `send`, and the sender waits for a response before it sends more. The one
//! exception is the value of a put: [`server`] explains how it is separated from the function code
//! after it.
//!
//! The login is common to both protocols. After it, a session that has negotiated [`v2`](crate::v2)
//! leaves this module.

pub mod client;
mod flags;
mod function_code;
mod hello;
pub mod server;

#[cfg(test)]
mod grouping_tests;

pub use flags::{CHANGED_KEY_LEN, CLOSE, NO_SUCH_KEY, REFUSED, YES};
pub use function_code::FunctionCode;
pub use hello::Hello;
