//! Datagrams of those who mean harm, or are broken: what they change (nothing), whom they stop (nobody),
//! and what they cost.
//!
//! A [`Witness`] is an honest local server. After each hostile act its groups are what they were, what it
//! asks is answered, and no group has come into being that nobody created.
//!
//! What the machine of a local server itself may do is limited by the protocol: any of its processes can say
//! `CloseConnection`, or carry out a whole exchange, from a socket of its own, and no server could tell that
//! from the local server. So these two are left out where the sender is on the witness's machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;

/// Commands that are complete but for the end of the link.
const COMMANDS: [LinkCommand; 6] = [
    LinkCommand::Connect,
    LinkCommand::Connect2,
    LinkCommand::FindGroup,
    LinkCommand::NewGroup,
    LinkCommand::GetSecret,
    LinkCommand::DeleteGroup,
];

/// An honest local server, and what it knows.
struct Witness {
    local: LocalServer,
    acts: usize,
}

impl Witness {
    fn new(local: LocalServer) -> Self {
        assert!(local.create("mine", "abcde"));
        Self { local, acts: 0 }
    }

    /// Asks for everything, and creates and deletes a group of its own.
    fn check(&mut self, after: &str) {
        self.acts += 1;
        let name = format!("witness-{}", self.acts);
        assert_eq!(self.local.secret("mine"), Some(text("abcde")), "after {after}");
        assert!(!self.local.create("mine", "other"), "after {after}");
        for foreign in ["evil", "Connect", "FindGroup", "NewGroup", "DeleteGroup"] {
            assert!(!self.local.find(foreign), "{foreign} exists after {after}");
        }
        assert!(self.local.create(&name, "12345"), "after {after}");
        assert!(self.local.delete(&name), "after {after}");
    }
}

/// What belongs nowhere, with what it is.
fn rubbish() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = vec![
        ("nothing".into(), Vec::new()),
        ("64 KiB".into(), vec![b'x'; 65_507]),
        ("64 KiB of NULs".into(), vec![0; 65_507]),
        ("100 NULs".into(), vec![0; 100]),
        ("an unknown command".into(), {
            let mut unknown = b"DropGroups".to_vec();
            unknown.resize(100, 0);
            unknown
        }),
        ("half an integer".into(), vec![1, 0]),
        ("an integer".into(), encode_int(1).to_vec()),
        ("the close flag".into(), encode_int(-10).to_vec()),
        ("the name of a group".into(), b"mine".to_vec()),
        ("a secret".into(), b"xxxxx\0\0\0".to_vec()),
    ];
    for command in COMMANDS.into_iter().chain([LinkCommand::CloseConnection]) {
        let whole = command.encode();
        for len in 0..whole.len() {
            all.push((format!("{len} bytes of {command:?}"), whole[..len].to_vec()));
        }
        for more in [&b"\0"[..], b"x", &[0; 50]] {
            let what = format!("{command:?} and {} bytes", more.len());
            all.push((what, [&whole[..], more].concat()));
        }
        for at in [0, 50, 99] {
            let mut other = whole;
            other[at] = b'?';
            all.push((format!("{command:?} with a wrong byte"), other.to_vec()));
        }
    }
    all
}

#[test]
fn rubbish_changes_nothing_on_any_port_whoever_sends_it() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let mut witness = Witness::new(server.connect());
    let ports = [server.address, witness.local.command_port(), witness.local.close_port()];
    let here = server.address.ip();
    for ip in [here, own_ip()] {
        // One socket for all, except on the witness's machine, where several would be an exchange.
        let one = socket(ip);
        for (n, (what, bytes)) in rubbish().iter().enumerate() {
            let own = socket(ip);
            for port in ports {
                let from = if ip == here { &own } else { &one };
                from.send_to(bytes, port).unwrap();
            }
            if bytes.len() > 1000 || n % 20 == 0 {
                witness.check(&format!("{what} from {ip}"));
            }
        }
        witness.check("all of it");
    }
    witness.local.say_goodbye();
    witness.local.wait_until_closed();
    let lines = server.quit();
    let closed = lines.iter().filter(|line| *line == "Connection closed").count();
    assert_eq!(closed, 1, "somebody else said goodbye for it");
}

