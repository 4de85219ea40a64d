//! The context of the requests of one event: the server, the output, and deferred work.

use crate::local::group::notifications::PendingNotifications;
use crate::local::metrics::recorder::OpRecorder;
use crate::local::net::context::Context;
use crate::local::session::time_budget::TimeBudget;

/// Passed to every request that a session handles during one event.
///
/// Dropping it flushes the notifications and records the operations, however the event ends.
#[derive(Debug)]
pub(super) struct RequestContext<'a> {
    /// The rest of the server.
    pub(super) context: &'a Context,
    /// Collects responses; the session writes them after each read.
    pub(super) output: &'a mut Vec<u8>,
    /// Subscribers to notify when the responses are written.
    pub(super) notifications: PendingNotifications,
    /// The session's time slice.
    pub(super) budget: TimeBudget,
    /// Counts operations and their latency.
    pub(super) recorder: OpRecorder<'a>,
}

impl<'a> RequestContext<'a> {
    /// For an event that begins now. Empties `output`.
    pub(super) fn new(context: &'a Context, output: &'a mut Vec<u8>) -> Self {
        output.clear();
        Self {
            context,
            output,
            notifications: PendingNotifications::default(),
            budget: TimeBudget::new(context.time_slice),
            recorder: context.metrics.op_recorder(),
        }
    }
}
