//! The time from a put in one process to the callback in another; for Redis, from PUBLISH to the
//! message.
//!
//! The other process is this program. As the first thing in its callback it writes the time
//! (CLOCK_MONOTONIC, one clock for all processes) to a pipe. This process takes the time before the
//! put, and puts again when the notification and its own call are complete. The same loop measures
//! both systems. hiredis waits in a blocking read, the library of kvs on its own thread, as each
//! does for its users.
//!
//! A callback names the changed key, not the put. So no other process may put the key, or the end
//! of one put would be taken for that of another: each protocol has a key of its own. A time before
//! the put is such a mistake, and ends the run.

use std::io::{PipeReader, Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec as PollTime, poll};
use rustix::time::{ClockId, clock_gettime};

use super::bench::Bench;
use super::fleet::Fleet;
use crate::error::{IoContext, Result, failed};
use crate::measure::{Cell, Label, Measurement, Sample, Unit, histogram};
use crate::options::Scenario;
use crate::servers::SERVER_TIMEOUT;
use crate::system::kvs::{Address, Kvs, KvsProtocol};
use crate::system::{Client, System};

const SCENARIO: Scenario = Scenario::Callback;

/// The name of the operation in the report and its JSON.
pub(crate) const OPERATION: &str = "tell";

/// The channel of Redis.
#[cfg(feature = "redis")]
const CHANNEL: &str = "k000000000";

/// The value that the other process writes when it is ready.
const READY: u64 = 0;

/// Nanoseconds of CLOCK_MONOTONIC.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // The time since boot is not negative.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// The process that receives the notifications.
struct SubscriberProcess {
    child: Child,
    times: PipeReader,
}

impl SubscriberProcess {
    fn start(arguments: &[&str]) -> Result<Self> {
        let what = || "starting the subscriber".to_owned();
        let (times, theirs) = pipe().io_context(what)?;
        let program = std::env::current_exe().io_context(what)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(theirs)
            .process_group(0)
            .spawn()
            .io_context(what)?;
        let mut subscriber = Self { child, times };
        match subscriber.next()? {
            READY => Ok(subscriber),
            _ => failed("callback: a notification before any put"),
        }
    }

    /// Waits for the next notification, and returns its time.
    fn next(&mut self) -> Result<u64> {
        let mut ready = [PollFd::new(&self.times, PollFlags::IN)];
        // Ten seconds fit into the type.
        let timeout = PollTime { tv_sec: SERVER_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
        if poll(&mut ready, Some(&timeout)).io_context(|| "waiting for a callback".into())? == 0 {
            return failed(format!(
                "callback: no notification within {} s",
                SERVER_TIMEOUT.as_secs()
            ));
        }
        let mut time = [0; 8];
        self.times.read_exact(&mut time).io_context(|| "callback: the subscriber".into())?;
        Ok(u64::from_ne_bytes(time))
    }
}

impl Drop for SubscriberProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let systems = [System::Kvs, System::KvsOriginal, System::Redis];
    let fleet = Fleet::start(bench, SCENARIO, &systems)?;
    let value = bench.value();
    let mut cells = Vec::new();
    for (system, session, key) in [
        (System::Kvs, KvsProtocol::V2, "k000000001"),
        (System::KvsOriginal, KvsProtocol::V1, "k000000002"),
    ] {
        if !bench.wants(system) {
            continue;
        }
        let address = fleet.address()?;
        let open = || {
            let mut client = Kvs::open(address, session)?;
            // A watch needs an existing key.
            client.put(key.as_bytes(), &value)?;
            let Address { socket, group, secret } = address;
            let socket = socket.to_string_lossy();
            let name = session.argument();
            let subscriber =
                SubscriberProcess::start(&["watch", &socket, group, secret, name, key])?;
            Ok((client, subscriber))
        };
        if let Some((mut client, subscriber)) = bench.available(SCENARIO, system, open())? {
            let value = &value;
            cells.push(cell(system, subscriber, move || client.put(key.as_bytes(), value)));
        }
    }
    #[cfg(feature = "redis")]
    if let Some(server) = &fleet.redis {
        let mut client = crate::system::redis::Redis::connect(&server.socket)?;
        let subscriber =
            SubscriberProcess::start(&["subscribe", &server.socket.to_string_lossy(), CHANNEL])?;
        let value = &value;
        cells.push(cell(System::Redis, subscriber, move || {
            client.publish(CHANNEL.as_bytes(), value)
        }));
    }
    bench.measure(cells)
}

fn cell<'a>(
    system: System,
    mut subscriber: SubscriberProcess,
    mut put: impl FnMut() -> Result<()> + 'a,
) -> Cell<'a> {
    Cell::new(
        Label::new(SCENARIO, OPERATION, system),
        Unit::Nanoseconds,
        move |measurement: &Measurement| {
            let mut times = histogram();
            for (limit, measured) in [(measurement.warm_up, false), (measurement.limit, true)] {
                let (begun, mut count) = (Instant::now(), 0);
                while !limit.is_reached(begun, Instant::now(), count) {
                    measurement.interrupt.check()?;
                    let before = now();
                    put()?;
                    let after = subscriber.next()?;
                    count += 1;
                    let time = between(before, after)?;
                    if measured {
                        times.saturating_record(time);
                    }
                }
            }
            Ok(Sample::latency(times))
        },
    )
}

/// The time from a put to its notification.
fn between(put: u64, notified: u64) -> Result<u64> {
    match notified.checked_sub(put) {
        Some(time) if time > 0 => Ok(time),
        _ => {
            failed("callback: a notification before the put: another process has put the same key")
        }
    }
}

/// Writes a time to standard output.
fn report(time: u64) {
    // Without a reader, this process is about to be killed.
    let _ =
        std::io::stdout().lock().write_all(&time.to_ne_bytes()).map(|()| std::io::stdout().flush());
}

/// The other process for kvs. Returns at the end of standard input.
pub(crate) fn watch(address: &Address, session: KvsProtocol, key: &str) -> Result<()> {
    let connection = Kvs::open(address, session)?;
    connection.watch(key.as_bytes(), |_| report(now()))?;
    report(READY);
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    Ok(())
}

/// The other process for Redis. Returns when the server closes the connection.
#[cfg(feature = "redis")]
pub(crate) fn subscribe(socket: &std::path::Path, channel: &str) -> Result<()> {
    let mut client = crate::system::redis::Redis::connect(socket)?;
    client.subscribe(channel.as_bytes())?;
    report(READY);
    while client.message() {
        report(now());
    }
    Ok(())
}

/// Never started without hiredis.
#[cfg(not(feature = "redis"))]
pub(crate) fn subscribe(_: &std::path::Path, _: &str) -> Result<()> {
    failed("built without the feature `redis`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notification_before_its_put_is_an_error() {
        assert_eq!(between(100, 130).unwrap(), 30);
        assert!(between(100, 100).is_err());
        assert!(between(130, 100).is_err());
    }
}
