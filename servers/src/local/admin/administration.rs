//! What an administrator can have done, whether on the console (`commands`) or over the control socket (`control`).
//!
//! Several may be at it at once. What happens to one group id happens one after the other: whoever creates or deletes
//! it has its *turn* ([`Turns`]) from the first look to the last step, while the authentication server is asked in between.
//! Otherwise a deletion that is late could hit a group that was created anew meanwhile. Different ids do not wait for each other
//! here. A turn is no lock of anything that applications need.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kvs_proto::link::original::{SECRET_LEN, is_storable_secret};
use kvs_proto::{Text, TextError};
use parking_lot::{Condvar, Mutex};
use rand::distr::{Alphanumeric, SampleString};

use crate::directory::{self, Directory, Unavailable};
use crate::local::group::group::Group;
use crate::local::group::registry::Groups;
use crate::local::session::close_reason::CLOSE_TIMEOUT;
use crate::shutdown::{Reason, Shutdown};

/// The characters of a secret that is made here, each of `0-9a-zA-Z`.
const MADE_UP: usize = 5;

/// The longest secret: it travels with a NUL (`docs/PROTOCOL.md` §4).
const MAX_SECRET: usize = SECRET_LEN - 1;

/// The operations.
#[derive(Debug)]
pub(crate) struct Administration {
    groups: Arc<Groups>,
    directory: Arc<dyn Directory>,
    shutdown: Shutdown,
    turns: Turns,
}

/// Why bytes are no group id, or no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// No text of the protocol.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A secret that the authentication server has no room for.
    #[error("it has {0} bytes, at most {MAX_SECRET} are allowed")]
    LongSecret(usize),
}

/// A group was not created.
#[derive(Debug)]
pub(crate) enum NotCreated {
    /// The id is taken, here or on another machine.
    Exists,
    /// It could not be asked for.
    Unavailable(Unavailable),
}

/// A group that was asked for could not be had.
#[derive(Debug)]
pub(crate) enum NoGroup {
    /// It is not one of this server.
    NotFound,
    /// The authentication server could not be asked; nothing has changed.
    Unavailable(Unavailable),
}

/// What is told of a group.
#[derive(Debug)]
pub(crate) struct Info {
    /// As the authentication server has it.
    pub(crate) secret: Text,
    /// How many.
    pub(crate) pairs: usize,
}

/// Checks a group id.
pub(crate) fn group_id(bytes: &[u8]) -> Result<Text, Invalid> {
    match Text::new(bytes)? {
        id if id.is_empty() => Err(Invalid::Empty),
        id => Ok(id),
    }
}

/// Checks a secret that somebody has chosen.
pub(crate) fn chosen_secret(bytes: &[u8]) -> Result<Text, Invalid> {
    match Text::new(bytes)? {
        secret if secret.is_empty() => Err(Invalid::Empty),
        secret if !is_storable_secret(&secret) => Err(Invalid::LongSecret(bytes.len())),
        secret => Ok(secret),
    }
}

fn made_up() -> Text {
    let secret = Alphanumeric.sample_string(&mut rand::rng(), MADE_UP);
    Text::new(secret.as_bytes()).expect("it has five letters and digits")
}

impl Administration {
    /// Of these groups.
    pub(crate) fn new(
        groups: Arc<Groups>,
        directory: Arc<dyn Directory>,
        shutdown: Shutdown,
    ) -> Self {
        Self { groups, directory, shutdown, turns: Turns::default() }
    }

    /// Makes a group with this secret, or one that is made up here; returns it. Waits for the authentication server.
    pub(crate) fn create(&self, id: Text, secret: Option<Text>) -> Result<Text, NotCreated> {
        let _turn = self.turns.take(id);
        if self.groups.find(&id).is_some() {
            return Err(NotCreated::Exists);
        }
        let secret = secret.unwrap_or_else(made_up);
        match directory::wait(|done| self.directory.create(id, secret, done)) {
            Ok(true) => {
                self.groups.add(id, secret);
                tracing::debug!(group = ?id, "created");
                Ok(secret)
            }
            Ok(false) => Err(NotCreated::Exists),
            Err(error) => Err(NotCreated::Unavailable(error)),
        }
    }

    /// Deletes a group at the authentication server, closes its applications, and forgets it here. When the
    /// authentication server cannot be asked, everything stays as it was.
    pub(crate) fn delete(&self, id: Text) -> Result<(), NoGroup> {
        let _turn = self.turns.take(id);
        let group = self.groups.find(&id).ok_or(NoGroup::NotFound)?;
        group.begin_closing();
        if let Err(error) = directory::wait(|done| self.directory.delete(id, done)) {
            group.reopen();
            return Err(NoGroup::Unavailable(error));
        }
        close_applications(&group);
        self.groups.remove(&id);
        tracing::debug!(group = ?id, "deleted");
        Ok(())
    }

    /// Asks the authentication server for the secret, and counts the pairs.
    pub(crate) fn info(&self, id: Text) -> Result<Info, NoGroup> {
        let group = self.groups.find(&id).ok_or(NoGroup::NotFound)?;
        match directory::wait(|done| self.directory.secret(id, done)) {
            Ok(Some(secret)) => Ok(Info { secret, pairs: group.pairs() }),
            Ok(None) => Err(NoGroup::NotFound),
            Err(error) => Err(NoGroup::Unavailable(error)),
        }
    }

    /// This group.
    pub(crate) fn group(&self, id: &Text) -> Option<Arc<Group>> {
        self.groups.find(id)
    }

    /// All groups, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        self.groups.all()
    }

    /// Ends the server.
    pub(crate) fn quit(&self, reason: Reason) {
        self.shutdown.request(reason);
    }

    /// Whether the server is ending: its groups are on their way out.
    pub(crate) fn is_ending(&self) -> bool {
        self.shutdown.reason().is_some()
    }
}

/// Closes the applications of a group for good, and waits until they have gone.
pub(crate) fn close_applications(group: &Group) {
    for subscriber in group.close() {
        subscriber.request_close();
    }
    // The reactors see to it within `CLOSE_TIMEOUT`; twice that is for a machine that is very busy.
    let left = group.wait_until_empty(CLOSE_TIMEOUT * 2 + Duration::from_secs(1));
    if left > 0 {
        tracing::warn!(group = ?group.name(), "{left} applications have not closed yet");
    }
}

/// Whose turn it is at which group id.
#[derive(Debug, Default)]
struct Turns {
    taken: Mutex<HashSet<Text>>,
    given_back: Condvar,
}

/// Given back when it is dropped.
struct Turn<'a>(&'a Turns, Text);

impl Turns {
    /// Waits until nobody else has it.
    fn take(&self, id: Text) -> Turn<'_> {
        let mut taken = self.taken.lock();
        while !taken.insert(id) {
            self.given_back.wait(&mut taken);
        }
        Turn(self, id)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.taken.lock().remove(&self.1);
        self.0.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn one_at_a_time_for_each_id_and_never_another_waits() {
        let turns = Turns::default();
        let id = |name: &str| Text::new(name.as_bytes()).unwrap();
        let _other = turns.take(id("other"));
        let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _turn = turns.take(id("g"));
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        total.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 1600);
        assert_eq!(turns.taken.lock().len(), 1);
    }
}
