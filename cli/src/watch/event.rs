//! Events of a watch.

use kvs::Version;

use crate::json::JsonObject;
use crate::quoting::Unquoted;

/// What happened to a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeyEvent {
    pub(crate) key: Vec<u8>,
    pub(crate) kind: KeyEventKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyEventKind {
    /// The value of the key: a new one, or the `initial` one. The version is 0 in protocol v1.
    Value { value: Vec<u8>, version: Version, initial: bool },
    /// The key was deleted.
    Deleted,
}

impl KeyEvent {
    /// The stable name for programs.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            KeyEventKind::Value { initial: true, .. } => "initial",
            KeyEventKind::Value { initial: false, .. } => "changed",
            KeyEventKind::Deleted => "deleted",
        }
    }

    /// A line of text. A value longer than `max_value` bytes is cut.
    pub(crate) fn text(&self, max_value: usize) -> String {
        let key = Unquoted(&self.key);
        match &self.kind {
            KeyEventKind::Value { value, .. } if value.len() > max_value => {
                let shown = Unquoted(&value[..max_value]);
                format!("{key} = {shown}\u{2026} ({} bytes)", value.len())
            }
            KeyEventKind::Value { value, .. } => format!("{key} = {}", Unquoted(value)),
            KeyEventKind::Deleted => format!("{key} deleted"),
        }
    }

    /// The JSON object that `--json` prints.
    pub(crate) fn to_json(&self) -> JsonObject {
        let mut object = JsonObject::new();
        object.text("event", self.name());
        object.bytes("key", &self.key);
        if let KeyEventKind::Value { value, version, .. } = &self.kind {
            object.bytes("value", value);
            object.version(*version);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_one_line() {
        let kind =
            KeyEventKind::Value { value: b"two\nlines".to_vec(), version: 3, initial: false };
        let event = KeyEvent { key: b"k".to_vec(), kind };
        assert_eq!(event.text(usize::MAX), "k = two\\nlines");
        assert_eq!(event.text(3), "k = two\u{2026} (9 bytes)");
        assert_eq!(
            event.to_json().to_string(),
            r#"{"event":"changed","key":"k","value":"two\nlines","version":3}"#
        );
        let event = KeyEvent { key: b"k".to_vec(), kind: KeyEventKind::Deleted };
        assert_eq!(event.text(3), "k deleted");
        assert_eq!(event.to_json().to_string(), r#"{"event":"deleted","key":"k"}"#);
    }
}
