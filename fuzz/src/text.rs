//! [`Text`]: accepts exactly the strings of at most 99 bytes without NUL, and preserves them.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use kvs_proto::{MAX_TEXT, Text};

/// Compares all constructors of a text on the same bytes.
pub fn run(data: &[u8]) {
    let legal = data.len() <= MAX_TEXT && !data.contains(&0);
    let text = Text::new(data);
    assert_eq!(text.is_ok(), legal);
    if let Ok(text) = text {
        assert_eq!(text.as_bytes(), data);
        assert_eq!(text.is_empty(), data.is_empty());
        assert_eq!(Text::from_padded(&text.padded::<100>()), Some(text));
        assert_eq!(text, Text::new(data).expect("the bytes are valid"));
        assert_eq!(hash(&text), hash(&data));
        let display = text.to_string();
        assert!(!display.chars().any(char::is_control), "{display:?} has control characters");
        let debug = format!("{text:?}");
        assert!(debug.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{debug}");
    }
    let padded = Text::from_padded(data);
    let end = data.iter().position(|&byte| byte == 0);
    let expected = end.filter(|&end| end <= MAX_TEXT && data[end..].iter().all(|&byte| byte == 0));
    assert_eq!(padded.as_ref().map(Text::as_bytes), expected.map(|end| &data[..end]));
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
