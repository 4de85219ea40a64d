//! `kvs admin`: what the console of a local server can do, from anywhere on its machine.
//!
//! It speaks the protocol of [`kvs_proto::control`] over the control socket. What can be piped is printed on standard output, what is
//! said to a person (questions, errors, the sentences around them) on standard error; with `--json`, standard output has one object.
//!
//! **Which server.** `--control-socket`; else the one beside a `--socket` that was typed; else that of the environment; else the
//! one beside the socket of the environment or the file of options; else the first that exists of the two usual places.
//!
//! **Whom it trusts.** In `/tmp` anybody can listen at a path first. So before anything is sent the kernel is asked who listens
//! (`SO_PEERCRED`). Good are root, and the user who calls. Root may also call a server of another user, if nobody else could have put
//! that socket there: the path belongs to the one who listens, and every directory above it, as it was written and as it is
//! without symbolic links, belongs to root or to that user and can be written by nobody else. A sticky directory does
//! not count as such: its bit says who may remove an entry, but who *made* it first is anybody. For the same reason it is no
//! use to look at the owner of a path in `/tmp`: the squatter owns what it has squatted. Root then goes there as that user.
//! A look at the path comes after the connection: directories that only the two can write do not change in between
//! by the hand of a third.

use std::ffi::OsString;
use std::fmt::{self, Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use kvs_proto::control::{
    AdminErrorKind as Kind, AdminRequest, AdminResponse, ApplicationStatus, Bytes, DecodeError,
    GroupStatus, MAX_RESPONSE_LEN, WatchedItem,
};
use kvs_proto::default_paths;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Uid, User, geteuid};
use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{self, Output};
use crate::secret::Secret;
use crate::words::Plain;

/// Where a server of the system has its control socket, and where one has that was started without options.
const USUAL_PLACES: [&str; 2] = ["/run/kvs/control", "/tmp/server_sock_control"];

/// How long an answer may take. The server gives up sooner: it waits for its authentication server, and for
/// applications that are slow to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `kvs admin` is told.
#[derive(Debug, Parser)]
#[command(
    name = "admin",
    bin_name = "kvs admin",
    about = "Administer a local server: its groups, its applications, its end",
    after_help = "\
Only root and the user under which the server runs may do this.

Exit codes: 0 done; 1 no such group; 2 wrong usage; 3 no server, or it does not answer; 4 refused;
5 the group exists already; 6 the authentication server cannot be asked, or 16
others are at it; 7 a file or the system failed.

