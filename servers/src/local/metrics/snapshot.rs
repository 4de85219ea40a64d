//! Counters, groups, applications and users at one moment.
//!
//! A snapshot is bounded: it details [`MAX_GROUPS`] groups (the oldest), [`MAX_APPLICATIONS`]
//! applications and [`MAX_USERS`] users. Each group is locked only while its numbers and its
//! detailed applications are copied.

use std::cmp::Reverse;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::counters::AllCounters;
use super::labels::{ENDS, LOGINS, OPERATIONS, RESULTS};
use super::recorder::{BUCKETS, Counter, ReactorCounters};
use crate::local::group::group::{Group, GroupStats};
use crate::local::group::members::ClientInfo;
use crate::local::group::registry::Groups;
use crate::local::limits::limit::Limits;
use crate::local::limits::quota::{Quotas, UserUsage};

/// How many groups are detailed. The totals include all groups.
pub(super) const MAX_GROUPS: usize = 1000;

/// How many applications of all groups are detailed; connected ones come first.
pub(super) const MAX_APPLICATIONS: usize = 2000;

/// How many disconnected applications of one group are detailed.
const MAX_DISCONNECTED: usize = 50;

/// How many users are detailed: those with the most bytes.
const MAX_USERS: usize = 100;

/// The constants of the server that a snapshot repeats.
#[derive(Debug)]
pub(crate) struct ServerInfo {
    /// The path of the main socket.
    pub(crate) socket: PathBuf,
    /// The configured address of the authentication server.
    pub(crate) auth: String,
    /// The longest value in bytes.
    pub(crate) max_value: usize,
}

/// The counters of one kind of operation.
#[derive(Debug, Default, Clone)]
pub(super) struct Operations {
    /// By result.
    pub(super) results: [u64; RESULTS.len()],
    /// By bucket of latency; the last bucket has no upper bound.
    pub(super) buckets: [u64; BUCKETS.len() + 1],
    /// The sum of the latencies.
    pub(super) nanoseconds: u64,
}

/// The sums of the counters of all reactors.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) operations: [Operations; OPERATIONS.len()],
    pub(super) logins: [u64; LOGINS.len()],
    pub(super) ends: [u64; ENDS.len()],
    pub(super) events_enqueued: u64,
    pub(super) events_coalesced: u64,
    pub(super) events_sent: u64,
    pub(super) link_is_up: bool,
    pub(super) link_retries: u64,
    pub(super) link_reconnects: u64,
    pub(super) link_failures: u64,
}

/// A detailed group.
#[derive(Debug)]
pub(super) struct GroupDetails {
    /// See [`label`].
    pub(super) label: String,
    pub(super) stats: GroupStats,
    pub(super) clients: Vec<ClientInfo>,
}

/// The server at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) info: Arc<ServerInfo>,
    pub(super) started: SystemTime,
    pub(super) taken: SystemTime,
    pub(super) totals: Totals,
    /// The detailed groups, the oldest first.
    pub(super) groups: Vec<GroupDetails>,
    pub(super) groups_left_out: usize,
    /// The sums over all groups.
    pub(super) total: GroupStats,
    /// The limits of each user.
    pub(super) limits: Limits,
    pub(super) users: Vec<UserUsage>,
}

