//! The operations of an administrator, for the console and the control socket.
//!
//! Several administrators may work at once. The creation and the deletion of one group id exclude
//! each other ([`KeyedLock`]), from the first check to the last step and while the directory is
//! asked in between: otherwise a late deletion could hit a group that was created again meanwhile.
//! Operations on different ids do not wait for each other, and applications need none of these
//! locks.
//!
//! The threads that call these operations may block: they wait for the directory.

use std::sync::Arc;
use std::time::Duration;

use kvs_proto::link::original::{SECRET_LEN, is_storable_secret};
use kvs_proto::{Text, TextError};
use rand::distr::{Alphanumeric, SampleString};

use crate::directory::{self, Directory, Unavailable};
use crate::local::admin::keyed_lock::KeyedLock;
use crate::local::group::group::Group;
use crate::local::group::registry::Groups;
use crate::local::session::close_reason::CLOSE_TIMEOUT;
use crate::shutdown::{Reason, Shutdown};

/// The length of a generated secret, whose characters are of `0-9a-zA-Z`.
const GENERATED_SECRET_LEN: usize = 5;

/// The longest secret: on the link a NUL follows it (`docs/PROTOCOL.md` §4).
const MAX_SECRET_LEN: usize = SECRET_LEN - 1;

/// The operations of an administrator.
#[derive(Debug)]
pub(crate) struct Administration {
    groups: Arc<Groups>,
    directory: Arc<dyn Directory>,
    shutdown: Shutdown,
    group_locks: KeyedLock<Text>,
}

/// The reason why bytes are not a valid group id or secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidText {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// The protocol cannot carry it.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A secret that is too long for the authentication server.
    #[error("it has {0} bytes, at most {MAX_SECRET_LEN} are allowed")]
    SecretTooLong(usize),
}

/// Why a group was not created.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// The id is taken, here or on another machine.
    Exists,
    /// The directory gave no response.
    Unavailable(Unavailable),
}

/// Why an operation on an existing group failed.
#[derive(Debug)]
pub(crate) enum GroupError {
    /// This server has no such group.
    NotFound,
    /// The directory gave no response; nothing has changed.
    Unavailable(Unavailable),
}

/// The information about a group that administrators see.
#[derive(Debug)]
pub(crate) struct GroupSummary {
    /// The secret that the directory has.
    pub(crate) secret: Text,
    /// The number of pairs.
    pub(crate) pairs: usize,
}

/// Checks a group id.
pub(crate) fn group_id(bytes: &[u8]) -> Result<Text, InvalidText> {
    match Text::new(bytes)? {
        id if id.is_empty() => Err(InvalidText::Empty),
        id => Ok(id),
    }
}

/// Checks a secret that an administrator has chosen.
pub(crate) fn chosen_secret(bytes: &[u8]) -> Result<Text, InvalidText> {
    match Text::new(bytes)? {
        secret if secret.is_empty() => Err(InvalidText::Empty),
        secret if !is_storable_secret(&secret) => Err(InvalidText::SecretTooLong(bytes.len())),
        secret => Ok(secret),
    }
}

fn generate_secret() -> Text {
    let secret = Alphanumeric.sample_string(&mut rand::rng(), GENERATED_SECRET_LEN);
    Text::new(secret.as_bytes()).expect("letters and digits are valid text")
}

impl Administration {
    /// Operations on these groups and this directory.
    pub(crate) fn new(
        groups: Arc<Groups>,
        directory: Arc<dyn Directory>,
        shutdown: Shutdown,
    ) -> Self {
        Self { groups, directory, shutdown, group_locks: KeyedLock::default() }
    }

    /// Creates a group with this secret, or a generated one. Returns the secret.
    pub(crate) fn create(&self, id: Text, secret: Option<Text>) -> Result<Text, CreateError> {
        let _guard = self.group_locks.lock(id);
        if self.groups.find(&id).is_some() {
            return Err(CreateError::Exists);
        }
        let secret = secret.unwrap_or_else(generate_secret);
        match directory::wait(|done| self.directory.create(id, secret, done)) {
            Ok(true) => {
                self.groups.add(id, secret);
                tracing::debug!(group = ?id, "group created");
                Ok(secret)
            }
            Ok(false) => Err(CreateError::Exists),
            Err(error) => Err(CreateError::Unavailable(error)),
        }
    }

    /// Deletes a group in the directory, disconnects its applications, and removes it here. Without
    /// a response of the directory, everything stays as it was.
    pub(crate) fn delete(&self, id: Text) -> Result<(), GroupError> {
        let _guard = self.group_locks.lock(id);
        let group = self.groups.find(&id).ok_or(GroupError::NotFound)?;
        group.begin_closing();
        if let Err(error) = directory::wait(|done| self.directory.delete(id, done)) {
            group.reopen();
            return Err(GroupError::Unavailable(error));
        }
        close_applications(&group);
        self.groups.remove(&id);
        tracing::debug!(group = ?id, "group deleted");
        Ok(())
    }

    /// Looks up the secret of a group and counts its pairs.
    pub(crate) fn info(&self, id: Text) -> Result<GroupSummary, GroupError> {
        let group = self.groups.find(&id).ok_or(GroupError::NotFound)?;
        match directory::wait(|done| self.directory.secret(id, done)) {
            Ok(Some(secret)) => Ok(GroupSummary { secret, pairs: group.pairs() }),
            Ok(None) => Err(GroupError::NotFound),
            Err(error) => Err(GroupError::Unavailable(error)),
        }
    }

    /// Finds a group.
    pub(crate) fn group(&self, id: &Text) -> Option<Arc<Group>> {
        self.groups.find(id)
    }

    /// All groups, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        self.groups.all()
    }

    /// Shuts the server down.
    pub(crate) fn quit(&self, reason: Reason) {
        self.shutdown.request(reason);
    }

    /// Whether the server is quitting, which deletes its groups.
    pub(crate) fn is_quitting(&self) -> bool {
        self.shutdown.reason().is_some()
    }
}

/// Closes a group for good: disconnects its applications and waits until they are gone.
pub(crate) fn close_applications(group: &Group) {
    for subscriber in group.close() {
        subscriber.request_close();
    }
    // The reactors close them within `CLOSE_TIMEOUT`; twice that is for a very busy machine.
    let left = group.wait_until_empty(CLOSE_TIMEOUT * 2 + Duration::from_secs(1));
    if left > 0 {
        tracing::warn!(
            group = ?group.name(),
            "group closed, but {left} applications are still connected"
        );
    }
}
