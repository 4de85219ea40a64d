//! Changes of keys, one after the other.
//!
//! The callbacks of the library only note that a key has changed ([`Changes`]): a key that has not been told of yet is noted once,
//! however often it changes. Whoever tells takes one key after the other, and gets its value then. So the last change is never
//! lost, however slow the teller; and what a value told already includes is not told again, as versions show.
//!
//! In a framed session prefixes are watched, for single keys too, as these need not exist and may be deleted and put again. Of
//! prefixes that begin with one another the shortest is watched, so every change is noted once.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvs::{Protocol, Version};

use crate::access::Member;
use crate::arguments::WatchRequest;
use crate::commands::{find, version_field};
use crate::exec;
use crate::failure::Failure;
use crate::output::{Object, Output, bytes_field};
use crate::words::{Plain, Quoted};

/// What has happened to a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) key: Vec<u8>,
    pub(crate) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It has this value, from the beginning or since a change. The version is 0 in an original session.
    Value { value: Vec<u8>, version: Version, initial: bool },
    /// It does not exist any more.
    Deleted,
}

impl Event {
    /// Its name for programs.
    pub(crate) fn name(&self) -> &'static str {
        match self.what {
            What::Value { initial: true, .. } => "initial",
            What::Value { initial: false, .. } => "changed",
            What::Deleted => "deleted",
        }
    }

    /// A line for people, of values at most as long as this.
    pub(crate) fn text(&self, longest: usize) -> String {
        let key = Plain(&self.key);
        match &self.what {
            What::Value { value, .. } if value.len() > longest => {
                format!("{key} = {}\u{2026} ({} bytes)", Plain(&value[..longest]), value.len())
            }
            What::Value { value, .. } => format!("{key} = {}", Plain(value)),
            What::Deleted => format!("{key} deleted"),
        }
    }

    /// The same for `--json`.
    pub(crate) fn object(&self) -> Object {
        let mut object = Object::new();
        object.text("event", self.name());
        bytes_field(&mut object, "key", &self.key);
        if let What::Value { value, version, .. } = &self.what {
            bytes_field(&mut object, "value", value);
            version_field(&mut object, *version);
        }
        object
    }
}

/// Which keys have changed and are still to be told.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    state: Mutex<Noted>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Noted {
    /// In the order in which they first changed.
    order: VecDeque<Vec<u8>>,
    /// Those in `order`, with the version that was told last.
    versions: HashMap<Vec<u8>, Version>,
    ended: Option<End>,
}

/// Why there are no more changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection has ended.
    Disconnected,
    /// Nobody wants them any more.
    Unwatched,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        // Each change of it is made in one piece.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: &[u8], version: Version) {
        let mut noted = self.lock();
        if noted.versions.insert(key.to_vec(), version).is_none() {
            noted.order.push_back(key.to_vec());
        }
        drop(noted);
        self.more.notify_all();
    }

    /// There will be no more. What was noted is not told either: the values cannot be got.
    pub(crate) fn end(&self, end: End) {
        self.lock().ended.get_or_insert(end);
        self.more.notify_all();
    }

    /// Waits for a key that has changed.
    fn next(&self) -> Result<(Vec<u8>, Version), End> {
        let mut noted = self.lock();
        loop {
            if let Some(end) = noted.ended {
                return Err(end);
            }
            if let Some(key) = noted.order.pop_front() {
                let version = noted.versions.remove(&key).unwrap_or_default();
                return Ok((key, version));
            }
            noted = self.more.wait(noted).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Which keys are wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    keys: Vec<Vec<u8>>,
    prefixes: Vec<Vec<u8>>,
}

impl Wanted {
    pub(crate) fn new(keys: Vec<OsString>, prefixes: Vec<OsString>) -> Self {
        let bytes = |words: Vec<OsString>| words.into_iter().map(OsString::into_vec).collect();
        Self { keys: bytes(keys), prefixes: bytes(prefixes) }
    }

    fn has(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|wanted| wanted == key)
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    /// The prefixes that all wanted keys have, none of which begins with another.
    fn to_watch(&self) -> Vec<&[u8]> {
        let mut all: Vec<&[u8]> =
            self.keys.iter().chain(&self.prefixes).map(Vec::as_slice).collect();
        // One that begins with another comes after it.
        all.sort_unstable();
        all.dedup_by(|later, earlier| later.starts_with(earlier));
        all
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let keys = self.keys.iter().map(|key| Quoted(key).to_string());
        let prefixes = self.prefixes.iter().map(|prefix| match prefix.is_empty() {
            true => "all keys".into(),
            false => format!("all keys that begin with {}", Quoted(prefix)),
        });
        keys.chain(prefixes).collect::<Vec<_>>().join(", ")
    }
}

/// Tells the changes of the wanted keys.
#[derive(Debug)]
pub(crate) struct Watcher<'a> {
    member: &'a Member,
    changes: Arc<Changes>,
    wanted: Wanted,
    /// The newest version that was told of each key that exists.
    told: HashMap<Vec<u8>, Version>,
}

