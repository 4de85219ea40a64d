//! The administrator's commands, in the words of the console.

use std::io::BufRead;
use std::sync::Arc;

use kvs_proto::Text;

use crate::console::{Input, Output, UNKNOWN_COMMAND};
use crate::local::admin::administration::{Administration, NoGroup, NotCreated, group_id};
use crate::local::admin::status;
use crate::local::group::group::Group;
use crate::shutdown::Reason;

/// What may be typed on the console of a local server.
pub const COMMANDS: [&str; 5] =
    ["Create group", "Delete group", "Show group info", "Show application status", "Quit"];

/// The dialogue of a local server.
#[derive(Debug)]
pub(crate) struct Commands {
    /// What is done.
    pub(crate) administration: Arc<Administration>,
    /// Where answers go.
    pub(crate) output: Output,
}

impl Commands {
    /// Reads and obeys until the end of the input.
    pub(crate) fn run(&self, mut input: Input<impl BufRead>) {
        while let Some(line) = input.line() {
            // Whoever has asked the server to quit, its groups are on their way out.
            if self.administration.is_ending() {
                return;
            }
            match line.as_slice() {
                b"Create group" => self.with_group_id(&mut input, |name| self.create(name)),
                b"Delete group" => self.with_group_id(&mut input, |name| self.delete(name)),
                b"Show group info" => self.with_group_id(&mut input, |name| self.info(name)),
                b"Show application status" => self.status(),
                // On a terminal, the editor reads on: what is said before the end is printed by it.
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
            Err(NotCreated::Exists) => self.output.say("Group id already exists"),
            Err(NotCreated::Unavailable(error)) => {
                self.output.say(format_args!("Group not created: {error}"));
            }
        }
    }

    fn delete(&self, name: Text) {
        match self.administration.delete(name) {
            Ok(()) => self.output.say("Group deleted!"),
            Err(NoGroup::NotFound) => self.output.say("Group id doesn't exist"),
            Err(NoGroup::Unavailable(error)) => {
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
            Err(NoGroup::NotFound) => self.output.say("Group id not found!"),
            Err(NoGroup::Unavailable(error)) => {
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
