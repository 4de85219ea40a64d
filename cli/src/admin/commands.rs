//! The commands of `kvs admin`.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use kvs_proto::control::{AdminRequest, AdminResponse, Bytes, GroupStatus};

use crate::admin::args::{AdminArgs, AdminCommand, AdminEndpoint};
use crate::admin::client::ControlClient;
use crate::admin::endpoint::{SocketOption, control_socket};
use crate::admin::error::AdminError;
use crate::admin::secret_file::SecretFile;
use crate::admin::status_json::status_json;
use crate::admin::status_table::status_table;
use crate::error::Error;
use crate::json::JsonObject;
use crate::output::Output;

/// Runs the arguments after `kvs admin`, and reports errors. Returns the exit code.
pub(crate) fn run(arguments: Vec<OsString>, socket: SocketOption, output: Output) -> u8 {
    let arguments = [OsString::from("kvs admin")].into_iter().chain(arguments);
    let parsed = AdminArgs::command().try_get_matches_from(arguments).and_then(|matches| {
        let is_typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let (control, socket) = (is_typed("control_socket"), is_typed("socket"));
        AdminArgs::from_arg_matches(&matches).map(|arguments| (arguments, control, socket))
    });
    let (arguments, control_is_typed, socket_is_typed) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return output.clap_error(&error),
    };
    let AdminArgs { mut endpoint, json, command } = arguments;
    // A --socket on the command line overrides KVS_CONTROL_SOCKET.
    if (socket_is_typed || socket.is_typed) && !control_is_typed {
        endpoint.control_socket = None;
    }
    endpoint.socket = endpoint.socket.or(socket.path);
    let admin = Admin { endpoint, output: output.or_json(json) };
    let result = match command {
        AdminCommand::Create { group, secret_file } => admin.create(bytes(&group), secret_file),
        AdminCommand::Delete { groups } => admin.delete(&groups),
        AdminCommand::Info { group } => admin.info(bytes(&group)),
        AdminCommand::Status { group, connected } => {
            admin.status(group.as_deref().map(bytes), connected)
        }
        AdminCommand::Quit { yes } => admin.quit(yes),
    };
    result.unwrap_or_else(|error| admin.report(&error))
}

fn bytes(group: impl AsRef<OsStr>) -> Bytes {
    group.as_ref().as_bytes().into()
}

struct Admin {
    endpoint: AdminEndpoint,
    output: Output,
}

impl Admin {
    fn connect(&self) -> Result<ControlClient, AdminError> {
        let AdminEndpoint { control_socket: control, socket } = &self.endpoint;
        let path = control_socket(control.clone(), socket.clone());
        ControlClient::open(path.ok_or(AdminError::NoDefaultServer)?)
    }

    fn create(&self, group: Bytes, secret_file: Option<PathBuf>) -> Result<u8, AdminError> {
        // Connects first, so that no file is created when there is no server.
        let mut server = self.connect()?;
        let mut file = secret_file.map(SecretFile::open).transpose()?;
        let secret = file.as_ref().and_then(SecretFile::secret);
        let has_secret = secret.is_some();
        let response = server.request(&AdminRequest::Create { group, secret })?;
        let AdminResponse::Created { group, secret } = &response else {
            return Err(server.unexpected());
        };
        if let Some(file) = &mut file {
            file.save(secret)?;
        }
        let file = file.as_ref().map(SecretFile::path);
        if self.output.is_json() {
            let mut object = JsonObject::new();
            object.bytes("group", &group.0);
            match file {
                None => object.bytes("secret", &secret.0),
                Some(file) => object.bytes("secret_file", file.as_os_str().as_bytes()),
            }
            return print_json(object);
        }
        match file {
            None if io::stdout().is_terminal() => print(format_args!(
                "The group {group} was created. Applications join it with the secret {secret}\n"
            )),
            None => print(format_args!("{secret}\n")),
            Some(file) if has_secret => self.confirm(format_args!(
                "The group {group} was created with the secret of {}.",
                file.display()
            )),
            Some(file) => self.confirm(format_args!(
                "The group {group} was created. Its secret is in {}.",
                file.display()
            )),
        }
    }