JSON (--json): one object. Of create {\"group\",\"secret\"} or {\"group\",\"secret_file\"};
delete {\"deleted\":[…]}; info {\"group\",\"secret\",\"pairs\"}; quit {\"quit\":true}; status
{\"groups\":[{\"group\",\"pairs\",\"applications\":[{\"number\",\"pid\",\"connected_at\",
\"closed_at\",\"seconds\",\"watch_count\",\"watches\":[{\"key\"} or {\"prefix\"}]}]}]}, with
seconds since 1970. Errors are as those of kvs: no_such_group, invalid, version,
quitting, denied, exists, unavailable, busy, unknown, no_server, connection_lost,
untrusted_secret, no_secret, system.

Examples:
  kvs admin create weather --secret-file ~/.weather
  secret=$(kvs admin create weather)
  kvs admin status"
)]
pub(crate) struct AdminArguments {
    #[command(flatten)]
    place: Place,

    /// Print one JSON object instead of text; errors, too, on standard error
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Place {
    /// Where the server listens for administrators [default: the --socket path followed by _control; without one,
    /// the first that exists of /run/kvs/control and /tmp/server_sock_control]
    #[arg(long, value_name = "PATH", env = "KVS_CONTROL_SOCKET", global = true)]
    control_socket: Option<OsString>,

    /// Where applications connect to the server
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<OsString>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a group and print its secret: alone, unless standard output is a terminal
    Create {
        /// Its name: 1 to 99 bytes
        group: OsString,
        /// Do not print the secret: it is in this file. If there is no such file, it is made, with a new secret, and only you
        /// can read it. If there is one, the group gets the secret in its first line (1 to 7 bytes): so a group can be made
        /// again, after a restart, without anybody being told
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Close the applications of groups and forget all their pairs
    Delete {
        /// Their names
        #[arg(required = true)]
        groups: Vec<OsString>,
    },
    /// Print the name of a group, its secret and the number of its pairs
    Info {
        /// Its name
        group: OsString,
    },
    /// Print the applications that are or were connected, and what they watch
    Status {
        /// Those of this group instead of all
        group: Option<OsString>,
        /// Only those that are connected now
        #[arg(long)]
        connected: bool,
    },
    /// End the server: all its groups and pairs are lost
    Quit {
        /// Do not ask, even on a terminal
        #[arg(long)]
        yes: bool,
    },
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server has said no.
    #[error("{}", refusal(*kind, message))]
    Refused {
        /// Why.
        kind: Kind,
        /// A sentence.
        message: String,
    },
    #[error(
        "no server is at {} ({error}). Is KVS-LocalServer running? --control-socket says where else to look",
        path.display()
    )]
    NoServer { path: PathBuf, error: io::Error },
    #[error(
        "no server is running: there is neither {} nor {}. --control-socket or --socket says where else to look",
        USUAL_PLACES[0], USUAL_PLACES[1]
    )]
    NowhereUsual,
    #[error("{} may be used only by root and by {owner}, under whom the server runs; try sudo", path.display())]
    Permission { path: PathBuf, owner: Who },
    #[error(
        "{} belongs to {owner}, and may be anybody's: nothing was sent. If that is your server, try: \
         sudo -u '#{}' kvs admin …",
        path.display(), owner.0
    )]
    Untrusted { path: PathBuf, owner: Who },
    #[error("the connection to the server at {} has failed: {error}{}", path.display(), unknown(*.may_be_done))]
    Connection { path: PathBuf, error: io::Error, may_be_done: bool },
    #[error("what answers at {} is no such server as this program knows: {error}", path.display())]
    Nonsense { path: PathBuf, error: DecodeError },
    #[error("{0}; nothing was created")]
    OldSecret(Failure),
    #[error(
        "the secret in {} may be anybody's, as {why}: nothing was created. Choose another path, or make the file your own",
        path.display()
    )]
    UntrustedSecret { path: PathBuf, why: &'static str },
    #[error("{} cannot be made: {error}; nothing was created", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "the group was created, but its secret could not be written to {}: {error}. kvs admin info prints it",
        path.display()
    )]
    SecretNotWritten { path: PathBuf, error: io::Error },
    #[error("standard input cannot be read: {0}; nothing was done")]
    Input(io::Error),
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
}

fn refusal(kind: Kind, message: &str) -> String {
    // Whoever it is, it does not speak to the terminal of an administrator.
    let message = Plain(message.as_bytes());
    match kind {
        Kind::Denied => format!("{message}; try sudo"),
        _ => message.to_string(),
    }
}

fn unknown(may_be_done: bool) -> &'static str {
    match may_be_done {
        true => ". Whether it has done what it was asked for is unknown: kvs admin status tells",
        false => "",
    }
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { kind, .. } => match kind {
                Kind::NotFound => 1,
                Kind::Invalid | Kind::Version => 2,
                Kind::Quitting => 3,
                Kind::Denied => 4,
                Kind::Exists => 5,
                Kind::Unavailable | Kind::Busy | Kind::Unknown => 6,
            },
            Self::NoServer { .. } | Self::NowhereUsual => 3,
            Self::Connection { .. } | Self::Nonsense { .. } => 3,
            Self::Permission { .. } | Self::Untrusted { .. } => 4,
            Self::OldSecret(failure) => failure.exit_code(),
            Self::UntrustedSecret { .. } => 4,
            Self::File { .. } | Self::SecretNotWritten { .. } => 7,
            Self::Input(_) | Self::Output(_) => 7,
        }
    }

    /// For programs.
    fn name(&self) -> &'static str {
        match self {
            Self::Refused { kind, .. } => match kind {
                Kind::NotFound => "no_such_group",
                Kind::Invalid => "invalid",
                Kind::Version => "version",
                Kind::Quitting => "quitting",
                Kind::Denied => "denied",
                Kind::Exists => "exists",
                Kind::Unavailable => "unavailable",
                Kind::Busy => "busy",
                Kind::Unknown => "unknown",
            },
            Self::NoServer { .. } | Self::NowhereUsual => "no_server",
            Self::Connection { .. } | Self::Nonsense { .. } => "connection_lost",
            Self::Permission { .. } | Self::Untrusted { .. } => "denied",
            Self::OldSecret(failure) => failure.name(),
            Self::UntrustedSecret { .. } => "untrusted_secret",
            Self::File { .. } | Self::SecretNotWritten { .. } => "system",
            Self::Input(_) | Self::Output(_) => "system",
        }
    }
}

