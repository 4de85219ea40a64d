//! The scenarios, one module each, and what they share.
//!
//! Each starts its own servers, so that none sees what another has left behind, and makes a list of cells for
//! [`interleave`]. A subject that cannot do what a scenario asks is left out, with a line that says
//! why; any other error ends the run.

mod applications;
pub(crate) mod callback;
pub(crate) mod clients;
mod keys;
mod latency;
pub(crate) mod memory;
pub(crate) mod pipeline;

pub(crate) use pipeline::Pipelined;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::{Doing, Error, Result};
use crate::generator::{Generator, Wire};
use crate::keys::{Shape, value};
use crate::measure::{Cell, Interrupt, Label, Sample, Series, Turn, Unit, interleave, time_each};
use crate::options::{Options, Scenario};
use crate::report::progress::Progress;
use crate::servers::{KvsServers, Server};
use crate::subject::kvs::{Address, Kvs, Session};
use crate::subject::{Client, Subject};

/// Requests under way while pairs are loaded.
const LOADING_DEPTH: u32 = 128;

/// A run.
pub(crate) struct Bench<'a> {
    /// What is to be done.
    pub(crate) options: &'a Options,
    /// Shows how far it is.
    pub(crate) progress: &'a Progress,
    /// Whether to stop.
    pub(crate) interrupt: Interrupt,
    /// A directory of its own.
    pub(crate) dir: &'a Path,
    /// What was measured.
    pub(crate) results: Vec<Series>,
    /// What was left out, and why.
    pub(crate) left_out: Vec<String>,
}

