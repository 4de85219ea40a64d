//! Many clients at once: how many operations a server completes in a second.
//!
//! The clients are those of the one load generator, the same loop for every server. With few processors it may be the
//! generator that is at its limit, and then all servers look alike; so the processor time that
//! each server needs for an operation is measured, too.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Bench, Fleet};
use crate::error::Result;
use crate::generator::{Generator, Load, Source, Wire};
use crate::keys::{Keys, Shape};
use crate::measure::{Cell, Label, Sample, Unit};
use crate::options::Scenario;
use crate::servers::Process;
use crate::subject::Subject;

const SCENARIO: Scenario = Scenario::Clients;

/// The name of a mix in the report.
pub(crate) fn operation(reads: u32) -> String {
    match reads {
        100 => "get".into(),
        0 => "put".into(),
        reads => format!("{reads}% get"),
    }
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let fleet = Fleet::start(bench, SCENARIO, &[Subject::Kvs, Subject::Redis, Subject::Memcached])?;
    let keys = Keys::draw(Shape::SHORT, options.keys, options.distribution, options.seed);
    let value = bench.value();
    fleet.fill(bench, keys.shape, keys.count)?;
    let mut cells = Vec::new();
    for &clients in &options.clients {
        let others = [
            (Subject::Redis, &fleet.redis, Wire::Resp),
            (Subject::Memcached, &fleet.memcached, Wire::Text),
        ];
        let (depth, threads) = (options.depth, options.threads);
        if let Some((servers, address)) = &fleet.kvs {
            let generator = Generator::kvs(address, clients, depth, threads);
            if let Some(generator) = bench.available(SCENARIO, Subject::Kvs, generator)? {
                cells.extend(of_server(
                    bench,
                    Subject::Kvs,
                    &servers.local,
                    generator,
                    clients,
                    &keys,
                    &value,
                ));
            }
        }
        for (subject, server, wire) in others {
            if let Some(server) = server {
                let generator = Generator::other(server, wire, clients, depth, threads)?;
                cells.extend(of_server(
                    bench,
                    subject,
                    &server.process,
                    generator,
                    clients,
                    &keys,
                    &value,
                ));
            }
        }
    }
    bench.measure(cells)
}

fn of_server<'a>(
    bench: &Bench<'_>,
    subject: Subject,
    server: &'a Process,
    generator: Generator,
    clients: u32,
    keys: &'a Keys,
    value: &'a [u8],
) -> Vec<Cell<'a>> {
    let generator = Rc::new(RefCell::new(generator));
    let cell = |&reads: &u32| {
        let generator = Rc::clone(&generator);
        let load = Load { source: Source::Drawn(keys), value, reads };
        let label = Label::new(SCENARIO, &operation(reads), subject).at(clients);
        Cell::new(label, Unit::OperationsPerSecond, move |turn| {
            let mut generator = generator.borrow_mut();
            generator.warm_up(&load, turn)?;
            let before = server.processor_time()?;
            let outcome = generator.run_once(&load, turn.limit, turn)?;
            let used = server.processor_time()?.saturating_sub(before);
            let figure = outcome.operations as f64 / outcome.time.as_secs_f64();
            let sample = Sample::new(figure).with_server_time(used, outcome.operations);
            Ok(sample.with_times(outcome.times))
        })
    };
    bench.options.reads.iter().map(cell).collect()
}