impl Snapshot {
    pub(super) fn take(
        info: &Arc<ServerInfo>,
        counters: &AllCounters,
        groups: &Groups,
        quotas: &Quotas,
    ) -> Self {
        let mut users = quotas.usage();
        users.sort_unstable_by_key(|user| (Reverse(user.bytes), user.uid));
        users.truncate(MAX_USERS);
        let all = groups.all();
        let zero = GroupStats { pairs: 0, bytes: 0, v1: 0, v2: 0, disconnected: 0 };
        let stats: Vec<GroupStats> = all.iter().map(|group| group.stats()).collect();
        let total = stats.iter().fold(zero, |sum, more| GroupStats {
            pairs: sum.pairs + more.pairs,
            bytes: sum.bytes + more.bytes,
            v1: sum.v1 + more.v1,
            v2: sum.v2 + more.v2,
            disconnected: sum.disconnected + more.disconnected,
        });
        let shown = &stats[..stats.len().min(MAX_GROUPS)];
        let connected: Vec<usize> = shown.iter().map(|group| group.v1 + group.v2).collect();
        let connected = shares(&connected, MAX_APPLICATIONS);
        let left = MAX_APPLICATIONS - connected.iter().sum::<usize>();
        let disconnected: Vec<usize> =
            shown.iter().map(|group| group.disconnected.min(MAX_DISCONNECTED)).collect();
        let disconnected = shares(&disconnected, left);
        let describe =
            |((group, stats), (connected, disconnected)): ((&Arc<Group>, &GroupStats), _)| {
                GroupDetails {
                    label: label(group.name().as_bytes()),
                    stats: *stats,
                    clients: group.clients(connected, disconnected),
                }
            };
        Self {
            info: Arc::clone(info),
            started: counters.started,
            taken: SystemTime::now(),
            totals: Totals::of(counters),
            groups: all
                .iter()
                .zip(shown)
                .zip(connected.into_iter().zip(disconnected))
                .map(describe)
                .collect(),
            groups_left_out: all.len() - shown.len(),
            total,
            limits: quotas.limits(),
            users,
        }
    }
}

impl Totals {
    fn of(counters: &AllCounters) -> Self {
        let mut totals = Self::default();
        for reactor in &counters.reactors {
            totals.add(reactor);
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        if let Some(events) = &counters.events.0 {
            totals.events_enqueued = read(&events.enqueued);
            totals.events_coalesced = read(&events.coalesced);
            totals.events_sent = read(&events.sent);
        }
        if let Some(link) = &counters.link.0 {
            totals.link_is_up = link.is_up.load(Ordering::Relaxed);
            totals.link_retries = read(&link.retries);
            totals.link_reconnects = read(&link.reconnects);
            totals.link_failures = read(&link.failures);
        }
        totals
    }

    fn add(&mut self, reactor: &ReactorCounters) {
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

fn add_all(sums: &mut [u64], counts: &[Counter]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count.get();
    }
}

/// Divides `total` fairly: each share is what was requested, or less if `total` is too small. A
/// large request never reduces the share of a small one.
fn shares(wanted: &[usize], total: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_unstable_by_key(|&at| wanted[at]);
    let (mut shares, mut left) = (vec![0; wanted.len()], total);
    for (done, at) in order.into_iter().enumerate() {
        shares[at] = wanted[at].min(left / (wanted.len() - done));
        left -= shares[at];
    }
    shares
}

/// The name of a group as text. Control characters, backslashes and bytes that are not UTF-8 are
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
    fn large_request_does_not_reduce_small_shares() {
        assert_eq!(shares(&[], 10), [0; 0]);
        assert_eq!(shares(&[3, 4], 10), [3, 4]);
        assert_eq!(shares(&[1000, 2, 1000], 10), [4, 2, 4]);
        assert_eq!(shares(&[5000, 1], 2000), [1999, 1]);
        assert_eq!(shares(&[1; 20], 10).iter().sum::<usize>(), 10);
    }

    #[test]
    fn labels_are_unique_and_keep_plain_text() {
        assert_eq!(
            label("Wetter, <b>größer</b> \"x\" 雪".as_bytes()),
            "Wetter, <b>größer</b> \"x\" 雪"
        );
        assert_eq!(label(b"a\\xff\xff\n\x1b"), "a\\\\xff\\xff\\n\\u{1b}");
        // All names of four bytes that occur in escapes.
        let letters = [0xff, 0xc3, 0xbc, b'\\', b'x', b'f', b'n', b'\n', b'u', b'{', 0x1b];
        let mut seen = HashMap::new();
        for number in 0..letters.len().pow(4) {
            let name: Vec<u8> = (0..4)
                .map(|digit| letters[number / letters.len().pow(digit) % letters.len()])
                .collect();
            let other = seen.insert(label(&name), name.clone());
            assert_eq!(other, None, "looks like {name:?}");
        }
    }

    proptest! {
        #[test]
        fn labels_have_no_control_characters(name in prop::collection::vec(any::<u8>(), 0..99)) {
            prop_assert!(!label(&name).chars().any(char::is_control));
        }
    }
}