impl<'a> Watcher<'a> {
    /// From now on every change will be told.
    pub(crate) fn start(member: &'a Member, wanted: Wanted) -> Result<Self, Failure> {
        let changes = Arc::new(Changes::default());
        let connection = &member.connection;
        let failed = |error| member.failure(error);
        let ear = Arc::clone(&changes);
        connection.on_disconnect(move |_| ear.end(End::Disconnected)).map_err(failed)?;
        if connection.protocol() == Protocol::V2 {
            for prefix in wanted.to_watch() {
                let (ear, wanted) = (Arc::clone(&changes), wanted.clone());
                let note = move |change: &kvs::Change<'_>| {
                    if wanted.has(change.key) {
                        ear.note(change.key, change.version);
                    }
                };
                connection.watch_prefix(prefix, note).map_err(failed)?;
            }
        } else {
            if !wanted.prefixes.is_empty() {
                return Err(failed(kvs::Error::Unsupported));
            }
            for key in &wanted.keys {
                let ear = Arc::clone(&changes);
                let watched = connection
                    .watch_changes(key, move |change| ear.note(change.key, change.version));
                watched.map_err(|error| match error {
                    kvs::Error::NoSuchKey => {
                        Failure::NothingToWatch { key: key.clone(), group: member.group.clone() }
                    }
                    error => failed(error),
                })?;
            }
        }
        Ok(Self { member, changes, wanted, told: HashMap::new() })
    }

    pub(crate) fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.changes)
    }

    /// Tells the values that there are. Changes that these include are not told again.
    pub(crate) fn initial(
        &mut self,
        mut tell: impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for key in &self.wanted.keys {
            if !self.told.contains_key(key) {
                tell_initial(self.member, key, &mut self.told, &mut tell)?;
            }
        }
        for prefix in &self.wanted.prefixes {
            for key in self.member.connection.keys(prefix) {
                let key = key.map_err(|error| self.member.failure(error))?;
                if !self.told.contains_key(&key) {
                    tell_initial(self.member, &key, &mut self.told, &mut tell)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the next change. `None`: somebody has ended the watch.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            let (key, version) = match self.changes.next() {
                Ok(change) => change,
                Err(End::Unwatched) => return Ok(None),
                Err(End::Disconnected) => return Err(self.lost()),
            };
            let found = find(self.member, &key);
            let found = match found {
                // The end is noted a moment later than a call fails; the call would say the same less clearly.
                Err(_) if !self.member.connection.is_open() => return Err(self.lost()),
                found => found?,
            };
            match found {
                Some((_, found)) if found != 0 && self.told.get(&key) >= Some(&found) => {}
                Some((value, found)) => {
                    if found != 0 {
                        self.told.insert(key.clone(), found);
                    }
                    let what = What::Value { value, version: found, initial: false };
                    return Ok(Some(Event { key, what }));
                }
                // It was put, and deleted meanwhile: that is told separately.
                None if version != 0 => {}
                None => {
                    self.told.remove(&key);
                    return Ok(Some(Event { key, what: What::Deleted }));
                }
            }
        }
    }

    fn lost(&self) -> Failure {
        Failure::Ended { socket: self.member.socket.clone(), group: self.member.group.clone() }
    }
}

fn tell_initial(
    member: &Member,
    key: &[u8],
    told: &mut HashMap<Vec<u8>, Version>,
    tell: &mut impl FnMut(Event) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some((value, version)) = find(member, key)? else { return Ok(()) };
    told.insert(key.to_vec(), version);
    tell(Event { key: key.to_vec(), what: What::Value { value, version, initial: true } })
}

/// The command `watch`.
pub(crate) fn run(request: WatchRequest, member: &Member, output: Output) -> Result<(), Failure> {
    let wanted = Wanted::new(request.keys, request.prefixes);
    let mut watcher = Watcher::start(member, wanted.clone())?;
    let tell = |event: Event| match &request.exec {
        Some(command) => {
            if let Err(end) = exec::run(command, &event, member) {
                let sentence = format!(
                    "the command for the key {} {end}; the watch goes on",
                    Quoted(&event.key)
                );
                output.warning("command_failed", &sentence);
            }
            Ok(())
        }
        None if output.is_json() => output.line(event.object()),
        None => output.line(event.text(usize::MAX)),
    };
    if !request.quiet {
        let object = || {
            let mut object = Object::new();
            object.text("event", "watching");
            bytes_field(&mut object, "group", &member.group);
            object
        };
        let sentence = format!("watching {} in the group {}", wanted.text(), Quoted(&member.group));
        output.event(object, sentence);
    }
    if request.initial {
        watcher.initial(tell)?;
    }
    let mut left = request.count;
    while left != Some(0) {
        let Some(event) = watcher.next()? else { break };
        tell(event)?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(keys: &[&str], prefixes: &[&str]) -> Wanted {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect();
        Wanted::new(words(keys), words(prefixes))
    }

    #[test]
    fn every_wanted_key_is_watched_by_one_prefix() {
        let several = wanted(&["ab", "a", "b:1", "a"], &["b:", "c", "b:2"]);
        assert_eq!(several.to_watch(), [&b"a"[..], b"b:", b"c"]);
        for (key, is_wanted) in [
            ("a", true),
            ("ab", true),
            ("abc", false),
            ("b:", true),
            ("b:1", true),
            ("b", false),
            ("cx", true),
        ] {
            assert_eq!(several.has(key.as_bytes()), is_wanted, "{key}");
        }
        assert_eq!(wanted(&["a"], &["", "b"]).to_watch(), [&b""[..]]);
    }

    #[test]
    fn a_key_waits_once_and_in_the_order_of_its_first_change() {
        let changes = Changes::default();
        for (key, version) in [("a", 1), ("b", 2), ("a", 3), ("a", 0), ("c", 4), ("b", 5)] {
            changes.note(key.as_bytes(), version);
        }
        assert_eq!(changes.next(), Ok((b"a".to_vec(), 0)));
        assert_eq!(changes.next(), Ok((b"b".to_vec(), 5)));
        changes.note(b"a", 6);
        assert_eq!(changes.next(), Ok((b"c".to_vec(), 4)));
        assert_eq!(changes.next(), Ok((b"a".to_vec(), 6)));
        changes.end(End::Unwatched);
        changes.end(End::Disconnected);
        assert_eq!(changes.next(), Err(End::Unwatched));
    }

    #[test]
    fn an_event_is_one_line() {
        let value = What::Value { value: b"two\nlines".to_vec(), version: 3, initial: false };
        let event = Event { key: b"k".to_vec(), what: value };
        assert_eq!(event.text(usize::MAX), "k = two\\nlines");
        assert_eq!(event.text(3), "k = two\u{2026} (9 bytes)");
        assert_eq!(
            event.object().to_string(),
            r#"{"event":"changed","key":"k","value":"two\nlines","version":3}"#
        );
        let event = Event { key: b"k".to_vec(), what: What::Deleted };
        assert_eq!(event.text(3), "k deleted");
        assert_eq!(event.object().to_string(), r#"{"event":"deleted","key":"k"}"#);
    }
}
