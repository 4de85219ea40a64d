//! The status of groups and applications, in parts of bounded size.
//!
//! The applications of a group are copied [`APPLICATION_BATCH`] at a time, so its lock is held
//! briefly, and a part is complete when it describes about [`PART_SIZE`] bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::vec;

use kvs_proto::control::{AdminResponse, ApplicationStatus, Bytes, GroupStatus, WatchedItem};

use crate::local::group::group::Group;
use crate::local::group::members::ClientStatus;

/// How many applications are copied at a time, under the lock of their group.
const APPLICATION_BATCH: usize = 64;

/// How many watches of an application are listed, unless [`MAX_WATCHED_BYTES`] ends the list.
const MAX_WATCHES: usize = 1000;

/// How many bytes of keys are listed for an application. The longest key fits.
const MAX_WATCHED_BYTES: usize = 1 << 16;

/// A part is complete when it describes about so many bytes.
const PART_SIZE: usize = 1 << 16;

/// Forms the parts of a status.
pub(super) struct StatusParts {
    groups: vec::IntoIter<Arc<Group>>,
    /// The group that is being listed.
    current: Option<Arc<Group>>,
    /// The number of the last application that was copied.
    last: u64,
    /// Applications that were copied and are not in a part yet.
    batch: VecDeque<(u64, ClientStatus, usize)>,
    part: StatusPart,
}

impl StatusParts {
    /// The status of these groups.
    pub(super) fn new(groups: Vec<Arc<Group>>) -> Self {
        Self {
            groups: groups.into_iter(),
            current: None,
            last: 0,
            batch: VecDeque::new(),
            part: StatusPart::default(),
        }
    }

    /// The next part that others follow; `None` when only the last one is left.
    pub(super) fn next_part(&mut self) -> Option<AdminResponse> {
        loop {
            let Some(group) = self.current.clone() else {
                let group = self.groups.next()?;
                self.part.begin(&group);
                self.last = 0;
                self.current = Some(group);
                continue;
            };
            if self.batch.is_empty() {
                self.batch =
                    group.client_status_after(self.last, APPLICATION_BATCH, MAX_WATCHES).into();
            }
            match self.batch.pop_front() {
                Some((number, application, watches)) => {
                    self.last = number;
                    self.part.add(&group, describe(number, application, watches));
                }
                None => self.current = None,
            }
            if self.part.size >= PART_SIZE {
                return Some(self.part.take(true));
            }
        }
    }

    /// The part that ends the status.
    pub(super) fn last_part(mut self) -> AdminResponse {
        self.part.take(false)
    }
}

/// A part of the status.
#[derive(Default)]
struct StatusPart {
    groups: Vec<GroupStatus>,
    /// The approximate number of bytes that it describes.
    size: usize,
}

impl StatusPart {
    fn begin(&mut self, group: &Group) {
        let name = group.name();
        self.size += 100 + name.as_bytes().len();
        self.groups.push(GroupStatus {
            group: name.as_bytes().into(),
            pairs: group.pairs() as u64,
            applications: Vec::new(),
        });
    }

    fn add(&mut self, group: &Group, application: ApplicationStatus) {
        let name = group.name();
        if self.groups.last().is_none_or(|last| last.group.0 != name.as_bytes()) {
            self.begin(group);
        }
        let watched = application.watches.iter().map(|watch| 30 + bytes_of(watch).len());
        self.size += 150 + watched.sum::<usize>();
        if let Some(last) = self.groups.last_mut() {
            last.applications.push(application);
        }
    }

    fn take(&mut self, more: bool) -> AdminResponse {
        let Self { groups, .. } = std::mem::take(self);
        AdminResponse::Status { groups, more }
    }
}

fn bytes_of(watch: &WatchedItem) -> &[u8] {
    let (WatchedItem::Key(bytes) | WatchedItem::Prefix(bytes)) = watch;
    &bytes.0
}

/// Describes an application. The watches are cut; `watch_count` has their real number.
fn describe(number: u64, application: ClientStatus, watch_count: usize) -> ApplicationStatus {
    let mut bytes_left = MAX_WATCHED_BYTES;
    let watches =
        application.subscriptions.iter().take(MAX_WATCHES).map_while(|(key, is_prefix)| {
            bytes_left = bytes_left.checked_sub(key.len())?;
            let key = Bytes::from(&key[..]);
            Some(if *is_prefix { WatchedItem::Prefix(key) } else { WatchedItem::Key(key) })
        });
    ApplicationStatus {
        number,
        pid: application.pid,
        watches: watches.collect(),
        connected_at: seconds(application.connected_at),
        closed_at: application.disconnected_at.map(seconds),
        seconds: to_millis(application.connected_for),
        watch_count: watch_count as u64,
    }
}

/// Seconds since 1970, to the millisecond.
fn seconds(time: SystemTime) -> f64 {
    // No connection is older than 1970.
    to_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn to_millis(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use kvs_proto::control::MAX_RESPONSE_LEN;
    use kvs_proto::v2::MAX_KEY;

    use super::*;

    #[test]
    fn status_part_never_exceeds_the_line_limit() {
        // Bytes of value 1 have the longest form in JSON.
        let application = |key: &[u8], watches| ClientStatus {
            pid: i32::MIN,
            connected_at: SystemTime::now(),
            disconnected_at: Some(SystemTime::now()),
            connected_for: Duration::MAX,
            subscriptions: vec![(key.into(), true); watches],
        };
        for (key, watches) in
            [(vec![1; MAX_KEY], 3), (vec![1], 1_000_000), (vec![1; 65], MAX_WATCHES)]
        {
            let described = describe(u64::MAX, application(&key, watches), usize::MAX);
            assert!(!described.watches.is_empty(), "a key of any length is included");
            let group = GroupStatus {
                group: Bytes(vec![1; kvs_proto::MAX_TEXT]),
                pairs: u64::MAX,
                // The part was almost full before the last application.
                applications: vec![described.clone(), described],
            };
            let line = AdminResponse::Status { groups: vec![group], more: true }.encode();
            assert!(line.len() <= MAX_RESPONSE_LEN, "{} bytes", line.len());
        }
    }
}
