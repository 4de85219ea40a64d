//! The thread that asks the authentication server.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use kvs_proto::Text;
use kvs_proto::link::original::{
    ClientExchange, ExchangeProgress, GroupRequest, GroupResponse, LinkCommand,
};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;

use super::udp::{new_socket, receive, send};
use super::{AuthLink, ConnectError, Job, Options, Reply, Shared};
use crate::console::Output;
use crate::directory::Unavailable;
use crate::local::group::registry::Groups;
use crate::local::stable_hash::stable_hash;
use crate::shutdown::{Reason, Shutdown};
use crate::startup::is_shortage;
use crate::supervisor::Supervisor;

/// Without any datagram for so long, an authentication server that was there before is asked to connect
/// again; then so long again. Together less than a second: an administrator is told within one.
const SILENCE: Duration = Duration::from_millis(450);

/// The same for one that has just been there: it may have been restarted in the middle of an exchange.
const NEW_SILENCE: Duration = Duration::from_millis(900);

/// How long one exchange may take when the network loses most, but not all, of its datagrams. Less than an
/// application waits for its login.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(4);

/// How long the start waits for the authentication server.
const START_PATIENCE: Duration = Duration::from_secs(3);

/// How long a try waits for the next datagram: at most; at least in a network that loses nothing; and at
/// least in one that does. In between it is four times what a datagram and its answer usually take, and
/// within one exchange each try is more patient than the one before, by a quarter.
///
/// Where many datagrams are lost or late, many short tries come to an end sooner than a few long ones.
const LONGEST_TRY: Duration = Duration::from_millis(300);
const PATIENT_TRY: Duration = Duration::from_millis(100);
const SHORTEST_TRY: Duration = Duration::from_millis(20);

/// How often `Connect` is said until it is answered: after so long again. It can be said from the same
/// socket, so it does not matter which one is answered.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// How often `Connect_2` is sent once more to the same port, when the network loses datagrams.
const GREETINGS: u32 = 8;

/// The pauses between attempts to connect again, when nobody asks.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// For how many exchanges the network is distrusted after it has lost or repeated a datagram.
const DISTRUST: u32 = 100;

/// How often something is tried again that a distrusted network did not confirm.
const CONFIRMATIONS: u32 = 10;

/// The close port is bound to a fixed port of this range, below the usual range of ephemeral ports.
const CLOSE_PORTS: std::ops::Range<u16> = 20_000..30_000;

const WAKER: Token = Token(0);
const CLOSE_PORT: Token = Token(1);
const EXCHANGE: Token = Token(2);

/// The thread's side.
pub(crate) struct Worker {
    options: Options,
    /// As the administrator knows it.
    server: Arc<str>,
    groups: Arc<Groups>,
    supervisor: Supervisor,
    shutdown: Shutdown,
    output: Output,
    shared: Arc<Shared>,
    poll: Poll,
    up: Option<Up>,
    /// The administrator has been told that it is lost.
    lost_told: bool,
    /// The authentication server has said that it is about to end: the link is of no use any more.
    is_left: bool,
    /// When to connect again by itself, or to forget a group whose creation was given up, and the pause
    /// after that.
    retry: Option<(Instant, Duration)>,
    /// What a datagram and its answer take: about the median, which single late ones do not move much.
    round_trip: Duration,
    /// For how many exchanges more the network is distrusted.
    distrust: u32,
    /// Where it was found last.
    addresses: Vec<SocketAddr>,
    /// Groups of which it is not known whether they were stored, with their secrets: nobody here has
    /// them, so if they were, they must go again.
    unconfirmed: HashMap<Text, Text>,
}