#[test]
fn whole_exchanges_from_another_machine_change_nothing() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let mut witness = Witness::new(server.connect());
    let stranger = socket(own_ip());
    let exchanges: [&[&[u8]]; 6] = [
        &[&LinkCommand::NewGroup.encode(), b"evil", b"xxxxx\0\0\0"],
        &[&LinkCommand::DeleteGroup.encode(), b"mine"],
        &[&LinkCommand::GetSecret.encode(), b"mine", &encode_int(1)],
        &[&LinkCommand::FindGroup.encode(), b"mine"],
        &[&LinkCommand::CloseConnection.encode()],
        &[&LinkCommand::Connect2.encode(), &encode_int(-10)],
    ];
    for exchange in exchanges {
        for port in [witness.local.command_port(), witness.local.close_port()] {
            for datagram in exchange {
                stranger.send_to(datagram, port).unwrap();
            }
        }
        witness.check("an exchange from another machine");
    }
    assert_nothing_more(&stranger);
    server.shutdown.request(Reason::Console);
    witness.local.wait_for_close();
}

#[test]
fn a_command_for_somebody_elses_port_does_not_disturb_an_exchange() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let mut witness = Witness::new(server.connect());
    let neighbour = server.connect();
    let interrupt = |by: &LocalServer| {
        for command in COMMANDS {
            by.commands.send_to(&command.encode(), witness.local.command_port()).unwrap();
            by.close.send_to(&command.encode(), witness.local.close_port()).unwrap();
        }
    };
    let port = witness.local.command_port();
    for (n, from) in [&witness.local.commands, &socket(server.address.ip())].iter().enumerate() {
        let name = format!("g{n}");
        for datagram in [&LinkCommand::NewGroup.encode()[..], name.as_bytes(), b"abcde\0\0\0"] {
            interrupt(&neighbour);
            assert_eq!(ask_int(from, port, datagram), 1, "{}", datagram.escape_ascii());
        }
        assert_eq!(witness.local.secret(&name), Some(text("abcde")));
    }
    witness.check("commands of a neighbour");
    // Nor was the close flag redirected.
    server.shutdown.request(Reason::Console);
    witness.local.wait_for_close();
}

#[test]
fn a_close_port_stays_where_it_was_said_to_be_first() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let witness = Witness::new(server.connect());
    let forger = socket(server.address.ip());
    forger.send_to(&LinkCommand::Connect2.encode(), witness.local.close_port()).unwrap();
    witness.local.find("");
    // Whoever comes later is answered later: by then everything above has been read.
    server.connect().say_goodbye();
    server.shutdown.request(Reason::Console);
    witness.local.wait_for_close();
    assert_nothing_more(&forger);
}

/// Sends as fast as it can, in a thread of its own, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    fn of(datagrams: Vec<(SocketAddr, Vec<u8>)>, ip: IpAddr) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let socket = UdpSocket::bind((ip, 0)).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                for (to, datagram) in &datagrams {
                    // A full buffer loses it, as it may.
                    let _ = socket.send_to(datagram, to);
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_flood_on_one_port_stops_nobody_else_and_the_port_recovers() {
    let server = Running::start(&own_config(LISTEN_PORT));
    let flooded = server.connect();
    assert!(flooded.create("flooded", "abcde"));
    let mut witness = Witness::new(server.connect());
    let to = |port, datagram: &[u8]| (port, datagram.to_vec());
    let flood = Flood::of(
        vec![
            to(flooded.command_port(), &LinkCommand::DeleteGroup.encode()),
            to(flooded.command_port(), &LinkCommand::NewGroup.encode()),
            to(flooded.command_port(), &[0xff; 1400]),
            to(flooded.close_port(), &LinkCommand::Connect2.encode()),
        ],
        server.address.ip(),
    );
    let foreign = Flood::of(
        vec![
            to(flooded.command_port(), &LinkCommand::CloseConnection.encode()),
            to(server.address, &LinkCommand::DeleteGroup.encode()),
            to(server.address, b""),
        ],
        own_ip(),
    );
    for _ in 0..100 {
        witness.check("a flood on another port");
    }
    let sent = [flood, foreign].map(|flood| flood.sent.load(Ordering::SeqCst));
    assert!(sent.iter().all(|sent| *sent > 1000), "no flood: {sent:?} datagrams");
    // What is still in its buffer may be more than it can hold beside one datagram of ours.
    flooded.commands.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let start = Instant::now();
    loop {
        flooded.send(&LinkCommand::FindGroup.encode());
        if flooded.commands.recv(&mut [0; 8]).is_ok() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the flooded port does not recover");
    }
    let fresh = socket(server.address.ip());
    assert_eq!(ask_int(&fresh, flooded.command_port(), &LinkCommand::FindGroup.encode()), 1);
    assert_eq!(ask_int(&fresh, flooded.command_port(), b"flooded"), 1);
    // The listen port, too.
    server.connect();
}