impl Bench<'_> {
    /// Runs one.
    pub(crate) fn run(&mut self, scenario: Scenario) -> Result<()> {
        match scenario {
            Scenario::Latency => latency::run(self),
            Scenario::Clients => clients::run(self),
            Scenario::Pipeline => pipeline::run(self),
            Scenario::Callback => callback::run(self),
            Scenario::Memory => memory::run(self),
            Scenario::Keys => keys::run(self),
            Scenario::Applications => applications::run(self),
        }
    }

    fn wants(&self, subject: Subject) -> bool {
        self.options.subjects.contains(&subject)
    }

    /// `None`, and a line for the report, for what is not to be had.
    fn available<T>(
        &mut self,
        scenario: Scenario,
        subject: Subject,
        result: Result<T>,
    ) -> Result<Option<T>> {
        match result {
            Err(Error::Unavailable(why)) => {
                let line = format!("{} without {}: {why}", scenario.name(), subject.name());
                self.progress.say(&format!("skipped: {line}"));
                self.left_out.push(line);
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// A new directory for the sockets and files of a scenario.
    fn dir_of(&self, scenario: Scenario) -> Result<PathBuf> {
        let dir = self.dir.join(scenario.name());
        std::fs::create_dir(&dir).doing(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    fn value(&self) -> Vec<u8> {
        value(self.options.value_size as usize, self.options.seed)
    }

    fn measure(&mut self, cells: Vec<Cell<'_>>) -> Result<()> {
        interleave(self.options, self.progress, &self.interrupt, cells, &mut self.results)
    }
}

/// The servers of a scenario.
struct Fleet {
    kvs: Option<(KvsServers, Address)>,
    redis: Option<Server>,
    memcached: Option<Server>,
    dir: PathBuf,
}

impl Fleet {
    /// Starts those that the wanted ones of these subjects need.
    fn start(bench: &Bench<'_>, scenario: Scenario, subjects: &[Subject]) -> Result<Self> {
        let dir = bench.dir_of(scenario)?;
        let wants = |subject| bench.wants(subject) && subjects.contains(&subject);
        let (options, mut fleet) =
            (bench.options, Self { kvs: None, redis: None, memcached: None, dir });
        if wants(Subject::Kvs) || wants(Subject::KvsOriginal) {
            let mut servers = KvsServers::start(options, &fleet.dir)?;
            let address = servers.create_group("bench")?;
            fleet.kvs = Some((servers, address));
        }
        if wants(Subject::Redis) {
            fleet.redis = Some(Server::redis(options, &fleet.dir)?);
        }
        if wants(Subject::Memcached) {
            fleet.memcached = Some(Server::memcached(options, &fleet.dir)?);
        }
        Ok(fleet)
    }

    /// The group at the servers of kvs.
    fn address(&self) -> Result<&Address> {
        let address = self.kvs.as_ref().map(|(_, address)| address);
        address.ok_or_else(|| Error::Failed("the servers of kvs were not started".into()))
    }

    fn redis(&self) -> Result<&Server> {
        self.redis.as_ref().ok_or_else(|| Error::Failed("redis-server was not started".into()))
    }

    fn memcached(&self) -> Result<&Server> {
        self.memcached.as_ref().ok_or_else(|| Error::Failed("memcached was not started".into()))
    }

    /// Stores so many pairs in each server.
    fn fill(&self, bench: &Bench<'_>, shape: Shape, count: u32) -> Result<()> {
        let (value, interrupt) = (bench.value(), &bench.interrupt);
        if let Some((_, address)) = &self.kvs {
            fill_kvs(address, shape, count, &value, interrupt)?;
        }
        for (server, wire) in [(&self.redis, Wire::Resp), (&self.memcached, Wire::Text)] {
            if let Some(server) = server {
                let mut generator = Generator::other(server, wire, 1, LOADING_DEPTH, 1)?;
                generator.fill(shape, count, &value, interrupt)?;
            }
        }
        Ok(())
    }

    /// A client of this subject; what it needs of servers has been started.
    fn client(&self, subject: Subject) -> Result<Box<dyn Client>> {
        Ok(match subject {
            Subject::Kvs => Box::new(Kvs::open(self.address()?, Session::Framed)?),
            Subject::KvsOriginal => Box::new(Kvs::open(self.address()?, Session::Original)?),
            Subject::Redis => redis_client(&self.redis()?.socket)?,
            Subject::Memcached => memcached_client(&self.memcached()?.socket)?,
            Subject::Lmdb | Subject::Floor => {
                return Err(Error::Failed(format!("{} has no server", subject.name())));
            }
        })
    }
}

/// Stores so many pairs: by a framed session, many at once; or one by one when the server has none.
fn fill_kvs(
    address: &Address,
    shape: Shape,
    count: u32,
    value: &[u8],
    interrupt: &Interrupt,
) -> Result<()> {
    match Generator::kvs(address, 1, LOADING_DEPTH, 1) {
        Ok(mut generator) => generator.fill(shape, count, value, interrupt),
        Err(Error::Unavailable(_)) => {
            let mut client = Kvs::open(address, Session::Original)?;
            for number in 0..count {
                interrupt.check()?;
                client.put(&shape.key(number), value)?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(feature = "redis")]
fn redis_client(socket: &Path) -> Result<Box<dyn Client>> {
    Ok(Box::new(crate::subject::redis::Redis::connect(socket)?))
}

#[cfg(not(feature = "redis"))]
fn redis_client(_: &Path) -> Result<Box<dyn Client>> {
    Err(Error::Unavailable("built without the feature `redis`".into()))
}

#[cfg(feature = "memcached")]
fn memcached_client(socket: &Path) -> Result<Box<dyn Client>> {
    Ok(Box::new(crate::subject::memcached::Memcached::connect(socket)?))
}

#[cfg(not(feature = "memcached"))]
fn memcached_client(_: &Path) -> Result<Box<dyn Client>> {
    Err(Error::Unavailable("built without the feature `memcached`".into()))
}

/// A client that several cells use in turns.
type Shared = Rc<RefCell<Box<dyn Client>>>;

fn shared(client: Box<dyn Client>) -> Shared {
    Rc::new(RefCell::new(client))
}

/// The cells "get" and "put" of a client, each one operation at a time.
fn get_and_put<'a>(
    scenario: Scenario,
    subject: Subject,
    client: &Shared,
    keys: &'a crate::keys::Keys,
    value: &'a [u8],
) -> [Cell<'a>; 2] {
    let label = |operation| Label::new(scenario, operation, subject);
    [
        one_by_one(label("get"), client, keys, value, true),
        one_by_one(label("put"), client, keys, value, false),
    ]
}

/// A cell of one operation at a time.
fn one_by_one<'a>(
    label: Label,
    client: &Shared,
    keys: &'a crate::keys::Keys,
    value: &'a [u8],
    is_get: bool,
) -> Cell<'a> {
    let client = Rc::clone(client);
    let mut key = keys.shape.buffer();
    Cell::new(label, Unit::Nanoseconds, move |turn: &Turn| {
        let mut client = client.borrow_mut();
        let times = time_each(turn, |place| {
            keys.shape.write(keys.at(place), &mut key);
            match is_get {
                true => client.get(&key, value.len()),
                false => client.put(&key, value),
            }
        })?;
        Ok(Sample::latency(times))
    })
}
