//! The servers of one scenario.

use std::path::{Path, PathBuf};

use super::bench::Bench;
use crate::error::{Error, Result};
use crate::generator::{Generator, WireProtocol};
use crate::keys::Shape;
use crate::measure::Interrupt;
use crate::options::Scenario;
use crate::servers::{KvsServers, Server};
use crate::system::kvs::{Address, Kvs, KvsProtocol};
use crate::system::{Client, System};

/// The number of requests in flight while pairs are loaded.
pub(super) const LOADING_DEPTH: u32 = 128;

/// The servers of a scenario.
pub(super) struct Fleet {
    pub(super) kvs: Option<(KvsServers, Address)>,
    pub(super) redis: Option<Server>,
    pub(super) memcached: Option<Server>,
    pub(super) dir: PathBuf,
}

impl Fleet {
    /// Starts the servers of those systems that the run measures.
    pub(super) fn start(bench: &Bench<'_>, scenario: Scenario, systems: &[System]) -> Result<Self> {
        let dir = bench.dir_of(scenario)?;
        let wants = |system| bench.wants(system) && systems.contains(&system);
        let (options, mut fleet) =
            (bench.options, Self { kvs: None, redis: None, memcached: None, dir });
        if wants(System::Kvs) || wants(System::KvsOriginal) {
            let mut servers = KvsServers::start(options, &fleet.dir)?;
            let address = servers.create_group("bench")?;
            fleet.kvs = Some((servers, address));
        }
        if wants(System::Redis) {
            fleet.redis = Some(Server::redis(options, &fleet.dir)?);
        }
        if wants(System::Memcached) {
            fleet.memcached = Some(Server::memcached(options, &fleet.dir)?);
        }
        Ok(fleet)
    }

    /// The group on the servers of kvs.
    pub(super) fn address(&self) -> Result<&Address> {
        let address = self.kvs.as_ref().map(|(_, address)| address);
        address.ok_or_else(|| Error::Failed("the servers of kvs were not started".into()))
    }

    pub(super) fn redis(&self) -> Result<&Server> {
        self.redis.as_ref().ok_or_else(|| Error::Failed("redis-server was not started".into()))
    }

    pub(super) fn memcached(&self) -> Result<&Server> {
        self.memcached.as_ref().ok_or_else(|| Error::Failed("memcached was not started".into()))
    }

    /// Stores `count` pairs in each server.
    pub(super) fn fill(&self, bench: &Bench<'_>, shape: Shape, count: u32) -> Result<()> {
        let (value, interrupt) = (bench.value(), &bench.interrupt);
        if let Some((_, address)) = &self.kvs {
            fill_kvs(address, shape, count, &value, interrupt)?;
        }
        for (server, wire) in
            [(&self.redis, WireProtocol::Resp), (&self.memcached, WireProtocol::Memcached)]
        {
            if let Some(server) = server {
                let mut generator = Generator::other(server, wire, 1, LOADING_DEPTH, 1)?;
                generator.fill(shape, count, &value, interrupt)?;
            }
        }
        Ok(())
    }

    /// A client of this system, whose servers are running.
    pub(super) fn client(&self, system: System) -> Result<Box<dyn Client>> {
        Ok(match system {
            System::Kvs => Box::new(Kvs::open(self.address()?, KvsProtocol::V2)?),
            System::KvsOriginal => Box::new(Kvs::open(self.address()?, KvsProtocol::V1)?),
            System::Redis => redis_client(&self.redis()?.socket)?,
            System::Memcached => memcached_client(&self.memcached()?.socket)?,
            System::Lmdb | System::Floor => {
                return Err(Error::Failed(format!("{} has no server", system.name())));
            }
        })
    }
}

/// Stores `count` pairs: pipelined over v2, or one by one when the server has only v1.
pub(super) fn fill_kvs(
    address: &Address,
    shape: Shape,
    count: u32,
    value: &[u8],
    interrupt: &Interrupt,
) -> Result<()> {
    match Generator::kvs(address, 1, LOADING_DEPTH, 1) {
        Ok(mut generator) => generator.fill(shape, count, value, interrupt),
        Err(Error::Unavailable(_)) => {
            let mut client = Kvs::open(address, KvsProtocol::V1)?;
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
pub(super) fn redis_client(socket: &Path) -> Result<Box<dyn Client>> {
    Ok(Box::new(crate::system::redis::Redis::connect(socket)?))
}

#[cfg(not(feature = "redis"))]
pub(super) fn redis_client(_: &Path) -> Result<Box<dyn Client>> {
    Err(Error::Unavailable("built without the feature `redis`".into()))
}

#[cfg(feature = "memcached")]
pub(super) fn memcached_client(socket: &Path) -> Result<Box<dyn Client>> {
    Ok(Box::new(crate::system::memcached::Memcached::connect(socket)?))
}

#[cfg(not(feature = "memcached"))]
pub(super) fn memcached_client(_: &Path) -> Result<Box<dyn Client>> {
    Err(Error::Unavailable("built without the feature `memcached`".into()))
}
