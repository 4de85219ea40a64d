//! An application of the soak test: a C program, or a connection of this process with or without
//! the library.
//!
//! All kinds execute [`Command`]s in sequence and send each result and each callback as a
//! [`Report`] to the coordinator of their group, in the order in which it occurred. A process is
//! killed with SIGKILL; a connection of this process is dropped, a raw one at a random step of a
//! put.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;

use kvs_testkit::{Process, Program, RawV1App, SocketPaths, Sockets, compile_c};

use crate::env::SoakServer;
use crate::model::{Line, NO_SUCH};

/// The timeout of every call, in milliseconds. It is long because the machine may be loaded and
/// applications are stopped in the middle of calls; other tests check timeouts.
const TIMEOUT_MS: &str = "15000";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A C program over libkvs.so.
    Program,
    /// A connection of this process, through the crate.
    Crate,
    /// A raw v1 connection of this process, without the library.
    Original,
}

#[derive(Debug)]
pub(crate) enum Command {
    Establish {
        group: String,
        secret: String,
    },
    Put {
        key: String,
        value: String,
    },
    Get(String),
    Delete(String),
    Register(String),
    Ask,
    Close,
    /// For connections of this process: disconnects at this step of a put.
    Die(u64),
}

/// The result of a command, or an event of an application.
#[derive(Debug)]
pub(crate) struct Report {
    /// Which [`Client`]; 0: none.
    pub(crate) client: u64,
    pub(crate) event: Event,
}

#[derive(Debug)]
pub(crate) enum Event {
    Result {
        line: Line,
        code: i32,
        value: Option<String>,
    },
    Callback {
        line: Line,
        key: String,
        code: i32,
        value: Option<String>,
    },
    /// The application has ended; no report follows.
    Ended,
    /// The console of the server has responded; this report belongs to no application.
    Console(String),
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Process(Process),
    Thread(Sender<Command>),
}

impl Client {
    /// Starts an unconnected application for this server.
    pub(crate) fn start(id: u64, kind: Kind, site: &SoakServer, reports: &Sender<Report>) -> Self {
        let reports = reports.clone();
        let link = match kind {
            Kind::Program => Link::Process(start_program(id, site, reports)),
            Kind::Crate => {
                let log = Log::new(id, reports);
                let sockets = SocketPaths::of(site);
                let protocol = match speaks_original(id) {
                    true => kvs::Protocol::V1,
                    false => kvs::Protocol::V2,
                };
                let connection = ByCrate {
                    sockets,
                    protocol,
                    log: log.clone(),
                    versions: Versions::default(),
                    connection: None,
                };
                start_thread(log, connection)
            }
            Kind::Original => {
                let log = Log::new(id, reports);
                let sockets = SocketPaths::of(site);
                start_thread(log.clone(), AsOriginal { sockets, log, line: None })
            }
        };
        Self { id, kind, link }
    }

    /// The process of a C program.
    pub(crate) fn process(&self) -> Option<&Process> {
        match &self.link {
            Link::Process(process) => Some(process),
            Link::Thread(_) => None,
        }
    }

    /// The process id that the server sees.
    pub(crate) fn pid(&self) -> i32 {
        self.process().map_or(std::process::id().cast_signed(), Process::pid)
    }

    /// Sends a command, whose result is reported later.
    pub(crate) fn command(&self, command: Command) {
        match &self.link {
            Link::Process(process) => process.send(&command_line(&command)),
            Link::Thread(commands) => {
                // The thread ends only on command.
                let _ = commands.send(command);
            }
        }
    }

    /// Ends the application at once. [`Event::Ended`] is its last report.
    pub(crate) fn kill(&self, random: u64) {
        match &self.link {
            Link::Process(process) => process.kill(),
            Link::Thread(_) => self.command(Command::Die(random)),
        }
    }
}

fn command_line(command: &Command) -> String {
    match command {
        Command::Establish { group, secret } => format!("establish {group} {secret}"),
        Command::Put { key, value } => format!("put {key} {value}"),
        Command::Get(key) => format!("get {key}"),
        Command::Delete(key) => format!("delete {key}"),
        Command::Register(key) => format!("register {key}"),
        Command::Ask => "ask".into(),
        Command::Close => "close".into(),
        Command::Die(_) => unreachable!("a process is killed by a signal"),
    }
}

/// Of the programs and connections with the library, a third speaks protocol v1. The others
/// have framed sessions.
fn speaks_original(id: u64) -> bool {
    id.is_multiple_of(3)
}

