//! The secret of a group. It is never printed, not even by `Debug`.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::Error;
use crate::quoting::Quoted;
use crate::terminal::read_password;

/// The length at which a secret file is cut off. It exceeds every valid secret, so that the library
/// rejects a longer line with its own message.
const MAX_LINE: u64 = 4096;

/// The permission of others to read. A Unix group of users may share a secret.
const OTHERS_CAN_READ: u32 = 0o004;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the first line of a file. Also returns whether every user can read the file.
    pub(crate) fn read(path: &Path) -> Result<(Self, bool), Error> {
        let failed = |source| Error::SecretFile { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        // The permissions of a pipe say nothing about its content.
        let is_exposed = metadata.is_file() && metadata.permissions().mode() & OTHERS_CAN_READ != 0;
        Ok((Self::first_line(file, path)?, is_exposed))
    }

    /// Reads the first line of an open file.
    pub(crate) fn first_line(file: File, path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::SecretFile { path: path.to_owned(), source };
        let mut line = Vec::new();
        BufReader::new(file.take(MAX_LINE)).read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        match line.is_empty() {
            true => Err(Error::EmptySecret { path: path.to_owned() }),
            false => Ok(Self(line)),
        }
    }

    /// Asks for the secret on the terminal, without echo. An empty line is `None`.
    pub(crate) fn prompt(group: &[u8]) -> io::Result<Option<Self>> {
        let secret = read_password(&format!("Secret of the group {}: ", Quoted(group)))?;
        Ok(Some(Self(secret)).filter(|secret| !secret.0.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(content: &[u8], mode: u32) -> Result<(Secret, bool), Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Secret::read(&path)
    }

    #[test]
    fn first_line_is_the_secret() {
        for content in ["VKHMp", "VKHMp\n", "VKHMp\r\n", "VKHMp\nmore\n"] {
            let (secret, exposed) = read(content.as_bytes(), 0o600).unwrap();
            assert_eq!((secret.as_bytes(), exposed), (&b"VKHMp"[..], false), "{content:?}");
        }
        for content in ["", "\n", "\r\n", "\nVKHMp\n"] {
            let refused = read(content.as_bytes(), 0o600);
            assert!(matches!(refused, Err(Error::EmptySecret { .. })), "{content:?}");
        }
    }

    #[test]
    fn file_that_others_can_read_is_detected() {
        for (mode, expected) in [(0o600, false), (0o400, false), (0o640, false), (0o604, true)] {
            assert_eq!(read(b"s", mode).unwrap().1, expected, "{mode:o}");
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        assert_eq!(format!("{:?}", Some(Secret::new(b"VKHMp".to_vec()))), "Some(Secret)");
    }
}
