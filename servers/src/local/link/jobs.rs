//! The queue between the handles of the link and its thread.

use std::mem;

use kvs_proto::Text;
use mio::Waker;
use parking_lot::Mutex;

use crate::directory::{Completion, Unavailable};

/// What the thread is asked to do.
pub(super) enum Job {
    Secret(Text, Completion<Option<Text>>),
    Create {
        name: Text,
        secret: Text,
        done: Completion<bool>,
    },
    Delete(Text, Completion<()>),
    /// Disconnect from the authentication server and end the thread.
    Disconnect,
    /// End the thread.
    Stop,
}

impl Job {
    /// Whether the job is a request that a lost link fails.
    pub(super) fn is_request(&self) -> bool {
        !matches!(self, Self::Disconnect | Self::Stop)
    }

    /// Completes the job with an error.
    pub(super) fn fail(self, error: Unavailable) {
        match self {
            Self::Secret(_, done) => done(Err(error)),
            Self::Create { done, .. } => done(Err(error)),
            Self::Delete(_, done) => done(Err(error)),
            Self::Disconnect | Self::Stop => {}
        }
    }
}

/// The jobs that the thread has not taken yet.
pub(super) struct JobQueue {
    /// `None` once the thread has ended.
    jobs: Mutex<Option<Vec<Job>>>,
    waker: Waker,
}

impl JobQueue {
    /// An empty queue, whose thread `waker` wakes.
    pub(super) fn new(waker: Waker) -> Self {
        Self { jobs: Mutex::new(Some(Vec::new())), waker }
    }

    /// Queues a job and wakes the thread. If the thread has ended, the job fails.
    pub(super) fn push(&self, job: Job) {
        let rejected = match &mut *self.jobs.lock() {
            Some(jobs) => {
                jobs.push(job);
                None
            }
            None => Some(job),
        };
        // Without the lock, because a completion may push the next job.
        if let Some(job) = rejected {
            job.fail(Unavailable::Ended);
            return;
        }
        if let Err(error) = self.waker.wake() {
            tracing::error!("cannot wake the link to the authentication server: {error}");
        }
    }

    /// Takes all queued jobs, the oldest first.
    pub(super) fn take(&self) -> Vec<Job> {
        self.jobs.lock().as_mut().map(mem::take).unwrap_or_default()
    }

    /// The thread ends: fails the queued jobs, and those that are pushed from now on.
    pub(super) fn close(&self) {
        let jobs = self.jobs.lock().take();
        for job in jobs.into_iter().flatten() {
            job.fail(Unavailable::Ended);
        }
    }
}
