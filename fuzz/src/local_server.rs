//! The whole local server at real sockets, turned by hand, with hostile applications and an honest one.
//!
//! **The script** connects up to four applications (each any number of times), sends what it likes on either
//! channel, whole or in pieces, reads or does not read, hangs up, lets the authentication server answer in any
//! order, lets deadlines pass, deletes groups; and between all that each reactor has its turns when the
//! script says so.
//!
//! **What must hold.** No panic. What is stored is exactly what the bytes mean that the server has read
//! ([`Reading`] says what they mean), after every turn. Every byte on a main channel is the answer that the model
//! predicts; nobody is let in without the right secret, and nobody is thrown out who has done no wrong. On
//! callback channels: only changes of watched keys, each told at most as often as it happened, and at the end at
//! least once after the last time. The server's memory is bounded by what there is to remember, and at
//! the end all of it is given back. The honest application is served all the while.
//!
//! **How the model knows what was read.** Linux tells a sender whether the peer has taken everything
//! (`SIOCOUTQ`), and by `ECONNRESET` that it has closed without. At most one main channel has unread bytes at
//! any time, so the order in which applications are served is never in doubt.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use kvs_proto::Text;
use kvs_servers::local::fuzzing::Machine;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, socket, sockopt,
};

use crate::input::text;
use crate::reading::{Event, Reading};
use crate::{Input, memory};

const REACTORS: usize = 2;

/// What each of them reads into.
const READ_BUFFER: usize = 64 * 1024;

/// The applications that the script plays; the honest one comes after them.
const SLOTS: usize = 4;

/// What one connection may have unread: less than what the server reads at once.
const MOST_UNREAD: usize = 4000;

/// The most that may wait to be written: on the main channel the answer to a get and the ready flag for what
/// follows a put, on the callback channel a key and the next announcement.
const MOST_WAITING: usize = 4 + 100 + 4 + 100 + 4;

/// How many operations and connections one script may do by one byte, so that every script is short.
const BUDGET: u32 = 300;

/// The tries at a secret that are answered at once.
const FREE_TRIES: u32 = 5;

const SECRET: &[u8] = b"abcde";

nix::ioctl_read_bad!(siocoutq, nix::libc::TIOCOUTQ, nix::libc::c_int);

/// Where the applications connect; the same for all executions of a process.
struct Place {
    dir: tempfile::TempDir,
    main: UnixListener,
    callback: UnixListener,
}

