//! What an administrator says to a local server without its console: lines of JSON on a UNIX stream socket.
//!
//! One request is one line, and so is its answer; only the answer to [`AdminRequest::Status`] may be several lines, of which
//! each but the last says `"more": true`: so neither side ever holds more than a part of it. Every line has the
//! [`VERSION`] of the protocol. The byte-by-byte description is in `docs/PROTOCOL.md`, section 8.
//!
//! Names of groups and keys are bytes. What is UTF-8 is a JSON string, anything else an object with its bytes in
//! hexadecimal ([`Bytes`]): nothing is lost, and nothing that can be read is made unreadable.
//!
//! Decoding is total: every line is a message or a [`DecodeError`] that says what is wrong with it. A request has
//! [`MAX_REQUEST_LEN`] bytes at most, and an answer [`MAX_RESPONSE_LEN`]; whoever reads must stop there.

use std::fmt;

use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The version of this protocol. Another one is refused with [`AdminErrorKind::Version`].
pub const VERSION: u64 = 1;

/// The longest request in bytes, with its line feed.
pub const MAX_REQUEST_LEN: usize = 4096;

/// The longest line of an answer in bytes, with its line feed. (One key of an application has 65,536 bytes at most, each of
/// which takes six characters at most.)
pub const MAX_RESPONSE_LEN: usize = 1 << 20;

/// Bytes that are usually text: a string in JSON when they are UTF-8, otherwise `{"hex": "…"}`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bytes(pub Vec<u8>);

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// For people: control characters are escaped.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::Escaped(&self.0).fmt(f)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("hex", &hex)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or an object with the bytes in hexadecimal, as {\"hex\": \"00ff\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        Ok(Bytes(text.as_bytes().to_vec()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bytes, A::Error> {
        let wrong = || de::Error::custom("bytes are a string, or an object with \"hex\" alone");
        let Some((name, hex)) = map.next_entry::<String, String>()? else { return Err(wrong()) };
        if name != "hex" || map.next_key::<String>()?.is_some() {
            return Err(wrong());
        }
        let digits = hex.as_bytes();
        let (pairs, odd) = digits.as_chunks::<2>();
        let byte = |pair: &[u8; 2]| {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            // Two digits are less than 256.
            Some((digit(0)? * 16 + digit(1)?) as u8)
        };
        let bytes = odd.is_empty().then(|| pairs.iter().map(byte).collect::<Option<Vec<u8>>>());
        bytes.flatten().map(Bytes).ok_or_else(|| {
            de::Error::custom("\"hex\" has two hexadecimal digits for each byte, and nothing else")
        })
    }
}

/// What a local server can be asked for. The same operations as those of its console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// Make a group; answered by [`AdminResponse::Created`].
    Create {
        /// Its name.
        group: Bytes,
        /// Its secret, 1 to 7 bytes; without it the server makes one up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Bytes>,
    },
    /// Close its applications and forget its pairs; answered by [`AdminResponse::Deleted`].
    Delete {
        /// Its name.
        group: Bytes,
    },
    /// Answered by [`AdminResponse::Info`].
    Info {
        /// Its name.
        group: Bytes,
    },
    /// Applications, connected and past; answered by one [`AdminResponse::Status`] or more.
    Status {
        /// Of this group only, instead of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<Bytes>,
    },
    /// End the server; answered by [`AdminResponse::Quitting`] before it does. The connection ends when the server has.
    Quit {},
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AdminResponse {
    /// The group is there.
    Created {
        /// Its name.
        group: Bytes,
        /// What applications show to enter it.
        secret: Bytes,
    },
    /// The group is no more.
    Deleted {
        /// Its name.
        group: Bytes,
    },
    /// About one group.
    Info {
        /// Its name.
        group: Bytes,
        /// What applications show to enter it.
        secret: Bytes,
        /// How many pairs it has.
        pairs: u64,
    },
    /// A part of the status.
    Status {
        /// The oldest group first. One whose applications do not fit into a line is continued in the next: the same
        /// name again.
        groups: Vec<GroupStatus>,
        /// Another line of this answer follows.
        more: bool,
    },
    /// It was told to end, and ends.
    Quitting {},
    /// It was not done.
    Error {
        /// For programs.
        kind: AdminErrorKind,
        /// For people: a sentence.
        message: String,
    },
}