fn start_program(id: u64, site: &SoakServer, reports: Sender<Report>) -> Process {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let mut index = 0;
    Program::new(PROGRAM.get_or_init(|| compile_c("tests/c/soak_app.c")))
        .served_by(site)
        .env("KVS_TIMEOUT_MS", TIMEOUT_MS)
        .env("KVS_PROTOCOL", if speaks_original(id) { "original" } else { "best" })
        .line_handler(move |line| {
            let event = match line {
                Some(text) => parse(text, index).unwrap_or_else(|| panic!("{id}: {text:?}")),
                None => Event::Ended,
            };
            index += 1;
            // The coordinator may have stopped receiving.
            let _ = reports.send(Report { client: id, event });
        })
        .spawn()
}

/// A line of `soak_app.c`.
fn parse(text: &str, index: u64) -> Option<Event> {
    let (mark, rest) = text.split_at_checked(1)?;
    let mut words = rest.splitn(if mark == "=" { 3 } else { 4 }, ' ');
    let line = Line { index, begin: words.next()?.parse().ok()? };
    let code = words.next()?.parse().ok()?;
    match mark {
        "=" => Some(Event::Result { line, code, value: words.next().map(str::to_owned) }),
        "!" => {
            let key = words.next()?.to_owned();
            Some(Event::Callback { line, key, code, value: words.next().map(str::to_owned) })
        }
        _ => None,
    }
}

/// The reports of a connection of this process, from any of its threads.
#[derive(Debug, Clone)]
struct Log {
    client: u64,
    lines: Arc<Mutex<(u64, Sender<Report>)>>,
}

impl Log {
    fn new(client: u64, reports: Sender<Report>) -> Self {
        Self { client, lines: Arc::new(Mutex::new((0, reports))) }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Sender<Report>)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of reports so far.
    fn begin(&self) -> u64 {
        self.lock().0
    }

    fn write(&self, begin: u64, event: impl FnOnce(Line) -> Event) {
        let mut lines = self.lock();
        let event = event(Line { index: lines.0, begin });
        lines.0 += 1;
        // The coordinator may have stopped receiving.
        let _ = lines.1.send(Report { client: self.client, event });
    }

    /// Executes the get of a callback.
    fn callback(&self, key: String, get: impl FnOnce(&str) -> Answer) {
        let begin = self.begin();
        let (code, value) = get(&key);
        self.write(begin, |line| Event::Callback { line, key, code, value });
    }
}

/// A code and its value.
type Answer = (i32, Option<String>);

/// A connection of this process.
trait Connection: Send + 'static {
    fn obey(&mut self, command: Command) -> Answer;
    fn die(self, random: u64);
}

fn start_thread(log: Log, mut connection: impl Connection) -> Link {
    let (commands, waiting) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(command) = waiting.recv() {
            if let Command::Die(random) = command {
                connection.die(random);
                break;
            }
            let begin = log.begin();
            let (code, value) = connection.obey(command);
            log.write(begin, |line| Event::Result { line, code, value });
        }
        log.write(0, |_| Event::Ended);
    });
    Link::Thread(commands)
}

const NOT_CONNECTED: i32 = -2;

/// A code that no call returns, so the model reports it as a violation.
const VERSION_WENT_BACK: i32 = -1000;

/// The greatest version of each key that a connection has seen. Calls and callbacks run at the same
/// time, so a version must be as great as what was seen before its call began.
#[derive(Debug, Clone, Default)]
struct Versions(Arc<Mutex<HashMap<String, kvs::Version>>>);

impl Versions {
    fn seen(&self, key: &str) -> kvs::Version {
        let versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        versions.get(key).copied().unwrap_or(0)
    }

    fn see(&self, key: &str, version: kvs::Version) {
        let mut versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = versions.entry(key.to_owned()).or_default();
        *seen = (*seen).max(version);
    }
}

#[derive(Debug)]
struct ByCrate {
    sockets: SocketPaths,
    protocol: kvs::Protocol,
    log: Log,
    versions: Versions,
    connection: Option<Arc<kvs::Connection>>,
}

impl ByCrate {
    fn establish(&mut self, group: &str, secret: &str) -> Result<i32, kvs::Error> {
        let timeout = TIMEOUT_MS.parse().expect("it is a number");
        let connection = kvs::Connection::builder()
            .socket(self.sockets.socket())
            .callback_socket(self.sockets.callback_socket())
            .timeout(std::time::Duration::from_millis(timeout))
            .protocol(self.protocol)
            .open(group, secret)?;
        assert_eq!(connection.protocol(), self.protocol);
        // Versions restart in a new group.
        self.versions = Versions::default();
        self.connection = Some(Arc::new(connection));
        Ok(0)
    }
}

