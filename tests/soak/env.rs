//! Shared state of the soak test: servers, outages, pace, counters and violations.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvs_testkit::{AuthServer, LocalServer, Process, SocketPaths, Sockets};

/// The longest time that anything may take, even on a very loaded machine.
pub(crate) const REPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// The soak stops after this number of violations.
const MAX_VIOLATIONS: u64 = 20;

pub(crate) struct SoakEnv {
    pub(crate) seed: u64,
    pub(crate) auth: Mutex<AuthServer>,
    pub(crate) sites: [SoakServer; 2],
    pub(crate) outages: Outages,
    pub(crate) pace: Pace,
    pub(crate) report: Report,
}

/// Prints progress to standard error, as a soak takes long and output of a passing test is
/// captured.
pub(crate) fn print_progress(text: impl Display) {
    // A closed standard error must not fail the soak.
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The secret in the answer to `Create group`.
pub(crate) fn created(answer: &str) -> Option<&str> {
    answer.strip_prefix("Group created with secret ")?.strip_suffix('!')
}

/// A local server.
pub(crate) struct SoakServer {
    pub(crate) name: &'static str,
    /// The server with its console, which allows one dialogue at a time.
    pub(crate) server: Mutex<LocalServer>,
    sockets: SocketPaths,
    pub(crate) pid: i32,
    /// A group without permanent members, and its secret: for logins that only test the server.
    pub(crate) door: (String, String),
}

impl SoakServer {
    pub(crate) fn start(name: &'static str, auth: &AuthServer) -> Self {
        let server = LocalServer::start(auth);
        let door = format!("door-{name}");
        let outages = Outages::new(auth.pid(), vec![server.pid()]);
        let secret = loop {
            let ticket = outages.ticket();
            let answer = server.ask("Create group", &door);
            match created(&answer) {
                Some(secret) => break secret.to_owned(),
                None => assert!(outages.since(ticket), "{answer}"),
            }
        };
        Self {
            name,
            sockets: SocketPaths::of(&server),
            pid: server.pid(),
            server: Mutex::new(server),
            door: (door, secret),
        }
    }

    /// Logs in and closes at once. Returns the code.
    pub(crate) fn try_login(&self, group: &str, secret: &str) -> i32 {
        match kvs_testkit::connect(self, group, secret).and_then(|connection| connection.close()) {
            Ok(()) => 0,
            Err(error) => error.code(),
        }
    }
}

impl Sockets for SoakServer {
    fn socket(&self) -> &Path {
        self.sockets.socket()
    }

    fn callback_socket(&self) -> &Path {
        self.sockets.callback_socket()
    }
}

/// Records when the authentication server was down. A caller takes a [`Ticket`] before each request
/// that needs the server; if the request fails, the ticket shows whether an outage explains the
/// failure.
///
/// A failure is also explained when the kernel kept the servers waiting for a processor for so long
/// that one of them must appear silent to the other. The kernel counts that time.
#[derive(Debug)]
pub(crate) struct Outages {
    state: Mutex<Outage>,
    changed: Condvar,
}

#[derive(Debug)]
struct Outage {
    /// The number of outages.
    count: u64,
    now: bool,
    auth: i32,
    locals: Vec<i32>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    count: u64,
    now: bool,
    waited: Duration,
}

/// The time that the servers together must have waited for a processor to explain a silence. A
/// local server considers the authentication server lost after 450 ms of silence.
const STARVED: Duration = Duration::from_millis(300);

impl Outages {
    pub(crate) fn new(auth: i32, locals: Vec<i32>) -> Self {
        let outage = Outage { count: 0, now: false, auth, locals };
        Self { state: Mutex::new(outage), changed: Condvar::new() }
    }

    pub(crate) fn begin(&self) {
        let mut state = lock(&self.state);
        state.count += 1;
        state.now = true;
    }

    /// Ends the outage: this authentication server is running.
    pub(crate) fn end(&self, auth: i32) {
        let mut state = lock(&self.state);
        state.now = false;
        state.auth = auth;
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn ticket(&self) -> Ticket {
        let state = lock(&self.state);
        let pids = state.locals.iter().chain([&state.auth]);
        Ticket { count: state.count, now: state.now, waited: pids.map(|pid| waited(*pid)).sum() }
    }

    /// Whether an outage, or a long wait for a processor, occurred since the ticket was taken.
    pub(crate) fn since(&self, ticket: Ticket) -> bool {
        let now = self.ticket();
        let starved = now.waited.saturating_sub(ticket.waited) > STARVED;
        ticket.now || now.now || now.count != ticket.count || starved
    }

    /// Waits until the outage is over.
    ///
    /// # Panics If the outage does not end.
    pub(crate) fn wait_for_end(&self) {
        let state = lock(&self.state);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, REPORT_TIMEOUT, |state| state.now)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!state.now, "the outage does not end");
    }
}

/// The total time that the threads of a process have waited for a processor.
fn waited(pid: i32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    // The second number is the time in nanoseconds. The thread or the process may have ended
    // meanwhile.
    let of_thread = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.flatten().filter_map(of_thread).sum())
}

/// Synchronises the participants: all of them rest between two periods, so that the servers are
/// measured with the same population each time.
#[derive(Debug)]
pub(crate) struct Pace {
    parties: usize,
    state: Mutex<PaceState>,
    changed: Condvar,
    time_up: AtomicBool,
}

#[derive(Debug, Default)]
struct PaceState {
    resting: usize,
    periods: u64,
    over: bool,
    /// A participant has panicked.
    broken: bool,
}

