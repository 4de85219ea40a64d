//! One client, one operation at a time: how long a get takes, and a put.
//!
//! A put is over when it is acknowledged. The original protocol of kvs has no acknowledgment: there, it is over when the value
//! is sent, and the next operation first waits until the server has taken it; that wait is part of the next one's time, as it is for
//! any program. LMDB runs in the process itself; the floor answers nothing but bytes.

use super::{Bench, Fleet, get_and_put, shared};
use crate::error::Result;
use crate::keys::{Keys, Shape};
use crate::options::Scenario;
use crate::subject::floor::Floor;
use crate::subject::lmdb::Lmdb;
use crate::subject::{Client, Subject};

const SCENARIO: Scenario = Scenario::Latency;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let fleet = Fleet::start(bench, SCENARIO, &options.subjects)?;
    let keys = Keys::draw(Shape::SHORT, options.keys, options.distribution, options.seed);
    let value = bench.value();
    fleet.fill(bench, keys.shape, keys.count)?;
    let mut cells = Vec::new();
    for &subject in &options.subjects {
        let client: Result<Box<dyn Client>> = match subject {
            Subject::Lmdb => Lmdb::create(&fleet.dir.join("lmdb")).and_then(|mut lmdb| {
                lmdb.load((0..keys.count).map(|n| keys.shape.key(n)), &value)?;
                Ok(Box::new(lmdb) as _)
            }),
            Subject::Floor => {
                Floor::start(keys.shape.len(), value.len()).map(|floor| Box::new(floor) as _)
            }
            subject => fleet.client(subject),
        };
        if let Some(client) = bench.available(SCENARIO, subject, client)? {
            cells.extend(get_and_put(SCENARIO, subject, &shared(client), &keys, &value));
        }
    }
    bench.measure(cells)
}
