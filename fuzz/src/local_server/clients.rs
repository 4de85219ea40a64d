//! Steps of the clients: connect, send, close, and whole operations.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};

use super::harness::{
    CallbackConnection, Harness, MAX_UNREAD, MainConnection, MainState, SLOTS, int,
};
use crate::v1_model::MainChannelModel;

impl Harness<'_> {
    pub(super) fn take_budget(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        left
    }

    pub(super) fn open(&mut self, listener: &str, prefix: &str, name: u8) -> Option<UnixStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let family = AddressFamily::Unix;
        let socket: OwnedFd = socket(family, SockType::Stream, flags, None).expect("a socket");
        if name != 0 {
            let path = self.listeners.path(&format!("{prefix}{name}"));
            let _ = std::fs::remove_file(&path);
            let address = UnixAddr::new(&path).expect("the path is short");
            bind(socket.as_raw_fd(), &address).expect("the path is free");
            let _ = std::fs::remove_file(&path);
        }
        let address = UnixAddr::new(&self.listeners.path(listener)).expect("the path is short");
        // The backlog can be full.
        connect(socket.as_raw_fd(), &address).ok()?;
        Some(UnixStream::from(socket))
    }

    /// Records the use of a name. A name of several connections of one kind is ambiguous.
    pub(super) fn use_name(&mut self, kind: usize, name: u8) {
        if self.live_names[kind].contains(&name) {
            self.ambiguous.insert(name);
        }
        self.live_names[kind].push(name);
    }

    pub(super) fn connect_main(&mut self, slot: usize, name: u8) {
        if !self.take_budget() {
            return;
        }
        self.close_main(slot, false);
        let Some(stream) = self.open("main", "app_socket_", name) else { return };
        self.use_name(0, name);
        self.new += 1;
        self.mains[slot] = Some(MainConnection {
            stream,
            name,
            model: MainChannelModel::new(),
            unread: Vec::new(),
            expected: int(1).to_vec(),
            state: MainState::Login { group: None },
            not_reading: false,
            may_end: false,
            must_end: false,
            ended: false,
            callback: None,
        });
    }

    pub(super) fn connect_callback(&mut self, slot: usize, name: u8) {
        if !self.take_budget() {
            return;
        }
        self.close_callback(slot);
        let Some(stream) = self.open("callback", "app_socket_cb_", name) else { return };
        self.use_name(1, name);
        self.new += 1;
        self.callbacks[slot] = Some(CallbackConnection {
            stream,
            name,
            received: Vec::new(),
            has_flag: false,
            flag_at: None,
            ready_sent: false,
            closed: false,
            ambiguous: false,
            not_reading: false,
            taken: false,
        });
    }

    pub(super) fn send_main(&mut self, slot: usize, bytes: &[u8]) {
        let others = (0..self.mains.len()).any(|other| {
            other != slot && self.mains[other].as_ref().is_some_and(|main| !main.unread.is_empty())
        });
        if others {
            self.settle();
        }
        if (0..self.mains.len()).any(|other| {
            // This application does not read its responses, so the server does not read its
            // requests.
            other != slot && self.mains[other].as_ref().is_some_and(|main| !main.unread.is_empty())
        }) {
            return;
        }
        let Some(main) = &mut self.mains[slot] else { return };
        // The model has protocol v1 only. Only the first bytes of a session can offer v2.
        let mut bytes = bytes.to_vec();
        if matches!(main.state, MainState::Login { group: None }) {
            bytes.iter_mut().filter(|byte| **byte == b'2').for_each(|byte| *byte = b'1');
        }
        let bytes = &bytes[..];
        if main.ended || bytes.is_empty() || main.unread.len() + bytes.len() > MAX_UNREAD {
            return;
        }
        match main.stream.write(bytes) {
            Ok(written) => main.unread.extend(&bytes[..written]),
            // The server has closed the connection, or the client has shut down this direction.
            Err(error) => assert_ne!(error.kind(), ErrorKind::Interrupted),
        }
    }

    pub(super) fn send_callback(&mut self, slot: usize, bytes: &[u8]) {
        let Some(callback) = &mut self.callbacks[slot] else { return };
        if bytes.is_empty() {
            return;
        }
        callback.ambiguous = true;
        let _ = callback.stream.write(bytes);
        let name = callback.name;
        self.allow_close(name);
    }

    /// Allows the server to close the sessions of this name: their callback connection may be the
    /// cause.
    pub(super) fn allow_close(&mut self, name: u8) {
        for main in self.mains.iter_mut().flatten().filter(|main| main.name == name) {
            main.may_end = true;
            if let MainState::LoggedIn(member) = &mut main.state {
                member.may_miss_events = true;
            }
        }
        self.ambiguous.insert(name);
    }

    pub(super) fn send_ready(&mut self, slot: usize) {
        let Some(callback) = &mut self.callbacks[slot] else { return };
        if callback.flag_at.is_some() && !callback.ready_sent && !callback.ambiguous {
            callback.ready_sent = callback.stream.write(&int(1)).is_ok();
        } else {
            self.send_callback(slot, &int(1));
        }
    }

    pub(super) fn close_main(&mut self, slot: usize, half: bool) {
        if self.mains[slot].as_ref().is_some_and(|main| !main.unread.is_empty()) {
            self.settle();
        }
        let Some(main) = &mut self.mains[slot] else { return };
        if half {
            let _ = main.stream.shutdown(Shutdown::Write);
            main.may_end = true;
            return;
        }
        // The server must not read bytes after the model has dropped the connection.
        if main.unread.is_empty() {
            self.mains[slot] = None;
        }
    }

    pub(super) fn close_callback(&mut self, slot: usize) {
        if let Some(callback) = self.callbacks[slot].take() {
            self.allow_close(callback.name);
        }
    }

    pub(super) fn set_not_reading(&mut self, slot: usize, how: u8) {
        if let Some(main) = &mut self.mains[slot] {
            main.not_reading = how & 1 != 0;
        }
        if let Some(callback) = &mut self.callbacks[slot] {
            callback.not_reading = how & 2 != 0;
        }
        // Receive the bytes of the meantime.
        self.observe();
    }

    /// Logs in as the library does.
    pub(super) fn login(&mut self, slot: usize, name: u8, group: usize, secret: &[u8]) {
        self.connect_main(slot, name);
        self.settle();
        let group = self.groups[group].name;
        self.send_main(slot, group.as_bytes());
        self.settle();
        self.send_main(slot, secret);
        self.connect_callback(slot, name);
        self.settle();
        while self.respond(0) {}
        self.settle();
    }

    pub(super) fn put(&mut self, slot: usize, key: &[u8], value: &[u8]) {
        self.operate(slot, 0, key, value);
    }

    /// Performs an operation as the library does.
    pub(super) fn operate(&mut self, slot: usize, function: u8, key: &[u8], value: &[u8]) {
        for bytes in [&int(i32::from(function))[..], key, value] {
            self.send_main(slot, bytes);
            self.settle();
        }
    }

    pub(super) fn repeat(&mut self, slot: usize, function: u8, key: u8, times: u32) {
        for n in 0..times {
            if !self.take_budget() {
                return;
            }
            let value = [n as u8 + 1];
            self.operate(slot, function, &[b'0' + key], &value[..usize::from(function == 0)]);
        }
    }

    /// Confirms the pending flag, if any.
    pub(super) fn acknowledge(&mut self, slot: usize) {
        if self.callbacks[slot].as_ref().is_some_and(|callback| callback.flag_at.is_some()) {
            self.send_ready(slot);
            self.settle();
        }
    }

    /// Checks that the honest application is served whatever the others do.
    pub(super) fn honest_round(&mut self) {
        if !self.take_budget() {
            return;
        }
        self.settle();
        let value = self.now.to_string();
        self.put(SLOTS, b"honest", value.as_bytes());
        self.operate(SLOTS, 1, b"honest", b"");
        self.acknowledge(SLOTS);
        self.acknowledge(SLOTS);
        let Some(main) = &self.mains[SLOTS] else {
            unreachable!("no other application has its slot")
        };
        if !self.groups[0].open {
            return;
        }
        assert!(!main.ended && !main.may_end, "the honest application was disconnected");
        assert!(
            main.expected.is_empty() && main.unread.is_empty(),
            "the honest application got no response"
        );
        self.assert_notified(SLOTS);
    }
}
