//! The coordinator of one group: its applications, their load and faults, and the end of the group.
//!
//! The coordinator of a group is one thread. It commands the calls of all applications of its group
//! (some in advance, so that no application is idle), receives their reports, checks them with the
//! [`Model`], and kills and stops applications itself. So the model needs no lock, and knows of
//! every event before it can happen.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use kvs_testkit::{AppStatus, SeededRng, application_paths};
use nix::sys::signal::Signal;

use crate::client::{Client, Command, Event, Kind, Report};
use crate::env::{
    Count, REPORT_TIMEOUT, Recent, SoakEnv, SoakServer, Ticket, created, lock, print_progress,
};
use crate::model::{Call, Model};

/// The maximum number of calls that are commanded in advance for each application.
const WINDOW: usize = 16;

/// The number of keys that each application writes, besides its fence.
const KEYS: usize = 4;

/// The longest value.
const MAX_VALUE: usize = 99;

/// The average number of results between two points of rest. A lost event is detected only if no
/// other event of the key follows, so points of rest must be frequent.
const ROUND: usize = 1500;

/// The average number of results between two faults.
const FAULTS: usize = 2500;

/// A stopped application is continued after this number of results of the others.
const STOPPED_FOR: u64 = 400;

pub(crate) struct Run<'a> {
    env: &'a SoakEnv,
    site: &'a SoakServer,
    name: String,
    secret: String,
    /// The numbers of groups and of applications that this coordinator has had.
    generation: u64,
    clients: u64,
    model: Model,
    members: Vec<Member>,
    rng: SeededRng,
    sender: Sender<Report>,
    reports: Receiver<Report>,
    results: u64,
    /// The ticket for the command that the console is executing.
    answer: Option<String>,
}

struct Member {
    client: Client,
    /// Whether the application has taken over its keys and may get any call.
    ready: bool,
    /// The code of the last login.
    login: Option<i32>,
    /// While the application is stopped: the number of results of the group when it was stopped.
    stopped: Option<u64>,
    ended: bool,
    recent: Recent,
}

/// Runs a group that stays until the end and whose applications are killed. [`Run::leave_in_part`]
/// and [`Run::end_after_quit`] must follow.
pub(crate) fn steady<'a>(env: &'a SoakEnv, site: &'a SoakServer, name: &str, seed: u64) -> Run<'a> {
    let _party = env.pace.party();
    use Kind::{Crate, Original, Program};
    let mut run = Run::new(env, site, name, &[Program, Program, Crate, Program, Original], seed);
    run.open();
    run.rest();
    while env.pace.rest() {
        while !env.pace.is_time_up() && !env.report.is_full() {
            run.load(true);
            run.rest();
        }
        run.probe();
        run.rest();
    }
    run
}

/// Runs groups of one name that are created and deleted under load, with the same applications.
pub(crate) fn churning(env: &SoakEnv, site: &SoakServer, name: &str, seed: u64) {
    let _party = env.pace.party();
    use Kind::{Crate, Original, Program};
    let mut run = Run::new(env, site, name, &[Program, Crate, Program, Original], seed);
    while env.pace.rest() {
        while !env.pace.is_time_up() && !env.report.is_full() {
            run.open();
            run.load(false);
            run.rest();
            run.delete();
        }
    }
    run.end_clients();
}

impl<'a> Run<'a> {
    fn new(env: &'a SoakEnv, site: &'a SoakServer, name: &str, kinds: &[Kind], seed: u64) -> Self {
        let (sender, reports) = mpsc::channel();
        let mut run = Self {
            env,
            site,
            name: name.to_owned(),
            secret: String::new(),
            generation: 0,
            clients: 0,
            model: Model::new(0, []),
            members: Vec::new(),
            rng: SeededRng::new(seed),
            sender,
            reports,
            results: 0,
            answer: None,
        };
        for kind in kinds {
            let member = run.hire(*kind);
            run.members.push(member);
        }
        run
    }

    fn hire(&mut self, kind: Kind) -> Member {
        self.clients += 1;
        Member {
            client: Client::start(self.clients, kind, self.site, &self.sender),
            ready: false,
            login: None,
            stopped: None,
            ended: false,
            recent: Recent::default(),
        }
    }

