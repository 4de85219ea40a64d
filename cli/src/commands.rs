//! What each command does with a connection.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use kvs::{MAX_VALUE, Protocol, Swap, Version, Versioned};
use serde_json::Value;

use crate::access::Member;
use crate::arguments::Request;
use crate::failure::Failure;
use crate::output::{Object, Output, bytes_field, note};
use crate::watch;
use crate::words::Plain;

/// How many gets the round trip time is the median of: odd, so that one of them is it.
const ROUND_TRIPS: usize = 21;

/// The key that they ask for, which need not exist.
const ROUND_TRIP_KEY: &[u8] = b"kvs:status";

/// What is said instead of waiting without a word.
const FROM_TERMINAL: &str =
    "the value is what you type now, up to Ctrl-D at the beginning of a line";

/// Who gives the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surroundings {
    /// A shell: one command, whose value may come from standard input.
    Shell,
    /// Standard input or the prompt: one command after the other.
    Lines,
}

/// Does a request. The exit code is 0 or that of what has been told already.
pub(crate) fn run(
    request: Request,
    member: &Member,
    output: Output,
    surroundings: Surroundings,
) -> Result<u8, Failure> {
    match request {
        Request::Get { key } => get(member, key.as_bytes(), output, surroundings)?,
        Request::Put { key, value, if_version } => {
            let value = value_of(value, surroundings, output)?;
            put(member, key.as_bytes(), &value, if_version, output)?;
        }
        Request::Delete { keys, if_version } => delete(member, &keys, if_version, output)?,
        Request::Keys { prefix, null } => {
            keys(member, prefix.unwrap_or_default().as_bytes(), null, output)?;
        }
        Request::Watch(request) => watch::run(request, member, output)?,
        Request::Status => status(member, output)?,
    }
    Ok(0)
}

/// The value of a key and its version, which an original session does not have.
pub(crate) fn find(member: &Member, key: &[u8]) -> Result<Option<(Vec<u8>, Version)>, Failure> {
    let found = match member.connection.protocol() {
        Protocol::V2 => {
            let found = member.connection.get_versioned(key);
            found.map(|found| found.map(|Versioned { value, version }| (value, version)))
        }
        Protocol::V1 => member.connection.get(key).map(|found| found.map(|value| (value, 0))),
    };
    found.map_err(|error| member.failure(error))
}

fn no_such_key(member: &Member, key: &[u8]) -> Failure {
    Failure::NoSuchKey { key: key.to_vec(), group: member.group.clone() }
}

fn get(
    member: &Member,
    key: &[u8],
    output: Output,
    surroundings: Surroundings,
) -> Result<(), Failure> {
    let (mut value, version) = find(member, key)?.ok_or_else(|| no_such_key(member, key))?;
    if output.is_json() {
        let mut object = Object::new();
        bytes_field(&mut object, "key", key);
        bytes_field(&mut object, "value", &value);
        version_field(&mut object, version);
        return output.line(object);
    }
    if surroundings == Surroundings::Lines || io::stdout().is_terminal() {
        value.push(b'\n');
    }
    output.bytes(&value)
}

/// Adds the version, if the session has one.
pub(crate) fn version_field(object: &mut Object, version: Version) {
    if version != 0 {
        object.number("version", version);
    }
}

fn value_of(
    value: Option<OsString>,
    surroundings: Surroundings,
    output: Output,
) -> Result<Vec<u8>, Failure> {
    match (value, surroundings) {
        (Some(value), _) if value != "-" => Ok(value.into_vec()),
        (_, Surroundings::Shell) => {
            let mut value = Vec::new();
            let mut input = io::stdin().lock();
            if input.is_terminal() {
                output.event(|| note(FROM_TERMINAL), FROM_TERMINAL);
            }
            // One byte too many is enough to be refused.
            input.by_ref().take(MAX_VALUE as u64 + 1).read_to_end(&mut value).map_err(Failure::Input)?;
            Ok(value)
        }
        (_, Surroundings::Lines) => Err(Failure::Usage(
            "the value is missing: put KEY VALUE (\"\" is an empty one; only a command of the shell reads it from standard input)"
                .into(),
        )),
    }
}