/// A user, by name if there is one.
#[derive(Debug, Clone, Copy)]
struct Who(u32);

impl Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match User::from_uid(Uid::from_raw(self.0)) {
            Ok(Some(user)) => write!(f, "the user {}", user.name),
            _ => write!(f, "the user with the number {}", self.0),
        }
    }
}

/// Where applications connect, as it is set for all commands.
pub(crate) struct Socket {
    pub(crate) path: Option<OsString>,
    /// And not set in the environment or a file.
    pub(crate) is_typed: bool,
}

/// Does what was typed behind `kvs admin`; what went wrong is said on standard error. The exit code.
pub(crate) fn run(arguments: Vec<OsString>, socket: Socket, output: Output) -> u8 {
    let typed = [OsString::from("kvs admin")].into_iter().chain(arguments);
    let parsed = AdminArguments::command().try_get_matches_from(typed).and_then(|matches| {
        let is_typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let (control, socket) = (is_typed("control_socket"), is_typed("socket"));
        AdminArguments::from_arg_matches(&matches).map(|arguments| (arguments, control, socket))
    });
    let (arguments, control_is_typed, socket_is_typed) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return output::say_clap(&error, output),
    };
    let AdminArguments { mut place, json, command } = arguments;
    // Whoever types a place means that one, whatever is set for all commands.
    if (socket_is_typed || socket.is_typed) && !control_is_typed {
        place.control_socket = None;
    }
    place.socket = place.socket.or(socket.path);
    let admin = Admin { place, output: output.or_json(json) };
    let result = match command {
        Command::Create { group, secret_file } => admin.create(bytes(&group), secret_file),
        Command::Delete { groups } => admin.delete(&groups),
        Command::Info { group } => admin.info(bytes(&group)),
        Command::Status { group, connected } => {
            admin.status(group.as_deref().map(bytes), connected)
        }
        Command::Quit { yes } => admin.quit(yes),
    };
    result.unwrap_or_else(|error| admin.complain(&error))
}

fn bytes(group: impl AsRef<std::ffi::OsStr>) -> Bytes {
    group.as_ref().as_bytes().into()
}

struct Admin {
    place: Place,
    output: Output,
}

impl Admin {
    fn connect(&self) -> Result<Connection, Error> {
        Connection::open(self.place.path()?)
    }

    fn create(&self, group: Bytes, secret_file: Option<PathBuf>) -> Result<u8, Error> {
        // Before anything is made: if there is no server, there is to be no file either.
        let mut server = self.connect()?;
        let mut file = secret_file.map(SecretFile::open).transpose()?;
        let secret = file.as_ref().and_then(SecretFile::secret);
        let is_old = secret.is_some();
        let answer = server.ask(&AdminRequest::Create { group, secret })?;
        let AdminResponse::Created { group, secret } = &answer else {
            return Err(server.unexpected());
        };
        if let Some(file) = &mut file {
            file.keep(secret)?;
        }
        let file = file.as_ref().map(SecretFile::path);
        if self.output.is_json() {
            return print_json(match file {
                None => json!({ "group": group, "secret": secret }),
                Some(file) => {
                    json!({ "group": group, "secret_file": Bytes::from(file.as_os_str().as_bytes()) })
                }
            });
        }
        match file {
            None if io::stdout().is_terminal() => print(format_args!(
                "The group {group} was created. Its secret, which applications need to enter it: {secret}\n"
            )),
            None => print(format_args!("{secret}\n")),
            Some(file) => self.remark(match is_old {
                false => {
                    format!("The group {group} was created. Its secret is in {}.", file.display())
                }
                true => {
                    format!(
                        "The group {group} was created, with the secret that was in {}.",
                        file.display()
                    )
                }
            }),
        }
    }

