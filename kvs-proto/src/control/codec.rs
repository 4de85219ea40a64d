//! Encoding and decoding of lines.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::message::{AdminRequest, AdminResponse};

/// The version of this protocol. A server refuses others with
/// [`AdminErrorKind::Version`](super::message::AdminErrorKind::Version).
pub const VERSION: u64 = 1;

/// The maximum length of a request in bytes, with its line feed.
pub const MAX_REQUEST_LEN: usize = 4096;

/// The maximum length of a line of a response in bytes, with its line feed. The longest key fits:
/// it has 65,536 bytes, each at most six characters in JSON.
pub const MAX_RESPONSE_LEN: usize = 1 << 20;

/// Why a line is not a message of this protocol.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The line is not JSON, or not a known message.
    #[error("not a message of the control protocol: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The member "version" is missing, or not a number.
    #[error("not a message of the control protocol: the member \"version\" is missing")]
    NoVersion,
    /// Another version of the protocol.
    #[error(
        "version {0} of the control protocol is not supported; this program supports {VERSION}"
    )]
    Version(u64),
}

impl AdminRequest {
    /// Encodes the request as one line with its line feed. With a valid group name the line never
    /// exceeds [`MAX_REQUEST_LEN`].
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes a line, with or without its line feed.
    ///
    /// # Errors
    /// [`DecodeError`]: the line is not a message.
    pub fn decode(line: &[u8]) -> Result<Self, DecodeError> {
        decode(line)
    }
}

impl AdminResponse {
    /// Encodes the response as one line with its line feed.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes a line, with or without its line feed.
    ///
    /// # Errors
    /// [`DecodeError`]: the line is not a message.
    pub fn decode(line: &[u8]) -> Result<Self, DecodeError> {
        decode(line)
    }
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    version: u64,
    #[serde(flatten)]
    message: &'a T,
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    let versioned = Envelope { version: VERSION, message };
    // All map keys are strings, and writing to a vector does not fail.
    let mut line = serde_json::to_vec(&versioned).expect("every message is representable in JSON");
    line.push(b'\n');
    line
}

fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, DecodeError> {
    let mut message: Map<String, Value> = serde_json::from_slice(line)?;
    match message.remove("version").as_ref().and_then(Value::as_u64) {
        Some(VERSION) => Ok(serde_json::from_value(Value::Object(message))?),
        Some(other) => Err(DecodeError::Version(other)),
        None => Err(DecodeError::NoVersion),
    }
}
