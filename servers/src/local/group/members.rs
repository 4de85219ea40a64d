//! The applications of a group: the connected ones, and the last ones that disconnected.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvs_proto::Protocol;

use crate::local::group::subscriber::{Key, Subscriber};
use crate::local::limits::charge::Charge;

/// The maximum number of disconnected applications that a group remembers for its status. The
/// oldest are dropped first, so the memory of a long-running server stays bounded.
pub(crate) const MAX_DISCONNECTED: usize = 1000;

/// The applications of one group, by number.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Connected and disconnected ones.
    clients: BTreeMap<u64, Client>,
    /// The disconnected ones, in the order in which they left.
    disconnected: VecDeque<u64>,
    /// How many of the connected ones speak protocol v2.
    connected_v2: usize,
    last_number: u64,
}

#[derive(Debug)]
struct Client {
    pid: i32,
    protocol: Protocol,
    connected_at: SystemTime,
    disconnected_at: Option<SystemTime>,
    joined: Instant,
    /// How long a disconnected application was connected.
    connected_for: Option<Duration>,
    /// `None` when the application has disconnected.
    subscriber: Option<Arc<Subscriber>>,
    /// By position, which is the order of subscription. A map keeps removal fast, because the group
    /// is locked meanwhile.
    subscriptions: BTreeMap<u64, Subscription>,
    last_position: u64,
}

/// One key or prefix that an application is subscribed to.
#[derive(Debug)]
struct Subscription {
    key: Key,
    is_prefix: bool,
    _charge: Charge,
}

/// The subscriptions of an application that has left, which are still in the subscription index.
#[derive(Debug)]
pub(crate) struct RemainingSubscriptions {
    /// The number of the application.
    pub(crate) client: u64,
    subscriptions: BTreeMap<u64, Subscription>,
}

impl RemainingSubscriptions {
    /// Removes the next subscription. Returns its key or prefix, and whether it is a prefix.
    pub(crate) fn pop(&mut self) -> Option<(Key, bool)> {
        let (_, Subscription { key, is_prefix, _charge }) = self.subscriptions.pop_first()?;
        Some((key, is_prefix))
    }

    /// Whether no subscriptions are left.
    pub(crate) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }
}

/// One application, as `Show application status` describes it.
#[derive(Debug, Clone)]
pub(crate) struct ClientStatus {
    /// As reported by the kernel when the application connected.
    pub(crate) pid: i32,
    /// When it joined the group.
    pub(crate) connected_at: SystemTime,
    /// When it disconnected.
    pub(crate) disconnected_at: Option<SystemTime>,
    /// How long it is, or was, connected.
    pub(crate) connected_for: Duration,
    /// The keys, and the prefixes (`true`), that it is subscribed to, in the order of their
    /// registration. Empty after it has disconnected.
    pub(crate) subscriptions: Vec<(Key, bool)>,
}

/// A summary of one application, without its keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientInfo {
    /// Its number in the group.
    pub(crate) number: u64,
    /// As reported by the kernel when the application connected.
    pub(crate) pid: i32,
    /// The protocol it speaks, or spoke.
    pub(crate) protocol: Protocol,
    /// When it joined the group.
    pub(crate) connected_at: SystemTime,
    /// When it disconnected.
    pub(crate) disconnected_at: Option<SystemTime>,
    /// How long it is, or was, connected.
    pub(crate) connected_for: Duration,
    /// How many keys and prefixes it is subscribed to.
    pub(crate) subscriptions: usize,
}

impl Members {
    /// Adds a connected application, and returns its number.
    pub(crate) fn join(
        &mut self,
        pid: i32,
        protocol: Protocol,
        subscriber: Arc<Subscriber>,
    ) -> u64 {
        self.last_number += 1;
        self.connected_v2 += usize::from(protocol == Protocol::V2);
        let client = Client {
            pid,
            protocol,
            connected_at: SystemTime::now(),
            disconnected_at: None,
            joined: Instant::now(),
            connected_for: None,
            subscriber: Some(subscriber),
            subscriptions: BTreeMap::new(),
            last_position: 0,
        };
        self.clients.insert(self.last_number, client);
        self.last_number
    }