    fn delete(&self, groups: &[OsString]) -> Result<u8, Error> {
        let (mut deleted, mut failed) = (Vec::new(), None);
        let mut server = self.connect()?;
        for group in groups {
            match server.ask(&AdminRequest::Delete { group: bytes(group) }) {
                Ok(AdminResponse::Deleted { group }) => {
                    if !self.output.is_json() {
                        self.remark(format_args!("The group {group} was deleted."))?;
                    }
                    deleted.push(group);
                }
                // The others may well be deleted.
                Err(error @ Error::Refused { .. }) => {
                    let code = self.complain(&error);
                    failed.get_or_insert(code);
                }
                Ok(_) => return Err(server.unexpected()),
                Err(error) => return Err(error),
            }
        }
        if self.output.is_json() && !deleted.is_empty() {
            print_json(json!({ "deleted": deleted }))?;
        }
        Ok(failed.unwrap_or(0))
    }

    fn info(&self, group: Bytes) -> Result<u8, Error> {
        let mut server = self.connect()?;
        match server.ask(&AdminRequest::Info { group })? {
            AdminResponse::Info { group, secret, pairs } if self.output.is_json() => {
                print_json(json!({ "group": group, "secret": secret, "pairs": pairs }))
            }
            AdminResponse::Info { group, secret, pairs } => {
                print(format_args!("group:   {group}\nsecret:  {secret}\npairs:   {pairs}\n"))
            }
            _ => Err(server.unexpected()),
        }
    }

    fn status(&self, group: Option<Bytes>, connected: bool) -> Result<u8, Error> {
        let mut server = self.connect()?;
        let mut groups: Vec<GroupStatus> = Vec::new();
        server.send(&AdminRequest::Status { group })?;
        loop {
            let AdminResponse::Status { groups: part, more } = server.answer(false)? else {
                return Err(server.unexpected());
            };
            for mut next in part {
                next.applications
                    .retain(|application| !connected || application.closed_at.is_none());
                match groups.last_mut() {
                    Some(last) if last.group == next.group => {
                        last.applications.extend(next.applications);
                    }
                    _ => groups.push(next),
                }
            }
            if !more {
                break;
            }
        }
        if self.output.is_json() {
            return print_json(json!({ "groups": groups }));
        }
        if groups.is_empty() {
            return self.remark("There is no group. kvs admin create makes one.");
        }
        print(table(&groups, SystemTime::now()))
    }

    fn quit(&self, yes: bool) -> Result<u8, Error> {
        let mut server = self.connect()?;
        if !yes && io::stdin().is_terminal() && !confirmed()? {
            self.remark("Nothing was done.")?;
            return Ok(0);
        }
        match server.ask(&AdminRequest::Quit {})? {
            AdminResponse::Quitting {} => server.wait_for_end()?,
            _ => return Err(server.unexpected()),
        }
        if self.output.is_json() {
            return print_json(json!({ "quit": true }));
        }
        self.remark("The server has ended.")
    }

    /// Says what is done to a person, who may have asked for JSON, and then gets no more than that.
    fn remark(&self, sentence: impl Display) -> Result<u8, Error> {
        if io::stderr().is_terminal() || io::stdout().is_terminal() {
            eprintln!("{sentence}");
        }
        Ok(0)
    }

    /// Tells of an error; its exit code.
    fn complain(&self, error: &Error) -> u8 {
        let (name, exit_code) = (error.name(), error.exit_code());
        self.output.failure(&Failure::Said { name, sentence: error.to_string(), exit_code });
        exit_code
    }
}

fn print(text: impl Display) -> Result<u8, Error> {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(0),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(Error::Output(error)),
    }
}

fn print_json(value: Value) -> Result<u8, Error> {
    print(format_args!("{}\n", in_base64(value)))
}

/// What is in hexadecimal in the protocol, as all of `kvs` prints it: in base64, as `NAME_base64` in place of `NAME`.
fn in_base64(value: Value) -> Value {
    let hex = |value: &Value| match value {
        Value::Object(members) if members.len() == 1 => {
            serde_json::from_value::<Bytes>(members.get("hex").map(|_| value.clone())?).ok()
        }
        _ => None,
    };
    match value {
        Value::Array(values) => Value::Array(values.into_iter().map(in_base64).collect()),
        Value::Object(members) => {
            let mut object = serde_json::Map::new();
            for (name, value) in members {
                match hex(&value) {
                    Some(bytes) => {
                        object.insert(format!("{name}_base64"), output::base64(&bytes.0).into());
                    }
                    None => {
                        object.insert(name, in_base64(value));
                    }
                }
            }
            Value::Object(object)
        }
        value => value,
    }
}

