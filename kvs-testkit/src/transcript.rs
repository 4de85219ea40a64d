//! The recorded conversations of the original programs in `tests/transcripts`.

use serde::Deserialize;

use crate::paths::project_dir;

/// One recorded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedMessage {
    /// `main`, `callback`, `listen port`, `command port` or `close port`.
    pub channel: String,
    /// `app` or `server`; `local-server` or `auth-server`.
    pub from: String,
    /// The bytes that were sent.
    pub bytes: Vec<u8>,
}

/// One recorded conversation.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// A description of the conversation.
    pub about: String,
    /// All messages in the order of sending.
    pub messages: Vec<RecordedMessage>,
}

#[derive(Deserialize)]
struct Header {
    about: String,
}

#[derive(Deserialize)]
struct Line {
    channel: String,
    from: String,
    hex: String,
}

impl Transcript {
    /// Reads `tests/transcripts/NAME.jsonl`.
    ///
    /// # Panics
    /// If the file cannot be read or is malformed.
    pub fn load(name: &str) -> Self {
        let path = project_dir().join("tests/transcripts").join(format!("{name}.jsonl"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let bad = |error: serde_json::Error| -> ! { panic!("{}: {error}", path.display()) };
        let header: Header = serde_json::from_str(lines.next().unwrap_or_default())
            .unwrap_or_else(|error| bad(error));
        let messages: Vec<RecordedMessage> = lines
            .map(|line| {
                let line: Line = serde_json::from_str(line).unwrap_or_else(|error| bad(error));
                RecordedMessage { channel: line.channel, from: line.from, bytes: unhex(&line.hex) }
            })
            .collect();
        assert!(!messages.is_empty(), "{} has no messages", path.display());
        Self { about: header.about, messages }
    }

    /// Replaces every message that is `recorded`, with or without NULs after it, by `real` and as
    /// many NULs: secrets and ports differ between runs.
    ///
    /// # Panics
    /// If no message is `recorded`, or the lengths differ.
    pub fn substitute(&mut self, recorded: &[u8], real: &[u8]) {
        assert_eq!(
            recorded.len(),
            real.len(),
            "a substitute of another length changes the conversation"
        );
        let mut found = false;
        for message in &mut self.messages {
            if let Some(rest) = message.bytes.strip_prefix(recorded)
                && rest.iter().all(|&byte| byte == 0)
            {
                message.bytes[..real.len()].copy_from_slice(real);
                found = true;
            }
        }
        assert!(found, "no message of the conversation is {}", recorded.escape_ascii());
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "an odd number of hexadecimal digits");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits"))
        .collect()
}
