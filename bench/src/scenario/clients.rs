//! Many clients at once: the throughput of a server.
//!
//! The clients are those of the one load generator, the same loop for every server. With few
//! processors the generator can be the bottleneck, and then all servers look alike. So the scenario
//! also measures the processor time that each server needs per operation.

use std::cell::RefCell;
use std::rc::Rc;

use super::bench::Bench;
use super::fleet::Fleet;
use crate::error::Result;
use crate::generator::{Generator, Load, Source, WireProtocol};
use crate::keys::{Keys, Shape};
use crate::measure::{Cell, Label, Sample, Unit};
use crate::options::Scenario;
use crate::servers::Process;
use crate::system::System;

const SCENARIO: Scenario = Scenario::Clients;

/// The name of a mix of gets and puts in the report.
pub(crate) fn operation(reads: u32) -> String {
    match reads {
        100 => "get".into(),
        0 => "put".into(),
        reads => format!("{reads}% get"),
    }
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let fleet = Fleet::start(bench, SCENARIO, &[System::Kvs, System::Redis, System::Memcached])?;
    let keys = Keys::draw(Shape::SHORT, options.keys, options.distribution, options.seed);
    let value = bench.value();
    fleet.fill(bench, keys.shape, keys.count)?;
    let mut cells = Vec::new();
    for &clients in &options.clients {
        let others = [
            (System::Redis, &fleet.redis, WireProtocol::Resp),
            (System::Memcached, &fleet.memcached, WireProtocol::Memcached),
        ];
        let (depth, threads) = (options.depth, options.threads);
        if let Some((servers, address)) = &fleet.kvs {
            let generator = Generator::kvs(address, clients, depth, threads);
            if let Some(generator) = bench.available(SCENARIO, System::Kvs, generator)? {
                cells.extend(of_server(
                    bench,
                    System::Kvs,
                    &servers.local,
                    generator,
                    clients,
                    &keys,
                    &value,
                ));
            }
        }
        for (system, server, wire) in others {
            if let Some(server) = server {
                let generator = Generator::other(server, wire, clients, depth, threads)?;
                cells.extend(of_server(
                    bench,
                    system,
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
    system: System,
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
        let label = Label::new(SCENARIO, &operation(reads), system).at(clients);
        Cell::new(label, Unit::OperationsPerSecond, move |measurement| {
            let mut generator = generator.borrow_mut();
            generator.warm_up(&load, measurement)?;
            let before = server.processor_time()?;
            let outcome = generator.run_once(&load, measurement.limit, measurement)?;
            let used = server.processor_time()?.saturating_sub(before);
            let figure = outcome.operations as f64 / outcome.time.as_secs_f64();
            let sample = Sample::new(figure).with_server_time(used, outcome.operations);
            Ok(sample.with_times(outcome.times))
        })
    };
    bench.options.reads.iter().map(cell).collect()
}
