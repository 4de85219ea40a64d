//! The secret of a group: read, held, never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::failure::Failure;
use crate::terminal::ask_unseen;
use crate::words::Quoted;

/// More than any secret has. A longer line is refused by the library, which says how long one may be.
const LONGEST_LINE: u64 = 4096;

/// The permission that lets everybody read. A group of users may well share a secret.
const ALL_MAY_READ: u32 = 0o004;

/// A secret.
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

    /// The first line of a file, and whether everybody may read it.
    pub(crate) fn read(path: &Path) -> Result<(Self, bool), Failure> {
        let failed = |source| Failure::SecretFile { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        // A pipe has other permissions than what is behind it.
        let exposed = metadata.is_file() && metadata.permissions().mode() & ALL_MAY_READ != 0;
        Ok((Self::first_line(file, path)?, exposed))
    }

    /// The first line of a file that is open.
    pub(crate) fn first_line(file: File, path: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::SecretFile { path: path.to_owned(), source };
        let mut line = Vec::new();
        BufReader::new(file.take(LONGEST_LINE)).read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        match line.is_empty() {
            true => Err(Failure::EmptySecret { path: path.to_owned() }),
            false => Ok(Self(line)),
        }
    }

    /// Asks for it on the terminal, without echo. Nothing typed is `None`.
    pub(crate) fn ask(group: &[u8]) -> io::Result<Option<Self>> {
        let secret = ask_unseen(&format!("Secret of the group {}: ", Quoted(group)))?;
        Ok(Some(Self(secret)).filter(|secret| !secret.0.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(content: &[u8], mode: u32) -> Result<(Secret, bool), Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Secret::read(&path)
    }

    #[test]
    fn the_first_line_is_the_secret() {
        for content in ["VKHMp", "VKHMp\n", "VKHMp\r\n", "VKHMp\nmore\n"] {
            let (secret, exposed) = read(content.as_bytes(), 0o600).unwrap();
            assert_eq!((secret.as_bytes(), exposed), (&b"VKHMp"[..], false), "{content:?}");
        }
        for content in ["", "\n", "\r\n", "\nVKHMp\n"] {
            let refused = read(content.as_bytes(), 0o600);
            assert!(matches!(refused, Err(Failure::EmptySecret { .. })), "{content:?}");
        }
    }

    #[test]
    fn it_is_noticed_that_everybody_may_read_the_file() {
        for (mode, expected) in [(0o600, false), (0o400, false), (0o640, false), (0o604, true)] {
            assert_eq!(read(b"s", mode).unwrap().1, expected, "{mode:o}");
        }
    }

    #[test]
    fn a_secret_is_not_shown_with_what_holds_it() {
        assert_eq!(format!("{:?}", Some(Secret::new(b"VKHMp".to_vec()))), "Some(Secret)");
    }
}