impl Place {
    fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => tempfile::tempdir(),
        };
        let dir = dir.expect("a temporary directory can be made");
        let listen = |name| UnixListener::bind(dir.path().join(name)).expect("the path is free");
        Self { main: listen("main"), callback: listen("callback"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Plays one script.
pub fn run(data: &[u8]) {
    thread_local! {
        static PLACE: RefCell<Place> = RefCell::new(Place::new());
    }
    PLACE.with_borrow(|place| {
        let mut world = World::new(place);
        world.play(Input(data));
        world.end();
    });
}

struct World<'a> {
    place: &'a Place,
    machine: Machine,
    groups: Vec<Group>,
    mains: Vec<Option<Main>>,
    callbacks: Vec<Option<Callback>>,
    /// Names under which it is not sure which connections belong together.
    muddled: BTreeSet<u8>,
    live_names: [Vec<u8>; 2],
    /// Counts the turns.
    now: u64,
    budget: u32,
    /// What the server was asked to remember: applications, pairs, watches.
    load: usize,
    /// The connections that the server may not have looked at yet.
    new: usize,
}

/// A group as it should be.
struct Group {
    name: Text,
    open: bool,
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The keys that were ever sent.
    seen: BTreeSet<Vec<u8>>,
    /// What the authentication server has told of its secret.
    told: Vec<Option<Text>>,
    /// How often its secret was tried.
    tries: u32,
}

/// The client's end of a main connection.
struct Main {
    stream: UnixStream,
    name: u8,
    reading: Reading,
    /// Sent, not yet read.
    unread: Vec<u8>,
    /// Due, not yet received.
    expected: Vec<u8>,
    stage: Stage,
    /// The application reads nothing.
    deaf: bool,
    /// Whether the server has, or may have, a reason to end it.
    may_end: bool,
    must_end: bool,
    ended: bool,
    /// The slot of its callback channel, when that is sure.
    callback: Option<usize>,
}

enum Stage {
    Login { group: Option<usize> },
    Verdict { group: usize, secret: Vec<u8> },
    Member(Member),
}

struct Member {
    group: usize,
    watches: BTreeSet<Vec<u8>>,
    /// How often each key changed while it was watched, and when the last time.
    changes: BTreeMap<Vec<u8>, (u64, u64)>,
    /// How often each was told, and when it was announced the last time.
    told: BTreeMap<Vec<u8>, (u64, u64)>,
    /// It can be told nothing any more.
    untold: bool,
}

/// The client's end of a callback connection.
struct Callback {
    stream: UnixStream,
    name: u8,
    received: Vec<u8>,
    greeted: bool,
    /// When the announcement came to which there is no key yet.
    announced: Option<u64>,
    ready_sent: bool,
    closed: bool,
    /// It has broken the protocol, or hung up: nothing can be said about what comes.
    muddled: bool,
    deaf: bool,
    taken: bool,
}

fn int(value: i32) -> [u8; 4] {
    value.to_ne_bytes()
}

impl<'a> World<'a> {
    fn new(place: &'a Place) -> Self {
        memory::reset();
        let again = |listener: &UnixListener| listener.try_clone().expect("descriptors are left");
        let (main, callback) = (again(&place.main), again(&place.callback));
        let machine = memory::counted(|| Machine::new(main, callback, REACTORS));
        let machine = machine.expect("descriptors are left");
        let groups = [&b"g"[..], b"h"].map(|name| Group {
            name: text(name),
            open: true,
            pairs: BTreeMap::new(),
            seen: BTreeSet::new(),
            told: Vec::new(),
            tries: 0,
        });
        let mut world = Self {
            place,
            machine,
            groups: groups.into(),
            mains: (0..=SLOTS).map(|_| None).collect(),
            callbacks: (0..=SLOTS).map(|_| None).collect(),
            muddled: BTreeSet::new(),
            live_names: [Vec::new(), Vec::new()],
            now: 0,
            budget: BUDGET,
            load: 0,
            new: 0,
        };
        for group in &world.groups {
            memory::counted(|| world.machine.add_group(group.name, text(SECRET)));
        }
        // The honest one; its name is nobody else's.
        world.login(SLOTS, 200, 0, SECRET);
        assert!(world.member(SLOTS).is_some(), "the honest application was not let in");
        world.put(SLOTS, b"honest", b"0");
        world.operate(SLOTS, 3, b"honest", b"");
        assert!(world.member(SLOTS).is_some_and(|member| member.watches.len() == 1));
        world
    }

    fn member(&self, slot: usize) -> Option<&Member> {
        match &self.mains[slot].as_ref()?.stage {
            Stage::Member(member) => Some(member),
            _ => None,
        }
    }

    fn play(&mut self, mut input: Input<'_>) {
        while let Some(kind) = input.byte() {
            let slot = usize::from(kind >> 6);
            match kind % 24 {
                0 => self.connect_main(slot, input.choice(8)),
                1 => self.connect_callback(slot, input.choice(8)),
                2 => self.send_main(slot, input.chunk()),
                3 => self.send_callback(slot, input.chunk()),
                4 => self.send_main(slot, &int(i32::from(input.choice(6)))),
                5 => self.send_main(slot, input.text().as_bytes()),
                6 => self.send_ready(slot),
                7 => self.hang_up_main(slot, input.choice(2) == 1),
                8 => self.hang_up_callback(slot),
                9 => {
                    self.turn(usize::from(input.choice(2)));
                }
                10 | 11 => self.settle(),
                12 => {
                    self.answer(input.choice(4));
                }
                13 => self.pass_time(),
                14 => self.delete_group(usize::from(input.choice(2))),
                15 => {
                    let (function, key) = (input.choice(4), input.choice(8));
                    self.repeat(slot, function, key, u32::from(input.choice(65)));
                }
                16 => {
                    let (name, group) = (input.choice(8), usize::from(input.choice(2)));
                    let right = input.choice(8) != 7;
                    self.login(slot, name, group, if right { SECRET } else { b"wrong" });
                }
                17 => self.deafen(slot, input.choice(4)),
                18 => {
                    let value = input.text();
                    let next = int(i32::from(input.choice(6)));
                    self.send_main(slot, &[value.as_bytes(), &next].concat());
                }
                19 => {
                    let (key, value) = (input.choice(8), input.text());
                    self.put(slot, &[b'0' + key], value.as_bytes());
                }
                20 => self.operate(slot, 1 + input.choice(3), &[b'0' + input.choice(8)], b""),
                21 => self.acknowledge(slot),
                22 => self.honest_round(),
                _ => {
                    let name = self.groups[usize::from(input.choice(2))].name;
                    self.send_main(slot, name.as_bytes());
                }
            }
        }
    }

    // --- the clients' side ------------------------------------------------------------------------

    fn spend(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        left
    }

    fn open(&mut self, listener: &str, prefix: &str, name: u8) -> Option<UnixStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let family = AddressFamily::Unix;
        let socket: OwnedFd = socket(family, SockType::Stream, flags, None).expect("a socket");
        if name != 0 {
            let path = self.place.path(&format!("{prefix}{name}"));
            let _ = std::fs::remove_file(&path);
            let address = UnixAddr::new(&path).expect("the path is short");
            bind(socket.as_raw_fd(), &address).expect("the path is free");
            let _ = std::fs::remove_file(&path);
        }
        let address = UnixAddr::new(&self.place.path(listener)).expect("the path is short");
        // The backlog may be full.
        connect(socket.as_raw_fd(), &address).ok()?;
        Some(UnixStream::from(socket))
    }

    /// A name that is, or was, in use by more than one connection of a kind says nothing any more.
    fn use_name(&mut self, kind: usize, name: u8) {
        if self.live_names[kind].contains(&name) {
            self.muddled.insert(name);
        }
        self.live_names[kind].push(name);
    }

    fn connect_main(&mut self, slot: usize, name: u8) {
        if !self.spend() {
            return;
        }
        self.hang_up_main(slot, false);
        let Some(stream) = self.open("main", "app_socket_", name) else { return };
        self.use_name(0, name);
        self.new += 1;
        self.mains[slot] = Some(Main {
            stream,
            name,
            reading: Reading::new(),
            unread: Vec::new(),
            expected: int(1).to_vec(),
            stage: Stage::Login { group: None },
            deaf: false,
            may_end: false,
            must_end: false,
            ended: false,
            callback: None,
        });
    }

    fn connect_callback(&mut self, slot: usize, name: u8) {
        if !self.spend() {
            return;
        }
        self.hang_up_callback(slot);
        let Some(stream) = self.open("callback", "app_socket_cb_", name) else { return };
        self.use_name(1, name);
        self.new += 1;
        self.callbacks[slot] = Some(Callback {
            stream,
            name,
            received: Vec::new(),
            greeted: false,
            announced: None,
            ready_sent: false,
            closed: false,
            muddled: false,
            deaf: false,
            taken: false,
        });
    }

    fn send_main(&mut self, slot: usize, bytes: &[u8]) {
        let others = (0..self.mains.len()).any(|other| {
            other != slot && self.mains[other].as_ref().is_some_and(|main| !main.unread.is_empty())
        });
        if others {
            self.settle();
        }
        if (0..self.mains.len()).any(|other| {
            // It does not take its answers, so it is not listened to.
            other != slot && self.mains[other].as_ref().is_some_and(|main| !main.unread.is_empty())
        }) {
            return;
        }
        let Some(main) = &mut self.mains[slot] else { return };
        // The model knows original sessions only. An offer is one for what comes first.
        let mut bytes = bytes.to_vec();
        if matches!(main.stage, Stage::Login { group: None }) {
            bytes.iter_mut().filter(|byte| **byte == b'2').for_each(|byte| *byte = b'1');
        }
        let bytes = &bytes[..];
        if main.ended || bytes.is_empty() || main.unread.len() + bytes.len() > MOST_UNREAD {
            return;
        }
        match main.stream.write(bytes) {
            Ok(written) => main.unread.extend(&bytes[..written]),
            // The server has ended it, or it has shut down this direction.
            Err(error) => assert_ne!(error.kind(), ErrorKind::Interrupted),
        }
    }

    fn send_callback(&mut self, slot: usize, bytes: &[u8]) {
        let Some(callback) = &mut self.callbacks[slot] else { return };
        if bytes.is_empty() {
            return;
        }
        callback.muddled = true;
        let _ = callback.stream.write(bytes);
        let name = callback.name;
        self.excuse(name);
    }

    /// What happens to the sessions of this name may be its callback connection's fault.
    fn excuse(&mut self, name: u8) {
        for main in self.mains.iter_mut().flatten().filter(|main| main.name == name) {
            main.may_end = true;
            if let Stage::Member(member) = &mut main.stage {
                member.untold = true;
            }
        }
        self.muddled.insert(name);
    }

    fn send_ready(&mut self, slot: usize) {
        let Some(callback) = &mut self.callbacks[slot] else { return };
        if callback.announced.is_some() && !callback.ready_sent && !callback.muddled {
            callback.ready_sent = callback.stream.write(&int(1)).is_ok();
        } else {
            self.send_callback(slot, &int(1));
        }
    }

    fn hang_up_main(&mut self, slot: usize, half: bool) {
        if self.mains[slot].as_ref().is_some_and(|main| !main.unread.is_empty()) {
            self.settle();
        }
        let Some(main) = &mut self.mains[slot] else { return };
        if half {
            let _ = main.stream.shutdown(Shutdown::Write);
            main.may_end = true;
            return;
        }
        // What nobody has read must not be read unseen.
        if main.unread.is_empty() {
            self.mains[slot] = None;
        }
    }

    fn hang_up_callback(&mut self, slot: usize) {
        if let Some(callback) = self.callbacks[slot].take() {
            self.excuse(callback.name);
        }
    }

    fn deafen(&mut self, slot: usize, how: u8) {
        if let Some(main) = &mut self.mains[slot] {
            main.deaf = how & 1 != 0;
        }
        if let Some(callback) = &mut self.callbacks[slot] {
            callback.deaf = how & 2 != 0;
        }
        // What came meanwhile.
        self.look();
    }

    /// A login as the library does it.
    fn login(&mut self, slot: usize, name: u8, group: usize, secret: &[u8]) {
        self.connect_main(slot, name);
        self.settle();
        let group = self.groups[group].name;
        self.send_main(slot, group.as_bytes());
        self.settle();
        self.send_main(slot, secret);
        self.connect_callback(slot, name);
        self.settle();
        while self.answer(0) {}
        self.settle();
    }

    fn put(&mut self, slot: usize, key: &[u8], value: &[u8]) {
        self.operate(slot, 0, key, value);
    }

    /// An operation as the library does it.
    fn operate(&mut self, slot: usize, function: u8, key: &[u8], value: &[u8]) {
        for bytes in [&int(i32::from(function))[..], key, value] {
            self.send_main(slot, bytes);
            self.settle();
        }
    }

    fn repeat(&mut self, slot: usize, function: u8, key: u8, times: u32) {
        for n in 0..times {
            if !self.spend() {
                return;
            }
            let value = [n as u8 + 1];
            self.operate(slot, function, &[b'0' + key], &value[..usize::from(function == 0)]);
        }
    }

    /// Takes one change, if one is announced.
    fn acknowledge(&mut self, slot: usize) {
        if self.callbacks[slot].as_ref().is_some_and(|callback| callback.announced.is_some()) {
            self.send_ready(slot);
            self.settle();
        }
    }

    /// The honest application is served as if nobody else were there.
    fn honest_round(&mut self) {
        if !self.spend() {
            return;
        }
        self.settle();
        let value = self.now.to_string();
        self.put(SLOTS, b"honest", value.as_bytes());
        self.operate(SLOTS, 1, b"honest", b"");
        self.acknowledge(SLOTS);
        self.acknowledge(SLOTS);
        let Some(main) = &self.mains[SLOTS] else { unreachable!("nobody else takes its slot") };
        if !self.groups[0].open {
            return;
        }
        assert!(!main.ended && !main.may_end, "the honest application was thrown out");
        assert!(main.expected.is_empty() && main.unread.is_empty(), "and not answered");
        self.assert_told(SLOTS);
    }

    // --- the server's side ------------------------------------------------------------------------

    fn turn(&mut self, reactor: usize) -> bool {
        let busy = memory::counted(|| self.machine.poll(reactor)).expect("epoll works");
        if busy {
            self.look();
        }
        busy
    }

    fn settle(&mut self) {
        // What this turn's answers set off at the clients is nothing: they act when the script says so.
        loop {
            let mut busy = false;
            for reactor in 0..REACTORS {
                busy |= self.turn(reactor);
            }
            if !busy {
                break;
            }
        }
        for main in self.mains.iter().flatten() {
            let is_due = !main.expected.is_empty() && main.unread.is_empty();
            assert!(!is_due || main.deaf || main.ended, "not answered: {:?}", main.expected);
            assert!(!main.must_end || main.ended || main.deaf, "a broken connection is kept");
        }
        self.new = 0;
        self.check_members();
    }

    /// Answers the oldest question of a login.
    fn answer(&mut self, how: u8) -> bool {
        let groups = &mut self.groups;
        let mut unavailable = false;
        let answered = memory::counted(|| {
            self.machine.answer(|name| {
                let secret = match how {
                    0 => Ok(Some(text(SECRET))),
                    1 => Ok(Some(text(b"other"))),
                    2 => Ok(None),
                    _ => Err(()),
                };
                unavailable = secret.is_err();
                if let Some(group) = groups.iter_mut().find(|group| group.name == *name)
                    && let Ok(secret) = secret
                {
                    memory::uncounted(|| group.told.push(secret));
                }
                secret
            })
        });
        if unavailable {
            self.excuse_logins();
        }
        answered
    }

    fn excuse_logins(&mut self) {
        for main in self.mains.iter_mut().flatten() {
            if !matches!(main.stage, Stage::Member(_)) {
                main.may_end = true;
            }
        }
    }

    fn pass_time(&mut self) {
        self.excuse_logins();
        // Callback connections that nobody has claimed are closed.
        let unclaimed: Vec<u8> = self
            .callbacks
            .iter()
            .flatten()
            .filter(|callback| !callback.taken)
            .map(|callback| callback.name)
            .collect();
        self.muddled.extend(unclaimed);
        memory::counted(|| self.machine.pass_time());
        self.look();
    }

    fn delete_group(&mut self, group: usize) {
        // The honest one's group stays until the end.
        if group == 0 || !self.groups[group].open {
            return;
        }
        self.close_group(group);
        // Its pairs go with it; who is still in it may put others until he has left.
        self.groups[group].pairs.clear();
        memory::counted(|| self.machine.delete_group(&self.groups[group].name));
        self.look();
    }

    fn close_group(&mut self, group: usize) {
        self.groups[group].open = false;
        for main in self.mains.iter_mut().flatten() {
            main.may_end |= match &main.stage {
                Stage::Login { group: entered } => *entered == Some(group),
                Stage::Verdict { group: entered, .. } => *entered == group,
                Stage::Member(member) => member.group == group,
            };
        }
    }

    /// After every step of the server: what has it read, what did it say, and is it right?
    fn look(&mut self) {
        self.now += 1;
        let ready = self.ready();
        for slot in 0..self.callbacks.len() {
            if ready[slot].1 {
                self.look_at_callback(slot);
            }
        }
        for slot in 0..self.mains.len() {
            self.look_at_main(slot);
        }
        for slot in 0..self.mains.len() {
            if ready[slot].0 {
                self.receive(slot);
            }
        }
        self.check_tables();
        self.check_memory();
    }

    /// On which main and callback channels there is something to receive.
    fn ready(&self) -> Vec<(bool, bool)> {
        let streams = || {
            let main = self.mains.iter().map(|main| main.as_ref().map(|main| &main.stream));
            let callbacks = self.callbacks.iter();
            main.chain(callbacks.map(|callback| callback.as_ref().map(|callback| &callback.stream)))
        };
        let mut polled: Vec<_> = streams()
            .flatten()
            .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut polled, PollTimeout::ZERO).expect("the descriptors are open");
        let mut polled = polled.iter();
        let ready: Vec<bool> = streams()
            .map(|stream| stream.is_some() && polled.next().and_then(PollFd::any) == Some(true))
            .collect();
        let (main, callback) = ready.split_at(self.mains.len());
        main.iter().copied().zip(callback.iter().copied()).collect()
    }

    /// What the server has read of a main channel.
    fn look_at_main(&mut self, slot: usize) {
        let Some(main) = &mut self.mains[slot] else { return };
        if main.unread.is_empty() {
            return;
        }
        let mut left = 0;
        // SAFETY: the descriptor is open, and SIOCOUTQ writes one int.
        unsafe { siocoutq(main.stream.as_raw_fd(), &mut left) }.expect("a socket knows SIOCOUTQ");
        if left > 0 {
            return;
        }
        let unread = std::mem::take(&mut main.unread);
        if getsockopt(&main.stream, sockopt::SocketError).expect("a socket") != 0 {
            // Closed, and these bytes with it.
            assert!(main.may_end || main.must_end, "closed in the face of an innocent application");
            main.ended = true;
            return;
        }
        match main.reading.read(&unread) {
            Ok(events) => {
                for event in events {
                    self.apply(slot, event);
                }
            }
            Err(_) => main.must_end = true,
        }
    }

    fn apply(&mut self, slot: usize, event: Event) {
        let Some(main) = &mut self.mains[slot] else { return };
        match (&mut main.stage, event) {
            (_, Event::Ready | Event::Begin) => main.expected.extend(int(1)),
            (_, Event::Goodbye) => main.must_end = true,
            (Stage::Login { group }, Event::Group(name, _)) => {
                *group = self
                    .groups
                    .iter()
                    .position(|group| group.open && group.name.as_bytes() == name);
                main.expected.extend(int(i32::from(group.is_some())));
                match group {
                    Some(_) => main.reading.group_exists(),
                    None => main.must_end = true,
                }
            }
            (Stage::Login { group: Some(group) }, Event::Secret(secret)) => {
                let tries = &mut self.groups[*group].tries;
                *tries += 1;
                // Wrong ones are slowed, and too many not looked at.
                main.may_end |= *tries > FREE_TRIES;
                main.stage = Stage::Verdict { group: *group, secret };
            }
            (Stage::Member(member), Event::Get(key)) => {
                let group = &mut self.groups[member.group];
                match group.pairs.get(&key) {
                    Some(value) => {
                        main.expected.extend(int(value.len() as i32));
                        main.expected.extend(value);
                        main.expected.push(0);
                    }
                    None => main.expected.extend(int(-1)),
                }
                group.seen.insert(key);
                main.reading.answered();
            }
            (Stage::Member(member), Event::Watch(key)) => {
                let found = self.groups[member.group].pairs.contains_key(&key);
                main.expected.extend(int(if found { 1 } else { -1 }));
                if found {
                    self.load += 1;
                    member.watches.insert(key);
                }
                main.reading.answered();
            }
            (Stage::Member(member), Event::Delete(key)) => {
                let group = member.group;
                let found = self.groups[group].pairs.remove(&key).is_some();
                main.expected.extend(int(if found { 1 } else { -1 }));
                main.reading.answered();
                for member in self.members(group) {
                    member.watches.remove(&key);
                }
                self.groups[group].seen.insert(key);
            }
            (Stage::Member(member), Event::Put(key, value)) => {
                let (group, now) = (member.group, self.now);
                for member in self.members(group) {
                    if member.watches.contains(&key) {
                        let (count, last) = member.changes.entry(key.clone()).or_default();
                        (*count, *last) = (*count + 1, now);
                    }
                }
                let group = &mut self.groups[group];
                if !group.pairs.contains_key(&key) {
                    self.load += 1;
                }
                group.seen.insert(key.clone());
                group.pairs.insert(key, value);
            }
            (_, event) => panic!("{event:?} before the login"),
        }
    }

    fn members(&mut self, group: usize) -> impl Iterator<Item = &mut Member> {
        self.mains.iter_mut().flatten().filter(|main| !main.ended).filter_map(move |main| {
            match &mut main.stage {
                Stage::Member(member) if member.group == group => Some(member),
                _ => None,
            }
        })
    }

    /// What came on a main channel.
    fn receive(&mut self, slot: usize) {
        let Some(main) = &mut self.mains[slot] else { return };
        if main.deaf || main.ended {
            return;
        }
        let mut buffer = [0; 4096];
        loop {
            match main.stream.read(&mut buffer) {
                Ok(0) => {
                    main.ended = true;
                    break;
                }
                Ok(len) => {
                    let mut got = &buffer[..len];
                    let known = len.min(main.expected.len());
                    let expected: Vec<u8> = main.expected.drain(..known).collect();
                    assert_eq!(got[..known], expected, "a wrong answer");
                    got = &got[known..];
                    if !got.is_empty() {
                        let verdict = <[u8; 4]>::try_from(got).expect("a verdict and no more");
                        self.verdict(slot, i32::from_ne_bytes(verdict));
                        return self.receive(slot);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It was closed with bytes unread.
                Err(_) => {
                    main.ended = true;
                    break;
                }
            }
        }
        let login = !matches!(main.stage, Stage::Member(_)) && self.muddled.contains(&main.name);
        assert!(main.may_end || main.must_end || login, "an innocent application was thrown out");
    }

    fn verdict(&mut self, slot: usize, verdict: i32) {
        let Some(main) = &mut self.mains[slot] else { return };
        let Stage::Verdict { group, secret } = &main.stage else {
            panic!("{verdict} out of the blue")
        };
        let (group, name) = (*group, main.name);
        let is_right =
            |told: &Option<Text>| told.is_some_and(|told| told.as_bytes() == &secret[..]);
        match verdict {
            1 => {
                assert!(self.groups[group].told.iter().any(is_right), "let in with a wrong secret");
                let greeted = |callback: &Callback| {
                    callback.name == name && callback.greeted && !callback.taken
                };
                let found = self
                    .callbacks
                    .iter()
                    .position(|callback| callback.as_ref().is_some_and(greeted));
                let sure = !self.muddled.contains(&name);
                let deaf = self.callbacks.iter().flatten().any(|callback| callback.deaf);
                assert!(found.is_some() || !sure || deaf, "let in without a callback channel");
                let callback = found.filter(|_| sure);
                main.callback = callback;
                main.reading.answered();
                main.stage = Stage::Member(Member {
                    group,
                    watches: BTreeSet::new(),
                    changes: BTreeMap::new(),
                    told: BTreeMap::new(),
                    untold: callback.is_none(),
                });
                self.load += 1;
                if let Some(callback) = callback.and_then(|at| self.callbacks[at].as_mut()) {
                    callback.taken = true;
                }
            }
            0 => {
                let told = &self.groups[group].told;
                assert!(told.iter().any(|told| !is_right(told)), "refused with the right secret");
                main.must_end = true;
            }
            other => panic!("{other} in place of a verdict"),
        }
    }

    fn look_at_callback(&mut self, slot: usize) {
        let Some(callback) = &mut self.callbacks[slot] else { return };
        if callback.deaf || callback.closed {
            return;
        }
        let mut buffer = [0; 4096];
        loop {
            match callback.stream.read(&mut buffer) {
                Ok(0) => break callback.closed = true,
                Ok(len) => callback.received.extend(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break callback.closed = true,
            }
        }
        if callback.muddled {
            callback.received.clear();
            return;
        }
        loop {
            if callback.ready_sent {
                if callback.received.len() < 100 {
                    break;
                }
                let key: Vec<u8> = callback.received.drain(..100).collect();
                let at = callback.announced.take().expect("only then a ready flag is sent");
                callback.ready_sent = false;
                let key = Text::from_padded(&key).expect("a key, padded").as_bytes().to_vec();
                Self::told(&mut self.mains, slot, key, at);
                continue;
            }
            let Some(first) = callback.received.first_chunk::<4>() else { break };
            let flag = i32::from_ne_bytes(*first);
            callback.received.drain(..4);
            match flag {
                1 if !callback.greeted => callback.greeted = true,
                1 if callback.announced.is_none() => callback.announced = Some(self.now),
                -1 if callback.greeted && callback.announced.is_none() => callback.muddled = true,
                other => panic!("{other} on a callback channel"),
            }
        }
    }

    fn told(mains: &mut [Option<Main>], slot: usize, key: Vec<u8>, at: u64) {
        let main = mains.iter_mut().flatten().find(|main| main.callback == Some(slot));
        let Some(Main { stage: Stage::Member(member), .. }) = main else { return };
        let (changes, _) = member.changes.get(&key).expect("told of a key that it does not watch");
        let (told, last) = member.told.entry(key).or_default();
        (*told, *last) = (*told + 1, at);
        assert!(*told <= *changes, "told more often than it changed");
    }

    /// Everything that a member should have been told was told.
    fn assert_told(&self, slot: usize) {
        let Some(Main { stage: Stage::Member(member), ended: false, .. }) = &self.mains[slot]
        else {
            return;
        };
        for (key, (_, changed)) in &member.changes {
            let told = member.told.get(key).is_some_and(|(_, told)| told >= changed);
            assert!(told || member.untold, "the last change of {key:?} was not told");
        }
    }

    fn check_tables(&self) {
        for group in self.groups.iter().filter(|group| group.open) {
            assert_eq!(self.machine.pairs(&group.name), Some(group.pairs.len()));
            for key in &group.seen {
                let stored = self.machine.value(&group.name, key);
                assert_eq!(stored.as_ref(), group.pairs.get(key), "{key:?}");
            }
        }
    }

    /// Whatever the applications do: so much for the machine, and so much for each thing to remember.
    fn check_memory(&self) {
        let opened = BUDGET as usize * 2 - self.budget as usize;
        let bound =
            40_000 + REACTORS * READ_BUFFER + self.load * 500 + self.new * 2000 + opened * 300;
        let held = memory::held();
        assert!(held <= bound as isize, "{held} bytes are held, {bound} are allowed");
        let waiting = self.machine.max_unsent();
        assert!(waiting <= MOST_WAITING, "{waiting} bytes wait for one application");
    }

    /// When nothing is left to do: only those are in a group, and only those keys watched, that should be.
    fn check_members(&self) {
        // Of a deaf one it is not known whether it is there.
        if self.mains.iter().flatten().any(|main| main.deaf) {
            return;
        }
        for (at, group) in self.groups.iter().enumerate().filter(|(_, group)| group.open) {
            let members = self.mains.iter().flatten().filter(|main| !main.ended);
            let watches = members.filter_map(|main| match &main.stage {
                Stage::Member(member) if member.group == at => Some(member.watches.len()),
                _ => None,
            });
            let expected = watches.fold((0, 0), |(count, sum), watches| (count + 1, sum + watches));
            assert_eq!(self.machine.members(&group.name), Some(expected), "members and watches");
        }
    }

    // --- the end ----------------------------------------------------------------------------------

    fn end(mut self) {
        self.settle();
        self.budget = BUDGET;
        self.honest_round();
        // Everyone takes what it is told; then everyone has been told everything.
        for slot in 0..self.mains.len() {
            self.deafen(slot, 0);
        }
        self.settle();
        for slot in 0..SLOTS {
            let before = self.times_told(slot);
            while self.callbacks[slot].as_ref().is_some_and(|callback| {
                callback.announced.is_some() && !callback.muddled && !callback.closed
            }) {
                self.acknowledge(slot);
            }
            // Changes that wait are merged: what was announced already, and each key once more.
            for (key, times) in self.times_told(slot) {
                let merged = times <= before.get(&key).copied().unwrap_or(0) + 2;
                assert!(merged, "every single change of {key:?} waited");
            }
        }
        for slot in 0..self.mains.len() {
            if self.groups_open(slot) {
                self.assert_told(slot);
            }
        }
        // The server quits.
        for group in 0..self.groups.len() {
            self.close_group(group);
        }
        self.excuse_logins();
        memory::counted(|| self.machine.close_all());
        self.settle();
        self.pass_time();
        self.settle();
        // As the link does when it ends.
        while self.answer(3) {}
        for main in self.mains.iter().flatten() {
            assert!(main.ended, "a connection survives the server");
        }
        let Self { machine, .. } = self;
        memory::counted(|| drop(machine));
        assert_eq!(memory::held(), 0, "not everything was given back");
    }

    /// How often each key was told on the callback channel of a slot.
    fn times_told(&self, slot: usize) -> BTreeMap<Vec<u8>, u64> {
        let main = self.mains.iter().flatten().find(|main| main.callback == Some(slot));
        match main.map(|main| &main.stage) {
            Some(Stage::Member(member)) => {
                member.told.iter().map(|(key, (times, _))| (key.clone(), *times)).collect()
            }
            _ => BTreeMap::new(),
        }
    }

    fn groups_open(&self, slot: usize) -> bool {
        let Some(main) = &self.mains[slot] else { return false };
        !main.must_end && self.member(slot).is_some_and(|member| self.groups[member.group].open)
    }
}
