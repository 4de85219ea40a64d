//! The time of an operation as a function of the number of connected idle applications.
//!
//! One server serves all numbers. The idle applications are added stage by stage in one round and
//! removed stage by stage in the next, so that neither direction favours a number. Each stage
//! measures the systems and their operations in random order. An idle application is a login
//! without the library, held by this process.

use kvs_proto::Protocol;

use super::bench::Bench;
use super::cells::{get_and_put, shared};
use super::fleet::Fleet;
use crate::error::Result;
use crate::keys::{Keys, Shape};
use crate::login::{LoggedIn, log_in};
use crate::measure::{Cell, interleave_stages};
use crate::options::Scenario;
use crate::system::System;

const SCENARIO: Scenario = Scenario::Applications;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let fleet = Fleet::start(bench, SCENARIO, &[System::Kvs, System::KvsOriginal])?;
    if fleet.kvs.is_none() {
        return Ok(());
    }
    let keys = Keys::draw(Shape::SHORT, options.keys, options.distribution, options.seed);
    let value = bench.value();
    fleet.fill(bench, keys.shape, keys.count)?;
    let mut clients = Vec::new();
    for system in [System::Kvs, System::KvsOriginal] {
        if bench.wants(system) {
            let client = fleet.client(system);
            if let Some(client) = bench.available(SCENARIO, system, client)? {
                clients.push((system, shared(client)));
            }
        }
    }
    let protocol = match clients.iter().any(|&(system, _)| system == System::Kvs) {
        true => Protocol::V2,
        false => Protocol::V1,
    };
    let stages = options.idle.iter().map(|&count| {
        let cells = clients.iter().flat_map(|(system, client)| {
            get_and_put(SCENARIO, *system, client, &keys, &value).map(|cell| cell.at(count))
        });
        cells.collect::<Vec<Cell<'_>>>()
    });
    let address = fleet.address()?;
    let mut idle: Vec<LoggedIn> = Vec::new();
    let (interrupt, results) = (&bench.interrupt, &mut bench.results);
    let prepare = |stage: usize| {
        // Truncation closes both sockets of the surplus applications.
        idle.truncate(options.idle[stage] as usize);
        while idle.len() < options.idle[stage] as usize {
            interrupt.check()?;
            idle.push(log_in(address, protocol)?);
        }
        Ok(())
    };
    interleave_stages(options, bench.progress, interrupt, stages.collect(), prepare, results)
}
