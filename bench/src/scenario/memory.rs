//! The memory that a server needs for each pair.
//!
//! The resident memory (VmRSS) of a server that was just started, and that of the same server when the pairs are stored and
//! nothing moves any more. It hardly varies, so it is measured once. The keys come in their order.

use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, Fleet, LOADING_DEPTH};
use crate::error::{Error, Result};
use crate::generator::{Generator, Wire};
use crate::keys::Shape;
use crate::measure::{Label, Series, Unit};
use crate::options::Scenario;
use crate::servers::{PATIENCE, Process};
use crate::subject::Subject;
use crate::subject::kvs::Address;

const SCENARIO: Scenario = Scenario::Memory;

/// The names of the figures in the report.
pub(crate) const PER_PAIR: &str = "per pair";
const ALL: &str = "resident";

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let fleet = Fleet::start(bench, SCENARIO, &[Subject::Kvs, Subject::Redis, Subject::Memcached])?;
    if let Some((servers, address)) = &fleet.kvs
        && bench.wants(Subject::Kvs)
    {
        measure(bench, Subject::Kvs, &servers.local, |bench| kvs(bench, address))?;
    }
    let others = [
        (Subject::Redis, &fleet.redis, Wire::Resp),
        (Subject::Memcached, &fleet.memcached, Wire::Text),
    ];
    for (subject, server, wire) in others {
        if let Some(server) = server {
            measure(bench, subject, &server.process, |bench| {
                let mut generator = Generator::other(server, wire, 1, LOADING_DEPTH, 1)?;
                generator.fill(Shape::SHORT, bench.options.pairs, &bench.value(), &bench.interrupt)
            })?;
        }
    }
    Ok(())
}

fn kvs(bench: &Bench<'_>, address: &Address) -> Result<()> {
    super::fill_kvs(address, Shape::SHORT, bench.options.pairs, &bench.value(), &bench.interrupt)
}

fn measure(
    bench: &mut Bench<'_>,
    subject: Subject,
    server: &Process,
    fill: impl FnOnce(&Bench<'_>) -> Result<()>,
) -> Result<()> {
    let label = |operation| Label::new(SCENARIO, operation, subject);
    bench.progress.turn(0, &label(PER_PAIR));
    let before = settled(bench, server)?;
    if bench.available(SCENARIO, subject, fill(bench))?.is_none() {
        return Ok(());
    }
    let after = settled(bench, server)?;
    let grown = after.checked_sub(before);
    let grown = grown.ok_or_else(|| Error::Failed(format!("{}: less memory", subject.name())))?;
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
    // Far from 2^53 bytes.
    add(PER_PAIR, Unit::Bytes, grown as f64 / pairs);
    add(ALL, Unit::Mebibytes, after as f64 / f64::from(1 << 20));
    Ok(())
}

/// Its memory when that has not changed for a while. There is no event for that.
fn settled(bench: &Bench<'_>, server: &Process) -> Result<u64> {
    let end = Instant::now() + PATIENCE;
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