    /// Marks an application as disconnected, and returns its subscriptions. Returns `None` if there
    /// is no such application.
    pub(crate) fn leave(&mut self, number: u64) -> Option<RemainingSubscriptions> {
        let client = self.clients.get_mut(&number)?;
        client.disconnected_at = Some(SystemTime::now());
        client.connected_for = Some(client.joined.elapsed());
        // Without a subscriber no events are enqueued, so its subscriptions may stay in the index
        // for a while.
        client.subscriber = None;
        self.connected_v2 -= usize::from(client.protocol == Protocol::V2);
        let subscriptions = mem::take(&mut client.subscriptions);
        self.disconnected.push_back(number);
        if self.disconnected.len() > MAX_DISCONNECTED
            && let Some(oldest) = self.disconnected.pop_front()
        {
            self.clients.remove(&oldest);
        }
        Some(RemainingSubscriptions { client: number, subscriptions })
    }

    /// The number of connected applications.
    pub(crate) fn connected(&self) -> usize {
        self.clients.len() - self.disconnected.len()
    }

    /// How many of them speak protocol v2.
    pub(crate) fn connected_v2(&self) -> usize {
        self.connected_v2
    }

    /// The number of disconnected applications that are remembered.
    pub(crate) fn disconnected(&self) -> usize {
        self.disconnected.len()
    }

    /// The subscriber of a connected application.
    pub(crate) fn subscriber(&self, number: u64) -> Option<&Arc<Subscriber>> {
        self.clients.get(&number)?.subscriber.as_ref()
    }

    /// The subscribers of all connected applications.
    pub(crate) fn subscribers(&self) -> Vec<Arc<Subscriber>> {
        self.clients.values().filter_map(|client| client.subscriber.clone()).collect()
    }

    /// The position that the next subscription of an application gets.
    pub(crate) fn next_position(&self, number: u64) -> Option<u64> {
        self.clients.get(&number).map(|client| client.last_position + 1)
    }

    /// Adds a subscription at [`next_position`](Self::next_position).
    pub(crate) fn add_subscription(
        &mut self,
        number: u64,
        key: Key,
        is_prefix: bool,
        charge: Charge,
    ) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        client.last_position += 1;
        let subscription = Subscription { key, is_prefix, _charge: charge };
        client.subscriptions.insert(client.last_position, subscription);
    }

    /// Removes the subscription of an application at a position.
    pub(crate) fn remove_subscription(&mut self, number: u64, position: u64) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.subscriptions.remove(&position);
        }
    }

    /// Up to `most` applications with numbers above `after`; of each at most `subscriptions`
    /// subscriptions, and how many it has.
    pub(crate) fn status_after(
        &self,
        after: u64,
        most: usize,
        subscriptions: usize,
    ) -> Vec<(u64, ClientStatus, usize)> {
        let describe = |(number, client): (&u64, &Client)| {
            (*number, client.status(subscriptions), client.subscriptions.len())
        };
        self.clients.range(after.saturating_add(1)..).take(most).map(describe).collect()
    }

    /// Up to `connected` connected and `disconnected` disconnected applications, the latest first.
    pub(crate) fn infos(&self, connected: usize, disconnected: usize) -> Vec<ClientInfo> {
        let are = self.clients.iter().rev();
        let are = are.filter(|(_, client)| client.disconnected_at.is_none()).take(connected);
        let were = self.disconnected.iter().rev().take(disconnected);
        let were = were.filter_map(|number| self.clients.get_key_value(number));
        are.chain(were).map(|(number, client)| client.info(*number)).collect()
    }
}

impl Client {
    fn connected_for(&self) -> Duration {
        self.connected_for.unwrap_or_else(|| self.joined.elapsed())
    }

    /// With at most so many subscriptions.
    fn status(&self, subscriptions: usize) -> ClientStatus {
        let describe =
            |subscription: &Subscription| (Arc::clone(&subscription.key), subscription.is_prefix);
        ClientStatus {
            pid: self.pid,
            connected_at: self.connected_at,
            disconnected_at: self.disconnected_at,
            connected_for: self.connected_for(),
            subscriptions: self.subscriptions.values().take(subscriptions).map(describe).collect(),
        }
    }

    fn info(&self, number: u64) -> ClientInfo {
        ClientInfo {
            number,
            pid: self.pid,
            protocol: self.protocol,
            connected_at: self.connected_at,
            disconnected_at: self.disconnected_at,
            connected_for: self.connected_for(),
            subscriptions: self.subscriptions.len(),
        }
    }
}
