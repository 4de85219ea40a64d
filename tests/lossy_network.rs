//! Two local servers and one authentication server with a network between them that affects 30 % of
//! all datagrams ([`RandomFaults`]), and an authentication server that is killed again and again.
//!
//! Two administrators work concurrently, each at one local server, with the same few group names,
//! so that a name is created on one server directly after it was deleted on the other. The
//! responses to them and their applications are compared with a model, operation by operation. An
//! operation is repeated only if the response is one of the documented temporary failures; their
//! number is counted and printed. In the end the authentication server is queried directly, without
//! the network.
//!
//! While the authentication server restarts, and until both local servers have noticed, it does not
//! know all groups, and the protocol cannot tell it. So no name of the *other* local server is used
//! in that time, and each administrator first queries the group that existed from the beginning: as
//! at a login, the local server then notices the restart and registers its groups again.
//!
//! `KVS_LOSSY_SEED` repeats the faults of the network (as far as the timing of processes can be
//! repeated); `KVS_LOSSY_OPERATIONS` and `KVS_LOSSY_KILLS` make the test longer; `make lossy` is
//! the long form.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use kvs_testkit::{
    AuthServer, DEADLINE, Delivery, Driver, LocalServer, RandomFaults, RawLocalServer, RawV1App,
    Relay, SeededRng, number_from_env,
};

/// The names for which both administrators contend.
const NAMES: usize = 10;

/// How often one operation may be tried again before the test fails.
const MAX_ATTEMPTS: usize = 100;

/// The operations for which latencies are recorded.
const KINDS: [&str; 6] =
    ["create", "create of a taken name", "login", "login with a wrong secret", "info", "delete"];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A group of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    owner: usize,
    secret: String,
}

/// The temporary failure of an attempt, which is repeated.
struct Excuse(String);

type Attempt<T> = Result<T, Excuse>;

struct LossyEnv {
    auth: Mutex<AuthServer>,
    locals: [LocalServer; 2],
    /// The expected groups. A thread changes a name only while it holds the lock of that name.
    model: Mutex<BTreeMap<String, Group>>,
    names: Vec<(String, Mutex<()>)>,
    /// The number of restarts of the authentication server, and the last one that each local server
    /// has noticed.
    restarts: AtomicUsize,
    noticed: [AtomicUsize; 2],
    /// Write-locked for a kill.
    alive: RwLock<()>,
    done: AtomicUsize,
    figures: Mutex<Figures>,
}

#[derive(Default)]
struct Figures {
    took: [Vec<Duration>; KINDS.len()],
    excuses: Vec<String>,
}

impl LossyEnv {
    /// Repeats an attempt while it fails temporarily.
    fn until_answered<T>(&self, what: &str, mut attempt: impl FnMut() -> Attempt<T>) -> T {
        for _ in 0..MAX_ATTEMPTS {
            match attempt() {
                Ok(answer) => return answer,
                Err(Excuse(excuse)) => {
                    lock(&self.figures).excuses.push(format!("{what}: {excuse}"))
                }
            }
        }
        panic!("{what}: nothing but excuses, {MAX_ATTEMPTS} times");
    }

    fn command(&self, local: usize, command: &str, group: &str) -> String {
        self.until_answered(command, || {
            let answer = self.locals[local].ask(command, group);
            let excused = answer.contains(" does not answer") || answer.contains("; try again");
            if excused { Err(Excuse(answer)) } else { Ok(answer) }
        })
    }

    fn info(&self, local: usize, group: &str) -> Result<String, String> {
        self.until_answered("Show group info", || match self.locals[local].group_info(group) {
            Ok(info) => Ok(Ok(info.secret)),
            Err(answer) if answer.starts_with("Group info not available: ") => Err(Excuse(answer)),
            Err(answer) => Ok(Err(answer)),
        })
    }

