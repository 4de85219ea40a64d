//! The memory of a server per pair.
//!
//! The resident memory (VmRSS) of a server that was just started, and of the same server when the
//! pairs are stored and the value is stable. It varies little, so it is measured once. The keys
//! arrive in ascending order.

use std::thread;
use std::time::{Duration, Instant};

use super::bench::Bench;
use super::fleet::{Fleet, LOADING_DEPTH, fill_kvs};
use crate::error::{Error, Result};
use crate::generator::{Generator, WireProtocol};
use crate::keys::Shape;
use crate::measure::{Label, Series, Unit};
use crate::options::Scenario;
use crate::servers::{Process, SERVER_TIMEOUT};
use crate::system::System;
use crate::system::kvs::Address;

const SCENARIO: Scenario = Scenario::Memory;

/// The names of the figures in the report.
pub(crate) const PER_PAIR: &str = "per pair";
const ALL: &str = "resident";

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let fleet = Fleet::start(bench, SCENARIO, &[System::Kvs, System::Redis, System::Memcached])?;
    if let Some((servers, address)) = &fleet.kvs
        && bench.wants(System::Kvs)
    {
        measure(bench, System::Kvs, &servers.local, |bench| kvs(bench, address))?;
    }
    let others = [
        (System::Redis, &fleet.redis, WireProtocol::Resp),
        (System::Memcached, &fleet.memcached, WireProtocol::Memcached),
    ];
    for (system, server, wire) in others {
        if let Some(server) = server {
            measure(bench, system, &server.process, |bench| {
                let mut generator = Generator::other(server, wire, 1, LOADING_DEPTH, 1)?;
                generator.fill(Shape::SHORT, bench.options.pairs, &bench.value(), &bench.interrupt)
            })?;
        }
    }
    Ok(())
}

fn kvs(bench: &Bench<'_>, address: &Address) -> Result<()> {
    fill_kvs(address, Shape::SHORT, bench.options.pairs, &bench.value(), &bench.interrupt)
}

fn measure(
    bench: &mut Bench<'_>,
    system: System,
    server: &Process,
    fill: impl FnOnce(&Bench<'_>) -> Result<()>,
) -> Result<()> {
    let label = |operation| Label::new(SCENARIO, operation, system);
    bench.progress.measures(0, &label(PER_PAIR));
    let before = settled(bench, server)?;
    if bench.available(SCENARIO, system, fill(bench))?.is_none() {
        return Ok(());
    }
    let after = settled(bench, server)?;
    let grown = after.checked_sub(before);
    let grown =
        grown.ok_or_else(|| Error::Failed(format!("{}: the memory has shrunk", system.name())))?;
    let pairs = f64::from(bench.options.pairs);
    let mut add = |operation, unit, figure| {
        bench.results.push(Series {
            label: label(operation),
            unit,
            median: figure,
            rounds: vec![figure],
            percentiles: None,
            server_time: None,
        });
    };
    // Memory is far below 2^53 bytes.
    add(PER_PAIR, Unit::Bytes, grown as f64 / pairs);
    add(ALL, Unit::Mebibytes, after as f64 / f64::from(1 << 20));
    Ok(())
}

/// The resident memory when it is stable. No event reports that, so it is polled.
fn settled(bench: &Bench<'_>, server: &Process) -> Result<u64> {
    let end = Instant::now() + SERVER_TIMEOUT;
    let (mut last, mut same) = (server.resident()?, 0);
    while same < 4 && Instant::now() < end {
        bench.interrupt.check()?;
        thread::sleep(Duration::from_millis(50));
        let now = server.resident()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}