    fn violation(&self, seat: usize, what: &str, why: &str) {
        let Member { client, recent, .. } = &self.members[seat];
        self.env.report.violation(format_args!(
            "(seed {}) group {} number {} on server {}, application {seat} (number {}, {:?}, \
             pid {}): \
             {what}: {why}; before that:{recent}",
            self.env.seed,
            self.name,
            self.generation,
            self.site.name,
            client.id,
            client.kind,
            client.pid(),
        ));
    }

    fn group_violation(&self, why: &str) {
        self.env.report.violation(format_args!(
            "(seed {}) group {} number {} on server {}: {why}",
            self.env.seed, self.name, self.generation, self.site.name
        ));
    }

    fn seats(&self) -> std::ops::Range<usize> {
        0..self.members.len()
    }

    fn fence(&self, seat: usize) -> usize {
        self.members.len() * KEYS + seat
    }

    fn own_keys(&self, seat: usize) -> impl Iterator<Item = usize> + use<> {
        (seat * KEYS..(seat + 1) * KEYS).chain([self.fence(seat)])
    }

    // The beginning.

    /// Creates the group and logs all applications in.
    fn open(&mut self) {
        self.generation += 1;
        self.create();
        let seats = self.members.len();
        let name = |n: usize| match n % 5 {
            // A key of maximum length.
            4 => format!("key-{n}-{}", "k".repeat(99 - format!("key-{n}-").len())),
            _ => format!("key-{n}"),
        };
        let keys = (0..seats * KEYS).map(|n| (name(n), n / KEYS));
        let fences = (0..seats).map(|seat| (format!("fence-{seat}"), seat));
        self.model = Model::new(seats, keys.chain(fences));
        for seat in self.seats() {
            self.enter(seat);
        }
    }

    fn create(&mut self) {
        loop {
            let ticket = self.env.outages.ticket();
            let answer = lock(&self.site.server).ask("Create group", &self.name);
            if let Some(secret) = created(&answer) {
                self.secret = secret.to_owned();
                self.env.report.count(Count::Created);
                return;
            }
            self.expect_refusal(&answer, "Group not created: ", ticket);
        }
    }

    /// The authentication server is unavailable, and an outage explains that.
    fn expect_refusal(&self, answer: &str, prefix: &str, ticket: Ticket) {
        let why = answer.strip_prefix(prefix).unwrap_or_default();
        let silent =
            why.starts_with("the authentication server ") && why.ends_with("does not answer");
        // If the outage does not end in time.
        let lossy = why.starts_with("the network to the authentication server ");
        if (silent || lossy) && self.env.outages.since(ticket) {
            self.env.report.count(Count::CommandRefused);
        } else {
            self.group_violation(&format!("the console says {answer:?}"));
            assert!(!self.env.report.is_full(), "the soak stops after too many violations");
        }
        self.env.outages.wait_for_end();
    }

    /// Logs an unconnected application in, which takes over its keys.
    fn enter(&mut self, seat: usize) {
        loop {
            let ticket = self.env.outages.ticket();
            let (group, secret) = (self.name.clone(), self.secret.clone());
            let code = self.log_in(seat, group, secret);
            match code {
                0 => break,
                -8 if self.env.outages.since(ticket) => {
                    self.env.report.count(Count::RefusedOutage);
                    self.env.outages.wait_for_end();
                }
                other => {
                    self.violation(seat, "login with the right secret", &format!("code {other}"));
                    assert!(!self.env.report.is_full(), "the soak stops after too many violations");
                }
            }
        }
        self.env.report.count(Count::Login);
        for key in self.own_keys(seat) {
            self.model.take_over(seat, key);
            self.command(seat, Command::Get(self.model.key_name(key).to_owned()));
        }
        // The keys may be written only when all events are settled.
        self.wait_for(seat, |run| run.model.pending(seat) == 0);
        let fence = self.fence(seat);
        self.put(seat, fence, MAX_VALUE);
        self.register(seat, fence);
        self.members[seat].ready = true;
    }

    /// The code of a login.
    fn log_in(&mut self, seat: usize, group: String, secret: String) -> i32 {
        self.members[seat].login = None;
        self.model.establish(seat);
        self.command(seat, Command::Establish { group, secret });
        self.wait_for(seat, |run| run.members[seat].login.is_some());
        self.members[seat].login.unwrap_or_default()
    }

    // Calls.

