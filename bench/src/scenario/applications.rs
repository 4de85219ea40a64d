//! How the time of an operation grows with the number of idle applications that are connected besides.
//!
//! One server for all numbers. The idle applications come step by step in one round and go step by step in the next,
//! so that neither direction favours a number; at each number the subjects and their operations have their turns
//! in an order that is drawn. An idle application is a login without the library, held by this process.

use kvs_proto::Protocol;

use super::{Bench, Fleet, get_and_put, shared};
use crate::error::Result;
use crate::keys::{Keys, Shape};
use crate::login::{LoggedIn, log_in};
use crate::measure::{Cell, interleave_stages};
use crate::options::Scenario;
use crate::subject::Subject;

const SCENARIO: Scenario = Scenario::Applications;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let fleet = Fleet::start(bench, SCENARIO, &[Subject::Kvs, Subject::KvsOriginal])?;
    if fleet.kvs.is_none() {
        return Ok(());
    }
    let keys = Keys::draw(Shape::SHORT, options.keys, options.distribution, options.seed);
    let value = bench.value();
    fleet.fill(bench, keys.shape, keys.count)?;
    let mut clients = Vec::new();
    for subject in [Subject::Kvs, Subject::KvsOriginal] {
        if bench.wants(subject) {
            let client = fleet.client(subject);
            if let Some(client) = bench.available(SCENARIO, subject, client)? {
                clients.push((subject, shared(client)));
            }
        }
    }
    let kind = match clients.iter().any(|&(subject, _)| subject == Subject::Kvs) {
        true => Protocol::V2,
        false => Protocol::V1,
    };
    let stages = options.idle.iter().map(|&count| {
        let cells = clients.iter().flat_map(|(subject, client)| {
            get_and_put(SCENARIO, *subject, client, &keys, &value).map(|cell| cell.at(count))
        });
        cells.collect::<Vec<Cell<'_>>>()
    });
    let address = fleet.address()?;
    let mut idle: Vec<LoggedIn> = Vec::new();
    let (interrupt, results) = (&bench.interrupt, &mut bench.results);
    let prepare = |stage: usize| {
        // Both sockets of those that are too many are closed.
        idle.truncate(options.idle[stage] as usize);
        while idle.len() < options.idle[stage] as usize {
            interrupt.check()?;
            idle.push(log_in(address, kind)?);
        }
        Ok(())
    };
    interleave_stages(options, bench.progress, interrupt, stages.collect(), prepare, results)
}
