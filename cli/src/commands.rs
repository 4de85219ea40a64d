//! The commands on a group: get, put, delete, keys, watch, status.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use kvs::{MAX_VALUE, Protocol, Swap, Version};
use serde_json::Value;

use crate::arguments::GroupCommand;
use crate::connector::GroupConnection;
use crate::error::Error;
use crate::json::JsonObject;
use crate::output::Output;
use crate::quoting::Unquoted;
use crate::watch::command as watch;

/// The number of requests whose median is the round trip time. It is odd, so that the median is the
/// time of one request.
const ROUND_TRIP_SAMPLES: usize = 21;

/// The key that these requests get. It need not exist.
const ROUND_TRIP_KEY: &[u8] = b"kvs:status";

/// The note before `put` reads a value from the terminal.
const TERMINAL_INPUT_NOTE: &str = "type the value, then Ctrl-D at the beginning of a line";

/// Where a command comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invocation {
    /// The command line: one command, whose value may come from standard input.
    CommandLine,
    /// A line of standard input or of the prompt. Standard input holds the commands, and no value.
    Line,
}

/// Runs a command.
pub(crate) fn run(
    command: GroupCommand,
    group: &GroupConnection,
    output: Output,
    invocation: Invocation,
) -> Result<u8, Error> {
    match command {
        GroupCommand::Get { key } => get(group, key.as_bytes(), output, invocation)?,
        GroupCommand::Put { key, value, if_version } => {
            let value = value_of(value, invocation, output)?;
            put(group, key.as_bytes(), &value, if_version, output)?;
        }
        GroupCommand::Delete { keys, if_version } => delete(group, &keys, if_version, output)?,
        GroupCommand::Keys { prefix, null } => {
            keys(group, prefix.unwrap_or_default().as_bytes(), null, output)?;
        }
        GroupCommand::Watch(args) => watch::run(args, group, output)?,
        GroupCommand::Status => status(group, output)?,
    }
    Ok(0)
}

fn get(
    group: &GroupConnection,
    key: &[u8],
    output: Output,
    invocation: Invocation,
) -> Result<(), Error> {
    let (mut value, version) = group.get(key)?.ok_or_else(|| group.no_such_key(key))?;
    if output.is_json() {
        let mut object = JsonObject::new();
        object.bytes("key", key);
        object.bytes("value", &value);
        object.version(version);
        return output.line(object);
    }
    if invocation == Invocation::Line || io::stdout().is_terminal() {
        value.push(b'\n');
    }
    output.bytes(&value)
}

fn value_of(
    value: Option<OsString>,
    invocation: Invocation,
    output: Output,
) -> Result<Vec<u8>, Error> {
    match (value, invocation) {
        (Some(value), _) if value != "-" => Ok(value.into_vec()),
        (_, Invocation::CommandLine) => {
            let mut value = Vec::new();
            let mut input = io::stdin().lock();
            if input.is_terminal() {
                output.note(TERMINAL_INPUT_NOTE);
            }
            // One byte over the limit is enough for the library to reject the value.
            let mut limited = input.by_ref().take(MAX_VALUE as u64 + 1);
            limited.read_to_end(&mut value).map_err(Error::Input)?;
            Ok(value)
        }
        (_, Invocation::Line) => Err(Error::Usage(
            "the value is missing: put KEY VALUE (\"\" is an empty value; only kvs put on the \
             command line reads standard input)"
                .into(),
        )),
    }
}

fn put(
    group: &GroupConnection,
    key: &[u8],
    value: &[u8],
    if_version: Option<Version>,
    output: Output,
) -> Result<(), Error> {
    let connection = &group.connection;
    let done = match if_version {
        Some(expected) => connection.compare_and_swap(key, value, expected),
        None => connection.put(key, value).map(Swap::Done),
    };
    let version = match done.map_err(|error| group.error(error))? {
        Swap::Done(version) => version,
        Swap::Conflict(version) => return Err(Error::Conflict { key: key.to_vec(), version }),
    };
    if output.is_json() {
        let mut object = JsonObject::new();
        object.bytes("key", key);
        object.version(version);
        return output.line(object);
    }
    Ok(())
}