/// Why a request was refused. The names are stable; there may come more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminErrorKind {
    /// There is a group of that name already.
    Exists,
    /// There is no such group.
    NotFound,
    /// What was sent is no request, or the name can be no name of a group.
    Invalid,
    /// The server does not speak this version.
    Version,
    /// The authentication server cannot be asked: nothing has changed.
    Unavailable,
    /// Only the user of the server and root are served.
    Denied,
    /// Too many administrators at once.
    Busy,
    /// The server is ending.
    Quitting,
    /// One that is newer than this program.
    #[serde(other)]
    Unknown,
}

/// A group and some of its applications.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub group: Bytes,
    /// How many pairs it has.
    pub pairs: u64,
    /// Connected and past ones by their numbers.
    pub applications: Vec<ApplicationStatus>,
}

/// An application that is or was connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplicationStatus {
    /// Counted from 1 in each group.
    pub number: u64,
    /// The process, as the kernel says.
    pub pid: i32,
    /// In seconds since 1970 (UTC), to the millisecond.
    pub connected_at: f64,
    /// Likewise; none while it is connected.
    pub closed_at: Option<f64>,
    /// How long it has been or was connected, to the millisecond.
    pub seconds: f64,
    /// The first of what it watches, in the order of registration; none after it has left.
    pub watches: Vec<WatchedItem>,
    /// How much it watches in all.
    pub watch_count: u64,
}

/// What an application watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchedItem {
    /// One key.
    Key(Bytes),
    /// All keys that begin so.
    Prefix(Bytes),
}

/// Why a line is no message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not what was expected.
    #[error("it is not a message of the control protocol: {0}")]
    Malformed(#[from] serde_json::Error),
    /// No number stands at "version".
    #[error("it is not a message of the control protocol: it does not say its \"version\"")]
    NoVersion,
    /// Another version.
    #[error(
        "it is of version {0} of the control protocol, and only version {VERSION} is known here"
    )]
    Version(u64),
}

impl AdminRequest {
    /// As a line, with its line feed. One with a name of a group is never too long.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a line, with or without its line feed.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(line: &[u8]) -> Result<Self, DecodeError> {
        decode(line)
    }
}

impl AdminResponse {
    /// As a line, with its line feed.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a line, with or without its line feed.
    ///
    /// # Errors
    /// [`DecodeError`]
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
    // Keys of maps are strings and writing to a vector does not fail: there is nothing else that could.
    let mut line = serde_json::to_vec(&versioned).expect("every message can be written as JSON");
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MAX_TEXT;

    fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
        let any = proptest::collection::vec(any::<u8>(), 0..=most);
        let text = "\\PC{0,20}|[\\x00-\\x7f]{0,20}".prop_map(String::into_bytes);
        prop_oneof![any, text].prop_map(Bytes)
    }

    fn request() -> impl Strategy<Value = AdminRequest> {
        let group = || bytes(MAX_TEXT);
        prop_oneof![
            (group(), proptest::option::of(bytes(7)))
                .prop_map(|(group, secret)| AdminRequest::Create { group, secret }),
            group().prop_map(|group| AdminRequest::Delete { group }),
            group().prop_map(|group| AdminRequest::Info { group }),
            proptest::option::of(group()).prop_map(|group| AdminRequest::Status { group }),
            Just(AdminRequest::Quit {}),
        ]
    }

    fn kind() -> impl Strategy<Value = AdminErrorKind> {
        use AdminErrorKind::*;
        let kinds =
            [Exists, NotFound, Invalid, Version, Unavailable, Denied, Busy, Quitting, Unknown];
        proptest::sample::select(kinds.to_vec())
    }

    /// To the millisecond, in this century.
    fn time() -> impl Strategy<Value = f64> {
        (0..4_102_444_800_000_u64).prop_map(|millis| millis as f64 / 1000.0)
    }

    fn application() -> impl Strategy<Value = ApplicationStatus> {
        let watch = (bytes(300), any::<bool>()).prop_map(|(key, is_prefix)| match is_prefix {
            true => WatchedItem::Prefix(key),
            false => WatchedItem::Key(key),
        });
        let times = (time(), proptest::option::of(time()), time());
        let watches = proptest::collection::vec(watch, 0..4);
        (any::<(u64, i32, u64)>(), times, watches).prop_map(|(numbers, times, watches)| {
            let ((number, pid, watch_count), (connected_at, closed_at, seconds)) = (numbers, times);
            ApplicationStatus {
                number,
                pid,
                connected_at,
                closed_at,
                seconds,
                watches,
                watch_count,
            }
        })
    }

    fn answer() -> impl Strategy<Value = AdminResponse> {
        let group = || bytes(MAX_TEXT);
        let applications = proptest::collection::vec(application(), 0..3);
        let of_group = (group(), any::<u64>(), applications)
            .prop_map(|(group, pairs, applications)| GroupStatus { group, pairs, applications });
        prop_oneof![
            (group(), bytes(5))
                .prop_map(|(group, secret)| AdminResponse::Created { group, secret }),
            group().prop_map(|group| AdminResponse::Deleted { group }),
            (group(), bytes(5), any::<u64>())
                .prop_map(|(group, secret, pairs)| AdminResponse::Info { group, secret, pairs }),
            (proptest::collection::vec(of_group, 0..3), any::<bool>())
                .prop_map(|(groups, more)| AdminResponse::Status { groups, more }),
            Just(AdminResponse::Quitting {}),
            (kind(), "\\PC{0,80}")
                .prop_map(|(kind, message)| AdminResponse::Error { kind, message }),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back_as_they_were_on_one_short_line(request in request()) {
            let line = request.encode();
            prop_assert!(line.len() <= MAX_REQUEST_LEN);
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(line.last(), Some(&b'\n'));
            prop_assert_eq!(AdminRequest::decode(&line).unwrap(), request);
        }

        #[test]
        fn answers_come_back_as_they_were_on_one_line(answer in answer()) {
            let line = answer.encode();
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(AdminResponse::decode(&line).unwrap(), answer);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(
            line in proptest::collection::vec(any::<u8>(), 0..200),
            request in request(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let _ = (AdminRequest::decode(&line), AdminResponse::decode(&line));
            // Close to a request, too.
            let mut near = request.encode();
            let at = at.index(near.len());
            near[at] = byte;
            let _ = (AdminRequest::decode(&near), AdminRequest::decode(&near[..at]));
        }
    }

    #[test]
    fn the_lines_are_those_of_the_documentation() {
        let line = |request: &str| AdminRequest::decode(request.as_bytes());
        let group = || Bytes(b"weather".to_vec());
        for (text, request) in [
            (
                r#"{"version":1,"request":"create","group":"weather"}"#,
                AdminRequest::Create { group: group(), secret: None },
            ),
            (r#"{"version":1,"request":"status"}"#, AdminRequest::Status { group: None }),
            (
                r#"{"version":1,"request":"info","group":{"hex":"61ff"}}"#,
                AdminRequest::Info { group: Bytes(b"a\xff".to_vec()) },
            ),
            (r#"{"version":1,"request":"quit"}"#, AdminRequest::Quit {}),
        ] {
            assert_eq!(line(text).unwrap(), request);
            assert_eq!(request.encode(), format!("{text}\n").as_bytes());
        }
        assert!(matches!(line(r#"{"version":2,"request":"quit"}"#), Err(DecodeError::Version(2))));
        assert!(matches!(line(r#"{"request":"quit"}"#), Err(DecodeError::NoVersion)));
        for refused in [
            "",
            "[]",
            "{",
            r#"{"version":1}"#,
            r#"{"version":1,"request":"reboot"}"#,
            r#"{"version":1,"request":"create"}"#,
            r#"{"version":1,"request":"create","group":7}"#,
            r#"{"version":1,"request":"create","group":{"hex":"6"}}"#,
            r#"{"version":1,"request":"create","group":{"hex":"6é"}}"#,
            r#"{"version":1,"request":"create","group":{"hex":"61","x":"1"}}"#,
            r#"{"version":1,"request":"create","group":"g","force":true}"#,
            r#"{"version":1,"request":"quit","now":true}"#,
            r#"{"version":1,"request":"quit"} {"#,
        ] {
            assert!(matches!(line(refused), Err(DecodeError::Malformed(_))), "{refused}");
        }
        let deep = format!("{}{}", r#"{"version":1,"request":"#, "[".repeat(MAX_REQUEST_LEN));
        assert!(matches!(line(&deep), Err(DecodeError::Malformed(_))));
        let newer = br#"{"version":1,"answer":"error","kind":"sleepy","message":"Zzz."}"#;
        let newer = AdminResponse::decode(newer).unwrap();
        assert!(matches!(newer, AdminResponse::Error { kind: AdminErrorKind::Unknown, .. }));
    }
}
