//! The administrator's commands.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::Text;
use rand::distr::{Alphanumeric, SampleString};

use super::auth_link::{AuthLink, Unavailable};
use super::groups::{Group, Groups};
use super::session::CLOSE_PATIENCE;
use super::status;
use crate::console::{Input, Output, UNKNOWN_COMMAND};
use crate::shutdown::{Reason, Shutdown};

/// The characters of a secret, each of `0-9a-zA-Z`.
const SECRET_LEN: usize = 5;

/// The dialogue of a local server.
#[derive(Debug)]
pub(crate) struct Commands {
    /// All groups.
    pub(crate) groups: Arc<Groups>,
    /// Who asks the authentication server.
    pub(crate) auth: AuthLink,
    /// Where answers go.
    pub(crate) output: Output,
    /// For `Quit`.
    pub(crate) shutdown: Shutdown,
}

impl Commands {
    /// Reads and obeys until the end of the input.
    pub(crate) fn run(&self, mut input: Input<impl BufRead>) {
        while let Some(line) = input.line() {
            // Whoever has asked the server to quit, its groups are on their way out.
            if self.shutdown.reason().is_some() {
                return;
            }
            match line.as_slice() {
                b"Create group" => self.with_group_id(&mut input, |name| self.create(name)),
                b"Delete group" => self.with_group_id(&mut input, |name| self.delete(name)),
                b"Show group info" => self.with_group_id(&mut input, |name| self.info(name)),
                b"Show application status" => self.status(),
                b"Quit" => self.shutdown.request(Reason::Console),
                _ => self.output.say(UNKNOWN_COMMAND),
            }
        }
    }

    fn with_group_id(&self, input: &mut Input<impl BufRead>, command: impl FnOnce(Text)) {
        self.output.say("Insert group id:");
        let Some(line) = input.line() else { return };
        match Text::new(&line) {
            Ok(name) if !name.is_empty() => command(name),
            Ok(_) => self.output.say("Invalid group id: it is empty"),
            Err(error) => self.output.say(format_args!("Invalid group id: {error}")),
        }
    }

    fn create(&self, name: Text) {
        if self.groups.find(&name).is_some() {
            self.output.say("Group id already exists");
            return;
        }
        let secret = Alphanumeric.sample_string(&mut rand::rng(), SECRET_LEN);
        let secret = Text::new(secret.as_bytes()).expect("it has five letters and digits");
        match self.auth.create(name, secret) {
            Ok(true) => {
                self.groups.add(name, secret);
                tracing::debug!(group = ?name, "created");
                self.output.say(format_args!("Group created with secret {secret}!"));
            }
            Ok(false) => self.output.say("Group id already exists"),
            Err(error) => self.output.say(format_args!("Group not created: {error}")),
        }
    }

    fn delete(&self, name: Text) {
        let Some(group) = self.groups.find(&name) else {
            self.output.say("Group id doesn't exist");
            return;
        };
        match close_group(&self.groups, &self.auth, &group) {
            Ok(()) => {
                tracing::debug!(group = ?name, "deleted");
                self.output.say("Group deleted!");
            }
            Err(error) => self.output.say(format_args!("Group not deleted: {error}")),
        }
    }

    fn info(&self, name: Text) {
        let Some(group) = self.groups.find(&name) else {
            self.output.say("Group id not found!");
            return;
        };
        match self.auth.secret_now(name) {
            Ok(Some(secret)) => self.output.say(format_args!(
                "Name: {name}\nSecret: {secret}\nNumber of key-value pairs: {}",
                group.pairs()
            )),
            Ok(None) => self.output.say("Group id not found!"),
            Err(error) => self.output.say(format_args!("Group info not available: {error}")),
        }
    }

    fn status(&self) {
        for group in self.groups.all() {
            self.output.say(status::describe(&group));
        }
    }
}

/// Deletes the group at the authentication server, closes its applications, and forgets it here. When the
/// authentication server cannot be asked, everything stays as it was.
fn close_group(groups: &Groups, auth: &AuthLink, group: &Group) -> Result<(), Unavailable> {
    group.begin_closing();
    if let Err(error) = auth.delete(group.name()) {
        group.reopen();
        return Err(error);
    }
    close_applications(group);
    groups.remove(&group.name());
    Ok(())
}

/// Closes the applications of a group for good, and waits until they have gone.
pub(super) fn close_applications(group: &Group) {
    for watcher in group.close() {
        watcher.close();
    }
    // The reactors see to it within `CLOSE_PATIENCE`; twice that is for a machine that is very busy.
    let left = group.wait_until_empty(CLOSE_PATIENCE * 2 + Duration::from_secs(1));
    if left > 0 {
        tracing::warn!(group = ?group.name(), "{left} applications have not closed yet");
    }
}
