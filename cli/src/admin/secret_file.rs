//! The file of `kvs admin create --secret-file`.
//!
//! A new file is created with `O_EXCL` and mode 0600. An existing file provides the secret, but
//! only if no other user can have chosen it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kvs_proto::control::Bytes;
use nix::unistd::geteuid;
use rustix::fs::OFlags;

use crate::admin::error::AdminError;
use crate::secret::Secret;

/// The file for the secret of a new group.
pub(super) enum SecretFile {
    /// An existing file. The group gets its secret.
    Existing { path: PathBuf, secret: Bytes },
    /// A new file for the secret of the group. It is removed when it is dropped before the secret
    /// is written.
    New { path: PathBuf, file: File, is_written: bool },
}

impl SecretFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, AdminError> {
        // `create_new` neither opens an existing file nor follows a link, and the file never has a
        // wider mode than 0600.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match file {
            Ok(file) => Ok(Self::New { path, file, is_written: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::open_existing(path),
            Err(error) => Err(AdminError::SecretFile { path, error }),
        }
    }

    /// Opens an existing file. In a directory such as `/tmp`, another user may have created it, or
    /// a link to a file whose content that user knows. It must therefore be a regular file that
    /// belongs to the caller or to root and that only its owner can write.
    fn open_existing(path: PathBuf) -> Result<Self, AdminError> {
        let failed = |error| AdminError::SecretFile { path: path.clone(), error };
        let untrusted = |why| Err(AdminError::UntrustedSecret { path: path.clone(), why });
        if std::fs::symlink_metadata(&path).map_err(failed)?.is_symlink() {
            return untrusted("it is a symbolic link");
        }
        // O_NONBLOCK: opening a pipe without a writer would block. O_NOFOLLOW: the path may have
        // become a link since the check above.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&path);
        let file = file.map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return untrusted("it is not a regular file");
        }
        if found.uid() != 0 && found.uid() != geteuid().as_raw() {
            return untrusted("it belongs to another user");
        }
        if found.mode() & 0o022 != 0 {
            return untrusted("users other than its owner can write it");
        }
        // An interrupted `create` leaves an empty file behind.
        if found.len() == 0 && found.uid() == geteuid().as_raw() {
            let file = OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(&path);
            return Ok(Self::New { file: file.map_err(failed)?, path, is_written: false });
        }
        let secret = Secret::first_line(file, &path).map_err(AdminError::ExistingSecret)?;
        Ok(Self::Existing { secret: secret.as_bytes().into(), path })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Existing { path, .. } | Self::New { path, .. } => path,
        }
    }

    /// The secret of an existing file.
    pub(super) fn secret(&self) -> Option<Bytes> {
        match self {
            Self::Existing { secret, .. } => Some(secret.clone()),
            Self::New { .. } => None,
        }
    }

    /// Writes the secret of the created group to a new file.
    pub(super) fn save(&mut self, secret: &Bytes) -> Result<(), AdminError> {
        let Self::New { path, file, is_written } = self else { return Ok(()) };
        let mut line = secret.0.clone();
        line.push(b'\n');
        match file.write_all(&line).and_then(|()| file.sync_all()) {
            Ok(()) => *is_written = true,
            Err(error) => return Err(AdminError::SecretNotWritten { path: path.clone(), error }),
        }
        Ok(())
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if let Self::New { path, is_written: false, .. } = self {
            // The file is empty, and no message has mentioned it.
            let _ = std::fs::remove_file(path);
        }
    }
}
