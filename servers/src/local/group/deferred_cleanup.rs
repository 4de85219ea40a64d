//! Removes the subscriptions of an application that has left; there may be millions.
//!
//! The application's reactor removes them one time slice at a time, and serves other sessions in
//! between. A subscription is charged to its user until it is removed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::local::group::group::Group;
use crate::local::group::members::RemainingSubscriptions;
use crate::local::net::mailbox::Task;

/// Subscriptions that are still to be removed from the index.
#[derive(Debug)]
pub(crate) struct DeferredCleanup {
    /// The group whose index still contains them.
    pub(crate) group: Arc<Group>,
    /// The subscriptions to remove.
    pub(crate) subscriptions: RemainingSubscriptions,
}

impl DeferredCleanup {
    /// Removes subscriptions for about `time`, and returns the rest. The caller must hold no lock.
    fn reap(mut self, time: Duration) -> Option<Self> {
        let begin = Instant::now();
        while !self.group.reap(&mut self.subscriptions) {
            if begin.elapsed() >= time {
                return Some(self);
            }
        }
        None
    }
}

impl Task for DeferredCleanup {
    fn run(self: Box<Self>, time_slice: Duration) -> Option<Box<dyn Task>> {
        self.reap(time_slice).map(|rest| Box::new(rest) as Box<dyn Task>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::group::group::REAP_BATCH;
    use crate::local::group::registry::Groups;
    use crate::local::group::submission::{Requester, Submission};
    use crate::local::group::subscriber::Subscriber;
    use crate::local::limits::quota::{Quotas, UserQuota};
    use crate::local::metrics::events::EventCounters;
    use crate::local::net::mailbox::{Address, Mailbox, SessionId};
    use crate::local::net::reactor::Reactor;
    use kvs_proto::Protocol;
    use kvs_proto::Text;
    use kvs_proto::v2::request::WatchTarget;

    const MANY: usize = REAP_BATCH * 4 + 1;

    fn subscriber(mailbox: &Arc<Mailbox>, user: &Arc<UserQuota>) -> Arc<Subscriber> {
        let address = Address { mailbox: Arc::clone(mailbox), session: SessionId(0) };
        Arc::new(Subscriber::v1(address, Arc::clone(user), EventCounters::default()))
    }

    #[test]
    fn subscriptions_are_reaped_in_batches_and_count_until_then() {
        let (groups, name) = (Groups::default(), Text::new(b"g").unwrap());
        groups.add(name, name);
        let group = groups.find(&name).unwrap();
        let (_poll, mailbox) = Reactor::prepare().unwrap();
        let (user, guest) = (Quotas::user_with(0, 0), Quotas::user_with(0, 0));
        let number = group.join(1, Protocol::V1, subscriber(&mailbox, &user)).unwrap();
        let other = group.join(2, Protocol::V1, subscriber(&mailbox, &guest)).unwrap();
        for n in 0..MANY {
            let _ = group.subscribe(WatchTarget::Prefix(&n.to_le_bytes()), number, &user);
        }
        let last = (MANY - 1).to_le_bytes();
        let _ = group.subscribe(WatchTarget::Prefix(&last), other, &guest);
        let one = user.taken().1 / MANY as u64;
        let (mut left, mut expected) = (group.leave(number), MANY);
        while let Some(subscriptions) = left {
            expected -= REAP_BATCH;
            // Those that are left, and that of the other application, which alone is notified.
            assert_eq!(
                (user.taken().1, group.subscription_count()),
                (one * expected as u64, expected + 1)
            );
            let requester = Requester { user: &guest, completion: &mut || Box::new(drop) };
            let Submission::Done(put) = group.put_unchecked(&last, b"", requester) else {
                panic!("the memory store decides at once")
            };
            assert_eq!(put.fan_out(), 1);
            let applications = group.client_status();
            assert!(
                applications[0].1.subscriptions.is_empty()
                    && applications[1].1.subscriptions.len() == 1
            );
            let rest = DeferredCleanup { group: Arc::clone(&group), subscriptions };
            left = rest.reap(Duration::ZERO).map(|rest| rest.subscriptions);
        }
        assert_eq!((user.taken().1, group.subscription_count(), expected), (0, 1, 1));
    }
}
