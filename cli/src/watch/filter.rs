//! The keys and prefixes of a watch.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::quoting::Quoted;

/// Selects the keys of a watch.
#[derive(Debug, Clone)]
pub(crate) struct WatchFilter {
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) prefixes: Vec<Vec<u8>>,
}

impl WatchFilter {
    pub(crate) fn new(keys: Vec<OsString>, prefixes: Vec<OsString>) -> Self {
        let bytes = |words: Vec<OsString>| words.into_iter().map(OsString::into_vec).collect();
        Self { keys: bytes(keys), prefixes: bytes(prefixes) }
    }

    pub(crate) fn matches(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|wanted| wanted == key)
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// The shortest list of prefixes that covers all keys and prefixes. No two of them cover the
    /// same key, so each change is reported once.
    pub(crate) fn covering_prefixes(&self) -> Vec<&[u8]> {
        let mut all: Vec<&[u8]> =
            self.keys.iter().chain(&self.prefixes).map(Vec::as_slice).collect();
        // After sorting, a prefix precedes everything that begins with it.
        all.sort_unstable();
        all.dedup_by(|later, earlier| later.starts_with(earlier));
        all
    }

    /// A description for messages.
    pub(crate) fn text(&self) -> String {
        let keys = self.keys.iter().map(|key| Quoted(key).to_string());
        let prefixes = self.prefixes.iter().map(|prefix| match prefix.is_empty() {
            true => "all keys".into(),
            false => format!("all keys that begin with {}", Quoted(prefix)),
        });
        keys.chain(prefixes).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(keys: &[&str], prefixes: &[&str]) -> WatchFilter {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect();
        WatchFilter::new(words(keys), words(prefixes))
    }

    #[test]
    fn every_key_is_covered_by_one_prefix() {
        let several = filter(&["ab", "a", "b:1", "a"], &["b:", "c", "b:2"]);
        assert_eq!(several.covering_prefixes(), [&b"a"[..], b"b:", b"c"]);
        for (key, is_match) in [
            ("a", true),
            ("ab", true),
            ("abc", false),
            ("b:", true),
            ("b:1", true),
            ("b", false),
            ("cx", true),
        ] {
            assert_eq!(several.matches(key.as_bytes()), is_match, "{key}");
        }
        assert_eq!(filter(&["a"], &["", "b"]).covering_prefixes(), [&b""[..]]);
    }
}