    fn command(&mut self, seat: usize, command: Command) {
        self.members[seat].client.command(command);
    }

    fn put(&mut self, seat: usize, key: usize, len: usize) {
        let client = self.members[seat].client.id;
        let seq = self.model.next_seq(key);
        let mut value = format!("{seq}.{client}.{}.{key}:", self.generation);
        while value.len() < len {
            let random = self.rng.number().to_string();
            value.push_str(&random);
        }
        value.truncate(len);
        self.model.put(seat, key, &value);
        self.command(seat, Command::Put { key: self.model.key_name(key).to_owned(), value });
    }

    fn get(&mut self, seat: usize, key: usize) {
        self.model.get(seat, key);
        self.command(seat, Command::Get(self.model.key_name(key).to_owned()));
    }

    fn register(&mut self, seat: usize, key: usize) {
        self.model.register(seat, key);
        self.command(seat, Command::Register(self.model.key_name(key).to_owned()));
    }

    fn ask(&mut self, seat: usize) {
        self.model.ask(seat);
        self.command(seat, Command::Ask);
    }

    fn random_call(&mut self, seat: usize) {
        let own = seat * KEYS + self.rng.below(KEYS);
        let any = self.rng.below(self.members.len() * KEYS);
        match self.rng.below(100) {
            0..40 => {
                let len = self.rng.below(MAX_VALUE + 1);
                self.put(seat, own, len);
            }
            40..43 => {
                self.model.delete(seat, own);
                self.command(seat, Command::Delete(self.model.key_name(own).to_owned()));
            }
            43..53 if !self.model.is_registering(seat, any) => self.register(seat, any),
            53..54 => self.ask(seat),
            54..65 => self.get(seat, own),
            _ => self.get(seat, any),
        }
    }

    /// Keeps every application busy.
    fn fill(&mut self) {
        for seat in self.seats() {
            // An application that was closed by force idles until the next group.
            let busy = self.members[seat].ready && self.model.is_connected(seat);
            while busy && self.model.pending(seat) < WINDOW {
                self.random_call(seat);
            }
        }
    }

    // Results.

    /// Waits for the next report and checks it.
    fn receive(&mut self) {
        let Ok(Report { client, event }) = self.reports.recv_timeout(REPORT_TIMEOUT) else {
            for seat in self.seats().filter(|seat| self.model.pending(*seat) > 0) {
                let why = format!("{} calls have not returned", self.model.pending(seat));
                self.violation(seat, "all is quiet", &why);
            }
            if let Some((seat, why)) = self.model.unreported() {
                self.violation(seat, "all is quiet", &why);
            }
            panic!("no report from group {} for {REPORT_TIMEOUT:?}", self.name);
        };
        if let Event::Console(answer) = event {
            self.answer = Some(answer);
            return;
        }
        let Some(seat) = self.seats().find(|seat| self.members[*seat].client.id == client) else {
            // The report of a dropped application whose last callback ends only now.
            return;
        };
        match event {
            Event::Result { line, code, value } => {
                self.results += 1;
                let verdict = self.model.result(seat, line, code, value.as_deref());
                let call = match &verdict {
                    Ok(call) => Some(*call),
                    Err((call, _)) => *call,
                };
                self.note(seat, format_args!("{call:?}: {code} {value:?}"));
                if let Some(call) = call {
                    self.count(seat, call, code);
                }
                if let Err((call, why)) = verdict {
                    self.violation(seat, &format!("{call:?}"), &why);
                }
            }
            Event::Callback { line, key, code, value } => {
                self.env.report.count(Count::Callback);
                let verdict = self.model.callback(seat, line, &key, code, value.as_deref());
                self.note(seat, format_args!("callback for {key}: {code} {value:?}"));
                if let Err(why) = verdict {
                    self.violation(seat, &format!("callback for {key}"), &why);
                }
            }
            Event::Ended => self.members[seat].ended = true,
            Event::Console(_) => unreachable!("dealt with"),
        }
        for seat in self.seats() {
            let stopped = self.members[seat].stopped;
            if stopped.is_some_and(|at| self.results - at > STOPPED_FOR) {
                self.resume(seat);
            }
        }
    }

    fn note(&mut self, seat: usize, what: std::fmt::Arguments<'_>) {
        self.members[seat].recent.push(what.to_string());
    }

