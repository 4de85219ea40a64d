//! The calls whose responses are outstanding, in the order of their requests.
//!
//! The server answers requests in order, so the map is a queue: a response belongs to the first
//! call in it, or violates the protocol.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use kvs_proto::v2::{FrameHeader, HEADER_LEN, Malformed};

use super::batch::{AllowedReplies, OwnedResponse, RequestBatch};
use super::call_slot::{CallFailure, CallSlot};

#[derive(Debug)]
pub(super) struct RequestMap {
    calls: VecDeque<PendingCall>,
    /// The number of the next request.
    next_number: u32,
}

/// A call with outstanding responses.
#[derive(Debug)]
struct PendingCall {
    /// The number of the next response.
    next_number: u32,
    allowed: Vec<AllowedReplies>,
    /// The responses so far.
    replies: Vec<OwnedResponse>,
    slot: Arc<CallSlot>,
}

impl RequestMap {
    /// An empty map whose first request gets the number `next_number`.
    pub(super) fn new(next_number: u32) -> Self {
        Self { calls: VecDeque::new(), next_number }
    }

    /// Adds a call and returns its requests, numbered.
    pub(super) fn insert(&mut self, batch: RequestBatch, slot: &Arc<CallSlot>) -> Vec<u8> {
        let (count, first) = (batch.count(), self.next_number);
        let RequestBatch { mut frames, allowed } = batch;
        self.next_number = first.wrapping_add(count);
        renumber(&mut frames, first);
        self.calls.push_back(PendingCall {
            next_number: first,
            replies: Vec::with_capacity(allowed.len()),
            allowed,
            slot: Arc::clone(slot),
        });
        frames
    }

    /// Assigns the response to request `number` to its call, and completes the call if that was its
    /// last one.
    pub(super) fn accept(&mut self, number: u32, reply: OwnedResponse) -> Result<(), Malformed> {
        let unexpected = Malformed::Unexpected(number);
        let call = self.calls.front_mut().ok_or(unexpected)?;
        let allowed = call.allowed.get(call.replies.len());
        if number != call.next_number || !allowed.is_some_and(|allowed| allowed.include(&reply)) {
            return Err(unexpected);
        }
        call.replies.push(reply);
        call.next_number = call.next_number.wrapping_add(1);
        if call.replies.len() == call.allowed.len()
            && let Some(call) = self.calls.pop_front()
        {
            call.slot.complete(Ok(call.replies));
        }
        Ok(())
    }

    /// Fails all calls.
    pub(super) fn fail_all(&mut self, failure: impl Fn() -> CallFailure) {
        for call in mem::take(&mut self.calls) {
            call.slot.complete(Err(failure()));
        }
    }

    /// The first call whose thread waits.
    pub(super) fn first_waiting(&self) -> Option<&CallSlot> {
        self.waiting().next()
    }

    /// The calls whose threads wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &CallSlot> {
        self.calls.iter().map(|call| &*call.slot).filter(|slot| slot.is_waiting())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }
}

/// Gives the frames consecutive numbers from `first` on.
fn renumber(frames: &mut [u8], first: u32) {
    let mut rest = frames;
    let mut number = first;
    while rest.len() >= HEADER_LEN {
        let len = FrameHeader::renumber(rest, number);
        rest = rest.split_at_mut(len.min(rest.len())).1;
        number = number.wrapping_add(1);
    }
}
