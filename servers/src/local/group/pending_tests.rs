//! A group whose store delays, reorders and fails completions.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvs_proto::v2::request::{EntriesBuilder, WatchTarget};
use kvs_proto::{Protocol, Text};
use kvs_store::testing::{StalledStore, StalledStoreControl};
use kvs_store::{Batch, OwnedBatch, Stamp};
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::local::group::commits::{Commits, QueuedCommit};
use crate::local::group::group::Group;
use crate::local::group::notifications::PendingNotifications;
use crate::local::group::outcome::Outcome;
use crate::local::group::registry::Groups;
use crate::local::group::submission::{CompletionHandler, Requester, Submission};
use crate::local::group::subscriber::Subscriber;
use crate::local::limits::charge::{Charge, Reservation};
use crate::local::limits::limit::Limit;
use crate::local::limits::quota::{Quotas, UserQuota};
use crate::local::metrics::events::EventCounters;
use crate::local::net::mailbox::{Address, SessionId};
use crate::local::net::reactor::Reactor;

/// A group, the control of its store, and the outcomes in the order of their arrival.
struct Fixture {
    group: Arc<Group>,
    control: StalledStoreControl,
    user: Arc<UserQuota>,
    outcomes: Arc<Mutex<Vec<(usize, Outcome)>>>,
    submitted: usize,
}

impl Fixture {
    fn with_quota(pairs: u64, bytes: u64) -> Self {
        let name = Text::new(b"g").unwrap();
        let (store, control) = StalledStore::new();
        Self {
            group: Arc::new(Group::new(name, name, Box::new(store))),
            control,
            user: Quotas::user_with(pairs, bytes),
            outcomes: Arc::default(),
            submitted: 0,
        }
    }

