//! The soak test: mixed load with outages of any length, checked against a model of what every
//! application must see.
//!
//!     make soak MINUTES=10 [SEED=…]
//!
//! It runs two local servers and an authentication server. Each local server has two permanent
//! groups, whose applications are killed, stopped and dropped at random moments, and one that is
//! deleted and created again under load. Applications are C programs, connections by the crate, and
//! raw v1 applications. The authentication server is killed and restarted throughout.
//!
//! - `model.rs`: what an application may see, and when.
//! - `client.rs`: the applications; `group.rs` commands, kills and observes them.
//! - `env.rs`: shared state; this file has the outages, the periods, and the end.
//!
//! After each period all applications rest, all results are compared, and the servers' memory and
//! descriptors are checked. The seed determines what is done; the machine schedules it differently
//! each time.

#![forbid(unsafe_code)]

mod client;
mod env;
mod group;
mod model;

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use env::{Count, Outages, Pace, Size, SoakEnv, SoakServer, lock, print_progress};
use kvs_testkit::{AuthServer, Process, SeededRng, Sockets, number_from_env};

/// The length of a period, from one point of rest to the next.
const PERIOD: Duration = Duration::from_secs(10);

/// The sockets of abandoned links of two local servers that reconnected. The authentication server
/// closes them after 30 s.
const GIVEN_UP_LINKS: usize = 4;

/// The number of periods before memory is checked: the allocator creates its pools and tables reach
/// their size.
const WARM_UP: usize = 2;

/// The allowed growth of a server's resident memory after the warm-up, in KiB. The allocator has a
/// pool for each thread, whose fragmentation varies.
const NOISE: u64 = 1024;

/// The additional memory of a local server for each past application (up to 1,000 for each group),
/// in bytes: an entry of some 200 bytes, and 300 bytes in the status. While the status is printed,
/// there are three copies of it, one of which grows by doubling; that memory stays in the
/// allocator's pools.
const PAST_APPLICATION: u64 = 2048;

/// The time that the servers are idle at the end, and the clock ticks (1/100 s) that they may use
/// in it.
const IDLE: (Duration, u64) = (Duration::from_secs(3), 2);

#[test]
fn mixed_load_with_outages_keeps_every_promise() {
    let minutes: f64 = number_from_env("KVS_SOAK_MINUTES").unwrap_or(0.5);
    let seed = number_from_env("KVS_SOAK_SEED")
        .unwrap_or_else(|| SeededRng::from_time().number() % 1_000_000);
    print_progress(format_args!("soak for {minutes} minutes with seed {seed}"));

    let auth = AuthServer::start();
    let sites = [SoakServer::start("A", &auth), SoakServer::start("B", &auth)];
    let env = SoakEnv {
        seed,
        outages: Outages::new(auth.pid(), sites.iter().map(|site| site.pid).collect()),
        auth: Mutex::new(auth),
        sites,
        pace: Pace::new(7),
        report: env::Report::default(),
    };
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(minutes * 60.0);
    let mut sizes = Sizes::default();
    let runs = thread::scope(|scope| {
        let mut seeds = SeededRng::new(seed);
        let mut steady = Vec::new();
        for site in &env.sites {
            for n in 0..2 {
                let (env, name, seed) = (&env, format!("steady-{}{n}", site.name), seeds.number());
                steady.push(scope.spawn(move || group::steady(env, site, &name, seed)));
            }
            let (env, name, seed) = (&env, format!("churn-{}", site.name), seeds.number());
            scope.spawn(move || group::churning(env, site, &name, seed));
        }
        let seed = seeds.number();
        let env = &env;
        scope.spawn(move || restart_auth_server(env, seed));

        let mut result = env.pace.wait_until_all_rest();
        while result.is_ok() && Instant::now() < end && !env.report.is_full() {
            result = env.pace.run_for(PERIOD.min(end - Instant::now()));
            if result.is_ok() {
                sizes.look(env, begin);
            }
        }
        if let Err(why) = result {
            env.report.violation(why);
        }
        env.pace.end();
        steady.into_iter().map(|thread| thread.join()).collect::<Result<Vec<_>, _>>()
    });
    let runs = runs.expect("no coordinator has panicked");
    if !env.report.is_full() {
        sizes.judge(&env);
        quit(&env, runs);
    }
    print_progress(format_args!("{}\nseed {seed}", env.report));
    assert_eq!(env.report.violations(), 0, "see above; the seed is {seed}");
}

