//! The role of the local server: [`MainChannel`] on the main channel, [`CallbackChannel`] on the
//! callback channel.
//!
//! The caller passes the bytes of each `read` separately, from a buffer larger than [`READ_LEN`],
//! and handles the messages of one `read` before the next: the boundaries of the reads separate
//! strings (see `value`).

mod callback_channel;
mod main_channel;
mod message;
mod value;

#[cfg(test)]
mod main_channel_tests;

pub use callback_channel::{CallbackChannel, UnexpectedReply};
pub use main_channel::{ClientMessages, MainChannel};
pub use message::{ClientMessage, ProtocolError};
pub use value::READ_LEN;

use super::flags::{REFUSED, put_int};

/// Appends the flag that refuses a connection, in place of the connection flag on either channel.
/// The caller then closes the connection.
pub fn refuse(out: &mut Vec<u8>) {
    put_int(out, REFUSED);
}