    /// Logs in by the library or without it. Returns whether the secret was accepted.
    fn login(&self, visitor: Option<&Driver>, local: usize, group: &str, secret: &str) -> bool {
        self.until_answered("login", || match visitor {
            Some(driver) => match driver.establish(group, secret) {
                0 => {
                    assert_eq!(driver.call("close_connection"), 1);
                    Ok(true)
                }
                -9 => Ok(false),
                -8 => Err(Excuse("no verdict (-8)".into())),
                code => panic!("establish_connection returned {code}"),
            },
            None => {
                let server = &self.locals[local];
                match RawV1App::try_login(server, group, secret) {
                    Ok(app) => {
                        app.close();
                        Ok(true)
                    }
                    Err(end) if end == "wrong secret" => Ok(false),
                    Err(end) if end.starts_with("verdict on main did not come") => Err(Excuse(end)),
                    Err(end) => panic!("login to {group}: {end}"),
                }
            }
        })
    }

    /// The expected group of a name. The caller holds the lock of the name.
    fn truth(&self, name: &str) -> Option<Group> {
        lock(&self.model).get(name).cloned()
    }

    /// Makes sure that this local server has noticed the last restart.
    fn notice(&self, local: usize) {
        let restarts = self.restarts.load(Ordering::SeqCst);
        if self.noticed[local].load(Ordering::SeqCst) != restarts {
            let home = home(local);
            let secret = self.truth(&home).expect("it was there from the beginning").secret;
            assert_eq!(self.info(local, &home), Ok(secret), "after restart {restarts}");
            self.noticed[local].store(restarts, Ordering::SeqCst);
        }
    }

    fn both_have_noticed(&self) -> bool {
        let restarts = self.restarts.load(Ordering::SeqCst);
        self.noticed.iter().all(|noticed| noticed.load(Ordering::SeqCst) == restarts)
    }

    /// Executes one operation of the administrator or of an application of `local`. Returns the
    /// index of its kind.
    fn operate(&self, local: usize, rng: &mut SeededRng, visitor: &Driver) -> usize {
        let (name, _name) = loop {
            let (name, name_lock) = &self.names[rng.below(NAMES)];
            // The lock excludes concurrent operations of the other administrator on this name.
            let locked = lock(name_lock);
            let theirs = self.truth(name).is_some_and(|group| group.owner != local);
            if !theirs || rng.chance(0.2) {
                break (name, locked);
            }
        };
        match self.truth(name) {
            None => {
                let answer = self.command(local, "Create group", name);
                let secret = answer
                    .strip_prefix("Group created with secret ")
                    .and_then(|rest| rest.strip_suffix('!'))
                    .unwrap_or_else(|| panic!("Create group {name}, which is free: {answer}"));
                let group = Group { owner: local, secret: secret.to_owned() };
                lock(&self.model).insert(name.clone(), group);
                0
            }
            Some(Group { owner, .. }) if owner != local => {
                let _alive = self.alive.read().unwrap_or_else(PoisonError::into_inner);
                if self.both_have_noticed() {
                    let answer = self.command(local, "Create group", name);
                    assert_eq!(answer, "Group id already exists", "{name} belongs to the other");
                }
                assert_eq!(self.info(local, name), Err("Group id not found!".into()));
                assert_eq!(self.locals[local].ask("Delete group", name), "Group id doesn't exist");
                1
            }
            Some(Group { secret, .. }) => {
                let visitor = rng.chance(0.5).then_some(visitor);
                match rng.below(7) {
                    0 | 1 => {
                        let let_in = self.login(visitor, local, name, &secret);
                        assert!(let_in, "{name}: the right secret {secret} is called wrong");
                        2
                    }
                    2 => {
                        let let_in = self.login(visitor, local, name, "WRONG");
                        assert!(!let_in, "{name}: a wrong secret is called right");
                        3
                    }
                    3 | 4 => {
                        assert_eq!(self.info(local, name), Ok(secret), "info about {name}");
                        4
                    }
                    _ => {
                        let answer = self.command(local, "Delete group", name);
                        assert_eq!(answer, "Group deleted!", "{name}");
                        lock(&self.model).remove(name);
                        5
                    }
                }
            }
        }
    }

