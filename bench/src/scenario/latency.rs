//! One client, one operation at a time: the time of a get and of a put.
//!
//! A put ends with its response. Protocol v1 of kvs has no response to a put: there a put ends when
//! the value is sent, and the next operation first waits until the server has read it. That wait
//! belongs to the next operation, as it does in any program. LMDB runs in the process itself; the
//! floor only exchanges bytes.

use super::bench::Bench;
use super::cells::{get_and_put, shared};
use super::fleet::Fleet;
use crate::error::Result;
use crate::keys::{Keys, Shape};
use crate::options::Scenario;
use crate::system::floor::Floor;
use crate::system::lmdb::Lmdb;
use crate::system::{Client, System};

const SCENARIO: Scenario = Scenario::Latency;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let options = bench.options;
    let fleet = Fleet::start(bench, SCENARIO, &options.systems)?;
    let keys = Keys::draw(Shape::SHORT, options.keys, options.distribution, options.seed);
    let value = bench.value();
    fleet.fill(bench, keys.shape, keys.count)?;
    let mut cells = Vec::new();
    for &system in &options.systems {
        let client: Result<Box<dyn Client>> = match system {
            System::Lmdb => Lmdb::create(&fleet.dir.join("lmdb")).and_then(|mut lmdb| {
                lmdb.load((0..keys.count).map(|n| keys.shape.key(n)), &value)?;
                Ok(Box::new(lmdb) as _)
            }),
            System::Floor => {
                Floor::start(keys.shape.len(), value.len()).map(|floor| Box::new(floor) as _)
            }
            system => fleet.client(system),
        };
        if let Some(client) = bench.available(SCENARIO, system, client)? {
            cells.extend(get_and_put(SCENARIO, system, &shared(client), &keys, &value));
        }
    }
    bench.measure(cells)
}