impl Pace {
    /// A pace for this number of [`Party`]s.
    pub(crate) fn new(parties: usize) -> Self {
        Self {
            parties,
            state: Mutex::default(),
            changed: Condvar::new(),
            time_up: AtomicBool::new(true),
        }
    }

    /// Whether all participants must come to rest.
    pub(crate) fn is_time_up(&self) -> bool {
        self.time_up.load(Ordering::Relaxed)
    }

    /// Rests until the next period begins. Returns `false` if there is none.
    pub(crate) fn rest(&self) -> bool {
        let mut state = lock(&self.state);
        let periods = state.periods;
        state.resting += 1;
        self.changed.notify_all();
        while state.periods == periods && !state.over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.over
    }

    /// Waits for `time`, or until the period ends. For the pace of random faults, for which there
    /// is no event.
    pub(crate) fn wait(&self, time: Duration) {
        let state = lock(&self.state);
        let _ = self
            .changed
            .wait_timeout_while(state, time, |state| !self.is_time_up() && !state.broken);
    }

    /// Runs all participants for one period, then waits until all rest again.
    ///
    /// # Errors If they do not rest in time, or one of them has panicked.
    pub(crate) fn run_for(&self, time: Duration) -> Result<(), &'static str> {
        {
            let mut state = lock(&self.state);
            state.resting = 0;
            state.periods += 1;
            self.time_up.store(false, Ordering::Relaxed);
        }
        self.changed.notify_all();
        self.wait(time);
        self.wait_until_all_rest()
    }

    /// Waits until all rest.
    ///
    /// # Errors If they do not rest in time, or one of them has panicked.
    pub(crate) fn wait_until_all_rest(&self) -> Result<(), &'static str> {
        let state = lock(&self.state);
        // Set under the lock, as waiting threads check the flag under it.
        self.time_up.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        let (state, late) = self
            .changed
            .wait_timeout_while(state, REPORT_TIMEOUT * 3, |state| {
                state.resting < self.parties && !state.broken
            })
            .unwrap_or_else(PoisonError::into_inner);
        match (state.broken, late.timed_out()) {
            (true, _) => Err("a part of the soak has panicked"),
            (false, true) => Err("not all parts of the soak have come to rest"),
            (false, false) => Ok(()),
        }
    }

    /// Ends the last period.
    pub(crate) fn end(&self) {
        lock(&self.state).over = true;
        self.time_up.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The guard that every participant holds.
    pub(crate) fn party(&self) -> Party<'_> {
        Party(self)
    }
}

/// Ends the soak when its thread panics, as the other participants would wait for that thread.
#[derive(Debug)]
pub(crate) struct Party<'a>(&'a Pace);

impl Drop for Party<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).broken = true;
            self.0.end();
        }
    }
}

macro_rules! counts {
    ($($name:ident: $text:literal,)*) => {
        /// The events that are counted.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Count { $($name,)* }

        const COUNTED: &[&str] = &[$($text,)*];
    };
}

counts! {
    Put: "puts",
    Get: "gets",
    Delete: "deletions",
    Register: "registrations",
    Ask: "questions whether connected",
    Callback: "callbacks",
    Login: "logins",
    Close: "closes",
    Check: "points of rest at which all was compared",
    Status: "comparisons with the status",
    Kill: "programs killed",
    KillInLogin: "programs killed in the middle of the login",
    Drop: "connections dropped without a word",
    Stop: "programs stopped and continued",
    Outage: "authentication server killed and started again",
    Created: "groups created",
    Deleted: "groups deleted under load",
    Forced: "applications closed by force",
    RefusedGroup: "logins refused: no such group (-7)",
    RefusedSecret: "logins refused: wrong secret (-9)",
    RefusedOutage: "logins refused: no authentication server (-8)",
    CommandRefused: "group commands refused: no authentication server",
}

/// The counts of events and of violations.
#[derive(Debug, Default)]
pub(crate) struct Report {
    counts: [AtomicU64; COUNTED.len()],
    violations: AtomicU64,
}

impl Report {
    pub(crate) fn count(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// Calls that an application made.
    pub(crate) fn calls(&self) -> u64 {
        [Count::Put, Count::Get, Count::Delete, Count::Register, Count::Ask]
            .iter()
            .map(|count| self.get(*count))
            .sum()
    }

    pub(crate) fn violation(&self, text: impl Display) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        print_progress(format_args!("VIOLATION {text}"));
    }

    pub(crate) fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.violations() >= MAX_VIOLATIONS
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, what) in self.counts.iter().zip(COUNTED) {
            writeln!(f, "{:>12} {what}", count.load(Ordering::Relaxed))?;
        }
        write!(f, "{:>12} violations", self.violations())
    }
}

/// The size of a process, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Resident memory, in KiB.
    pub(crate) rss: u64,
    pub(crate) descriptors: usize,
}

impl Size {
    pub(crate) fn of(process: &Process) -> Self {
        Self { rss: process.resident_kib(), descriptors: process.open_descriptors() }
    }

    /// Waits until the process has at most `descriptors`, or until the number is stable if it is
    /// unknown, and returns the size. The server closes its last descriptors after the response,
    /// and no event reports that.
    pub(crate) fn settled(process: &Process, descriptors: Option<usize>) -> Self {
        let end = Instant::now() + kvs_testkit::DEADLINE;
        let mut before = None;
        loop {
            let size = Self::of(process);
            let known = descriptors.or(before);
            if known.is_some_and(|known| size.descriptors <= known) || Instant::now() > end {
                return size;
            }
            before = Some(size.descriptors);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The last actions of a participant, for the message of a violation.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<String>);

impl Recent {
    pub(crate) fn push(&mut self, text: String) {
        const KEPT: usize = 12;
        self.0.push_back(text);
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }
}

impl fmt::Display for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}
