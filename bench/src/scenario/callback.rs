//! From a put in one process to the callback in another; with Redis, from PUBLISH to the message.
//!
//! The other process is this program, which writes the time at which it was told (the clock CLOCK_MONOTONIC, one for all
//! processes) to a pipe, as the first thing it does. This one takes the time before it puts, and puts again when the
//! other has been told and its own call has returned. Both subjects are measured by the same loop; hiredis waits in a blocking read, the library of kvs on its own
//! thread, as each does for its users.
//!
//! The callback says which key has changed, not by which put. So nobody else may put the key, or what is taken for the
//! end of one put would be that of another: each kind of session has a key of its own. A time that lies before the put
//! is such a mistake, and ends the run.

use std::io::{PipeReader, Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec as PollTime, poll};
use rustix::time::{ClockId, clock_gettime};

use super::{Bench, Fleet};
use crate::error::{Doing, Result, failed};
use crate::measure::{Cell, Label, Sample, Turn, Unit, histogram};
use crate::options::Scenario;
use crate::servers::PATIENCE;
use crate::subject::kvs::{Address, Kvs, Session};
use crate::subject::{Client, Subject};

const SCENARIO: Scenario = Scenario::Callback;

/// The name of what is measured, in the report.
pub(crate) const OPERATION: &str = "tell";

/// The channel of Redis.
#[cfg(feature = "redis")]
const CHANNEL: &str = "k000000000";

/// What the other process writes when it is ready.
const READY: u64 = 0;

/// Nanoseconds of CLOCK_MONOTONIC.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // The time since the start of the machine is not negative.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// The process that is told.
struct Told {
    child: Child,
    times: PipeReader,
}

impl Told {
    fn start(arguments: &[&str]) -> Result<Self> {
        let what = || "starting the process that is told".to_owned();
        let (times, theirs) = pipe().doing(what)?;
        let program = std::env::current_exe().doing(what)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(theirs)
            .process_group(0)
            .spawn()
            .doing(what)?;
        let mut told = Self { child, times };
        match told.next()? {
            READY => Ok(told),
            _ => failed("callback: told before anything was put"),
        }
    }

    /// When it was told, the next time that it is.
    fn next(&mut self) -> Result<u64> {
        let mut ready = [PollFd::new(&self.times, PollFlags::IN)];
        // It fits.
        let patience = PollTime { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        if poll(&mut ready, Some(&patience)).doing(|| "waiting for a callback".into())? == 0 {
            return failed(format!("callback: not told within {} s", PATIENCE.as_secs()));
        }
        let mut time = [0; 8];
        self.times.read_exact(&mut time).doing(|| "callback: the process that is told".into())?;
        Ok(u64::from_ne_bytes(time))
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let subjects = [Subject::Kvs, Subject::KvsOriginal, Subject::Redis];
    let fleet = Fleet::start(bench, SCENARIO, &subjects)?;
    let value = bench.value();
    let mut cells = Vec::new();
    for (subject, session, key) in [
        (Subject::Kvs, Session::Framed, "k000000001"),
        (Subject::KvsOriginal, Session::Original, "k000000002"),
    ] {
        if !bench.wants(subject) {
            continue;
        }
        let address = fleet.address()?;
        let open = || {
            let mut client = Kvs::open(address, session)?;
            // A watched key must exist.
            client.put(key.as_bytes(), &value)?;
            let Address { socket, group, secret } = address;
            let socket = socket.to_string_lossy();
            let name = session.argument();
            let told = Told::start(&["watch", &socket, group, secret, name, key])?;
            Ok((client, told))
        };
        if let Some((mut client, told)) = bench.available(SCENARIO, subject, open())? {
            let value = &value;
            cells.push(cell(subject, told, move || client.put(key.as_bytes(), value)));
        }
    }
    #[cfg(feature = "redis")]
    if let Some(server) = &fleet.redis {
        let mut client = crate::subject::redis::Redis::connect(&server.socket)?;
        let told = Told::start(&["subscribe", &server.socket.to_string_lossy(), CHANNEL])?;
        let value = &value;
        cells.push(cell(Subject::Redis, told, move || client.publish(CHANNEL.as_bytes(), value)));
    }
    bench.measure(cells)
}

fn cell<'a>(
    subject: Subject,
    mut told: Told,
    mut put: impl FnMut() -> Result<()> + 'a,
) -> Cell<'a> {
    Cell::new(Label::new(SCENARIO, OPERATION, subject), Unit::Nanoseconds, move |turn: &Turn| {
        let mut times = histogram();
        for (limit, measured) in [(turn.warm_up, false), (turn.limit, true)] {
            let (begun, mut count) = (Instant::now(), 0);
            while !limit.is_over(begun, Instant::now(), count) {
                turn.interrupt.check()?;
                let before = now();
                put()?;
                let after = told.next()?;
                count += 1;
                let time = between(before, after)?;
                if measured {
                    times.saturating_record(time);
                }
            }
        }
        Ok(Sample::latency(times))
    })
}

/// How long it took to be told.
fn between(put: u64, told: u64) -> Result<u64> {
    match told.checked_sub(put) {
        Some(time) if time > 0 => Ok(time),
        _ => failed("callback: told before it was put: somebody else has put the same key"),
    }
}

/// Writes a time to standard output.
fn report(time: u64) {
    // Without a reader it will be ended soon.
    let _ =
        std::io::stdout().lock().write_all(&time.to_ne_bytes()).map(|()| std::io::stdout().flush());
}

/// What the other process does with kvs: until the end of standard input.
pub(crate) fn watch(address: &Address, session: Session, key: &str) -> Result<()> {
    let connection = Kvs::open(address, session)?;
    connection.watch(key.as_bytes(), |_| report(now()))?;
    report(READY);
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    Ok(())
}

/// What it does with Redis: until the server goes.
#[cfg(feature = "redis")]
pub(crate) fn subscribe(socket: &std::path::Path, channel: &str) -> Result<()> {
    let mut client = crate::subject::redis::Redis::connect(socket)?;
    client.subscribe(channel.as_bytes())?;
    report(READY);
    while client.message() {
        report(now());
    }
    Ok(())
}

/// Without hiredis nobody asks for it.
#[cfg(not(feature = "redis"))]
pub(crate) fn subscribe(_: &std::path::Path, _: &str) -> Result<()> {
    failed("built without the feature `redis`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_before_it_was_put_belongs_to_another_put_and_is_no_time() {
        assert_eq!(between(100, 130).unwrap(), 30);
        assert!(between(100, 100).is_err());
        assert!(between(130, 100).is_err());
    }
}