fn put(
    member: &Member,
    key: &[u8],
    value: &[u8],
    if_version: Option<Version>,
    output: Output,
) -> Result<(), Failure> {
    let connection = &member.connection;
    let done = match if_version {
        Some(expected) => connection.compare_and_swap(key, value, expected),
        None => connection.put(key, value).map(Swap::Done),
    };
    let version = match done.map_err(|error| member.failure(error))? {
        Swap::Done(version) => version,
        Swap::Conflict(version) => return Err(Failure::Conflict { key: key.to_vec(), version }),
    };
    if output.is_json() {
        let mut object = Object::new();
        bytes_field(&mut object, "key", key);
        version_field(&mut object, version);
        return output.line(object);
    }
    Ok(())
}

fn delete(
    member: &Member,
    keys: &[OsString],
    if_version: Option<Version>,
    output: Output,
) -> Result<(), Failure> {
    if if_version.is_some() && keys.len() != 1 {
        return Err(Failure::Usage("--if-version is for one key".into()));
    }
    let mut told = None;
    for key in keys {
        let key = key.as_bytes();
        match delete_one(member, key, if_version) {
            Ok(()) if output.is_json() => {
                let mut object = Object::new();
                bytes_field(&mut object, "key", key);
                object.value("deleted", true.into());
                output.line(object)?;
            }
            Ok(()) => {}
            // The others may exist.
            Err(missing @ Failure::NoSuchKey { .. }) => {
                output.failure(&missing);
                told = Some(Failure::Told { exit_code: missing.exit_code() });
            }
            Err(failure) => return Err(failure),
        }
    }
    told.map_or(Ok(()), Err)
}

fn delete_one(member: &Member, key: &[u8], if_version: Option<Version>) -> Result<(), Failure> {
    let connection = &member.connection;
    match if_version {
        None => match connection.delete(key).map_err(|error| member.failure(error))? {
            true => Ok(()),
            false => Err(no_such_key(member, key)),
        },
        Some(expected) => {
            match connection
                .compare_and_delete(key, expected)
                .map_err(|error| member.failure(error))?
            {
                Swap::Done(_) => Ok(()),
                Swap::Conflict(version) => Err(Failure::Conflict { key: key.to_vec(), version }),
            }
        }
    }
}

fn keys(member: &Member, prefix: &[u8], null: bool, output: Output) -> Result<(), Failure> {
    let mut cursor = 0;
    loop {
        let page = member.connection.keys_page(prefix, cursor, 0);
        let (keys, next) = page.map_err(|error| member.failure(error))?;
        output.lines(keys.iter().map(|key| match null {
            true => [key, &b"\0"[..]].concat(),
            false => output.key_line(key),
        }))?;
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

fn status(member: &Member, output: Output) -> Result<(), Failure> {
    let connection = &member.connection;
    let framed = connection.protocol() == Protocol::V2;
    let count = match framed {
        true => {
            let mut count = 0u64;
            for key in connection.keys("") {
                key.map_err(|error| member.failure(error))?;
                count += 1;
            }
            Some(count)
        }
        false => None,
    };
    let round_trip = round_trip(member)?.as_nanos() as f64 / 1000.0;
    let session = if framed { "framed" } else { "original" };
    let server = member.socket.as_os_str().as_bytes();
    if output.is_json() {
        let mut object = Object::new();
        bytes_field(&mut object, "server", server);
        bytes_field(&mut object, "group", &member.group);
        object.text("session", session);
        object.value("keys", count.map_or(Value::Null, Value::from));
        object.value("round_trip_us", round_trip.into());
        return output.line(object);
    }
    let count = count
        .map_or("unknown (an original session cannot list them)".into(), |count| count.to_string());
    output.line(format_args!(
        "server:      {}\ngroup:       {}\nsession:     {session}\nkeys:        {count}\nround trip:  {round_trip:.1} \u{b5}s",
        Plain(server),
        Plain(&member.group),
    ))
}

/// The median of some.
fn round_trip(member: &Member) -> Result<Duration, Failure> {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        member.connection.get(ROUND_TRIP_KEY).map_err(|error| member.failure(error))?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[ROUND_TRIPS / 2])
}