fn text(value: Vec<u8>) -> String {
    String::from_utf8_lossy(&value).into_owned()
}

fn get(connection: &kvs::Connection, versions: &Versions, key: &str) -> Answer {
    let before = versions.seen(key);
    let found = match connection.protocol() {
        kvs::Protocol::V2 => connection.get_versioned(key),
        kvs::Protocol::V1 => connection
            .get(key)
            .map(|value| value.map(|value| kvs::Versioned { value, version: before })),
    };
    match found {
        Ok(Some(found)) if found.version < before => (VERSION_WENT_BACK, None),
        Ok(Some(found)) => {
            versions.see(key, found.version);
            (1, Some(text(found.value)))
        }
        Ok(None) => (NO_SUCH, None),
        Err(error) => (error.code(), None),
    }
}

impl Connection for ByCrate {
    fn obey(&mut self, command: Command) -> Answer {
        if let Command::Establish { group, secret } = &command {
            return (self.establish(group, secret).unwrap_or_else(|error| error.code()), None);
        }
        let Some(connection) = &self.connection else { return (NOT_CONNECTED, None) };
        let result = match command {
            Command::Get(key) => return get(connection, &self.versions, &key),
            Command::Put { key, value } => connection.put(key, value).map(|_| 1),
            Command::Delete(key) => {
                connection.delete(key).map(|existed| if existed { 1 } else { NO_SUCH })
            }
            Command::Register(key) => {
                // A weak reference, as the connection owns its callbacks.
                let (log, connection_too) = (self.log.clone(), Arc::downgrade(connection));
                let (versions, last) = (self.versions.clone(), Mutex::new(0));
                let callback = move |change: &kvs::KeyChange<'_>| {
                    let connection: &Weak<kvs::Connection> = &connection_too;
                    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                    // Versions are reported once and in increasing order.
                    let went_back = change.version != 0 && change.version <= *last;
                    *last = change.version;
                    log.callback(text(change.key.to_vec()), |key| match connection.upgrade() {
                        _ if went_back => (VERSION_WENT_BACK, None),
                        Some(connection) => {
                            // A reported version has been stored.
                            versions.see(key, change.version);
                            get(&connection, &versions, key)
                        }
                        None => (NOT_CONNECTED, None),
                    });
                };
                connection.watch_changes(key, callback).map(|()| 1)
            }
            // The library rejects an invalid key before it sends anything.
            Command::Ask => connection.put("", "").map(|_| 1),
            Command::Close => connection.close().map(|()| 1),
            Command::Establish { .. } | Command::Die(_) => unreachable!("dealt with"),
        };
        (result.unwrap_or_else(|error| error.code()), None)
    }

    fn die(self, _: u64) {
        drop(self.connection);
    }
}

#[derive(Debug)]
struct AsOriginal {
    sockets: SocketPaths,
    log: Log,
    line: Option<Arc<OriginalLine>>,
}

/// The two channels of a raw connection. One thread at a time uses the main channel, which is
/// `None` after its end.
#[derive(Debug)]
struct OriginalLine {
    main: Mutex<Option<UnixStream>>,
    callback: UnixStream,
}

/// The connection broke in a call; the model accepts any code.
const BROKEN: i32 = -4;

fn int(mut stream: &UnixStream) -> io::Result<i32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

fn expect_ready(stream: &UnixStream) -> io::Result<()> {
    match int(stream)? {
        1 => Ok(()),
        other => Err(io::Error::other(format!("{other} is no ready flag"))),
    }
}

/// Sends the function code, expects the ready flag, and sends the key.
fn begin(mut stream: &UnixStream, code: i32, key: &str) -> io::Result<()> {
    stream.write_all(&code.to_ne_bytes())?;
    expect_ready(stream)?;
    stream.write_all(key.as_bytes())
}

/// Begins a put and aborts it at this step of four.
fn abandon_put(mut stream: &UnixStream, step: u64) -> io::Result<()> {
    if step > 0 {
        stream.write_all(&0_i32.to_ne_bytes())?;
    }
    if step > 1 {
        expect_ready(stream)?;
        stream.write_all(b"key-0")?;
    }
    if step > 2 {
        expect_ready(stream)?;
    }
    Ok(())
}

