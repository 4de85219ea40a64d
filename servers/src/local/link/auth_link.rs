//! The handle of the link: the [`Directory`] that the local server uses.

use std::fmt;
use std::sync::Arc;

use kvs_proto::Text;

use super::jobs::{Job, JobQueue};
use crate::directory::{Completion, Directory};

/// Sends requests to the thread of the link. Clones share one link.
#[derive(Clone)]
pub(crate) struct AuthLink {
    queue: Arc<JobQueue>,
}

impl fmt::Debug for AuthLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthLink")
    }
}

impl AuthLink {
    pub(super) fn new(queue: Arc<JobQueue>) -> Self {
        Self { queue }
    }

    /// Disconnects from the authentication server and ends the thread.
    pub(crate) fn disconnect(&self) {
        self.queue.push(Job::Disconnect);
    }

    /// Ends the thread without notifying the authentication server.
    pub(crate) fn stop(&self) {
        self.queue.push(Job::Stop);
    }
}

impl Directory for AuthLink {
    fn secret(&self, name: Text, done: Completion<Option<Text>>) {
        self.queue.push(Job::Secret(name, done));
    }

    fn create(&self, name: Text, secret: Text, done: Completion<bool>) {
        self.queue.push(Job::Create { name, secret, done });
    }

    fn delete(&self, name: Text, done: Completion<()>) {
        self.queue.push(Job::Delete(name, done));
    }
}
