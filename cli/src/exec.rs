//! The shell command that a watch runs for a change.
//!
//! Its input is the value, whatever it does with it. It finds what has happened in its environment, and what another `kvs` needs
//! to come to the same group, but not the secret: a command that wants it can read the file.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use crate::access::{Member, SECRET_VARIABLE};
use crate::watch::{Event, What};

/// Runs it and waits for its end. What goes wrong with it, as the end of a sentence.
pub(crate) fn run(command: &OsStr, event: &Event, member: &Member) -> Result<(), String> {
    let (version, value) = match &event.what {
        What::Value { value, version, .. } => (*version, value.as_slice()),
        What::Deleted => (0, &[][..]),
    };
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(command)
        // Of what is set here, none is to be mixed with what was set before.
        .env_remove(SECRET_VARIABLE)
        .env_remove("KVS_SECRET_FILE")
        .env_remove("KVS_CALLBACK_SOCKET")
        .envs(member.variables.iter().map(|(name, value)| (name, value)))
        .env("KVS_VERSION", version.to_string())
        .env("KVS_EVENT", event.name())
        .stdin(Stdio::piped());
    // A variable cannot have every key.
    if !event.key.contains(&0) {
        shell.env("KVS_KEY", OsString::from_vec(event.key.clone()));
    } else {
        shell.env_remove("KVS_KEY");
    }
    let mut child = shell.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let written = match child.stdin.take() {
        // Its end is the end of the value.
        Some(mut input) => input.write_all(value),
        None => Ok(()),
    };
    let status = child.wait().map_err(|error| format!("cannot be waited for: {error}"))?;
    match written {
        // It need not read all of it, or any.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(format!("did not get the value: {error}"));
        }
        _ => {}
    }
    if status.success() { Ok(()) } else { Err(format!("has failed: {status}")) }
}