impl OriginalLine {
    fn lock(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes an operation, if connected.
    fn play(&self, operation: impl FnOnce(&UnixStream) -> io::Result<Answer>) -> Answer {
        let mut main = self.lock();
        let Some(stream) = main.as_ref() else { return (NOT_CONNECTED, None) };
        operation(stream).unwrap_or_else(|_| {
            *main = None;
            (BROKEN, None)
        })
    }

    fn get(&self, key: &str) -> Answer {
        self.play(|mut stream| {
            begin(stream, 1, key)?;
            let len = int(stream)?;
            if len == -1 {
                return Ok((NO_SUCH, None));
            }
            let mut value = vec![0; usize::try_from(len).map_err(io::Error::other)? + 1];
            stream.read_exact(&mut value)?;
            match value.pop() {
                Some(0) => Ok((1, Some(text(value)))),
                _ => Err(io::Error::other("no NUL after the value")),
            }
        })
    }

    /// Receives the response to a key: 1 or -1.
    fn found(&self, code: i32, key: &str) -> Answer {
        self.play(|stream| {
            begin(stream, code, key)?;
            match int(stream)? {
                1 => Ok((1, None)),
                -1 => Ok((NO_SUCH, None)),
                other => Err(io::Error::other(format!("{other} is no answer"))),
            }
        })
    }

    fn close(&self) -> Answer {
        let answer = self.play(|mut stream| {
            stream.write_all(&4_i32.to_ne_bytes())?;
            Ok((1, None))
        });
        *self.lock() = None;
        // This ends the callback thread.
        let _ = self.callback.shutdown(std::net::Shutdown::Both);
        answer
    }

    /// The callback thread.
    fn listen(&self, log: &Log) -> io::Result<()> {
        let mut stream = &self.callback;
        loop {
            if int(stream)? == -1 {
                self.close();
                return Ok(());
            }
            stream.write_all(&1_i32.to_ne_bytes())?;
            let mut padded = [0; 100];
            stream.read_exact(&mut padded)?;
            let len = padded.iter().position(|&byte| byte == 0).unwrap_or(padded.len());
            log.callback(text(padded[..len].to_vec()), |key| self.get(key));
        }
    }
}

impl AsOriginal {
    fn establish(&mut self, group: &str, secret: &str) -> i32 {
        // The socket needs a name: the server identifies unnamed sockets by their process, and this
        // process has many.
        static LOGIN: Mutex<()> = Mutex::new(());
        let login = LOGIN.lock().unwrap_or_else(PoisonError::into_inner);
        let result = RawV1App::try_login(&self.sockets, group, secret);
        drop(login);
        let app = match result {
            Ok(app) => app,
            Err(end) if end == "no such group" => return NO_SUCH,
            Err(end) if end == "wrong secret" => return -9,
            Err(_) => return -8,
        };
        let cloned = |stream: &UnixStream| stream.try_clone().expect("a descriptor is left");
        let line = Arc::new(OriginalLine {
            main: Mutex::new(Some(cloned(app.main.stream()))),
            callback: cloned(app.callback.stream()),
        });
        // The thread waits for the next event without a timeout.
        line.callback.set_read_timeout(None).expect("it is a socket");
        self.line = Some(Arc::clone(&line));
        let log = self.log.clone();
        thread::spawn(move || {
            // The main channel reports how the connection ended.
            let _ = line.listen(&log);
        });
        0
    }
}

impl Connection for AsOriginal {
    fn obey(&mut self, command: Command) -> Answer {
        if let Command::Establish { group, secret } = &command {
            return (self.establish(group, secret), None);
        }
        let Some(line) = &self.line else { return (NOT_CONNECTED, None) };
        match command {
            Command::Get(key) => line.get(&key),
            Command::Put { key, value } => line.play(|mut stream| {
                begin(stream, 0, &key)?;
                expect_ready(stream)?;
                stream.write_all(value.as_bytes())?;
                Ok((1, None))
            }),
            Command::Delete(key) => line.found(2, &key),
            Command::Register(key) => line.found(3, &key),
            // Protocol v1 has no such request.
            Command::Ask => match &*line.lock() {
                Some(_) => (-15, None),
                None => (NOT_CONNECTED, None),
            },
            Command::Close => line.close(),
            Command::Establish { .. } | Command::Die(_) => unreachable!("dealt with"),
        }
    }

    /// The value is not sent, so no application may ever read it.
    fn die(self, random: u64) {
        let Some(line) = self.line else { return };
        // The lock is held to the end: the get of a callback would make the server store an empty
        // value.
        let mut main = line.lock();
        if let Some(stream) = main.take() {
            // The server may have closed the connection by force before.
            let _ = abandon_put(&stream, random % 4);
        }
        drop(main);
        // `shutdown` is needed because the other thread holds a copy of the descriptor.
        let _ = line.callback.shutdown(std::net::Shutdown::Both);
    }
}
