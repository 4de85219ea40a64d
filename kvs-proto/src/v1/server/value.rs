//! Separates strings, which have neither a length nor a terminator on the wire.
//!
//! An application sends one string with one `send` and then waits, and a `send` of at most 99 bytes
//! arrives whole. So one `read` that expects a group, secret or key returns exactly that string.
//! After a value, however, the application does not wait: the next function code may arrive in the
//! same `read`. The two are separable, because a value has no NUL and every function code has one:
//!
//! - no NUL: all bytes are the value, and the function code is still to come;
//! - a NUL: the last four bytes are the function code, and all bytes before them are the value. The
//!   value may be empty, as an empty value puts no byte on the wire.
//!
//! Anything else is a [`ProtocolError`]. `v1::grouping_tests` checks the rule.

use super::message::ProtocolError;
use crate::integer::{INT_LEN, Int};
use crate::text::{MAX_TEXT, Text};
use crate::v1::function_code::FunctionCode;

/// The most bytes that an application can have in flight: a value and a function code.
pub const READ_LEN: usize = MAX_TEXT + INT_LEN;

/// A string that is alone in its `read`.
pub(super) fn text(what: &'static str, read: &[u8]) -> Result<Text, ProtocolError> {
    Text::new(read).map_err(|why| ProtocolError::Text { what, why })
}

/// A value and, if it arrived in the same `read`, the next function code.
pub(super) fn split_value(read: &[u8]) -> Result<(Text, Option<FunctionCode>), ProtocolError> {
    if !read.contains(&0) {
        return Ok((text("value", read)?, None));
    }
    let (value, code) =
        read.split_last_chunk::<INT_LEN>().ok_or(ProtocolError::NoCodeAfterValue)?;
    let function = FunctionCode::from_code(Int::from_ne_bytes(*code))
        .ok_or(ProtocolError::NoCodeAfterValue)?;
    Ok((text("value", value)?, Some(function)))
}