// --- Shares ------------------------------------------------------------------------------------------

#[test]
fn a_machine_gets_its_share_of_ports_and_takes_nothing_from_the_others() {
    let config = Config { links_per_machine: 3, ..own_config(LISTEN_PORT) };
    let server = Running::start(&config);
    let neighbour = server.connect();
    let greedy = own_ip();
    let links = [0; 3].map(|_| LocalServer::connect(server.address, greedy));
    let refused = socket(greedy);
    refused.send_to(&LinkCommand::Connect.encode(), server.address).unwrap();
    // Whoever comes later is answered later, but is answered.
    LocalServer::connect(server.address, own_ip());
    assert_nothing_more(&refused);
    assert!(neighbour.create("g", "abcde"));
    // What it gives back it may have again.
    links[1].say_goodbye();
    links[1].wait_until_closed();
    LocalServer::connect(server.address, greedy);
}

#[test]
fn a_machine_that_has_its_share_gives_up_a_silent_one_of_its_own() {
    let config =
        Config { links_per_machine: 2, silence: Duration::ZERO, ..own_config(LISTEN_PORT) };
    let server = Running::start(&config);
    let oldest = server.connect();
    let greedy = own_ip();
    let [owner, quiet] = [0; 2].map(|_| LocalServer::connect(server.address, greedy));
    assert!(owner.create("g", "abcde"));
    let newcomer = LocalServer::connect(server.address, greedy);
    quiet.wait_until_closed();
    assert!(newcomer.find("g") && !oldest.find("h"), "others have gone");
}

#[test]
fn a_machine_may_have_so_many_groups_and_no_more() {
    let server = Running::start(&Config { groups_per_machine: 3, ..own_config(LISTEN_PORT) });
    let (one, other) = (server.connect(), server.connect());
    let stranger = LocalServer::connect(server.address, own_ip());
    assert!(one.create("a", "abcde") && other.create("b", "abcde") && one.create("c", "abcde"));
    assert!(!one.create("d", "abcde") && !other.create("d", "abcde"));
    assert_eq!(one.secret("d"), None, "it was stored");
    assert!(stranger.create("d", "abcde"));
    assert!(one.delete("a") && other.create("a", "abcde"));
    // All that a link had is free again when it has gone.
    one.say_goodbye();
    one.wait_until_closed();
    assert!(other.create("c", "abcde") && !other.create("e", "abcde"));
}

/// A local server that has connected anew: the same close port.
fn connect_anew(server: &Running, old: &LocalServer) -> LocalServer {
    let mut new = LocalServer::ask_for_ports(server.address, server.address.ip());
    new.close = old.close.try_clone().unwrap();
    new
}

#[test]
fn nobody_takes_a_name_while_its_local_server_connects_anew() {
    let heir_wait = Duration::from_millis(300);
    let config = Config { heir_wait, groups_per_machine: 2, ..own_config(LISTEN_PORT) };
    let server = Running::start(&config);
    let (old, other) = (server.connect(), LocalServer::connect(server.address, own_ip()));
    assert!(old.create("kept", "abcde") && old.create("left", "abcde"));
    let start = Instant::now();
    let new = connect_anew(&server, &old);
    new.say_connect_2();
    old.wait_until_closed();
    // For itself they are new, for everybody else they exist.
    for name in ["kept", "left"] {
        assert!(other.find(name) && !other.create(name, "other") || start.elapsed() >= heir_wait);
    }
    assert!(!new.find("kept") && new.secret("kept").is_none());
    // What it says it does not want is free at once.
    assert!(!new.delete("kept") && !other.find("kept"));
    assert!(new.create("kept", "again"));
    while other.find("left") {
        assert!(start.elapsed() < PATIENCE, "it is kept for ever");
    }
    assert!(start.elapsed() >= heir_wait, "it was not kept for its local server");
    assert_eq!(other.secret("kept"), Some(text("again")));
    assert!(new.create("left", "later"), "the groups that have gone are counted");
}

