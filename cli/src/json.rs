//! JSON objects, one per line.
//!
//! A byte string that is UTF-8 becomes a JSON string under the name of its field. Any other byte
//! string becomes base64 under that name followed by `_base64`, so a field has one meaning. All of
//! `kvs`, `kvs admin` included, encodes bytes through [`JsonObject::bytes`].

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kvs::Version;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// A JSON object whose fields keep their order. It is displayed on one line.
#[derive(Debug, Default)]
pub(crate) struct JsonObject(Vec<(String, Field)>);

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Field {
    Value(Value),
    Objects(Vec<JsonObject>),
}

impl JsonObject {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.value(name, text.into());
    }

    pub(crate) fn number(&mut self, name: &str, number: u64) {
        self.value(name, number.into());
    }

    pub(crate) fn value(&mut self, name: &str, value: Value) {
        self.0.push((name.into(), Field::Value(value)));
    }

    pub(crate) fn objects(&mut self, name: &str, objects: Vec<JsonObject>) {
        self.0.push((name.into(), Field::Objects(objects)));
    }

    /// Adds bytes as a string or as base64.
    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(name, text),
            Err(_) => self.text(&format!("{name}_base64"), &STANDARD.encode(bytes)),
        }
    }

    /// Adds a list of byte strings as two lists: the strings under `name`, and those that are not
    /// UTF-8, if there are any, as base64.
    pub(crate) fn bytes_list<'a>(&mut self, name: &str, list: impl Iterator<Item = &'a [u8]>) {
        let (mut strings, mut encoded) = (Vec::new(), Vec::new());
        for bytes in list {
            match std::str::from_utf8(bytes) {
                Ok(text) => strings.push(text.to_owned()),
                Err(_) => encoded.push(STANDARD.encode(bytes)),
            }
        }
        self.value(name, strings.into());
        if !encoded.is_empty() {
            self.value(&format!("{name}_base64"), encoded.into());
        }
    }

    /// Adds the version of a key. Protocol v1 has none, which is version 0 here.
    pub(crate) fn version(&mut self, version: Version) {
        if version != 0 {
            self.number("version", version);
        }
    }
}

impl Serialize for JsonObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl fmt::Display for JsonObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_a_string_or_base64() {
        let mut object = JsonObject::new();
        object.bytes("key", "\u{e4}\n\"\0".as_bytes());
        object.bytes("value", b"\x00\xff");
        object.number("version", u64::MAX);
        let line = object.to_string();
        assert_eq!(
            line,
            "{\"key\":\"\u{e4}\\n\\\"\\u0000\",\"value_base64\":\"AP8=\",\
             \"version\":18446744073709551615}"
        );
        assert!(!line.contains('\n'));
    }

    #[test]
    fn list_of_bytes_separates_text_from_base64() {
        let mut object = JsonObject::new();
        object.bytes_list("deleted", [&b"a"[..], b"\xff", b"b"].into_iter());
        assert_eq!(object.to_string(), r#"{"deleted":["a","b"],"deleted_base64":["/w=="]}"#);
        let mut object = JsonObject::new();
        object.bytes_list("deleted", [&b"a"[..]].into_iter());
        assert_eq!(object.to_string(), r#"{"deleted":["a"]}"#);
    }

    #[test]
    fn fields_keep_their_order_in_nested_objects() {
        let mut inner = JsonObject::new();
        inner.text("z", "1");
        inner.text("a", "2");
        let mut outer = JsonObject::new();
        outer.objects("list", vec![inner]);
        assert_eq!(outer.to_string(), r#"{"list":[{"z":"1","a":"2"}]}"#);
    }
}