    fn administer(&self, local: usize, seed: u64, operations: usize) {
        let mut rng = SeededRng::new(seed.wrapping_add(1 + local as u64));
        let start = || (Instant::now(), Driver::start(&self.locals[local]));
        let mut visitor = start();
        for _ in 0..operations {
            self.notice(local);
            // The driver is meant for short tests and exits after a long time.
            if visitor.0.elapsed() > DEADLINE / 2 {
                visitor = start();
            }
            let begin = Instant::now();
            let kind = self.operate(local, &mut rng, &visitor.1);
            lock(&self.figures).took[kind].push(begin.elapsed());
            self.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Kills the authentication server after a random number of operations, and checks the
    /// connected applications.
    fn kill(&self, kills: usize, operations: usize, seed: u64, apps: &[App; 2], end: &AtomicBool) {
        let mut rng = SeededRng::new(!seed);
        for kill in 1..=kills {
            while self.done.load(Ordering::SeqCst) < kill * operations / (kills + 1) {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
            let alive = self.alive.write().unwrap_or_else(PoisonError::into_inner);
            let mut auth = lock(&self.auth);
            auth.kill();
            if rng.chance(0.5) {
                thread::sleep(rng.time(Duration::from_millis(700)));
            }
            for app in apps {
                app.check(&format!("v{kill}"));
            }
            auth.restart();
            self.restarts.fetch_add(1, Ordering::SeqCst);
            drop((auth, alive));
        }
    }

    /// Asserts that the tables of all servers equal the model.
    fn check_tables(&self) {
        let model = lock(&self.model).clone();
        for (name, group) in &model {
            // The query makes the local server notice a restart of the authentication server.
            assert_eq!(self.info(group.owner, name), Ok(group.secret.clone()), "{name}");
            assert!(self.login(None, group.owner, name, &group.secret), "login to {name}");
        }
        let observer = RawLocalServer::connect(lock(&self.auth).addr());
        for name in self.names.iter().map(|(name, _)| name.clone()).chain([0, 1].map(home)) {
            let secret = model.get(&name).map(|group| group.secret.clone());
            assert_eq!(observer.get_secret(&name), secret, "{name} at the authentication server");
        }
        for (local, server) in self.locals.iter().enumerate() {
            let mut groups: Vec<String> = server
                .lines_of("Show application status")
                .iter()
                .filter_map(|line| line.strip_suffix(':').map(str::to_owned))
                .filter(|line| line != "Keys in WatchList for callback function")
                .collect();
            groups.sort_unstable();
            let owned =
                |(name, group): (&String, &Group)| (group.owner == local).then(|| name.clone());
            assert_eq!(groups, model.iter().filter_map(owned).collect::<Vec<_>>());
        }
    }
}

/// An application that stays connected, and watches.
struct App {
    connection: kvs::Connection,
    changes: Mutex<Receiver<()>>,
}

impl App {
    fn connect(server: &LocalServer, group: &str, secret: &str) -> Self {
        let connection = kvs_testkit::connect(server, group, secret).expect("the secret is right");
        connection.put("k", "v").expect("it is connected");
        let (changed, changes) = mpsc::channel();
        let tell = move |_: &[u8]| {
            // After a failure of the test there is no receiver.
            let _ = changed.send(());
        };
        connection.watch("k", tell).expect("the key exists");
        Self { connection, changes: Mutex::new(changes) }
    }

    /// Puts, receives the event, and gets.
    fn check(&self, value: &str) {
        self.connection.put("k", value).expect("it is connected");
        lock(&self.changes).recv_timeout(DEADLINE).expect("it receives its own event");
        let read = self.connection.get("k").expect("it is connected");
        assert_eq!(read.as_deref(), Some(value.as_bytes()));
    }
}

/// The group that a local server has from the beginning to the end.
fn home(local: usize) -> String {
    format!("home-{local}")
}

/// Prints how to repeat the test when it fails.
struct Seed(&'static str, u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}: to repeat it set KVS_LOSSY_SEED={}", self.0, self.1);
        }
    }
}

/// Runs this number of operations with these network faults and this number of kills of the
/// authentication server.
fn everything_ends_right(
    title: &'static str,
    storm: fn(u64) -> RandomFaults,
    operations: usize,
    kills: usize,
) {
    let seed = number_from_env("KVS_LOSSY_SEED").unwrap_or_else(|| SeededRng::from_time().number());
    let _seed = Seed(title, seed);
    let operations = number_from_env("KVS_LOSSY_OPERATIONS").unwrap_or(operations);
    let kills = match number_from_env("KVS_LOSSY_KILLS") {
        Some(number) if kills > 0 => number,
        _ => kills,
    };

    let auth = AuthServer::start();
    let calm = Arc::new(AtomicBool::new(true));
    let fate = {
        let (storm, calm) = (storm(seed), Arc::clone(&calm));
        move |number| {
            if calm.load(Ordering::SeqCst) { Delivery::OnTime } else { storm.delivery(number) }
        }
    };
    let relay = Relay::start(&auth, fate);
    let locals = [(); 2].map(|()| LocalServer::builder(relay.addr()).start());
    let homes = [0, 1]
        .map(|local| Group { owner: local, secret: locals[local].create_group(&home(local)) });
    let apps = [0, 1].map(|n| App::connect(&locals[n], &home(n), &homes[n].secret));
    let env = LossyEnv {
        auth: Mutex::new(auth),
        locals,
        model: Mutex::new((0..2).map(home).zip(homes).collect()),
        names: (0..NAMES).map(|n| (format!("name-{n}"), Mutex::new(()))).collect(),
        restarts: AtomicUsize::new(0),
        noticed: [0, 0].map(AtomicUsize::new),
        alive: RwLock::new(()),
        done: AtomicUsize::new(0),
        figures: Mutex::default(),
    };

    calm.store(false, Ordering::SeqCst);
    // A local server assumes a reliable network until it observes a fault.
    for local in [0, 1] {
        for _ in 0..5 {
            let secret = env.truth(&home(local)).map(|group| group.secret);
            assert_eq!(env.info(local, &home(local)).ok(), secret);
        }
    }
    let begin = Instant::now();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let (env, apps, end) = (&env, &apps, &end);
        let killer = scope.spawn(move || env.kill(kills, operations, seed, apps, end));
        let administrators =
            [0, 1].map(|local| scope.spawn(move || env.administer(local, seed, operations / 2)));
        let results = administrators.map(|administrator| administrator.join());
        end.store(true, Ordering::SeqCst);
        killer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for result in results {
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let took = begin.elapsed();
    for local in [0, 1] {
        env.notice(local);
    }
    calm.store(true, Ordering::SeqCst);
    relay.settle();
    env.check_tables();
    for app in &apps {
        app.check("end");
    }

    let figures = lock(&env.figures);
    println!(
        "{title}: {} operations and {} kills in {:.1} s; {} datagrams, {} affected; {} excuses \
         (seed {seed})",
        env.done.load(Ordering::SeqCst),
        env.restarts.load(Ordering::SeqCst),
        took.as_secs_f64(),
        relay.count(),
        relay.affected(),
        figures.excuses.len(),
    );
    for (kind, took) in KINDS.iter().zip(&figures.took) {
        let mut took = took.clone();
        took.sort_unstable();
        if let (Some(median), Some(longest)) = (took.get(took.len() / 2), took.last()) {
            println!("    {} × {kind}: median {median:.0?}, longest {longest:.0?}", took.len());
        }
    }
    for excuse in &figures.excuses {
        println!("    {excuse}");
    }
}

#[test]
fn operations_succeed_with_30_percent_datagram_faults() {
    everything_ends_right("one by one", RandomFaults::one_by_one, 120, 0);
}

#[test]
fn operations_succeed_with_combined_datagram_faults() {
    everything_ends_right("all together", RandomFaults::all_together, 120, 0);
}

#[test]
fn operations_succeed_while_the_auth_server_is_killed() {
    everything_ends_right("killed", RandomFaults::one_by_one, 160, 4);
}
