//! Runs the shell command of `kvs watch --exec` for an event.
//!
//! The standard input of the command is the value. Its environment describes the event and has what
//! another `kvs` needs to connect to the same group, except `KVS_SECRET`: a command that needs the
//! secret reads it from its file.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use crate::connector::{GroupConnection, SECRET_VARIABLE};
use crate::watch::event::{KeyEvent, KeyEventKind};

/// Runs the command and waits until it exits. An error is the predicate of a sentence about the
/// command.
pub(crate) fn run(
    command: &OsStr,
    event: &KeyEvent,
    group: &GroupConnection,
) -> Result<(), String> {
    let (version, value) = match &event.kind {
        KeyEventKind::Value { value, version, .. } => (*version, value.as_slice()),
        KeyEventKind::Deleted => (0, &[][..]),
    };
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(command)
        // Removes the inherited variables, which may belong to another group or server.
        .env_remove(SECRET_VARIABLE)
        .env_remove("KVS_SECRET_FILE")
        .env_remove("KVS_CALLBACK_SOCKET")
        .envs(group.exec_environment.iter().map(|(name, value)| (name, value)))
        .env("KVS_VERSION", version.to_string())
        .env("KVS_EVENT", event.name())
        .stdin(Stdio::piped());
    // The value of a variable cannot contain a NUL byte.
    if !event.key.contains(&0) {
        shell.env("KVS_KEY", OsString::from_vec(event.key.clone()));
    } else {
        shell.env_remove("KVS_KEY");
    }
    let mut child = shell.spawn().map_err(|error| format!("could not be started: {error}"))?;
    let written = match child.stdin.take() {
        // The pipe is closed when `input` is dropped.
        Some(mut input) => input.write_all(value),
        None => Ok(()),
    };
    let status = child.wait().map_err(|error| format!("could not be waited for: {error}"))?;
    match written {
        // A command may exit without reading the whole value.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(format!("did not get the value: {error}"));
        }
        _ => {}
    }
    if status.success() { Ok(()) } else { Err(format!("failed: {status}")) }
}
