//! The recorded conversations of the original programs, from `tests/transcripts`.

use serde::Deserialize;

use crate::project_dir;

/// One message as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `main`, `callback`, `listen port`, `command port` or `close port`.
    pub channel: String,
    /// `app` or `server`; `local-server` or `auth-server`.
    pub from: String,
    /// What was sent.
    pub bytes: Vec<u8>,
}

/// One recorded conversation.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// What it is, in words.
    pub about: String,
    /// All messages in the order in which they were sent.
    pub messages: Vec<Message>,
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

impl Conversation {
    /// Reads `tests/transcripts/NAME.jsonl`.
    ///
    /// # Panics
    /// When it cannot be read or is not a conversation.
    pub fn load(name: &str) -> Self {
        let path = project_dir().join("tests/transcripts").join(format!("{name}.jsonl"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let bad = |error: serde_json::Error| -> ! { panic!("{}: {error}", path.display()) };
        let header: Header = serde_json::from_str(lines.next().unwrap_or_default())
            .unwrap_or_else(|error| bad(error));
        let messages: Vec<Message> = lines
            .map(|line| {
                let line: Line = serde_json::from_str(line).unwrap_or_else(|error| bad(error));
                Message { channel: line.channel, from: line.from, bytes: unhex(&line.hex) }
            })
            .collect();
        assert!(!messages.is_empty(), "{} has no messages", path.display());
        Self { about: header.about, messages }
    }

    /// Replaces, in every message that is exactly `recorded` or `recorded` followed by NULs, that by
    /// `real` (and as many NULs): secrets and ports differ from one run to the next.
    ///
    /// # Panics
    /// When no message has it: then the caller is wrong about the recording. When the lengths differ.
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
