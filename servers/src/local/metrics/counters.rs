//! All counters of a server, and each thread's access to its own.

use std::sync::Arc;
use std::time::SystemTime;

use super::events::EventCounters;
use super::labels::{LoginOutcome, end_index, failed_login};
use super::link::LinkCounters;
use super::recorder::{OpRecorder, ReactorCounters};
use crate::local::session::close_reason::CloseReason;

/// All counters.
#[derive(Debug)]
pub(super) struct AllCounters {
    pub(super) started: SystemTime,
    pub(super) reactors: Box<[ReactorCounters]>,
    pub(super) events: EventCounters,
    pub(super) link: LinkCounters,
}

impl AllCounters {
    fn new(reactors: usize) -> Self {
        Self {
            started: SystemTime::now(),
            reactors: (0..reactors).map(|_| ReactorCounters::default()).collect(),
            events: EventCounters::new(),
            link: LinkCounters::new(),
        }
    }
}

/// The counters of a server, created before its threads; counts nothing with metrics off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters(Option<Arc<AllCounters>>);

impl Counters {
    /// Counters for this many reactors.
    pub(crate) fn new(reactors: usize) -> Self {
        Self(Some(Arc::new(AllCounters::new(reactors))))
    }

    /// The counters of one reactor, for its thread alone.
    pub(crate) fn of_reactor(&self, number: usize) -> Metrics {
        let own = self.0.as_ref().filter(|all| number < all.reactors.len());
        Metrics(own.map(|all| (Arc::clone(all), number)))
    }

    /// The counters of the link to the authentication server.
    pub(crate) fn of_link(&self) -> LinkCounters {
        self.0.as_ref().map_or_else(LinkCounters::default, |all| all.link.clone())
    }

    /// All counters; all of them zero with metrics off.
    pub(super) fn all(self) -> Arc<AllCounters> {
        self.0.unwrap_or_else(|| Arc::new(AllCounters::new(0)))
    }
}

/// The counters of one reactor, its sessions and its listeners. Only the thread of the reactor may
/// use them. Counts nothing with metrics off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(Option<(Arc<AllCounters>, usize)>);

impl Metrics {
    fn own(&self) -> Option<&ReactorCounters> {
        self.0.as_ref().and_then(|(all, reactor)| all.reactors.get(*reactor))
    }

    /// A login is over.
    pub(crate) fn login(&self, outcome: LoginOutcome) {
        if let Some(counters) = self.own() {
            counters.logins[outcome as usize].add(1);
        }
    }

    /// A session is closed, after its login was complete or during it.
    pub(crate) fn end(&self, reason: &CloseReason, is_logged_in: bool) {
        let Some(counters) = self.own() else { return };
        if is_logged_in {
            counters.ends[end_index(reason)].add(1);
        } else {
            counters.logins[failed_login(reason) as usize].add(1);
        }
    }

    /// The recorder for one time slice of a session.
    pub(crate) fn op_recorder(&self) -> OpRecorder<'_> {
        OpRecorder::new(self.own())
    }

    /// The counters of change events.
    pub(crate) fn event_counters(&self) -> EventCounters {
        self.0.as_ref().map_or_else(EventCounters::default, |(all, _)| all.events.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_are_off_have_no_counters() {
        let metrics = Metrics::default();
        assert!(metrics.own().is_none());
        assert!(metrics.event_counters().0.is_none());
        assert!(Counters::new(1).of_reactor(1).own().is_none());
        assert!(Counters::new(1).of_reactor(0).own().is_some());
    }
}
