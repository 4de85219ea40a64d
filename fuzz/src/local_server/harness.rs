//! The state of a script: the server, its clients, and the models of both.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::{UnixListener, UnixStream};

use kvs_proto::Text;
use kvs_servers::local::fuzzing::SteppedServer;

use super::listeners::Listeners;
use crate::counting_allocator;
use crate::input::text;
use crate::v1_model::MainChannelModel;

pub(super) const REACTORS: usize = 2;

/// The read buffer of a reactor, in bytes.
pub(super) const READ_BUFFER: usize = 64 * 1024;

/// The number of applications that the script controls. The honest application has the slot after
/// them.
pub(super) const SLOTS: usize = 4;

/// The maximum number of unread bytes on a connection: less than one `read` of the server.
pub(super) const MAX_UNREAD: usize = 4000;

/// The maximum number of bytes that the server may have pending for an application: on the main
/// channel the response to a get and a ready flag, on the callback channel a key and the next flag.
pub(super) const MAX_PENDING: usize = 4 + 100 + 4 + 100 + 4;

/// The maximum number of operations and connections of a script, so that every script is short.
pub(super) const BUDGET: u32 = 300;

/// The number of login attempts that are not throttled.
pub(super) const UNTHROTTLED_ATTEMPTS: u32 = 5;

pub(super) const SECRET: &[u8] = b"abcde";

pub(super) struct Harness<'a> {
    pub(super) listeners: &'a Listeners,
    pub(super) server: SteppedServer,
    pub(super) groups: Vec<GroupModel>,
    pub(super) mains: Vec<Option<MainConnection>>,
    pub(super) callbacks: Vec<Option<CallbackConnection>>,
    /// Names whose main and callback connections cannot be paired with certainty.
    pub(super) ambiguous: BTreeSet<u8>,
    pub(super) live_names: [Vec<u8>; 2],
    /// The number of observations so far.
    pub(super) now: u64,
    pub(super) budget: u32,
    /// The number of objects that the server must store: applications, pairs, subscriptions.
    pub(super) load: usize,
    /// The number of connections that the server may not have accepted yet.
    pub(super) new: usize,
}

/// The model of a group.
pub(super) struct GroupModel {
    pub(super) name: Text,
    pub(super) open: bool,
    pub(super) pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// All keys that were sent.
    pub(super) seen: BTreeSet<Vec<u8>>,
    /// The responses of the authentication server about its secret.
    pub(super) secrets: Vec<Option<Text>>,
    /// The number of login attempts.
    pub(super) attempts: u32,
}

/// The client's end of a main connection, and its model.
pub(super) struct MainConnection {
    pub(super) stream: UnixStream,
    pub(super) name: u8,
    pub(super) model: MainChannelModel,
    /// Bytes that are sent, and that the server has not read.
    pub(super) unread: Vec<u8>,
    /// Bytes that the server must send, and that are not received.
    pub(super) expected: Vec<u8>,
    pub(super) state: MainState,
    /// Whether the application does not read.
    pub(super) not_reading: bool,
    /// Whether the server may close, or must close, the connection.
    pub(super) may_end: bool,
    pub(super) must_end: bool,
    pub(super) ended: bool,
    /// The slot of its callback channel, if it is certain.
    pub(super) callback: Option<usize>,
}

pub(super) enum MainState {
    Login { group: Option<usize> },
    Verdict { group: usize, secret: Vec<u8> },
    LoggedIn(MemberModel),
}

pub(super) struct MemberModel {
    pub(super) group: usize,
    pub(super) watches: BTreeSet<Vec<u8>>,
    /// For each key: the number of changes during its subscription, and the time of the last one.
    pub(super) changes: BTreeMap<Vec<u8>, (u64, u64)>,
    /// For each key: the number of notifications, and the time of the last flag.
    pub(super) notified: BTreeMap<Vec<u8>, (u64, u64)>,
    /// Whether notifications may get lost.
    pub(super) may_miss_events: bool,
}

/// The client's end of a callback connection, and its model.
pub(super) struct CallbackConnection {
    pub(super) stream: UnixStream,
    pub(super) name: u8,
    pub(super) received: Vec<u8>,
    pub(super) has_flag: bool,
    /// The time of a flag whose key is not received yet.
    pub(super) flag_at: Option<u64>,
    pub(super) ready_sent: bool,
    pub(super) closed: bool,
    /// Whether the application has broken the protocol or closed: the bytes of the server are
    /// unpredictable.
    pub(super) ambiguous: bool,
    pub(super) not_reading: bool,
    pub(super) taken: bool,
}

pub(super) fn int(value: i32) -> [u8; 4] {
    value.to_ne_bytes()
}

/// Initializes the thread-local state of the code under test, such as its random number generator.
/// Otherwise the first script would count that memory, which is never freed.
pub(super) fn initialize_thread_locals(listeners: &Listeners) {
    let clone = |listener: &UnixListener| listener.try_clone().expect("descriptors are left");
    let server = SteppedServer::new(clone(&listeners.main), clone(&listeners.callback), 1);
    server.expect("descriptors are left").add_group(text(b"g"), text(SECRET));
}

impl<'a> Harness<'a> {
    pub(super) fn new(listeners: &'a Listeners) -> Self {
        counting_allocator::reset();
        let again = |listener: &UnixListener| listener.try_clone().expect("descriptors are left");
        let (main, callback) = (again(&listeners.main), again(&listeners.callback));
        let server = counting_allocator::counted(|| SteppedServer::new(main, callback, REACTORS));
        let server = server.expect("descriptors are left");
        let groups = [&b"g"[..], b"h"].map(|name| GroupModel {
            name: text(name),
            open: true,
            pairs: BTreeMap::new(),
            seen: BTreeSet::new(),
            secrets: Vec::new(),
            attempts: 0,
        });
        let mut harness = Self {
            listeners,
            server,
            groups: groups.into(),
            mains: (0..=SLOTS).map(|_| None).collect(),
            callbacks: (0..=SLOTS).map(|_| None).collect(),
            ambiguous: BTreeSet::new(),
            live_names: [Vec::new(), Vec::new()],
            now: 0,
            budget: BUDGET,
            load: 0,
            new: 0,
        };
        for group in &harness.groups {
            counting_allocator::counted(|| harness.server.add_group(group.name, text(SECRET)));
        }
        // The honest application. No other application uses its name.
        harness.login(SLOTS, 200, 0, SECRET);
        assert!(harness.member(SLOTS).is_some(), "the honest application could not log in");
        harness.put(SLOTS, b"honest", b"0");
        harness.operate(SLOTS, 3, b"honest", b"");
        assert!(harness.member(SLOTS).is_some_and(|member| member.watches.len() == 1));
        harness
    }
}

impl Harness<'_> {
    pub(super) fn member(&self, slot: usize) -> Option<&MemberModel> {
        match &self.mains[slot].as_ref()?.state {
            MainState::LoggedIn(member) => Some(member),
            _ => None,
        }
    }
}
