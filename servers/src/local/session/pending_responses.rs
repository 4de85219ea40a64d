//! Responses of a protocol v2 session that wait for the store to commit.
//!
//! Responses leave in the order of their requests. So once a write is pending, the response to
//! every later request stays behind it in this queue; without one the queue is empty, allocates
//! nothing, and responses bypass it. The number of pending responses is bounded ([`MAX_PENDING`]).

use std::collections::VecDeque;
use std::time::Instant;

use kvs_proto::v2::Version;
use kvs_proto::v2::request::RequestKind;
use kvs_proto::v2::response::Status;

/// The most responses in the queue. When it is full, the session is not read.
pub(super) const MAX_PENDING: usize = 1024;

/// The responses that wait, in the order of their requests.
#[derive(Debug, Default)]
pub(super) struct PendingResponses {
    queue: VecDeque<PendingResponse>,
    /// The ticket of the first response in the queue; the others count up from it.
    first_ticket: u64,
}

/// A response that waits: for its own commit, or for those before it.
#[derive(Debug)]
pub(super) struct PendingResponse {
    /// The number of the request.
    pub(super) number: u32,
    /// The kind of the request.
    pub(super) kind: RequestKind,
    /// When the request was read, if that is measured.
    pub(super) read_at: Option<Instant>,
    /// What is known of its outcome.
    pub(super) progress: ResponseProgress,
}

/// What is known of the outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseProgress {
    /// The store has not committed it yet.
    Submitted,
    /// The response can be sent. It has no body.
    Completed(Status, Version),
    /// The store has failed, and the session is closed in place of the response.
    Failed,
}

impl PendingResponses {
    /// Whether responses can be sent at once.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether no further request may be served.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_PENDING
    }

    /// The ticket of the next response that is [pushed](Self::push).
    pub(super) fn next_ticket(&self) -> u64 {
        self.first_ticket + self.queue.len() as u64
    }

    /// Appends a response.
    pub(super) fn push(&mut self, response: PendingResponse) {
        self.queue.push_back(response);
    }

    /// The store has committed the write with this ticket, or failed. Ignores unknown tickets.
    pub(super) fn complete(&mut self, ticket: u64, progress: ResponseProgress) {
        let at = ticket.checked_sub(self.first_ticket).and_then(|at| usize::try_from(at).ok());
        if let Some(response) = at.and_then(|at| self.queue.get_mut(at)) {
            response.progress = progress;
        }
    }

    /// Removes the first response if its outcome is known.
    pub(super) fn pop_completed(&mut self) -> Option<PendingResponse> {
        let response =
            self.queue.pop_front_if(|first| first.progress != ResponseProgress::Submitted)?;
        self.first_ticket += 1;
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut PendingResponses, number: u32, progress: ResponseProgress) -> u64 {
        let ticket = queue.next_ticket();
        queue.push(PendingResponse { number, kind: RequestKind::Put, read_at: None, progress });
        ticket
    }

    fn drain(queue: &mut PendingResponses) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop_completed()).map(|response| response.number).collect()
    }

    #[test]
    fn pending_response_holds_back_those_behind_it() {
        let mut queue = PendingResponses::default();
        let done = ResponseProgress::Completed(Status::Ok, 7);
        let first = push(&mut queue, 10, ResponseProgress::Submitted);
        push(&mut queue, 11, done);
        let third = push(&mut queue, 12, ResponseProgress::Submitted);
        queue.complete(third, done);
        assert!(drain(&mut queue).is_empty());
        queue.complete(first, done);
        assert_eq!(drain(&mut queue), [10, 11, 12]);
        assert!(queue.is_empty());
        // Tickets are not reused, so a late completion hits no other request.
        let fourth = push(&mut queue, 13, ResponseProgress::Submitted);
        queue.complete(first, ResponseProgress::Failed);
        assert!(drain(&mut queue).is_empty());
        queue.complete(fourth, done);
        assert_eq!(drain(&mut queue), [13]);
    }

    #[test]
    fn number_of_pending_responses_is_bounded() {
        let mut queue = PendingResponses::default();
        for number in 0..MAX_PENDING as u32 {
            assert!(!queue.is_full());
            push(&mut queue, number, ResponseProgress::Submitted);
        }
        assert!(queue.is_full());
    }
}