/// Kills and restarts the authentication server at random times.
fn restart_auth_server(env: &SoakEnv, seed: u64) {
    let _party = env.pace.party();
    let mut rng = SeededRng::new(seed);
    while env.pace.rest() {
        while !env.pace.is_time_up() && !env.report.is_full() {
            env.pace.wait(rng.time(Duration::from_millis(5000)));
            env.outages.begin();
            lock(&env.auth).kill();
            // Some outages are too short for any server to notice.
            if !rng.one_in(3) {
                check_outage(env);
                env.pace.wait(rng.time(Duration::from_millis(2000)));
            }
            lock(&env.auth).restart();
            for site in &env.sites {
                wait_until_back(env, site);
            }
            env.outages.end(lock(&env.auth).pid());
            env.report.count(Count::Outage);
        }
    }
}

/// Checks that commands and logins report the outage and do not hang.
fn check_outage(env: &SoakEnv) {
    for site in &env.sites {
        for command in ["Create group", "Delete group"] {
            let (door, _) = &site.door;
            let (name, prefix) = match command {
                "Create group" => ("while-away", "Group not created: the authentication server "),
                _ => (door.as_str(), "Group not deleted: the authentication server "),
            };
            let answer = lock(&site.server).ask(command, name);
            if answer.starts_with(prefix) && answer.ends_with(" does not answer") {
                env.report.count(Count::CommandRefused);
            } else {
                env.report.violation(format_args!("{command} in an outage: {answer:?}"));
            }
        }
        let (group, secret) = &site.door;
        for (group, secret, expected, count) in [
            (group.as_str(), secret.as_str(), -8, Count::RefusedOutage),
            (group.as_str(), "wrong", -8, Count::RefusedOutage),
            ("no such group", "wrong", -7, Count::RefusedGroup),
        ] {
            match site.try_login(group, secret) {
                code if code == expected => env.report.count(count),
                code => env.report.violation(format_args!(
                    "code {code} in an outage, at the login to {group} on server {}",
                    site.name
                )),
            }
        }
    }
}

/// Logs in until a login succeeds.
fn wait_until_back(env: &SoakEnv, site: &SoakServer) {
    let (group, secret) = &site.door;
    let end = Instant::now() + env::REPORT_TIMEOUT;
    loop {
        match site.try_login(group, secret) {
            0 => return env.report.count(Count::Login),
            -8 if Instant::now() < end => env.report.count(Count::RefusedOutage),
            code => {
                env.report.violation(format_args!(
                    "code {code} after an outage, at the login to {group} on server {}",
                    site.name
                ));
                return;
            }
        }
    }
}

/// The servers' sizes at the points of rest.
#[derive(Debug, Default)]
struct Sizes {
    /// The sizes of the authentication server and of the local servers at each point.
    series: Vec<[Size; 3]>,
    /// The number of past applications in the servers' status at each point.
    past: Vec<[u64; 3]>,
}

