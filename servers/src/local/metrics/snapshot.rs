//! How things stand: what was counted, and the groups with their applications.
//!
//! It is bounded, however much there is: [`MOST_GROUPS`] groups (the oldest), [`MOST_APPLICATIONS`] applications,
//! [`MOST_USERS`] users. Each
//! group is locked for as long as it takes to copy some numbers, and if the applications are wanted, some lines.

use std::cmp::Reverse;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::counts::{BUCKETS, Count, Counts, ENDS, LOGINS, OPERATIONS, RESULTS, ReactorCounts};
use crate::local::group::group::{Group, GroupStats};
use crate::local::group::members::ClientInfo;
use crate::local::group::registry::Groups;
use crate::local::limits::quota::Limits;
use crate::local::limits::quota::{Quotas, UserUsage};

/// The groups that are told of one by one. All are in the sums.
pub(super) const MOST_GROUPS: usize = 1000;

/// The applications that are told of, of all groups together; connected ones come first.
pub(super) const MOST_APPLICATIONS: usize = 2000;

/// Those of one group that have gone.
const MOST_PAST: usize = 50;

/// The users that are told of one by one: those with the most bytes.
const MOST_USERS: usize = 100;

/// What does not change as long as the server runs.
#[derive(Debug)]
pub(crate) struct About {
    /// The path of the main socket.
    pub(crate) socket: PathBuf,
    /// The authentication server, as given.
    pub(crate) auth: String,
    /// The longest value.
    pub(crate) max_value: usize,
}

/// The operations of one kind.
#[derive(Debug, Default, Clone)]
pub(super) struct Operations {
    /// By result.
    pub(super) results: [u64; RESULTS.len()],
    /// By bucket of latency, the last without an upper bound.
    pub(super) buckets: [u64; BUCKETS.len() + 1],
    /// The sum of the latencies.
    pub(super) nanoseconds: u64,
}

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) operations: [Operations; OPERATIONS.len()],
    pub(super) logins: [u64; LOGINS.len()],
    pub(super) ends: [u64; ENDS.len()],
    pub(super) noted: u64,
    pub(super) merged: u64,
    pub(super) sent: u64,
    pub(super) auth_is_up: bool,
    pub(super) auth_retries: u64,
    pub(super) auth_reconnects: u64,
    pub(super) auth_failures: u64,
}

/// One group.
#[derive(Debug)]
pub(super) struct GroupState {
    /// See [`label`].
    pub(super) label: String,
    pub(super) figures: GroupStats,
    pub(super) visits: Vec<ClientInfo>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) about: Arc<About>,
    pub(super) started: SystemTime,
    pub(super) taken: SystemTime,
    pub(super) totals: Totals,
    /// The oldest first.
    pub(super) groups: Vec<GroupState>,
    pub(super) groups_left_out: usize,
    /// Of all groups.
    pub(super) sum: GroupStats,
    /// What each user may have.
    pub(super) limits: Limits,
    pub(super) users: Vec<UserUsage>,
}

impl Snapshot {
    pub(super) fn take(
        about: &Arc<About>,
        counts: &Counts,
        groups: &Groups,
        quotas: &Quotas,
    ) -> Self {
        let mut users = quotas.usage();
        users.sort_unstable_by_key(|user| (Reverse(user.bytes), user.uid));
        users.truncate(MOST_USERS);
        let all = groups.all();
        let zero = GroupStats { pairs: 0, bytes: 0, framed: 0, original: 0, past: 0 };
        let figures: Vec<GroupStats> = all.iter().map(|group| group.stats()).collect();
        let sum = figures.iter().fold(zero, |sum, more| GroupStats {
            pairs: sum.pairs + more.pairs,
            bytes: sum.bytes + more.bytes,
            framed: sum.framed + more.framed,
            original: sum.original + more.original,
            past: sum.past + more.past,
        });
        let shown = &figures[..figures.len().min(MOST_GROUPS)];
        let connected: Vec<usize> =
            shown.iter().map(|group| group.framed + group.original).collect();
        let connected = shares(&connected, MOST_APPLICATIONS);
        let left = MOST_APPLICATIONS - connected.iter().sum::<usize>();
        let past: Vec<usize> = shown.iter().map(|group| group.past.min(MOST_PAST)).collect();
        let past = shares(&past, left);
        let describe =
            |((group, figures), (connected, past)): ((&Arc<Group>, &GroupStats), _)| GroupState {
                label: label(group.name().as_bytes()),
                figures: *figures,
                visits: group.clients(connected, past),
            };
        Self {
            about: Arc::clone(about),
            started: counts.started,
            taken: SystemTime::now(),
            totals: Totals::of(counts),
            groups: all
                .iter()
                .zip(shown)
                .zip(connected.into_iter().zip(past))
                .map(describe)
                .collect(),
            groups_left_out: all.len() - shown.len(),
            sum,
            limits: quotas.limits(),
            users,
        }
    }
}

