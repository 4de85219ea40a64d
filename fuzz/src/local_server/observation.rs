//! Observes what the server has read and sent after each step, and compares it with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};

use kvs_proto::Text;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::harness::{
    CallbackConnection, Harness, MainConnection, MainState, MemberModel, UNTHROTTLED_ATTEMPTS, int,
};
use crate::v1_model::ModelEvent;

nix::ioctl_read_bad!(siocoutq, nix::libc::TIOCOUTQ, nix::libc::c_int);

impl Harness<'_> {
    /// After each step of the server: updates the model by the bytes that the server has read,
    /// compares the bytes that it has sent, and checks the invariants.
    pub(super) fn observe(&mut self) {
        self.now += 1;
        let ready = self.ready();
        for slot in 0..self.callbacks.len() {
            if ready[slot].1 {
                self.observe_callback(slot);
            }
        }
        for slot in 0..self.mains.len() {
            self.observe_main(slot);
        }
        for slot in 0..self.mains.len() {
            if ready[slot].0 {
                self.receive(slot);
            }
        }
        self.check_pairs();
        self.check_memory();
    }

    /// Which main and callback channels are readable.
    pub(super) fn ready(&self) -> Vec<(bool, bool)> {
        let streams = || {
            let main = self.mains.iter().map(|main| main.as_ref().map(|main| &main.stream));
            let callbacks = self.callbacks.iter();
            main.chain(callbacks.map(|callback| callback.as_ref().map(|callback| &callback.stream)))
        };
        let mut polled: Vec<_> = streams()
            .flatten()
            .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut polled, PollTimeout::ZERO).expect("the descriptors are open");
        let mut polled = polled.iter();
        let ready: Vec<bool> = streams()
            .map(|stream| stream.is_some() && polled.next().and_then(PollFd::any) == Some(true))
            .collect();
        let (main, callback) = ready.split_at(self.mains.len());
        main.iter().copied().zip(callback.iter().copied()).collect()
    }

    /// Updates the model when the server has read the bytes of a main channel.
    pub(super) fn observe_main(&mut self, slot: usize) {
        let Some(main) = &mut self.mains[slot] else { return };
        if main.unread.is_empty() {
            return;
        }
        let mut left = 0;
        // SAFETY: the descriptor is open, and SIOCOUTQ writes one int.
        unsafe { siocoutq(main.stream.as_raw_fd(), &mut left) }.expect("a socket knows SIOCOUTQ");
        if left > 0 {
            return;
        }
        let unread = std::mem::take(&mut main.unread);
        if getsockopt(&main.stream, sockopt::SocketError).expect("a socket") != 0 {
            // The server has closed the connection without model these bytes.
            assert!(
                main.may_end || main.must_end,
                "closed the connection of a conforming application"
            );
            main.ended = true;
            return;
        }
        match main.model.read(&unread) {
            Ok(events) => {
                for event in events {
                    self.apply(slot, event);
                }
            }
            Err(_) => main.must_end = true,
        }
    }

    pub(super) fn apply(&mut self, slot: usize, event: ModelEvent) {
        let Some(main) = &mut self.mains[slot] else { return };
        match (&mut main.state, event) {
            (_, ModelEvent::Ready | ModelEvent::Begin) => main.expected.extend(int(1)),
            (_, ModelEvent::Close) => main.must_end = true,
            (MainState::Login { group }, ModelEvent::Group(name, _)) => {
                *group = self
                    .groups
                    .iter()
                    .position(|group| group.open && group.name.as_bytes() == name);
                main.expected.extend(int(i32::from(group.is_some())));
                match group {
                    Some(_) => main.model.group_exists(),
                    None => main.must_end = true,
                }
            }
            (MainState::Login { group: Some(group) }, ModelEvent::Secret(secret)) => {
                let attempts = &mut self.groups[*group].attempts;
                *attempts += 1;
                // The server throttles wrong secrets, and closes the connection after too many.
                main.may_end |= *attempts > UNTHROTTLED_ATTEMPTS;
                main.state = MainState::Verdict { group: *group, secret };
            }
            (MainState::LoggedIn(member), ModelEvent::Get(key)) => {
                let group = &mut self.groups[member.group];
                match group.pairs.get(&key) {
                    Some(value) => {
                        main.expected.extend(int(value.len() as i32));
                        main.expected.extend(value);
                        main.expected.push(0);
                    }
                    None => main.expected.extend(int(-1)),
                }
                group.seen.insert(key);
                main.model.responded();
            }
            (MainState::LoggedIn(member), ModelEvent::Watch(key)) => {
                let found = self.groups[member.group].pairs.contains_key(&key);
                main.expected.extend(int(if found { 1 } else { -1 }));
                if found {
                    self.load += 1;
                    member.watches.insert(key);
                }
                main.model.responded();
            }
            (MainState::LoggedIn(member), ModelEvent::Delete(key)) => {
                let group = member.group;
                let found = self.groups[group].pairs.remove(&key).is_some();
                main.expected.extend(int(if found { 1 } else { -1 }));
                main.model.responded();
                for member in self.members(group) {
                    member.watches.remove(&key);
                }
                self.groups[group].seen.insert(key);
            }
            (MainState::LoggedIn(member), ModelEvent::Put(key, value)) => {
                let (group, now) = (member.group, self.now);
                // A deleted group refuses it, and the server closes the session.
                if !self.groups[group].open {
                    return;
                }
                for member in self.members(group) {
                    if member.watches.contains(&key) {
                        let (count, last) = member.changes.entry(key.clone()).or_default();
                        (*count, *last) = (*count + 1, now);
                    }
                }
                let group = &mut self.groups[group];
                if !group.pairs.contains_key(&key) {
                    self.load += 1;
                }
                group.seen.insert(key.clone());
                group.pairs.insert(key, value);
            }
            (_, event) => panic!("{event:?} before the login"),
        }
    }

    pub(super) fn members(&mut self, group: usize) -> impl Iterator<Item = &mut MemberModel> {
        self.mains.iter_mut().flatten().filter(|main| !main.ended).filter_map(move |main| {
            match &mut main.state {
                MainState::LoggedIn(member) if member.group == group => Some(member),
                _ => None,
            }
        })
    }

    /// Receives and checks the bytes of a main channel.
    pub(super) fn receive(&mut self, slot: usize) {
        let Some(main) = &mut self.mains[slot] else { return };
        if main.not_reading || main.ended {
            return;
        }
        let mut buffer = [0; 4096];
        loop {
            match main.stream.read(&mut buffer) {
                Ok(0) => {
                    main.ended = true;
                    break;
                }
                Ok(len) => {
                    let mut got = &buffer[..len];
                    let known = len.min(main.expected.len());
                    let expected: Vec<u8> = main.expected.drain(..known).collect();
                    assert_eq!(got[..known], expected, "a wrong response");
                    got = &got[known..];
                    if !got.is_empty() {
                        let verdict = <[u8; 4]>::try_from(got).expect("a verdict and no more");
                        self.verdict(slot, i32::from_ne_bytes(verdict));
                        return self.receive(slot);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The server has closed the connection with unread bytes.
                Err(_) => {
                    main.ended = true;
                    break;
                }
            }
        }
        let login =
            !matches!(main.state, MainState::LoggedIn(_)) && self.ambiguous.contains(&main.name);
        assert!(
            main.may_end || main.must_end || login,
            "a conforming application was disconnected"
        );
    }

    pub(super) fn verdict(&mut self, slot: usize, verdict: i32) {
        let Some(main) = &mut self.mains[slot] else { return };
        let MainState::Verdict { group, secret } = &main.state else {
            panic!("unexpected integer {verdict}")
        };
        let (group, name) = (*group, main.name);
        let is_right =
            |known: &Option<Text>| known.is_some_and(|known| known.as_bytes() == &secret[..]);
        match verdict {
            1 => {
                assert!(
                    self.groups[group].secrets.iter().any(is_right),
                    "logged in with a wrong secret"
                );
                let has_flag = |callback: &CallbackConnection| {
                    callback.name == name && callback.has_flag && !callback.taken
                };
                let found = self
                    .callbacks
                    .iter()
                    .position(|callback| callback.as_ref().is_some_and(has_flag));
                let certain = !self.ambiguous.contains(&name);
                let not_reading =
                    self.callbacks.iter().flatten().any(|callback| callback.not_reading);
                assert!(
                    found.is_some() || !certain || not_reading,
                    "logged in without a callback channel"
                );
                let callback = found.filter(|_| certain);
                main.callback = callback;
                main.model.responded();
                main.state = MainState::LoggedIn(MemberModel {
                    group,
                    watches: BTreeSet::new(),
                    changes: BTreeMap::new(),
                    notified: BTreeMap::new(),
                    may_miss_events: callback.is_none(),
                });
                self.load += 1;
                if let Some(callback) = callback.and_then(|at| self.callbacks[at].as_mut()) {
                    callback.taken = true;
                }
            }
            0 => {
                let secrets = &self.groups[group].secrets;
                assert!(
                    secrets.iter().any(|known| !is_right(known)),
                    "refused with the right secret"
                );
                main.must_end = true;
            }
            other => panic!("{other} in listeners of a verdict"),
        }
    }

    pub(super) fn observe_callback(&mut self, slot: usize) {
        let Some(callback) = &mut self.callbacks[slot] else { return };
        if callback.not_reading || callback.closed {
            return;
        }
        let mut buffer = [0; 4096];
        loop {
            match callback.stream.read(&mut buffer) {
                Ok(0) => break callback.closed = true,
                Ok(len) => callback.received.extend(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break callback.closed = true,
            }
        }
        if callback.ambiguous {
            callback.received.clear();
            return;
        }
        loop {
            if callback.ready_sent {
                if callback.received.len() < 100 {
                    break;
                }
                let key: Vec<u8> = callback.received.drain(..100).collect();
                let at = callback.flag_at.take().expect("a ready flag is sent only after a flag");
                callback.ready_sent = false;
                let key = Text::from_padded(&key).expect("a padded key").as_bytes().to_vec();
                Self::record_notification(&mut self.mains, slot, key, at);
                continue;
            }
            let Some(first) = callback.received.first_chunk::<4>() else { break };
            let flag = i32::from_ne_bytes(*first);
            callback.received.drain(..4);
            match flag {
                1 if !callback.has_flag => callback.has_flag = true,
                1 if callback.flag_at.is_none() => callback.flag_at = Some(self.now),
                -1 if callback.has_flag && callback.flag_at.is_none() => callback.ambiguous = true,
                other => panic!("{other} on a callback channel"),
            }
        }
    }

    pub(super) fn record_notification(
        mains: &mut [Option<MainConnection>],
        slot: usize,
        key: Vec<u8>,
        at: u64,
    ) {
        let main = mains.iter_mut().flatten().find(|main| main.callback == Some(slot));
        let Some(MainConnection { state: MainState::LoggedIn(member), .. }) = main else { return };
        let (changes, _) =
            member.changes.get(&key).expect("notified of a key without a subscription");
        let (notified, last) = member.notified.entry(key).or_default();
        (*notified, *last) = (*notified + 1, at);
        assert!(*notified <= *changes, "more notifications than changes");
    }
}
