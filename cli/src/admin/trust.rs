//! Whether the process behind a control socket is trusted.
//!
//! In `/tmp` any user can be the first to listen at a path. Before `kvs admin` sends anything, it
//! therefore asks the kernel which user listens (`SO_PEERCRED`). It trusts root and the calling
//! user. Root also trusts a server of another user if no third user can have created the socket:
//! the path belongs to the user who listens, and every directory above it, both as written and
//! after resolving symbolic links, belongs to root or to that user and is writable by no one else.
//! A sticky directory does not qualify: the sticky bit restricts who may remove an entry, not who
//! may create one. For the same reason the owner of a path in `/tmp` proves nothing: a squatter
//! owns the path that it has created. When the path of the server is in such a directory, root runs
//! `kvs admin` as the user of the server.
//!
//! The path is checked after the connection is made. No third user can exchange it in between,
//! because only root and the user of the server can write to its directories.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether the user `us` trusts a server that the user `server` runs at `path`.
pub(super) fn is_trusted(server: u32, us: u32, path: &Path) -> io::Result<bool> {
    if server == 0 || server == us {
        return Ok(true);
    }
    if us != 0 {
        return Ok(false);
    }
    let as_written = std::path::absolute(path)?;
    let without_links = as_written.canonicalize()?;
    Ok(std::fs::metadata(&without_links)?.uid() == server
        && is_private_to(server, &as_written)?
        && is_private_to(server, &without_links)?)
}

/// Whether only root and `user` can write to the directories above `path`.
fn is_private_to(user: u32, path: &Path) -> io::Result<bool> {
    for directory in path.ancestors().skip(1) {
        let found = std::fs::metadata(directory)?;
        if !(found.uid() == 0 || found.uid() == user) || found.mode() & 0o022 != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_that_others_could_create_is_not_trusted() {
        let root_directory = Path::new("/run");
        assert!(is_trusted(0, 1000, root_directory).unwrap());
        assert!(is_trusted(1000, 1000, root_directory).unwrap());
        assert!(!is_trusted(1001, 1000, root_directory).unwrap());
        // A sticky directory: any user can create the path.
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_trusted(1001, 0, &directory.path().join("..")).unwrap());
        assert!(!is_private_to(1001, directory.path()).unwrap());
        // Directories of root.
        assert!(is_private_to(1001, Path::new("/proc/self")).unwrap());
    }
}
