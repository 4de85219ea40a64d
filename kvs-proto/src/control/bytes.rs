//! Names and keys in JSON.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::escape::Escaped;

/// Bytes that are usually text. In JSON they are a string if they are UTF-8, else `{"hex": "…"}`.
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

/// Escapes the bytes as [`Escaped`] does.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(f)
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
            // Two hexadecimal digits are less than 256.
            Some((digit(0)? * 16 + digit(1)?) as u8)
        };
        let bytes = odd.is_empty().then(|| pairs.iter().map(byte).collect::<Option<Vec<u8>>>());
        bytes.flatten().map(Bytes).ok_or_else(|| {
            de::Error::custom(
                "\"hex\" needs two hexadecimal digits for each byte, and nothing else",
            )
        })
    }
}
