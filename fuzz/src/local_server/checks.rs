//! The invariants, during a script and at its end.

use std::collections::BTreeMap;

use super::harness::{
    BUDGET, Harness, MAX_PENDING, MainConnection, MainState, REACTORS, READ_BUFFER, SLOTS,
};
use crate::counting_allocator;

impl Harness<'_> {
    /// Checks that the application was notified of the last change of each key.
    pub(super) fn assert_notified(&self, slot: usize) {
        let Some(MainConnection { state: MainState::LoggedIn(member), ended: false, .. }) =
            &self.mains[slot]
        else {
            return;
        };
        for (key, (_, changed)) in &member.changes {
            let notified =
                member.notified.get(key).is_some_and(|(_, notified)| notified >= changed);
            assert!(
                notified || member.may_miss_events,
                "no notification of the last change of {key:?}"
            );
        }
    }

    pub(super) fn check_pairs(&self) {
        for group in self.groups.iter().filter(|group| group.open) {
            assert_eq!(self.server.pairs(&group.name), Some(group.pairs.len()));
            for key in &group.seen {
                let stored = self.server.value(&group.name, key);
                assert_eq!(stored.as_ref(), group.pairs.get(key), "{key:?}");
            }
        }
    }

    /// Checks the memory bound: a constant for the server, and a constant per object.
    pub(super) fn check_memory(&self) {
        let opened = BUDGET as usize * 2 - self.budget as usize;
        let bound =
            40_000 + REACTORS * READ_BUFFER + self.load * 500 + self.new * 2000 + opened * 300;
        let allocated = counting_allocator::allocated();
        assert!(
            allocated <= bound as isize,
            "{allocated} bytes are allocated, {bound} are allowed"
        );
        let pending = self.server.max_unsent();
        assert!(pending <= MAX_PENDING, "{pending} bytes are pending for one application");
    }

    /// Checks, when the server is idle, the applications and subscriptions of each group.
    pub(super) fn check_members(&self) {
        // Without model, the model cannot know whether a session exists.
        if self.mains.iter().flatten().any(|main| main.not_reading) {
            return;
        }
        for (at, group) in self.groups.iter().enumerate().filter(|(_, group)| group.open) {
            let members = self.mains.iter().flatten().filter(|main| !main.ended);
            let watches = members.filter_map(|main| match &main.state {
                MainState::LoggedIn(member) if member.group == at => Some(member.watches.len()),
                _ => None,
            });
            let expected = watches.fold((0, 0), |(count, sum), watches| (count + 1, sum + watches));
            assert_eq!(self.server.members(&group.name), Some(expected), "members and watches");
        }
    }

    pub(super) fn end(mut self) {
        self.settle();
        self.budget = BUDGET;
        self.honest_round();
        // After all applications have read, all have been notified of the last changes.
        for slot in 0..self.mains.len() {
            self.set_not_reading(slot, 0);
        }
        self.settle();
        for slot in 0..SLOTS {
            let before = self.notification_counts(slot);
            while self.callbacks[slot].as_ref().is_some_and(|callback| {
                callback.flag_at.is_some() && !callback.ambiguous && !callback.closed
            }) {
                self.acknowledge(slot);
            }
            // Pending events are coalesced: at most those already sent, and one more for each key.
            for (key, times) in self.notification_counts(slot) {
                let merged = times <= before.get(&key).copied().unwrap_or(0) + 2;
                assert!(merged, "pending events of {key:?} were not coalesced");
            }
        }
        for slot in 0..self.mains.len() {
            if self.groups_open(slot) {
                self.assert_notified(slot);
            }
        }
        // The server quits.
        for group in 0..self.groups.len() {
            self.close_group(group);
        }
        self.allow_close_of_logins();
        counting_allocator::counted(|| self.server.close_all());
        self.settle();
        self.pass_time();
        self.settle();
        // The link ends.
        while self.respond(3) {}
        for main in self.mains.iter().flatten() {
            assert!(main.ended, "a connection survives the server");
        }
        let Self { server, .. } = self;
        counting_allocator::counted(|| drop(server));
        assert_eq!(counting_allocator::allocated(), 0, "the server leaks memory");
    }

    /// For each key: the number of notifications on the callback channel of a slot.
    pub(super) fn notification_counts(&self, slot: usize) -> BTreeMap<Vec<u8>, u64> {
        let main = self.mains.iter().flatten().find(|main| main.callback == Some(slot));
        match main.map(|main| &main.state) {
            Some(MainState::LoggedIn(member)) => {
                member.notified.iter().map(|(key, (times, _))| (key.clone(), *times)).collect()
            }
            _ => BTreeMap::new(),
        }
    }

    pub(super) fn groups_open(&self, slot: usize) -> bool {
        let Some(main) = &self.mains[slot] else { return false };
        !main.must_end && self.member(slot).is_some_and(|member| self.groups[member.group].open)
    }
}