#[test]
fn a_group_that_was_registered_before_a_late_greeting_stays() {
    let heir_wait = Duration::ZERO;
    let server = Running::start(&Config { heir_wait, ..own_config(LISTEN_PORT) });
    let (old, other) = (server.connect(), server.connect());
    assert!(old.create("kept", "abcde") && old.create("left", "abcde"));
    let new = connect_anew(&server, &old);
    assert!(!new.create("kept", "abcde"));
    new.say_connect_2();
    old.wait_until_closed();
    let start = Instant::now();
    while other.find("left") {
        assert!(start.elapsed() < PATIENCE, "it is kept for ever");
    }
    assert_eq!(other.secret("kept"), Some(text("abcde")));
    // It belongs to the new link now.
    new.say_goodbye();
    new.wait_until_closed();
    assert!(!other.find("kept"));
}

// --- Ten thousand ------------------------------------------------------------------------------------

const CROWD: usize = 10_000;

/// How many links a machine may have.
fn share() -> usize {
    Config::default().links_per_machine
}

impl Program {
    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// What it has in memory, in KiB.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// What ten thousand local servers cost, which come from four machines and vanish after `Connect`, or after
/// `Connect_2`: what the program had before, what it had at most, and what it has when they are gone.
fn ten_thousand(greet: bool) -> [(usize, usize); 3] {
    let (program, address) = Program::start(command().args(["--confirm-wait", "1"]));
    let mut witness = Witness::new(LocalServer::connect(address, address.ip()));
    let probe = |ip| {
        // A full buffer may lose a Connect, which a local server says again.
        let newcomer = socket(ip);
        newcomer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let start = Instant::now();
        loop {
            newcomer.send_to(&LinkCommand::Connect.encode(), address).unwrap();
            let mut port = [0; 4];
            if newcomer.recv(&mut port).is_ok() {
                return SocketAddr::new(address.ip(), Int::from_ne_bytes(port) as u16);
            }
            assert!(start.elapsed() < PATIENCE, "a newcomer gets no ports");
        }
    };
    let cost = || (program.descriptors(), program.resident());
    let before = cost();
    let mut most = before;
    let machines = [(); 4].map(|()| own_ip());
    for n in 0..CROWD {
        let ip = machines[n % machines.len()];
        let vanishing = socket(ip);
        if greet && n / machines.len() < share() {
            let port = say_connect(&vanishing, address);
            let greeting = LinkCommand::Connect2.encode();
            vanishing.send_to(&greeting, SocketAddr::new(address.ip(), port + 1)).unwrap();
        } else {
            vanishing.send_to(&LinkCommand::Connect.encode(), address).unwrap();
        }
        if n % 250 == 249 {
            witness.check("many who vanish");
            let goodbye = LinkCommand::CloseConnection.encode();
            let other = own_ip();
            socket(other).send_to(&goodbye, probe(other)).unwrap();
            let (descriptors, resident) = cost();
            most = (most.0.max(descriptors), most.1.max(resident));
        }
    }
    let start = Instant::now();
    while !greet && program.descriptors() > before.0 {
        assert!(start.elapsed() < PATIENCE, "their ports do not come back");
        thread::sleep(Duration::from_millis(20));
    }
    witness.check("all have vanished");
    let costs = [before, most, cost()];
    println!("greeting: {greet}; descriptors and KiB before, at most, after: {costs:?}");
    costs
}

#[test]
fn ten_thousand_that_say_connect_and_vanish_cost_little_and_their_ports_come_back() {
    let [before, most, after] = ten_thousand(false);
    assert!(most.0 > before.0 + share(), "hardly anybody got ports: {most:?}");
    assert!(most.0 <= before.0 + 2 * (4 * share() + 40), "more than their shares: {most:?}");
    assert!(most.1 <= before.1 + 16 * 1024, "from {} to {} KiB", before.1, most.1);
    assert_eq!(after.0, before.0);
}

#[test]
fn ten_thousand_that_say_connect_2_too_cost_little() {
    let [before, most, after] = ten_thousand(true);
    assert!(most.0 > before.0 + 2 * 4 * share() - 20, "hardly anybody got ports: {most:?}");
    assert!(most.0 <= before.0 + 2 * (4 * share() + 40), "more than their shares: {most:?}");
    assert!(most.1 <= before.1 + 16 * 1024, "from {} to {} KiB", before.1, most.1);
    assert!(after.0 <= before.0 + 2 * (4 * share() + 40));
}