    fn delete(&self, groups: &[OsString]) -> Result<u8, AdminError> {
        let (mut deleted, mut failed) = (Vec::new(), None);
        let mut server = self.connect()?;
        for group in groups {
            match server.request(&AdminRequest::Delete { group: bytes(group) }) {
                Ok(AdminResponse::Deleted { group }) => {
                    if !self.output.is_json() {
                        self.confirm(format_args!("The group {group} was deleted."))?;
                    }
                    deleted.push(group);
                }
                // A refusal concerns this group only.
                Err(error @ AdminError::Refused { .. }) => {
                    let code = self.report(&error);
                    failed.get_or_insert(code);
                }
                Ok(_) => return Err(server.unexpected()),
                Err(error) => return Err(error),
            }
        }
        if self.output.is_json() && !deleted.is_empty() {
            let mut object = JsonObject::new();
            object.bytes_list("deleted", deleted.iter().map(|group| group.0.as_slice()));
            print_json(object)?;
        }
        Ok(failed.unwrap_or(0))
    }

    fn info(&self, group: Bytes) -> Result<u8, AdminError> {
        let mut server = self.connect()?;
        let response = server.request(&AdminRequest::Info { group })?;
        let AdminResponse::Info { group, secret, pairs } = response else {
            return Err(server.unexpected());
        };
        if self.output.is_json() {
            let mut object = JsonObject::new();
            object.bytes("group", &group.0);
            object.bytes("secret", &secret.0);
            object.number("pairs", pairs);
            return print_json(object);
        }
        print(format_args!("group:   {group}\nsecret:  {secret}\npairs:   {pairs}\n"))
    }

    fn status(&self, group: Option<Bytes>, connected: bool) -> Result<u8, AdminError> {
        let mut server = self.connect()?;
        let mut groups: Vec<GroupStatus> = Vec::new();
        server.send(&AdminRequest::Status { group })?;
        loop {
            let AdminResponse::Status { groups: part, more } = server.receive(false)? else {
                return Err(server.unexpected());
            };
            for mut next in part {
                next.applications
                    .retain(|application| !connected || application.closed_at.is_none());
                // A group whose applications do not fit into one line continues in the next.
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
            return print_json(status_json(&groups));
        }
        if groups.is_empty() {
            return self.confirm("There is no group. kvs admin create creates one.");
        }
        print(status_table(&groups, SystemTime::now()))
    }

    fn quit(&self, yes: bool) -> Result<u8, AdminError> {
        let mut server = self.connect()?;
        if !yes && io::stdin().is_terminal() && !ask_for_confirmation()? {
            return self.confirm("The server was left running.");
        }
        match server.request(&AdminRequest::Quit {})? {
            AdminResponse::Quitting {} => server.wait_for_shutdown()?,
            _ => return Err(server.unexpected()),
        }
        if self.output.is_json() {
            let mut object = JsonObject::new();
            object.value("quit", true.into());
            return print_json(object);
        }
        self.confirm("The server has shut down.")
    }

    /// Prints what was done, if a person is at the terminal.
    fn confirm(&self, message: impl Display) -> Result<u8, AdminError> {
        if io::stderr().is_terminal() || io::stdout().is_terminal() {
            eprintln!("{message}");
        }
        Ok(0)
    }

    /// Reports an error. Returns its exit code.
    fn report(&self, error: &AdminError) -> u8 {
        let (name, exit_code) = (error.name(), error.exit_code());
        self.output.error(&Error::Classified { name, message: error.to_string(), exit_code });
        exit_code
    }
}

fn print(text: impl Display) -> Result<u8, AdminError> {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(0),
        // It is not an error that a reader has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(AdminError::Output(error)),
    }
}

fn print_json(object: JsonObject) -> Result<u8, AdminError> {
    print(format_args!("{object}\n"))
}

fn ask_for_confirmation() -> Result<bool, AdminError> {
    eprint!("All groups and pairs of the server will be lost. Continue? [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(AdminError::Input)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
