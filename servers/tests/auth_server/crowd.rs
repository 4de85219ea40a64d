//! Ten thousand local servers that disappear.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use kvs_proto::Int;
use kvs_proto::link::original::LinkCommand;
use kvs_servers::auth::Config;

use crate::harness::*;
use crate::honest::HonestServer;
use crate::process::*;

const CROWD: usize = 10_000;

/// How many links one machine may have.
fn links_per_machine() -> usize {
    Config::default().links_per_machine
}

impl ServerProcess {
    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// The resident memory in KiB.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// Measures ten thousand local servers of four machines that disappear after `Connect` or after
/// `Connect_2`: descriptors and resident memory before, at the peak, and at the end.
fn abandon_ten_thousand(connect_2: bool) -> [(usize, usize); 3] {
    let (program, address) = ServerProcess::start(command().args(["--confirm-wait", "1"]));
    let mut honest = HonestServer::new(RawLocalServer::connect(address, address.ip()));
    let probe = |ip| {
        // A full buffer may drop a Connect, which a local server repeats.
        let newcomer = socket(ip);
        newcomer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let start = Instant::now();
        loop {
            newcomer.send_to(&LinkCommand::Connect.encode(), address).unwrap();
            let mut port = [0; 4];
            if newcomer.recv(&mut port).is_ok() {
                return SocketAddr::new(address.ip(), Int::from_ne_bytes(port) as u16);
            }
            assert!(start.elapsed() < TIMEOUT, "a new local server gets no ports");
        }
    };
    let cost = || (program.descriptors(), program.resident());
    let before = cost();
    let mut most = before;
    let machines = [(); 4].map(|()| own_ip());
    for n in 0..CROWD {
        let ip = machines[n % machines.len()];
        let abandoned = socket(ip);
        if connect_2 && n / machines.len() < links_per_machine() {
            let port = send_connect(&abandoned, address);
            let datagram = LinkCommand::Connect2.encode();
            abandoned.send_to(&datagram, SocketAddr::new(address.ip(), port + 1)).unwrap();
        } else {
            abandoned.send_to(&LinkCommand::Connect.encode(), address).unwrap();
        }
        if n % 250 == 249 {
            honest.check("many abandoned links");
            let close = LinkCommand::CloseConnection.encode();
            let other = own_ip();
            socket(other).send_to(&close, probe(other)).unwrap();
            let (descriptors, resident) = cost();
            most = (most.0.max(descriptors), most.1.max(resident));
        }
    }
    let start = Instant::now();
    while !connect_2 && program.descriptors() > before.0 {
        assert!(start.elapsed() < TIMEOUT, "the ports are not released");
        thread::sleep(Duration::from_millis(20));
    }
    honest.check("all links were abandoned");
    let costs = [before, most, cost()];
    println!("Connect_2: {connect_2}; descriptors and KiB before, at most, after: {costs:?}");
    costs
}

#[test]
fn ten_thousand_abandoned_connects_cost_little() {
    let [before, most, after] = abandon_ten_thousand(false);
    assert!(most.0 > before.0 + links_per_machine(), "few got ports: {most:?}");
    assert!(
        most.0 <= before.0 + 2 * (4 * links_per_machine() + 40),
        "more than the shares: {most:?}"
    );
    assert!(most.1 <= before.1 + 16 * 1024, "from {} to {} KiB", before.1, most.1);
    assert_eq!(after.0, before.0);
}

#[test]
fn ten_thousand_abandoned_links_cost_little() {
    let [before, most, after] = abandon_ten_thousand(true);
    assert!(most.0 > before.0 + 2 * 4 * links_per_machine() - 20, "few got ports: {most:?}");
    assert!(
        most.0 <= before.0 + 2 * (4 * links_per_machine() + 40),
        "more than the shares: {most:?}"
    );
    assert!(most.1 <= before.1 + 16 * 1024, "from {} to {} KiB", before.1, most.1);
    assert!(after.0 <= before.0 + 2 * (4 * links_per_machine() + 40));
}