    fn count(&mut self, seat: usize, call: Call, code: i32) {
        let count = match call {
            Call::Establish => {
                self.members[seat].login = Some(code);
                return;
            }
            Call::Put(_) => Count::Put,
            Call::Get(_) | Call::TakeOver(_) => Count::Get,
            Call::Delete(_) => Count::Delete,
            Call::Register(_) => Count::Register,
            Call::Ask => Count::Ask,
            Call::Close => Count::Close,
        };
        self.env.report.count(count);
    }

    /// Receives reports until the condition holds; meanwhile the other applications execute their
    /// commands.
    fn wait_for(&mut self, seat: usize, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.receive();
            // A program that has exited needs no signal.
            assert!(
                !self.members[seat].ended,
                "application {seat} of group {} has ended\n{:?}",
                self.name,
                self.members[seat].client.process().map(|process| process.report())
            );
        }
    }

    fn drain(&mut self) {
        for seat in self.seats() {
            self.wait_for(seat, |run| run.model.pending(seat) == 0);
        }
    }

    // Load and faults.

    /// Keeps every application busy for a while, optionally with random faults.
    fn load(&mut self, faults: bool) {
        // Faults need a connected application.
        for seat in self.seats().filter(|seat| !self.model.is_connected(*seat)).collect::<Vec<_>>()
        {
            self.kill(seat);
        }
        let end = self.results + (ROUND / 2 + self.rng.below(ROUND)) as u64;
        let mut next_fault = self.results + self.rng.below(FAULTS) as u64;
        while self.results < end && !self.env.report.is_full() {
            self.fill();
            self.receive();
            if faults && self.results >= next_fault {
                next_fault = self.results + (FAULTS / 2 + self.rng.below(FAULTS)) as u64;
                self.fault();
            }
        }
    }

    fn fault(&mut self) {
        let seat = self.rng.below(self.members.len());
        match (self.rng.below(8), self.members[seat].client.kind) {
            (0..4, Kind::Program) => self.stop(seat),
            (4, _) => self.kill_in_login(),
            _ => self.kill(seat),
        }
    }

    fn stop(&mut self, seat: usize) {
        if self.members[seat].stopped.is_none()
            && let Some(process) = self.members[seat].client.process()
        {
            process.stop();
            self.members[seat].stopped = Some(self.results);
            self.env.report.count(Count::Stop);
        }
    }

    fn resume(&mut self, seat: usize) {
        if self.members[seat].stopped.take().is_some()
            && let Some(process) = self.members[seat].client.process()
        {
            process.signal(Signal::SIGCONT);
        }
    }

    /// Kills an application in the middle of its calls and replaces it.
    fn kill(&mut self, seat: usize) {
        self.members[seat].ready = false;
        self.model.leave(seat);
        let random = self.rng.number();
        let Member { client, .. } = &self.members[seat];
        let (kind, pid) = (client.kind, client.pid());
        client.kill(random);
        // Reports that it sent before its death are checked.
        while !self.members[seat].ended {
            self.fill();
            self.receive();
        }
        self.model.vacate(seat);
        match kind {
            Kind::Program => self.env.report.count(Count::Kill),
            Kind::Crate | Kind::Original => self.env.report.count(Count::Drop),
        }
        // The server may still be executing requests of the killed application.
        self.compare_status("after a kill", |status| {
            kind != Kind::Program
                || status.iter().rev().find(|app| app.pid == pid).is_some_and(|app| {
                    app.status == "Closed" && app.closed_at != "-" && app.watched.is_empty()
                })
        });
        if kind == Kind::Program {
            for path in application_paths(pid) {
                assert!(!path.exists(), "{} is left of an application", path.display());
            }
        }
        self.members[seat] = self.hire(kind);
        self.enter(seat);
    }

    /// Kills a program at a random moment of its login.
    fn kill_in_login(&mut self) {
        self.clients += 1;
        let client = Client::start(self.clients, Kind::Program, self.site, &self.sender);
        let (group, secret) = (self.name.clone(), self.secret.clone());
        client.command(Command::Establish { group, secret });
        // The moment is random; there is no event to wait for.
        thread::sleep(self.rng.time(Duration::from_millis(4)));
        client.kill(0);
        self.env.report.count(Count::KillInLogin);
        for path in application_paths(client.pid()) {
            // No other process removes a path that the program bound just before its death.
            let _ = std::fs::remove_file(path);
        }
        self.compare_status("after a kill in the login", |_| true);
    }

    // Points of rest.

    /// Waits until all calls have returned, and compares the values that each application reads,
    /// the events that it received, and the status. Every key exists afterwards, with a value of
    /// full length.
    fn rest(&mut self) {
        for seat in self.seats() {
            self.resume(seat);
        }
        self.drain();
        // A last put of every key, and a get, whose response shows that the put was executed.
        for seat in self.seats() {
            for key in (seat * KEYS)..(seat + 1) * KEYS {
                self.put(seat, key, MAX_VALUE);
                self.get(seat, key);
            }
        }
        self.drain();
        // Events are sent in the order in which their keys first changed. So when an application
        // has received this one, which only it watches, it has received all earlier ones.
        for seat in self.seats() {
            let fence = self.fence(seat);
            self.put(seat, fence, MAX_VALUE);
            self.get(seat, fence);
        }
        self.drain();
        for seat in self.seats() {
            let fence = self.fence(seat);
            self.wait_for(seat, |run| run.model.is_told(seat, fence));
        }
        if let Some((seat, why)) = self.model.unreported() {
            self.violation(seat, "all is quiet", &why);
        }
        self.model.settle();
        for seat in self.seats() {
            for key in 0..self.members.len() * (KEYS + 1) {
                self.get(seat, key);
            }
        }
        self.drain();
        self.compare_status("at rest", |_| true);
        self.env.report.count(Count::Check);
    }

    /// Queries the status until it agrees with the model and with `also`.
    fn compare_status(&mut self, when: &str, also: impl Fn(&[AppStatus]) -> bool) {
        let end = std::time::Instant::now() + REPORT_TIMEOUT;
        loop {
            let status: Vec<_> = {
                let server = lock(&self.site.server);
                let status = server.status();
                server.discard_taken_lines();
                status.into_iter().filter(|app| app.group == self.name).collect()
            };
            match self.differs(&status) {
                None if also(&status) => break,
                difference if std::time::Instant::now() > end => {
                    let why = difference.unwrap_or_else(|| "an application has not left".into());
                    self.group_violation(&format!("the status {when}: {why}: {status:#?}"));
                    break;
                }
                _ => {}
            }
        }
        self.env.report.count(Count::Status);
    }

    /// The differences between the status and the model.
    fn differs(&self, status: &[AppStatus]) -> Option<String> {
        let connected =
            |pid: i32| status.iter().filter(move |app| app.pid == pid && app.status == "Connected");
        let total = status.iter().filter(|app| app.status == "Connected").count();
        let members = self.seats().filter(|seat| self.model.is_connected(*seat));
        if total != members.clone().count() {
            return Some(format!("{total} applications connected, {} alive", members.count()));
        }
        for seat in members {
            let client = &self.members[seat].client;
            let Some(app) = connected(client.pid()).next() else {
                return Some(format!("application {seat} (pid {}) is missing", client.pid()));
            };
            // The status does not distinguish connections of this process, and may or may not
            // include calls in progress.
            if client.kind != Kind::Program || self.model.pending(seat) > 0 {
                continue;
            }
            let (sure, perhaps) = self.model.watched(seat);
            let missing = sure.iter().find(|key| !app.watched.iter().any(|seen| seen == **key));
            let spare = app.watched.iter().find(|seen| {
                let seen = seen.as_str();
                !sure.contains(&seen) && !perhaps.contains(&seen)
            });
            let at_rest = self.seats().all(|seat| self.model.pending(seat) == 0);
            if at_rest && (missing.is_some() || spare.is_some()) {
                return Some(format!(
                    "application {seat} (pid {}): watches {missing:?} not, but {spare:?}",
                    client.pid()
                ));
            }
        }
        None
    }

    /// Checks logins that must be refused, and the console's view of the group. This runs once in a
    /// period, as the server throttles wrong secrets.
    fn probe(&mut self) {
        let ticket = self.env.outages.ticket();
        let report = &self.env.report;
        for (group, secret, expected, count) in [
            (self.name.as_str(), "wrong", -9, Count::RefusedSecret),
            ("no such group", self.secret.as_str(), -7, Count::RefusedGroup),
        ] {
            match self.site.try_login(group, secret) {
                code if code == expected => report.count(count),
                -8 if expected == -9 && self.env.outages.since(ticket) => {
                    report.count(Count::RefusedOutage);
                }
                code => {
                    self.group_violation(&format!(
                        "code {code} at the login to {group:?} with {secret:?}"
                    ));
                }
            }
        }
        match lock(&self.site.server).group_info(&self.name) {
            Ok(info) if info.secret == self.secret && info.pairs == self.model.pairs() => {}
            Err(_) if self.env.outages.since(ticket) => report.count(Count::CommandRefused),
            other => self.group_violation(&format!("its info is {other:?}")),
        }
    }

    // The end of a group.

    /// Deletes the group under load. The server closes the applications by force; their processes
    /// stay.
    fn delete(&mut self) {
        let stopped = self.rng.below(self.members.len() * 2);
        loop {
            self.fill();
            // An application may be stopped when the server requests the close.
            if self.members.get(stopped).is_some_and(|member| member.client.kind == Kind::Program) {
                self.stop(stopped);
            }
            let ticket = self.env.outages.ticket();
            self.model.begin_closing();
            let (site, name, reports) = (self.site, self.name.clone(), self.sender.clone());
            self.answer = None;
            let answer = thread::scope(|scope| {
                scope.spawn(move || {
                    let event = Event::Console(lock(&site.server).ask("Delete group", &name));
                    let _ = reports.send(Report { client: 0, event });
                });
                loop {
                    if let Some(answer) = self.answer.take() {
                        return answer;
                    }
                    self.fill();
                    self.receive();
                }
            });
            if answer == "Group deleted!" {
                break;
            }
            // The applications must be unaffected.
            for seat in self.seats() {
                self.resume(seat);
            }
            self.expect_refusal(&answer, "Group not deleted: ", ticket);
            self.drain();
            if let Err(why) = self.model.reopen() {
                self.group_violation(&why);
            }
            self.load(false);
            self.rest();
        }
        self.model.closed();
        self.env.report.count(Count::Deleted);
        for seat in self.seats() {
            self.resume(seat);
            self.members[seat].ready = false;
            // The other applications must detect the loss now.
            self.get(seat, 0);
            self.ask(seat);
        }
        self.drain();
        for seat in self.seats() {
            self.env.report.count(Count::Forced);
            // Only a server's response shows that the group is gone.
            let (group, secret) = (self.name.clone(), self.secret.clone());
            let code = self.log_in(seat, group, secret);
            if code != -7 {
                self.violation(seat, "login to a deleted group", &format!("code {code}"));
            }
            self.env.report.count(Count::RefusedGroup);
            self.model.vacate(seat);
        }
    }

    // The end of the soak.

    /// Every second application closes its connection.
    pub(crate) fn leave_in_part(&mut self) {
        for seat in self.seats().step_by(2) {
            self.members[seat].ready = false;
            self.model.close(seat);
            self.command(seat, Command::Close);
            self.ask(seat);
        }
        self.drain();
        self.compare_status("when half have left", |_| true);
        self.model.begin_closing();
    }

    /// The server has quit and has closed the other applications by force.
    pub(crate) fn end_after_quit(mut self) {
        self.model.closed();
        for seat in self.seats() {
            self.get(seat, 0);
            self.ask(seat);
        }
        self.drain();
        for seat in self.seats() {
            let code = self.log_in(seat, self.name.clone(), self.secret.clone());
            let refused = match self.members[seat].client.kind {
                Kind::Program | Kind::Crate => -12,
                // A raw connection does not report where it failed.
                Kind::Original => -8,
            };
            if code != refused {
                self.violation(seat, "login when the server has quit", &format!("code {code}"));
            }
        }
        self.end_clients();
    }

    fn end_clients(&mut self) {
        for seat in self.seats() {
            let client = &self.members[seat].client;
            let Some(process) = client.process() else { continue };
            process.end_input();
            let ended = process.finish();
            if !ended.status.success() || !ended.stderr.is_empty() {
                self.violation(seat, "its end", &process.report());
            }
            for path in application_paths(client.pid()) {
                if path.exists() {
                    self.violation(seat, "its end", &format!("{} is left", path.display()));
                }
            }
        }
        print_progress(format_args!(
            "group {} has ended; {} applications were in it",
            self.name, self.clients
        ));
    }
}
