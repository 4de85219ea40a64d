//! The time of a get as a function of the number of keys.
//!
//! All numbers of keys exist at once, each in a group of kvs or a database of Redis of its own, so
//! that the measurements of the numbers interleave like those of the systems.

use super::bench::Bench;
use super::cells::{one_by_one, shared};
use super::fleet::{Fleet, LOADING_DEPTH, fill_kvs};
use crate::error::{Error, Result};
use crate::keys::{Keys, Shape};
use crate::measure::Label;
use crate::options::Scenario;
use crate::system::System;
use crate::system::kvs::{Kvs, KvsProtocol};

const SCENARIO: Scenario = Scenario::Keys;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let mut fleet =
        Fleet::start(bench, SCENARIO, &[System::Kvs, System::KvsOriginal, System::Redis])?;
    let value = bench.value();
    let draw = |&count: &u32| Keys::draw(Shape::SHORT, count, options.distribution, options.seed);
    let all: Vec<Keys> = options.sizes.iter().map(draw).collect();
    let mut cells = Vec::new();
    for (n, keys) in all.iter().enumerate() {
        if let Some((servers, _)) = &mut fleet.kvs {
            let address = servers.create_group(&format!("keys {}", keys.count))?;
            fill_kvs(&address, keys.shape, keys.count, &value, &bench.interrupt)?;
            for (system, session) in
                [(System::Kvs, KvsProtocol::V2), (System::KvsOriginal, KvsProtocol::V1)]
            {
                if !bench.wants(system) {
                    continue;
                }
                let client = Kvs::open(&address, session);
                if let Some(client) = bench.available(SCENARIO, system, client)? {
                    let label = Label::new(SCENARIO, "get", system).at(keys.count);
                    cells.push(one_by_one(label, &shared(Box::new(client)), keys, &value, true));
                }
            }
        }
        #[cfg(feature = "redis")]
        if let Some(server) = &fleet.redis {
            use crate::system::redis::Redis;
            let mut client = Redis::connect(&server.socket)?;
            client.select(n).map_err(|error| {
                Error::Failed(format!("{error} (redis-server has 16 databases: fewer --sizes?)"))
            })?;
            let batch: Vec<u32> = (0..keys.count).collect();
            for numbers in batch.chunks(LOADING_DEPTH as usize) {
                bench.interrupt.check()?;
                for &number in numbers {
                    client.append(&[b"SET", &keys.shape.key(number), &value])?;
                }
                numbers.iter().try_for_each(|_| client.done())?;
            }
            let label = Label::new(SCENARIO, "get", System::Redis).at(keys.count);
            cells.push(one_by_one(label, &shared(Box::new(client)), keys, &value, true));
        }
        #[cfg(not(feature = "redis"))]
        let _ = (n, LOADING_DEPTH, Error::Interrupted);
    }
    bench.measure(cells)
}