fn delete(
    group: &GroupConnection,
    keys: &[OsString],
    if_version: Option<Version>,
    output: Output,
) -> Result<(), Error> {
    if if_version.is_some() && keys.len() != 1 {
        return Err(Error::Usage("--if-version takes exactly one key".into()));
    }
    let mut reported = None;
    for key in keys {
        let key = key.as_bytes();
        match delete_one(group, key, if_version) {
            Ok(()) if output.is_json() => {
                let mut object = JsonObject::new();
                object.bytes("key", key);
                object.value("deleted", true.into());
                output.line(object)?;
            }
            Ok(()) => {}
            // The remaining keys may exist.
            Err(missing @ Error::NoSuchKey { .. }) => {
                output.error(&missing);
                reported = Some(Error::AlreadyReported { exit_code: missing.exit_code() });
            }
            Err(error) => return Err(error),
        }
    }
    reported.map_or(Ok(()), Err)
}

fn delete_one(
    group: &GroupConnection,
    key: &[u8],
    if_version: Option<Version>,
) -> Result<(), Error> {
    let connection = &group.connection;
    match if_version {
        None => match connection.delete(key).map_err(|error| group.error(error))? {
            true => Ok(()),
            false => Err(group.no_such_key(key)),
        },
        Some(expected) => {
            match connection
                .compare_and_delete(key, expected)
                .map_err(|error| group.error(error))?
            {
                Swap::Done(_) => Ok(()),
                Swap::Conflict(version) => Err(Error::Conflict { key: key.to_vec(), version }),
            }
        }
    }
}

fn keys(group: &GroupConnection, prefix: &[u8], null: bool, output: Output) -> Result<(), Error> {
    let mut cursor = 0;
    loop {
        let page = group.connection.keys_page(prefix, cursor, 0);
        let (keys, next) = page.map_err(|error| group.error(error))?;
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

fn status(group: &GroupConnection, output: Output) -> Result<(), Error> {
    let connection = &group.connection;
    let count = match connection.protocol() {
        Protocol::V2 => {
            let mut count = 0u64;
            for key in connection.keys("") {
                key.map_err(|error| group.error(error))?;
                count += 1;
            }
            Some(count)
        }
        Protocol::V1 => None,
    };
    let round_trip = round_trip(group)?.as_nanos() as f64 / 1000.0;
    let server = group.socket.as_os_str().as_bytes();
    if output.is_json() {
        let mut object = JsonObject::new();
        object.bytes("server", server);
        object.bytes("group", &group.group);
        // These names predate the numbers of the protocols; programs rely on them.
        let session = match connection.protocol() {
            Protocol::V1 => "original",
            Protocol::V2 => "framed",
        };
        object.text("session", session);
        object.value("keys", count.map_or(Value::Null, Value::from));
        object.value("round_trip_us", round_trip.into());
        return output.line(object);
    }
    let count =
        count.map_or("unknown (protocol v1 cannot list them)".into(), |count| count.to_string());
    let protocol = match connection.protocol() {
        Protocol::V1 => "v1",
        Protocol::V2 => "v2",
    };
    output.line(format_args!(
        "server:      {}\n\
         group:       {}\n\
         protocol:    {protocol}\n\
         keys:        {count}\n\
         round trip:  {round_trip:.1} \u{b5}s",
        Unquoted(server),
        Unquoted(&group.group),
    ))
}

/// The median time of some requests.
fn round_trip(group: &GroupConnection) -> Result<Duration, Error> {
    let mut times = Vec::with_capacity(ROUND_TRIP_SAMPLES);
    for _ in 0..ROUND_TRIP_SAMPLES {
        let start = Instant::now();
        group.connection.get(ROUND_TRIP_KEY).map_err(|error| group.error(error))?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[ROUND_TRIP_SAMPLES / 2])
}