fn confirmed() -> Result<bool, Error> {
    eprint!("All groups and all pairs of the server will be lost. Go on? [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Error::Input)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

impl Place {
    fn path(&self) -> Result<PathBuf, Error> {
        let given = |path: &Option<OsString>| path.clone().filter(|path| !path.is_empty());
        if let Some(path) = given(&self.control_socket) {
            return Ok(path.into());
        }
        // One that has the usual path may be the service, whose control socket is elsewhere.
        let is_usual = |path: &OsString| path == default_paths::DEFAULT_SOCKET;
        if let Some(path) = given(&self.socket).filter(|path| !is_usual(path)) {
            return Ok(default_paths::control_socket(path.as_ref()));
        }
        let is_socket = |path: &&Path| {
            std::fs::metadata(path)
                .map(|found| found.file_type().is_socket())
                // What may not be looked at is there, and the connection will say why not.
                .unwrap_or_else(|error| error.kind() == ErrorKind::PermissionDenied)
        };
        let usual = USUAL_PLACES.map(Path::new);
        usual.iter().copied().find(is_socket).map(Path::to_owned).ok_or(Error::NowhereUsual)
    }
}

/// To a server that is trusted.
struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(match std::fs::metadata(&path) {
                    Ok(found) => Error::Permission { path, owner: Who(found.uid()) },
                    Err(_) => Error::NoServer { path, error },
                });
            }
            Err(error) => return Err(Error::NoServer { path, error }),
        };
        let failed = |error| Error::Connection { path: path.clone(), error, may_be_done: false };
        let owner = getsockopt(&stream, PeerCredentials).map_err(|error| failed(error.into()))?;
        let (server, us) = (owner.uid(), geteuid().as_raw());
        if !is_trusted(server, us, &path).map_err(failed)? {
            return Err(Error::Untrusted { path, owner: Who(server) });
        }
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { path, stream: BufReader::new(stream) })
    }

    fn failed(&self, error: io::Error, may_be_done: bool) -> Error {
        let error = match error.kind() {
            ErrorKind::WouldBlock => io::Error::other("it does not answer"),
            _ => error,
        };
        Error::Connection { path: self.path.clone(), error, may_be_done }
    }

    fn unexpected(&self) -> Error {
        self.failed(io::Error::other("it has answered another question"), true)
    }

    /// A question with one answer, which is no refusal.
    fn ask(&mut self, request: &AdminRequest) -> Result<AdminResponse, Error> {
        self.send(request)?;
        self.answer(!matches!(request, AdminRequest::Info { .. }))
    }

    fn send(&mut self, request: &AdminRequest) -> Result<(), Error> {
        match self.stream.get_mut().write_all(&request.encode()) {
            Ok(()) => Ok(()),
            // Who is refused is told so before it asks: the answer may be there already.
            Err(error)
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed(error, false)),
        }
    }

    /// A line of an answer, which is no refusal. With `changes`, the question may have changed something.
    fn answer(&mut self, changes: bool) -> Result<AdminResponse, Error> {
        let mut line = Vec::new();
        let limit = MAX_RESPONSE_LEN as u64;
        if let Err(error) = self.stream.by_ref().take(limit).read_until(b'\n', &mut line) {
            return Err(self.failed(error, changes));
        }
        if line.last() != Some(&b'\n') {
            return Err(self.failed(io::Error::other("it has ended the connection"), changes));
        }
        match AdminResponse::decode(&line) {
            Ok(AdminResponse::Error { kind, message }) => Err(Error::Refused { kind, message }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Error::Nonsense { path: self.path.clone(), error }),
        }
    }

    /// The server ends the connection when it has ended.
    fn wait_for_end(&mut self) -> Result<(), Error> {
        let mut rest = [0; 64];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(self.failed(error, true)),
            }
        }
    }
}