impl Sizes {
    fn look(&mut self, env: &SoakEnv, begin: Instant) {
        let first = self.series.first();
        let size = |n: usize, process: &Process| {
            Size::settled(process, first.map(|first| first[n].descriptors))
        };
        let sizes = [
            size(0, &lock(&env.auth)),
            size(1, &lock(&env.sites[0].server)),
            size(2, &lock(&env.sites[1].server)),
        ];
        self.series.push(sizes);
        let [a, b] = env.sites.each_ref().map(|site| {
            let status = lock(&site.server).status();
            status.iter().filter(|app| app.status == "Closed").count() as u64
        });
        self.past.push([0, a, b]);
        let report = &env.report;
        let columns = sizes.map(|size| format!("{} KiB {} fds", size.rss, size.descriptors));
        print_progress(format_args!(
            "{:>4} s: {} calls, {} callbacks, {} kills, {} drops, {} stops, {} groups deleted, \
             {} outages, \
             {} violations; auth {}, A {}, B {}",
            begin.elapsed().as_secs(),
            report.calls(),
            report.get(Count::Callback),
            report.get(Count::Kill) + report.get(Count::KillInLogin),
            report.get(Count::Drop),
            report.get(Count::Stop),
            report.get(Count::Deleted),
            report.get(Count::Outage),
            report.violations(),
            columns[0],
            columns[1],
            columns[2],
        ));
    }

    /// Checks that the servers have not grown.
    fn judge(&self, env: &SoakEnv) {
        let Some(last) = self.series.last() else { return };
        for (n, name) in ["authentication server", "server A", "server B"].iter().enumerate() {
            let rss: Vec<u64> = self.series.iter().map(|sizes| sizes[n].rss).collect();
            let descriptors = self.series.iter().map(|sizes| sizes[n].descriptors);
            let (least, most) = (descriptors.clone().min(), descriptors.max());
            let past: Vec<u64> = self.past.iter().map(|past| past[n]).collect();
            print_progress(format_args!(
                "{name}: {rss:?} KiB; {past:?} applications remembered; {least:?} to {most:?} \
                 descriptors"
            ));
            let may_vary = if n == 0 { GIVEN_UP_LINKS } else { 0 };
            if most.unwrap_or(0) > least.unwrap_or(0) + may_vary {
                env.report.violation(format_args!("descriptors of {name}: {:?}", self.series));
            }
            // The first point is after one period.
            if let Some(warm) = self.series.get(WARM_UP - 1) {
                let past = self.past[self.past.len() - 1][n] - self.past[WARM_UP - 1][n];
                let allowed = warm[n].rss + NOISE + past * PAST_APPLICATION / 1024;
                if last[n].rss > allowed {
                    env.report.violation(format_args!(
                        "memory of {name}: {} KiB, more than {allowed}",
                        last[n].rss
                    ));
                }
            }
        }
    }
}

/// Checks that idle servers use no processor time. Then half of the applications close, one server
/// quits, the authentication server quits and with it the other one, and nothing must be left.
fn quit(env: &SoakEnv, mut runs: Vec<group::Run<'_>>) {
    let ticks = |env: &SoakEnv| {
        let [a, b] = env.sites.each_ref().map(|site| lock(&site.server).cpu_ticks());
        [lock(&env.auth).cpu_ticks(), a, b]
    };
    let before = ticks(env);
    // The promise is the absence of events, so it is measured over real time.
    thread::sleep(IDLE.0);
    let used: Vec<_> =
        ticks(env).iter().zip(before).map(|(after, before)| after - before).collect();
    print_progress(format_args!("idle for {:?} with all applications: {used:?} ticks", IDLE.0));
    if used.iter().any(|ticks| *ticks > IDLE.1) {
        env.report.violation(format_args!("idle servers used {used:?} ticks"));
    }

    for run in &mut runs {
        run.leave_in_part();
    }
    let [first, second] = env.sites.each_ref().map(|site| lock(&site.server));
    first.quit();
    let auth = lock(&env.auth);
    auth.send("Quit");
    auth.expect_line("Exiting Authentification Server...");
    for process in [&**auth, &**second] {
        let status = process.wait_exit();
        if !status.success() {
            env.report.violation(format_args!("a server has ended with {status}"));
        }
    }
    drop((first, second, auth));
    for site in &env.sites {
        for path in [site.socket(), site.callback_socket()] {
            if path.exists() {
                env.report.violation(format_args!("{} is left", path.display()));
            }
        }
    }
    for run in runs {
        run.end_after_quit();
    }
}