    /// Submits something; a pending submission gets the next number.
    fn submit(
        &mut self,
        submit: impl FnOnce(&Arc<Group>, Requester<'_>) -> Submission,
    ) -> Option<Outcome> {
        let (outcomes, number) = (Arc::clone(&self.outcomes), self.submitted);
        let mut completion = || {
            let outcomes = Arc::clone(&outcomes);
            Box::new(move |outcome| outcomes.lock().push((number, outcome))) as _
        };
        let requester = Requester { user: &self.user, completion: &mut completion };
        match submit(&self.group, requester) {
            Submission::Pending => {
                self.submitted += 1;
                None
            }
            Submission::Done(applied) => {
                Some(applied.schedule(&mut PendingNotifications::default()))
            }
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Option<Outcome> {
        self.submit(|group, requester| group.put(key, value, None, requester))
    }

    fn delete(&mut self, key: &[u8]) -> Option<Outcome> {
        self.submit(|group, requester| group.delete(key, None, requester))
    }

    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.group.get(key, |entry| entry.map(|entry| entry.value.as_bytes().to_vec()))
    }

    fn take_outcomes(&self) -> Vec<(usize, Outcome)> {
        std::mem::take(&mut *self.outcomes.lock())
    }
}

/// The pairs of a `put_many` as a request brings them.
fn entries(pairs: &[(&[u8], &[u8])]) -> EntriesBuilder {
    let mut entries = EntriesBuilder::default();
    pairs.iter().for_each(|(key, value)| entries.push(key, value));
    entries
}

#[test]
fn pending_put_is_reserved_and_applied_when_committed() {
    let mut fixture = Fixture::with_quota(10, 1000);
    assert_eq!(fixture.put(b"key", b"value"), None);
    assert_eq!((fixture.value(b"key"), fixture.user.taken()), (None, (1, 8)));
    fixture.control.complete_all();
    assert_eq!(fixture.take_outcomes(), [(0, Outcome::Stored(1))]);
    assert_eq!(fixture.value(b"key").unwrap(), b"value");
    assert_eq!((fixture.user.taken(), fixture.group.stats().bytes), ((1, 8), 8));
}

#[test]
fn pending_puts_count_for_the_limit_of_their_user() {
    let mut fixture = Fixture::with_quota(2, 1000);
    assert_eq!((fixture.put(b"a", b""), fixture.put(b"b", b"")), (None, None));
    let limit = Some(Outcome::LimitReached(Limit::Pairs));
    assert_eq!(fixture.put(b"c", b""), limit);
    // Whether `a` still exists when this put is committed is not known yet.
    assert_eq!(fixture.put(b"a", b""), limit);
    fixture.control.complete_all();
    assert_eq!((fixture.user.taken(), fixture.put(b"a", b"")), ((2, 2), None));
    assert_eq!(fixture.put(b"c", b""), limit);
}

#[test]
fn commits_are_applied_in_order_of_their_sequence() {
    let mut fixture = Fixture::with_quota(10, 1000);
    for value in [b"1", b"2", b"3"] {
        assert_eq!(fixture.put(b"key", value), None);
    }
    // The last ticket first: the commit waits for those before it.
    assert!(fixture.control.complete(2) && fixture.control.complete(1));
    assert_eq!((fixture.take_outcomes(), fixture.value(b"key")), (vec![], None));
    assert!(fixture.control.complete(0));
    let stored = [1, 2, 3].map(Outcome::Stored);
    assert_eq!(fixture.take_outcomes(), [(0, stored[0]), (1, stored[1]), (2, stored[2])]);
    assert_eq!(fixture.value(b"key").unwrap(), b"3");
    assert_eq!(fixture.user.taken(), (1, 4));
}

#[test]
fn failed_batch_changes_nothing_and_gives_its_quota_back() {
    let mut fixture = Fixture::with_quota(10, 1000);
    fixture.control.fail_next(1);
    assert_eq!((fixture.put(b"a", b"1"), fixture.put(b"b", b"2")), (None, None));
    // A failed batch takes no sequence number, so later commits do not wait for it.
    assert!(fixture.control.complete(1));
    assert_eq!(fixture.take_outcomes(), [(1, Outcome::Stored(1))]);
    assert!(fixture.control.complete(0));
    assert_eq!(fixture.take_outcomes(), [(0, Outcome::StorageFailed)]);
    assert_eq!((fixture.value(b"a"), fixture.user.taken()), (None, (1, 2)));
}

#[test]
fn store_decides_on_versions_while_commits_are_pending() {
    let mut fixture = Fixture::with_quota(10, 1000);
    let put = |fixture: &mut Fixture, expected| {
        fixture.submit(|group, requester| group.put(b"key", b"", Some(expected), requester))
    };
    assert_eq!(put(&mut fixture, 1), Some(Outcome::Conflict(0)));
    assert_eq!(fixture.delete(b"key"), Some(Outcome::NoSuchKey));
    // The store has committed the key, but the table does not contain it yet.
    assert_eq!(
        (put(&mut fixture, 0), put(&mut fixture, 1), put(&mut fixture, 0)),
        (None, None, None)
    );
    assert_eq!((fixture.delete(b"key"), fixture.delete(b"key")), (None, None));
    fixture.control.complete_all();
    let outcomes = fixture.take_outcomes().into_iter().map(|(_, outcome)| outcome);
    let expected = [
        Outcome::Stored(1),
        Outcome::Stored(2),
        Outcome::Conflict(2),
        Outcome::Deleted,
        Outcome::NoSuchKey,
    ];
    assert_eq!(outcomes.collect::<Vec<_>>(), expected);
    assert_eq!(fixture.user.taken(), (0, 0));
}

#[test]
fn removed_group_gives_back_what_its_commits_reserved() {
    let mut fixture = Fixture::with_quota(10, 1000);
    for key in [b"a", b"b", b"c"] {
        assert_eq!(fixture.put(key, b"value"), None);
    }
    // One waits for its predecessors, two are undecided.
    assert!(fixture.control.complete(2));
    assert_eq!(fixture.user.taken(), (3, 18));
    fixture.group.clear();
    assert_eq!(fixture.user.taken(), (0, 0));
    let mut outcomes = fixture.take_outcomes();
    outcomes.sort_unstable_by_key(|(number, _)| *number);
    assert_eq!(outcomes, [0, 1, 2].map(|number| (number, Outcome::StorageFailed)));
    // Completions that come late find nothing to decide.
    fixture.control.complete_all();
    assert_eq!((fixture.take_outcomes(), fixture.group.pairs()), (vec![], 0));
    assert_eq!(fixture.put(b"a", b"value"), Some(Outcome::StorageFailed));
}

#[test]
fn removed_group_in_memory_refuses_writes() {
    let (groups, name) = (Groups::default(), Text::new(b"g").unwrap());
    groups.add(name, name);
    let group = groups.find(&name).unwrap();
    let user = Quotas::user_with(10, 1000);
    let submit = |value: Option<&[u8]>| {
        let requester = Requester { user: &user, completion: &mut || Box::new(drop) };
        let submission = match value {
            Some(value) => group.put(b"key", value, None, requester),
            None => group.delete(b"key", None, requester),
        };
        let Submission::Done(applied) = submission else { panic!("a write is pending") };
        applied.schedule(&mut PendingNotifications::default())
    };
    assert_eq!((submit(Some(b"value")), user.taken()), (Outcome::Stored(1), (1, 8)));
    groups.remove(&name);
    assert_eq!(submit(Some(b"value")), Outcome::StorageFailed);
    assert_eq!(submit(None), Outcome::NoSuchKey);
    assert_eq!((group.pairs(), user.taken()), (0, (0, 0)));
}

#[test]
fn bytes_of_pending_batches_are_charged_and_limited() {
    let mut fixture = Fixture::with_quota(10, 100);
    assert_eq!(fixture.put(b"key", &[0; 30]), None);
    fixture.control.complete_all();
    assert_eq!(fixture.user.taken(), (1, 33));
    // The pair and the value that will overwrite it exist at the same time.
    assert_eq!(fixture.put(b"key", &[1; 30]), None);
    assert_eq!(fixture.user.taken(), (1, 66));
    fixture.control.complete_all();
    assert_eq!(fixture.user.taken(), (1, 33));
    // So do all the keys that are to be deleted.
    let key = [b'k'; 45];
    assert_eq!((fixture.delete(&key), fixture.user.taken()), (Some(Outcome::NoSuchKey), (1, 33)));
    assert_eq!((fixture.delete(b"key"), fixture.user.taken()), (None, (1, 36)));
    assert_eq!((fixture.delete(&key), fixture.delete(&key)), (None, None));
    assert_eq!(fixture.user.taken(), (1, 126));
    let limit = Some(Outcome::LimitReached(Limit::Bytes));
    assert_eq!((fixture.delete(&key), fixture.control.pending()), (limit, 3));
    fixture.control.complete_all();
    assert_eq!(fixture.user.taken(), (0, 0));
}

#[test]
fn late_completion_decides_no_later_batch() {
    let handler = || Box::new(drop) as CompletionHandler;
    let user = Quotas::user_with(10, 1000);
    let queued = || QueuedCommit {
        batch: OwnedBatch::from(Batch { owner: user.uid, changes: &[] }),
        reservation: Reservation::new(&user, 1, 1),
        buffer: Charge::buffer(&user, 1),
        completion: handler(),
    };
    let mut commits = Commits::default();
    assert!(commits.advance(Stamp { sequence: 1, first_version: 1 }));
    let early = commits.next_id();
    commits.add_undecided(queued());
    assert_eq!(commits.take_all().count(), 1);
    let late = commits.next_id();
    commits.add_undecided(queued());
    assert!(commits.take_undecided(early).is_none());
    assert!(commits.take_undecided(late).is_some());
    // The store counts on, too.
    assert!(commits.advance(Stamp { sequence: 2, first_version: 2 }));
}

#[test]
fn unfinished_ticket_does_not_keep_a_removed_group() {
    let mut fixture = Fixture::with_quota(10, 1000);
    assert_eq!(fixture.put(b"key", b"value"), None);
    fixture.group.clear();
    let group = Arc::downgrade(&fixture.group);
    let Fixture { group: last, control, outcomes, .. } = fixture;
    drop(last);
    assert!(group.upgrade().is_none());
    control.complete_all();
    assert_eq!(*outcomes.lock(), [(0, Outcome::StorageFailed)]);
}

#[test]
fn quota_counts_a_committed_pair_once_in_its_handler() {
    let fixture = Fixture::with_quota(10, 1000);
    let taken = Arc::new(Mutex::new(None));
    let mut completion = || {
        let (taken, user) = (Arc::clone(&taken), Arc::clone(&fixture.user));
        Box::new(move |_| *taken.lock() = Some(user.taken())) as CompletionHandler
    };
    let requester = Requester { user: &fixture.user, completion: &mut completion };
    let submission = fixture.group.put(b"key", b"value", None, requester);
    assert!(matches!(submission, Submission::Pending));
    fixture.control.complete_all();
    assert_eq!(*taken.lock(), Some((1, 8)));
}

#[test]
fn put_many_reserves_everything_before_it_commits() {
    let mut fixture = Fixture::with_quota(3, 30);
    let put_many = |fixture: &mut Fixture, pairs: &[(&[u8], &[u8])]| {
        let entries = entries(pairs);
        fixture.submit(|group, requester| group.put_many(entries.entries(), requester))
    };
    let three: [(&[u8], &[u8]); 3] = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")];
    let four = [&three[..], &[(b"d", b"4")]].concat();
    assert_eq!(put_many(&mut fixture, &four), Some(Outcome::LimitReached(Limit::Pairs)));
    let long = [&three[..2], &[(b"c", &[0; 30])]].concat();
    assert_eq!(put_many(&mut fixture, &long), Some(Outcome::LimitReached(Limit::Bytes)));
    assert_eq!((fixture.control.pending(), fixture.user.taken()), (0, (0, 0)));
    assert_eq!(put_many(&mut fixture, &three), None);
    assert_eq!((fixture.user.taken(), fixture.group.pairs()), ((3, 6), 0));
    fixture.control.fail_next(1);
    fixture.control.complete_all();
    assert_eq!(fixture.take_outcomes(), [(0, Outcome::Stored(3))]);
    // The failed batch changes none of its keys.
    assert_eq!(put_many(&mut fixture, &three), None);
    fixture.control.complete_all();
    assert_eq!(fixture.take_outcomes(), [(1, Outcome::StorageFailed)]);
    assert_eq!((fixture.user.taken(), fixture.group.pairs()), ((3, 6), 3));
}

#[test]
fn subscriber_gets_the_event_when_the_change_is_applied() {
    let mut fixture = Fixture::with_quota(10, 100_000);
    let (_poll, mailbox) = Reactor::prepare().unwrap();
    let address = Address { mailbox, session: SessionId(0) };
    let user = Arc::clone(&fixture.user);
    let subscriber = Arc::new(Subscriber::v1(address, user, EventCounters::default()));
    let number = fixture.group.join(1, Protocol::V1, Arc::clone(&subscriber)).unwrap();
    let target = WatchTarget::Prefix(b"k");
    assert!(fixture.group.subscribe(target, number, &fixture.user).is_some());
    assert_eq!((fixture.put(b"k1", b""), fixture.put(b"k2", b"")), (None, None));
    assert!(fixture.control.complete(1));
    assert!(subscriber.next_key().is_none());
    assert!(fixture.control.complete(0));
    let keys = std::iter::from_fn(|| subscriber.next_key()).map(|key| key.to_vec());
    assert_eq!(keys.collect::<Vec<_>>(), [b"k1", b"k2"]);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// Completes one of the pending batches.
    Complete(prop::sample::Index),
}

proptest! {
    #[test]
    fn completion_order_does_not_change_the_final_state(
        steps in prop::collection::vec(
            prop_oneof![
                (0..4u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
                (0..4u8).prop_map(Step::Delete),
                any::<prop::sample::Index>().prop_map(Step::Complete),
            ],
            0..60,
        ),
    ) {
        let mut fixture = Fixture::with_quota(1000, 100_000);
        let (groups, name) = (Groups::default(), Text::new(b"g").unwrap());
        groups.add(name, name);
        let memory = groups.find(&name).unwrap();
        let other = Quotas::user_with(1000, 100_000);
        let mut expected = BTreeMap::new();
        for step in steps {
            let submission = match &step {
                Step::Complete(index) => {
                    fixture.control.complete(index.index(fixture.control.pending().max(1)));
                    continue;
                }
                Step::Put(key, value) => (fixture.put(&[*key], &[*value]), *key, Some(*value)),
                Step::Delete(key) => (fixture.delete(&[*key]), *key, None),
            };
            let (outcome, key, value) = submission;
            let requester = Requester { user: &other, completion: &mut || Box::new(drop) };
            let done = match value {
                Some(value) => memory.put(&[key], &[value], None, requester),
                None => memory.delete(&[key], None, requester),
            };
            let Submission::Done(done) = done else { panic!("the memory store decides at once") };
            let done = done.schedule(&mut PendingNotifications::default());
            match outcome {
                Some(outcome) => prop_assert_eq!(outcome, done),
                None => drop(expected.insert(fixture.submitted - 1, done)),
            }
        }
        while fixture.control.pending() > 0 {
            fixture.control.complete(fixture.control.pending() - 1);
        }
        prop_assert_eq!(fixture.take_outcomes().into_iter().collect::<BTreeMap<_, _>>(), expected);
        for key in 0..4u8 {
            let value = |group: &Group| {
                group.get(&[key], |entry| entry.map(|entry| entry.value.as_bytes().to_vec()))
            };
            prop_assert_eq!(value(&fixture.group), value(&memory));
        }
        prop_assert_eq!(fixture.user.taken(), other.taken());
    }
}
