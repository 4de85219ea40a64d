//! How the time of a get grows with the number of keys.
//!
//! All numbers of keys are there at once, each in a place of its own: a group of kvs, a database of Redis. So the turns of the
//! numbers interleave, as those of the subjects do.

use super::{Bench, Fleet, LOADING_DEPTH, fill_kvs, one_by_one, shared};
use crate::error::{Error, Result};
use crate::keys::{Keys, Shape};
use crate::measure::Label;
use crate::options::Scenario;
use crate::subject::Subject;
use crate::subject::kvs::{Kvs, Session};

const SCENARIO: Scenario = Scenario::Keys;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let mut fleet =
        Fleet::start(bench, SCENARIO, &[Subject::Kvs, Subject::KvsOriginal, Subject::Redis])?;
    let value = bench.value();
    let draw = |&count: &u32| Keys::draw(Shape::SHORT, count, options.distribution, options.seed);
    let all: Vec<Keys> = options.sizes.iter().map(draw).collect();
    let mut cells = Vec::new();
    for (n, keys) in all.iter().enumerate() {
        if let Some((servers, _)) = &mut fleet.kvs {
            let address = servers.create_group(&format!("keys {}", keys.count))?;
            fill_kvs(&address, keys.shape, keys.count, &value, &bench.interrupt)?;
            for (subject, session) in
                [(Subject::Kvs, Session::Framed), (Subject::KvsOriginal, Session::Original)]
            {
                if !bench.wants(subject) {
                    continue;
                }
                let client = Kvs::open(&address, session);
                if let Some(client) = bench.available(SCENARIO, subject, client)? {
                    let label = Label::new(SCENARIO, "get", subject).at(keys.count);
                    cells.push(one_by_one(label, &shared(Box::new(client)), keys, &value, true));
                }
            }
        }
        #[cfg(feature = "redis")]
        if let Some(server) = &fleet.redis {
            use crate::subject::redis::Redis;
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
            let label = Label::new(SCENARIO, "get", Subject::Redis).at(keys.count);
            cells.push(one_by_one(label, &shared(Box::new(client)), keys, &value, true));
        }
        #[cfg(not(feature = "redis"))]
        let _ = (n, LOADING_DEPTH, Error::Interrupted);
    }
    bench.measure(cells)
}
