//! The console of a local server: commands from standard input, responses to standard output.

use std::io::BufRead;
use std::sync::Arc;

use kvs_proto::Text;

use crate::console::{Input, Output, UNKNOWN_COMMAND};
use crate::local::admin::administration::{Administration, CreateError, GroupError, group_id};
use crate::local::admin::status;
use crate::local::group::group::Group;
use crate::shutdown::Reason;

/// The commands of the console of a local server.
pub const COMMANDS: [&str; 5] =
    ["Create group", "Delete group", "Show group info", "Show application status", "Quit"];

/// The console of a local server.
#[derive(Debug)]
pub(crate) struct AdminConsole {
    /// The operations.
    pub(crate) administration: Arc<Administration>,
    /// Where responses are printed.
    pub(crate) output: Output,
}

impl AdminConsole {
    /// Carries out commands until the end of the input.
    pub(crate) fn run(&self, mut input: Input<impl BufRead>) {
        while let Some(line) = input.line() {
            // The server is quitting, so its groups are being deleted.
            if self.administration.is_quitting() {
                return;
            }
            match line.as_slice() {
                b"Create group" => self.with_group_id(&mut input, |name| self.create(name)),
                b"Delete group" => self.with_group_id(&mut input, |name| self.delete(name)),
                b"Show group info" => self.with_group_id(&mut input, |name| self.info(name)),
                b"Show application status" => self.status(),
                // On a terminal, the line editor continues: it prints the last lines.
                b"Quit" => self.administration.quit(Reason::Console),
                _ => self.output.say(UNKNOWN_COMMAND),
            }
        }
    }

    fn with_group_id(&self, input: &mut Input<impl BufRead>, command: impl FnOnce(Text)) {
        self.output.say("Insert group id:");
        let administration = Arc::clone(&self.administration);
        let ids = move || {
            let groups = administration.all();
            let id = |group: &Arc<Group>| str::from_utf8(group.name().as_bytes()).map(String::from);
            groups.iter().filter_map(|group| id(group).ok()).collect()
        };
        let Some(line) = input.line_among(ids) else { return };
        match group_id(&line) {
            Ok(name) => command(name),
            Err(error) => self.output.say(format_args!("Invalid group id: {error}")),
        }
    }

    fn create(&self, name: Text) {
        match self.administration.create(name, None) {
            Ok(secret) => self.output.say(format_args!("Group created with secret {secret}!")),
            Err(CreateError::Exists) => self.output.say("Group id already exists"),
            Err(CreateError::Unavailable(error)) => {
                self.output.say(format_args!("Group not created: {error}"));
            }
        }
    }

    fn delete(&self, name: Text) {
        match self.administration.delete(name) {
            Ok(()) => self.output.say("Group deleted!"),
            Err(GroupError::NotFound) => self.output.say("Group id doesn't exist"),
            Err(GroupError::Unavailable(error)) => {
                self.output.say(format_args!("Group not deleted: {error}"));
            }
        }
    }

    fn info(&self, name: Text) {
        match self.administration.info(name) {
            Ok(info) => self.output.say(format_args!(
                "Name: {name}\nSecret: {}\nNumber of key-value pairs: {}",
                info.secret, info.pairs
            )),
            Err(GroupError::NotFound) => self.output.say("Group id not found!"),
            Err(GroupError::Unavailable(error)) => {
                self.output.say(format_args!("Group info not available: {error}"));
            }
        }
    }

    fn status(&self) {
        for group in self.administration.all() {
            self.output.say(status::describe(&group));
        }
    }
}