impl Totals {
    fn of(counts: &Counts) -> Self {
        let mut totals = Self::default();
        for reactor in &counts.reactors {
            totals.add(reactor);
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        if let Some(changes) = &counts.changes.0 {
            totals.noted = read(&changes.noted);
            totals.merged = read(&changes.merged);
            totals.sent = read(&changes.sent);
        }
        if let Some(auth) = &counts.auth.0 {
            totals.auth_is_up = auth.is_up.load(Ordering::Relaxed);
            totals.auth_retries = read(&auth.retries);
            totals.auth_reconnects = read(&auth.reconnects);
            totals.auth_failures = read(&auth.failures);
        }
        totals
    }

    fn add(&mut self, reactor: &ReactorCounts) {
        for (operation, sum) in self.operations.iter_mut().enumerate() {
            let latencies = &reactor.latencies[operation];
            add_all(&mut sum.results, &reactor.operations[operation]);
            add_all(&mut sum.buckets, &latencies.buckets);
            sum.nanoseconds = sum.nanoseconds.wrapping_add(latencies.nanoseconds.get());
        }
        add_all(&mut self.logins, &reactor.logins);
        add_all(&mut self.ends, &reactor.ends);
    }
}

fn add_all(sums: &mut [u64], counts: &[Count]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count.get();
    }
}

/// How much each gets of `most`: what it wants, if there is enough for all; if not, nobody gets less because others
/// want much.
fn shares(wanted: &[usize], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_unstable_by_key(|&at| wanted[at]);
    let (mut shares, mut left) = (vec![0; wanted.len()], most);
    for (done, at) in order.into_iter().enumerate() {
        shares[at] = wanted[at].min(left / (wanted.len() - done));
        left -= shares[at];
    }
    shares
}

/// The name of a group as text: itself when it is text without control characters and backslashes. What is not is
/// escaped (`\n`, `\u{1b}`, `\xff`, `\\`), so that two names never look the same.
fn label(name: &[u8]) -> String {
    let mut label = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => label.push_str("\\\\"),
                _ if character.is_control() => label.extend(character.escape_default()),
                _ => label.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(label, "\\x{byte:02x}");
        }
    }
    label
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_large_group_does_not_displace_small_ones() {
        assert_eq!(shares(&[], 10), [0; 0]);
        assert_eq!(shares(&[3, 4], 10), [3, 4]);
        assert_eq!(shares(&[1000, 2, 1000], 10), [4, 2, 4]);
        assert_eq!(shares(&[5000, 1], 2000), [1999, 1]);
        assert_eq!(shares(&[1; 20], 10).iter().sum::<usize>(), 10);
    }

    #[test]
    fn names_are_told_apart_and_text_stays_as_it_is() {
        assert_eq!(
            label("Wetter, <b>größer</b> \"x\" 雪".as_bytes()),
            "Wetter, <b>größer</b> \"x\" 雪"
        );
        assert_eq!(label(b"a\\xff\xff\n\x1b"), "a\\\\xff\\xff\\n\\u{1b}");
        // All short names of bytes that have a part in escapes.
        let letters = [0xff, 0xc3, 0xbc, b'\\', b'x', b'f', b'n', b'\n', b'u', b'{', 0x1b];
        let mut seen = HashMap::new();
        for number in 0..letters.len().pow(4) {
            let name: Vec<u8> = (0..4)
                .map(|place| letters[number / letters.len().pow(place) % letters.len()])
                .collect();
            let other = seen.insert(label(&name), name.clone());
            assert_eq!(other, None, "looks like {name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_label_has_no_control_characters(name in prop::collection::vec(any::<u8>(), 0..99)) {
            prop_assert!(!label(&name).chars().any(char::is_control));
        }
    }
}