/// The authentication server as it last answered `Connect`.
struct Up {
    command_port: SocketAddr,
    close_port: UdpSocket,
    /// How often it may be greeted once more.
    greetings: u32,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why an exchange did not end.
enum NoAnswer {
    /// No datagram came for so long that there is nobody.
    Silence,
    /// Some came.
    Loss,
    /// None could be sent.
    Shortage(io::Error),
}

/// An answer, and whether the question had to be asked more than once.
struct Asked {
    answer: GroupResponse,
    repeated: bool,
}

impl Worker {
    /// Connects for the first time. Returns the link, its thread's side, and the command port.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(crate) fn connect(
        options: Options,
        groups: Arc<Groups>,
        supervisor: &Supervisor,
        shutdown: &Shutdown,
        output: &Output,
    ) -> Result<(AuthLink, Self, u16), ConnectError> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let shared = Arc::new(Shared { jobs: Mutex::new(Some(Vec::new())), waker });
        let server = options.server.as_str().into();
        let mut worker = Self {
            options,
            server,
            groups,
            supervisor: supervisor.clone(),
            shutdown: shutdown.clone(),
            output: output.clone(),
            shared: Arc::clone(&shared),
            poll,
            up: None,
            lost_told: false,
            is_left: false,
            retry: None,
            round_trip: SHORTEST_TRY / 4,
            distrust: 0,
            addresses: Vec::new(),
            unconfirmed: HashMap::new(),
        };
        supervisor.status(format_args!("Looking for the authentication server {}", worker.server));
        worker.look_up()?;
        let port = worker.connect_within(START_PATIENCE)?;
        worker.tell_connected(port);
        worker.options.counts.connected();
        Ok((AuthLink { shared }, worker, port))
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When `poll` fails, which it does only if the server itself is broken.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut jobs = VecDeque::new();
        loop {
            jobs.extend(self.shared.jobs.lock().as_mut().map(mem::take).unwrap_or_default());
            match jobs.pop_front() {
                None => {
                    let timeout =
                        self.retry.map(|(at, _)| at.saturating_duration_since(Instant::now()));
                    self.wait(timeout)?;
                    self.retry_if_due();
                }
                Some(Job::Goodbye) => {
                    self.say_goodbye();
                    return Ok(());
                }
                Some(Job::Stop) => return Ok(()),
                Some(job) => {
                    if !self.work(job) {
                        // Whoever waited meanwhile has waited long enough, too.
                        let silent = Unavailable::Silent(Arc::clone(&self.server));
                        let is_question = |job: &Job| !matches!(job, Job::Goodbye | Job::Stop);
                        let (late, rest): (Vec<_>, _) = jobs.into_iter().partition(is_question);
                        jobs = rest.into();
                        for job in late {
                            job.fail(silent.clone());
                        }
                    }
                }
            }
        }
    }

    /// Does one job; `false` when the authentication server is lost.
    fn work(&mut self, job: Job) -> bool {
        match job {
            Job::Secret(name, reply) => self.finish(reply, |worker| worker.secret(name)),
            Job::Create { name, secret, reply } => {
                self.finish(reply, |worker| worker.create(name, secret))
            }
            Job::Delete(name, reply) => self.finish(reply, |worker| worker.delete(name)),
            Job::Goodbye | Job::Stop => true,
        }
    }

    fn finish<T>(
        &mut self,
        reply: Reply<T>,
        work: impl FnOnce(&mut Self) -> Result<T, Unavailable>,
    ) -> bool {
        let result = work(self);
        let is_there = !matches!(result, Err(Unavailable::Silent(_)));
        reply(result);
        is_there
    }

    fn secret(&mut self, name: Text) -> Result<Option<Text>, Unavailable> {
        let secret = self.secret_of(name)?;
        if secret.is_some() || self.groups.open_group(&name).is_none() {
            return Ok(secret);
        }
        // Our own group: it was restarted, and its port may by now belong to another local server.
        tracing::warn!(group = ?name, "the authentication server has lost a group: connecting again");
        if let Err(error) = self.reconnect() {
            return Err(self.lost(error));
        }
        self.secret_of(name)
    }

    fn create(&mut self, name: Text, secret: Text) -> Result<bool, Unavailable> {
        self.forget_unconfirmed();
        // "Yes" may be a repetition, the secret cannot.
        if self.ask(GroupRequest::Find(name))?.answer == GroupResponse::Yes
            && self.secret_of(name)?.is_some()
        {
            return Ok(false);
        }
        self.unconfirmed.insert(name, secret);
        let stored = self.store(name, secret);
        if stored.is_ok() {
            self.unconfirmed.remove(&name);
        } else {
            self.try_again_later();
        }
        stored
    }

    fn store(&mut self, name: Text, secret: Text) -> Result<bool, Unavailable> {
        for _ in 0..CONFIRMATIONS {
            let asked = self.ask(GroupRequest::New { name, secret })?;
            match asked.answer {
                // A first try may have worked.
                GroupResponse::No => match self.secret_of(name)? {
                    Some(stored) => return Ok(asked.repeated && stored == secret),
                    None => return Err(Unavailable::Refused(Arc::clone(&self.server))),
                },
                GroupResponse::Yes | GroupResponse::Secret(_) if self.distrust == 0 => {
                    return Ok(true);
                }
                GroupResponse::Yes | GroupResponse::Secret(_) => match self.secret_of(name)? {
                    Some(stored) => return Ok(stored == secret),
                    None => continue,
                },
            }
        }
        Err(self.too_lossy())
    }

    /// Deletes the groups whose creation was given up, if they were stored after all.
    fn forget_unconfirmed(&mut self) {
        if self.up.is_none() {
            return;
        }
        for (name, secret) in mem::take(&mut self.unconfirmed) {
            let is_anothers = match self.exchange(GroupRequest::Secret(name)) {
                Ok(asked) => {
                    matches!(asked.answer, GroupResponse::Secret(stored) if stored != secret)
                }
                Err(_) => false,
            };
            // "No" is also the answer about a group that this link has inherited and not claimed.
            if !is_anothers && self.exchange(GroupRequest::Delete(name)).is_err() {
                self.unconfirmed.insert(name, secret);
            }
        }
    }

    fn delete(&mut self, name: Text) -> Result<(), Unavailable> {
        for _ in 0..CONFIRMATIONS {
            // "No such group" is as good as "yes": a first try may have worked, or it was restarted.
            self.ask(GroupRequest::Delete(name))?;
            if self.distrust == 0 || self.ask(GroupRequest::Find(name))?.answer == GroupResponse::No
            {
                return Ok(());
            }
            // "Yes" may be a repetition, or the new group of somebody else.
            let ours = self.groups.find(&name).map(|group| group.secret());
            if self.secret_of(name)?.is_none_or(|stored| Some(stored) != ours) {
                return Ok(());
            }
        }
        Err(self.too_lossy())
    }

    fn secret_of(&mut self, name: Text) -> Result<Option<Text>, Unavailable> {
        match self.ask(GroupRequest::Secret(name))?.answer {
            GroupResponse::Secret(secret) => Ok(Some(secret)),
            GroupResponse::Yes | GroupResponse::No => Ok(None),
        }
    }

    fn too_lossy(&self) -> Unavailable {
        tracing::warn!("the network to the authentication server loses too many datagrams");
        Unavailable::TooLossy(Arc::clone(&self.server))
    }

    /// One exchange, with everything that can be done to get an answer.
    fn ask(&mut self, question: GroupRequest) -> Result<Asked, Unavailable> {
        let mut repeated = false;
        if self.up.is_some() {
            match self.exchange(question) {
                Ok(asked) => return Ok(asked),
                Err(NoAnswer::Loss) => return Err(self.too_lossy()),
                Err(NoAnswer::Shortage(error)) => return Err(self.shortage(error)),
                Err(NoAnswer::Silence) => repeated = true,
            }
        }
        if let Err(error) = self.reconnect() {
            return Err(self.lost(error));
        }
        match self.exchange(question) {
            Ok(asked) => Ok(Asked { repeated: asked.repeated || repeated, ..asked }),
            Err(NoAnswer::Loss | NoAnswer::Silence) => Err(self.too_lossy()),
            Err(NoAnswer::Shortage(error)) => Err(self.shortage(error)),
        }
    }

    fn shortage(&self, error: io::Error) -> Unavailable {
        tracing::warn!("the authentication server {} cannot be asked: {error}", self.server);
        Unavailable::Shortage { server: Arc::clone(&self.server), error: Arc::new(error) }
    }

    /// Notes that the authentication server is lost, unless it is this machine that lacks something.
    fn lost(&mut self, error: ConnectError) -> Unavailable {
        self.try_again_later();
        let error = match error {
            ConnectError::Io(error) if is_shortage(&error) => return self.shortage(error),
            other => other,
        };
        if !self.lost_told {
            self.lost_told = true;
            self.output.say(format_args!(
                "Authentication server {} does not answer: no new logins and no group commands until \
                 it does. Connected applications keep working.",
                self.server
            ));
            tracing::warn!("{error}");
            self.supervisor.status(format_args!(
                "The authentication server {} does not answer: no new logins and no group commands until it does",
                self.server
            ));
            if self.options.exit_on_loss {
                self.shutdown.request(Reason::AuthLost);
            }
        }
        Unavailable::Silent(Arc::clone(&self.server))
    }

    /// What is open now is tried again although nobody asks.
    fn try_again_later(&mut self) {
        if self.retry.is_none() {
            self.retry = Some((Instant::now() + FIRST_PAUSE, FIRST_PAUSE * 2));
        }
    }

    fn retry_if_due(&mut self) {
        let Some((at, pause)) = self.retry else { return };
        if at > Instant::now() {
            return;
        }
        if mem::take(&mut self.is_left) {
            self.up = None;
        }
        if self.up.is_some() {
            // All that is open are groups whose creation was given up.
            self.forget_unconfirmed();
            let next = (Instant::now() + pause, (pause * 2).min(LONGEST_PAUSE));
            self.retry = (!self.unconfirmed.is_empty()).then_some(next);
            return;
        }
        // It may have moved. Nobody waits for this attempt, so a slow look-up holds up those only who come
        // meanwhile.
        if let Err(error) = self.look_up() {
            tracing::debug!("{error}");
        }
        if self.reconnect().is_err() {
            self.retry = Some((Instant::now() + pause, (pause * 2).min(LONGEST_PAUSE)));
        }
    }

    /// Connects again and registers all groups.
    fn reconnect(&mut self) -> Result<(), ConnectError> {
        let result = self.connect_and_register();
        self.options.counts.reconnected(result.is_ok());
        result
    }

    fn connect_and_register(&mut self) -> Result<(), ConnectError> {
        let port = self.connect_within(SILENCE)?;
        tracing::info!("connected to the authentication server again, port {port}");
        let groups = self.groups.all();
        for group in groups.iter().filter(|group| group.is_open()) {
            if !self.register_again(group.name(), group.secret()) {
                tracing::warn!(group = ?group.name(), "could not be registered again");
                // With some of our groups missing it is not the one that we knew.
                self.up = None;
                let server = self.options.server.clone();
                return Err(ConnectError::NoAnswer { server, last: None });
            }
        }
        self.forget_unconfirmed();
        self.retry = None;
        if !self.unconfirmed.is_empty() {
            self.try_again_later();
        }
        self.tell_connected(port);
        if mem::take(&mut self.lost_told) {
            self.output.say(format_args!(
                "Authentication server {} answers again: logins and group commands work.",
                self.server
            ));
        }
        Ok(())
    }

    fn tell_connected(&self, port: u16) {
        let server = &self.server;
        self.supervisor.status(format_args!(
            "Serving; connected to the authentication server {server}, port {port}"
        ));
    }

    /// Registers a group that may be there or not; `false` when that is not answered.
    fn register_again(&mut self, name: Text, secret: Text) -> bool {
        for _ in 0..CONFIRMATIONS {
            // Not by `ask`: that would connect again, and so come here again.
            match self.exchange(GroupRequest::New { name, secret }) {
                Ok(Asked { answer: GroupResponse::Yes, .. }) if self.distrust == 0 => {
                    tracing::info!(group = ?name, "registered again");
                    return true;
                }
                Ok(_) => {}
                Err(_) => return false,
            }
            match self.exchange(GroupRequest::Secret(name)) {
                Ok(Asked { answer: GroupResponse::Secret(stored), .. }) => {
                    if stored == secret {
                        tracing::info!(group = ?name, "registered again");
                    } else {
                        self.output.say(format_args!(
                            "Group {name} now belongs to another local server: its applications \
                             here keep working, but nobody can log in."
                        ));
                        tracing::warn!(group = ?name, "taken by another local server");
                    }
                    return true;
                }
                // It was a repeated "yes": once more. Or it is refused, which no repetition changes.
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        self.output.say(format_args!(
            "Group {name} is not stored by the authentication server any more: its applications here \
             keep working, but nobody can log in."
        ));
        true
    }

    /// Finds the addresses of the authentication server. With a host name, this takes as long as the
    /// system's resolver takes.
    fn look_up(&mut self) -> Result<(), ConnectError> {
        let server = &self.options.server;
        self.addresses = server
            .to_socket_addrs()
            .map_err(|source| ConnectError::Resolve { server: server.clone(), source })?
            .collect();
        Ok(())
    }

    /// `Connect` and `Connect_2`; returns the command port.
    fn connect_within(&mut self, patience: Duration) -> Result<u16, ConnectError> {
        // Its port must be free for the new one.
        self.up = None;
        let deadline = Instant::now() + patience;
        let mut last = None;
        let mut sockets: Vec<(SocketAddr, UdpSocket)> = Vec::new();
        for &address in &self.addresses {
            // The same socket for all tries: repeated from the same address, the request is recognised.
            match new_socket(address, 0) {
                Ok(socket) => sockets.push((address, socket)),
                Err(error) if is_shortage(&error) => return Err(error.into()),
                Err(error) => last = Some(error),
            }
        }
        while Instant::now() < deadline {
            for (address, socket) in &mut sockets {
                let try_until = deadline.min(Instant::now() + CONNECT_AGAIN);
                match self.request_port(socket, try_until) {
                    Ok(Some(port)) => {
                        let command_port = SocketAddr::new(address.ip(), port);
                        let close_port = self.open_close_port(command_port)?;
                        self.up = Some(Up { command_port, close_port, greetings: GREETINGS });
                        self.is_left = false;
                        return Ok(port);
                    }
                    Ok(None) => {}
                    Err(error) => last = Some(error),
                }
            }
            if sockets.is_empty() {
                break;
            }
        }
        Err(ConnectError::NoAnswer { server: self.options.server.clone(), last })
    }

    /// One `Connect` and the wait for its answer.
    fn request_port(&mut self, socket: &mut UdpSocket, until: Instant) -> io::Result<Option<u16>> {
        self.poll.registry().register(socket, EXCHANGE, Interest::READABLE)?;
        let mut refused = send(socket, &LinkCommand::Connect.encode());
        let mut port = None;
        while port.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait(Some(left))?;
            let mut buffer = [0; kvs_proto::link::original::COMMAND_LEN];
            while let Some(received) = receive(socket, &mut buffer).unwrap_or_else(|error| {
                refused = Err(error);
                None
            }) {
                port = kvs_proto::link::original::decode_int(received)
                    .and_then(|port| u16::try_from(port).ok())
                    // Its close port follows it.
                    .filter(|port| (1..u16::MAX).contains(port))
                    .or(port);
            }
        }
        self.poll.registry().deregister(socket)?;
        if port.is_none() {
            refused?;
        }
        Ok(port)
    }

    /// The socket on which the authentication server may tell us to quit. It is bound to the same port each
    /// time, so that the authentication server can tell that a local server which was killed has been
    /// started again, and forget what that one left behind.
    fn open_close_port(&mut self, command_port: SocketAddr) -> io::Result<UdpSocket> {
        let to = SocketAddr::new(command_port.ip(), command_port.port() + 1);
        let span = u64::from(CLOSE_PORTS.end - CLOSE_PORTS.start);
        let offset = stable_hash(&self.options.identity) % span;
        let port = CLOSE_PORTS.start + offset as u16;
        let mut socket = new_socket(to, port).or_else(|error| {
            tracing::debug!("close port {port} is not free ({error}): using any");
            new_socket(to, 0)
        })?;
        self.poll.registry().register(&mut socket, CLOSE_PORT, Interest::READABLE)?;
        if let Err(error) = send(&socket, &LinkCommand::Connect2.encode()) {
            tracing::warn!("the authentication server could not be told the close port: {error}");
        }
        Ok(socket)
    }

    /// One exchange on the command port, tried again until it ends or patience does.
    fn exchange(&mut self, question: GroupRequest) -> Result<Asked, NoAnswer> {
        let begin = Instant::now();
        // When the last datagram came.
        let mut heard = None;
        let mut try_for = self.first_try();
        for tries in 0u32.. {
            let deadline = match heard {
                None => begin + SILENCE,
                Some(last) => (begin + EXCHANGE_PATIENCE).min(last + NEW_SILENCE),
            };
            if Instant::now() >= deadline {
                break;
            }
            if tries > 0 {
                self.options.counts.retry();
            }
            match self.try_exchange(question, deadline, try_for, &mut heard) {
                Ok(Some(answer)) => {
                    self.greet_again();
                    self.distrust = self.distrust.saturating_sub(1);
                    return Ok(Asked { answer, repeated: tries > 0 });
                }
                Ok(None) => {
                    self.distrust = DISTRUST;
                    try_for = (try_for * 5 / 4).min(LONGEST_TRY);
                }
                // Nobody has that port: it has gone, or forgotten us.
                Err(error) if is_shortage(&error) => return Err(NoAnswer::Shortage(error)),
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionRefused
                        && heard.is_none()
                        && tries > 0 =>
                {
                    break;
                }
                Err(error) => {
                    tracing::debug!("a datagram could not be exchanged: {error}");
                    // What the system refuses now it may not refuse in a moment. If it does not let us
                    // wait, the tries are over the sooner.
                    let _ = self.wait(Some(try_for));
                }
            }
        }
        let is_talking = heard.is_some_and(|last: Instant| last.elapsed() < NEW_SILENCE);
        Err(if is_talking { NoAnswer::Loss } else { NoAnswer::Silence })
    }

    /// One try from a new socket; `None` when an answer is overdue.
    fn try_exchange(
        &mut self,
        question: GroupRequest,
        deadline: Instant,
        try_for: Duration,
        heard: &mut Option<Instant>,
    ) -> io::Result<Option<GroupResponse>> {
        let Some(up) = &self.up else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut socket = new_socket(up.command_port, 0)?;
        self.poll.registry().register(&mut socket, EXCHANGE, Interest::READABLE)?;
        let (mut exchange, datagram) = ClientExchange::start(question);
        send(&socket, &datagram)?;
        let mut sent = Instant::now();
        loop {
            let until = deadline.min(sent + try_for);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(Some(left))?;
            let mut buffer = [0; kvs_proto::link::original::COMMAND_LEN + 1];
            while let Some(received) = receive(&socket, &mut buffer)? {
                *heard = Some(Instant::now());
                match exchange.receive(received) {
                    ExchangeProgress::Ignored => self.distrust = DISTRUST,
                    ExchangeProgress::Send(datagram) => {
                        self.measured(sent.elapsed());
                        let mut repeated = [0; kvs_proto::link::original::COMMAND_LEN];
                        while receive(&socket, &mut repeated)?.is_some() {
                            self.distrust = DISTRUST;
                        }
                        send(&socket, &datagram)?;
                        sent = Instant::now();
                    }
                    ExchangeProgress::Done(answer) => {
                        self.measured(sent.elapsed());
                        return Ok(Some(answer));
                    }
                }
            }
        }
    }

    /// How long the first try of an exchange waits for the next datagram.
    fn first_try(&self) -> Duration {
        let shortest = if self.distrust > 0 { SHORTEST_TRY } else { PATIENT_TRY };
        (self.round_trip * 4).clamp(shortest, LONGEST_TRY)
    }

    /// A datagram has come back after so long. Whatever the answer is to the question whether that is more
    /// than usual, it moves what is usual by a step; one that comes so late that tries would be given up
    /// before it makes a long one.
    fn measured(&mut self, took: Duration) {
        self.round_trip = if took > self.round_trip * 4 {
            self.round_trip * 3 / 2
        } else if took > self.round_trip {
            self.round_trip * 11 / 10
        } else {
            self.round_trip * 9 / 10
        }
        .clamp(Duration::from_micros(100), LONGEST_TRY);
    }

    /// Sends `Connect_2` once more, if the network is such that it may have been lost.
    fn greet_again(&mut self) {
        if let (true, Some(up)) = (self.distrust > 0, &mut self.up)
            && up.greetings > 0
        {
            up.greetings -= 1;
            if let Err(error) = send(&up.close_port, &LinkCommand::Connect2.encode()) {
                tracing::debug!("close port: {error}");
            }
        }
    }

    /// Sleeps until a datagram, a job, or the end of `timeout`, and looks at the close port.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if events.iter().any(|event| event.token() == CLOSE_PORT) {
            self.read_close_port();
        }
        Ok(())
    }

    fn read_close_port(&mut self) {
        let Some(up) = &self.up else { return };
        let mut buffer = [0; kvs_proto::link::original::COMMAND_LEN];
        let mut left_now = false;
        loop {
            match receive(&up.close_port, &mut buffer) {
                Ok(Some(datagram)) => match kvs_proto::link::original::decode_int(datagram) {
                    Some(kvs_proto::link::original::CLOSE) => {
                        self.shutdown.request(Reason::AuthServer)
                    }
                    Some(kvs_proto::link::original::RECONNECT) if !self.is_left => {
                        self.is_left = true;
                        left_now = true;
                    }
                    _ => {}
                },
                Ok(None) => break,
                // "Refused" answers our `Connect_2`: the next exchange finds out what is the matter.
                Err(error) => tracing::debug!("close port: {error}"),
            }
        }
        if left_now {
            tracing::info!("the authentication server is ending: connecting to the next one");
            self.try_again_later();
        }
    }

    fn say_goodbye(&mut self) {
        if self.up.is_none() && !self.unconfirmed.is_empty() {
            // What may have been stored goes now or never. If nobody answers still, so be it.
            let _ = self.reconnect();
        }
        self.forget_unconfirmed();
        let Some(up) = &self.up else { return };
        let result = new_socket(up.command_port, 0)
            .and_then(|socket| send(&socket, &LinkCommand::CloseConnection.encode()));
        if let Err(error) = result {
            tracing::warn!("no goodbye to the authentication server: {error}");
        }
    }
}

impl Drop for Worker {
    /// Whoever has asked, or asks from now on, is told that nobody answers.
    fn drop(&mut self) {
        let jobs = self.shared.jobs.lock().take();
        for job in jobs.into_iter().flatten() {
            job.fail(Unavailable::Ended);
        }
    }
}