/// Whether a server of the user `server` at `path` may be told anything by the user `us` (see the head of this module).
fn is_trusted(server: u32, us: u32, path: &Path) -> io::Result<bool> {
    if server == 0 || server == us {
        return Ok(true);
    }
    if us != 0 {
        return Ok(false);
    }
    let as_written = std::path::absolute(path)?;
    let without_links = as_written.canonicalize()?;
    Ok(std::fs::metadata(&without_links)?.uid() == server
        && only_theirs(server, &as_written)?
        && only_theirs(server, &without_links)?)
}

/// Whether nobody but root and `user` can write in any directory above `path`.
fn only_theirs(user: u32, path: &Path) -> io::Result<bool> {
    for directory in path.ancestors().skip(1) {
        let found = std::fs::metadata(directory)?;
        if !(found.uid() == 0 || found.uid() == user) || found.mode() & 0o022 != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The file for the secret of a new group.
enum SecretFile {
    /// It was there, and says which secret the group is to have.
    Old { path: PathBuf, secret: Bytes },
    /// It is to get the secret of the group. Removed when it is dropped without one.
    New { path: PathBuf, file: File, is_written: bool },
}

impl SecretFile {
    fn open(path: PathBuf) -> Result<Self, Error> {
        // Exclusive: neither an old file nor a link is written to. The mode is there from the first moment.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match file {
            Ok(file) => Ok(Self::New { path, file, is_written: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::old(path),
            Err(error) => Err(Error::File { path, error }),
        }
    }

    /// One that is there. In a directory for all anybody may have made it, or a link to what he knows: so it must be a file
    /// that only its owner can write, and that is the caller's own or root's.
    fn old(path: PathBuf) -> Result<Self, Error> {
        let failed = |error| Error::File { path: path.clone(), error };
        let untrusted = |why| Err(Error::UntrustedSecret { path: path.clone(), why });
        if std::fs::symlink_metadata(&path).map_err(failed)?.is_symlink() {
            return untrusted("it is a link");
        }
        // A pipe without a writer would never open, and who has put a link there meanwhile gains nothing.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&path);
        let file = file.map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return untrusted("it is no file");
        }
        if found.uid() != 0 && found.uid() != geteuid().as_raw() {
            return untrusted("it belongs to another user");
        }
        if found.mode() & 0o022 != 0 {
            return untrusted("others than its owner can write it");
        }
        // Left behind by a creation that was broken off.
        if found.len() == 0 && found.uid() == geteuid().as_raw() {
            let file = OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(&path);
            return Ok(Self::New { file: file.map_err(failed)?, path, is_written: false });
        }
        let secret = Secret::first_line(file, &path).map_err(Error::OldSecret)?;
        Ok(Self::Old { secret: secret.as_bytes().into(), path })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Old { path, .. } | Self::New { path, .. } => path,
        }
    }

    /// Which the group is to have, if it is known already.
    fn secret(&self) -> Option<Bytes> {
        match self {
            Self::Old { secret, .. } => Some(secret.clone()),
            Self::New { .. } => None,
        }
    }

    /// The group has this secret now.
    fn keep(&mut self, secret: &Bytes) -> Result<(), Error> {
        let Self::New { path, file, is_written } = self else { return Ok(()) };
        let mut line = secret.0.clone();
        line.push(b'\n');
        match file.write_all(&line).and_then(|()| file.sync_all()) {
            Ok(()) => *is_written = true,
            Err(error) => return Err(Error::SecretNotWritten { path: path.clone(), error }),
        }
        Ok(())
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if let Self::New { path, is_written: false, .. } = self {
            // It is empty, and nobody has been told of it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// For people.
fn table(groups: &[GroupStatus], now: SystemTime) -> String {
    let mut text = String::new();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    for (at, group) in groups.iter().enumerate() {
        let gap = if at == 0 { "" } else { "\n" };
        let connected = group.applications.iter().filter(|app| app.closed_at.is_none()).count();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{gap}{}: {}, {connected} connected, {} closed",
            group.group,
            counted(group.pairs, "pair"),
            group.applications.len() - connected
        );
        let mut rows =
            vec![["APP", "PID", "CONNECTED", "FOR", "CLOSED", "WATCHES"].map(String::from)];
        rows.extend(group.applications.iter().map(|application| row(application, now)));
        if rows.len() == 1 {
            continue;
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<_> = (0..5).map(|column| width(column).unwrap_or_default()).collect();
        for row in &rows {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(text, "  {cell:<width$}");
            }
            let _ = writeln!(text, "  {}", row[5]);
        }
    }
    text
}

fn row(application: &ApplicationStatus, now: f64) -> [String; 6] {
    let ago = |time: f64| format!("{} ago", duration(now - time));
    [
        application.number.to_string(),
        application.pid.to_string(),
        ago(application.connected_at),
        duration(application.seconds),
        application.closed_at.map_or("-".into(), ago),
        watches(application),
    ]
}

/// Some of them, each cut at a length that a line has room for.
fn watches(application: &ApplicationStatus) -> String {
    const SHOWN: usize = 3;
    const LENGTH: usize = 30;
    let shown = application.watches.iter().take(SHOWN).map(|watch| {
        let (bytes, star) = match watch {
            WatchedItem::Key(bytes) => (bytes, ""),
            WatchedItem::Prefix(bytes) => (bytes, "*"),
        };
        let text = bytes.to_string();
        match text.char_indices().nth(LENGTH) {
            None => format!("{text}{star}"),
            Some((end, _)) => format!("{}…{star}", &text[..end]),
        }
    });
    let mut shown: Vec<_> = shown.collect();
    let left = application.watch_count - application.watch_count.min(shown.len() as u64);
    match left {
        0 if shown.is_empty() => return "-".into(),
        0 => {}
        left => shown.push(format!("and {left} more")),
    }
    shown.join(", ")
}

fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// The two largest units.
fn duration(seconds: f64) -> String {
    // A clock that was set back makes it negative; the conversion stops at zero.
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_two_largest_units() {
        for (seconds, told) in [
            (-5.0, "0s"),
            (59.9, "59s"),
            (60.0, "1m 0s"),
            (3_599.0, "59m 59s"),
            (7_260.0, "2h 1m"),
            (200_000.0, "2d 7h"),
        ] {
            assert_eq!(duration(seconds), told);
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_application_however_much_it_watches() {
        let key = |text: &str| Bytes(text.as_bytes().to_vec());
        let application =
            |number, closed_at, watches: Vec<WatchedItem>, watch_count| ApplicationStatus {
                number,
                pid: 4711,
                connected_at: 1_000.0,
                closed_at,
                seconds: 61.5,
                watches,
                watch_count,
            };
        let watched =
            ["temperature", "evil\nApp 7", &"é".repeat(40), "wind"].map(key).map(WatchedItem::Key);
        let applications = vec![
            application(1, None, watched.to_vec(), 4_000),
            application(12, Some(1_061.5), vec![], 0),
            application(13, None, vec![WatchedItem::Prefix(key("rain/"))], 1),
        ];
        let groups = [
            GroupStatus { group: key("weather"), pairs: 1, applications },
            GroupStatus { group: Bytes(b"a\xff".to_vec()), pairs: 0, applications: vec![] },
        ];
        let cut = "é".repeat(30);
        let expected = format!(
            "weather: 1 pair, 2 connected, 1 closed\n  \
               APP  PID   CONNECTED  FOR    CLOSED  WATCHES\n  \
               1    4711  2m 0s ago  1m 1s  -       temperature, evil\\nApp 7, {cut}…, and 3997 more\n  \
               12   4711  2m 0s ago  1m 1s  58s ago  -\n  \
               13   4711  2m 0s ago  1m 1s  -       rain/*\n\n\
             a\u{fffd}: 0 pairs, 0 connected, 0 closed\n"
        );
        let expected = expected.replace("CLOSED  W", "CLOSED   W").replace("-       ", "-        ");
        assert_eq!(table(&groups, UNIX_EPOCH + Duration::from_secs(1_120)), expected);
    }

    #[test]
    fn what_anybody_could_have_put_there_is_not_trusted() {
        let root_directory = Path::new("/run");
        assert!(is_trusted(0, 1000, root_directory).unwrap());
        assert!(is_trusted(1000, 1000, root_directory).unwrap());
        assert!(!is_trusted(1001, 1000, root_directory).unwrap());
        // Sticky, so anybody can be the first there.
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_trusted(1001, 0, &directory.path().join("..")).unwrap());
        assert!(!only_theirs(1001, directory.path()).unwrap());
        // Root's.
        assert!(only_theirs(1001, Path::new("/proc/self")).unwrap());
    }
}
