//! Applies datagrams to links and groups. It uses only the sockets of the links and reads no clock:
//! the reactor passes the time.
//!
//! Unconfirmed links expire, and so do inherited groups that are not registered again. An
//! incomplete exchange needs no timer: the next datagram on its port discards it if it is too old.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use kvs_proto::link::original::{CLOSE, LinkCommand, LinkEvent};

use super::config::Config;
use super::links::{Link, Links, NoPorts};
use super::port::LinkId;
use super::registry::Registry;
use super::udp::send;
use crate::console::Output;
use crate::log_limiter::LogLimiter;

/// The links and groups of a running server.
pub(super) struct Service<'a> {
    config: Config,
    links: Links,
    registry: Registry,
    /// The links that have inherited groups, and since when; the oldest first.
    successors: VecDeque<(Instant, LinkId)>,
    /// Limits the log lines about `Connect` datagrams that are not answered.
    refusals: LogLimiter,
    /// The server is quitting: it accepts no links, and asks the local servers to close.
    is_quitting: bool,
    output: &'a Output,
}

impl<'a> Service<'a> {
    /// No links and no groups, for a server that listens on `listen`.
    pub(super) fn new(config: Config, listen: SocketAddr, output: &'a Output) -> Self {
        Self {
            links: Links::new(listen, config.port_cooldown, config.links_per_machine),
            registry: Registry::new(config.groups_per_machine),
            successors: VecDeque::new(),
            refusals: LogLimiter::default(),
            is_quitting: false,
            config,
            output,
        }
    }

    /// The links.
    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// Makes the service refuse new links, because the server is quitting.
    pub(super) fn quit(&mut self) {
        self.is_quitting = true;
    }

    /// Handles a datagram that arrived on the listen port. Returns the command port, which is the
    /// response to a `Connect`.
    pub(super) fn on_listen_port(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        events: &mio::Registry,
    ) -> Option<u16> {
        if LinkCommand::decode(datagram) != Some(LinkCommand::Connect) {
            tracing::debug!("datagram from {from} ignored: the listen port takes Connect only");
            return None;
        }
        if self.is_quitting {
            tracing::info!("Connect from {from} not answered: this server is quitting");
            return None;
        }
        let known = self.links.unconfirmed(from);
        if let Some((id, link)) = known.and_then(|id| Some((id, self.links.get(id)?))) {
            let port = link.port;
            self.links.touch(id, now);
            return Some(port);
        }
        match self.open_link(from, now, events) {
            Ok(port) => {
                // A socket for both families shows an IPv4 address as a part of IPv6.
                let (ip, source) = (from.ip().to_canonical(), from.port());
                self.output.say(format_args!(
                    "Authentification server received connection request from ({ip}, {source})"
                ));
                Some(port)
            }
            Err(reason) => {
                if self.refusals.allow(now) {
                    tracing::warn!("Connect from {from} not answered: {reason}");
                }
                None
            }
        }
    }

    /// Opens a link. If no ports are left, it replaces a link that is no longer used.
    fn open_link(
        &mut self,
        connector: SocketAddr,
        now: Instant,
        events: &mio::Registry,
    ) -> Result<u16, NoPorts> {
        let reason = match self.links.open(connector, now, events) {
            Ok(link) => return Ok(link.port),
            Err(reason) => reason,
        };
        let is_idle =
            |link: &Link| now.duration_since(link.last_command()) >= self.config.idle_timeout;
        // A local server sends `Connect_2`, so a link without a close address is probably not one.
        let is_unused = |(id, link): &(LinkId, &Link)| {
            link.is_confirmed()
                && !self.registry.owns_any(*id)
                && (link.close_address().is_none() || is_idle(link))
        };
        let longest_unused = |links: &mut dyn Iterator<Item = (LinkId, &Link)>| {
            let unused = links.filter(is_unused);
            unused.min_by_key(|(_, link)| link.last_command()).map(|(id, _)| id)
        };
        // A machine at its limit may replace only its own links.
        let unused = match reason {
            NoPorts::ShareTaken(_) => longest_unused(&mut self.links.of_machine(connector)),
            _ => longest_unused(&mut self.links.iter()),
        };
        let Some(id) = unused else {
            return Err(reason);
        };
        self.close_link(id, now, "it is idle, and another local server needs ports");
        self.links.open(connector, now, events).map(|link| link.port)
    }

    /// Handles a datagram that arrived on the close port of a link.
    pub(super) fn on_close_port(
        &mut self,
        id: LinkId,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if !link.is_from_its_machine(from)
            || LinkCommand::decode(datagram) != Some(LinkCommand::Connect2)
        {
            tracing::debug!("datagram from {from} ignored: not the Connect_2 of {link}");
            return;
        }
        if link.close_address().is_some_and(|address| address != from) {
            tracing::debug!("Connect_2 from {from} ignored: {link} has a close port already");
            return;
        }
        match self.links.with_close_address(from) {
            // A younger link has that close port, so this datagram was delayed.
            Some(other) if other > id => {
                tracing::debug!("Connect_2 from {from} ignored: a newer link has this close port");
                return;
            }
            Some(other) if other < id => {
                if self.registry.inherit(other, id) {
                    self.successors.push_back((now, id));
                }
                self.close_link(other, now, "its local server has reconnected");
            }
            _ => {}
        }
        self.links.touch(id, now);
        self.links.set_close_address(id, from);
        if let (true, Some(link)) = (self.is_quitting, self.links.get(id)) {
            link.send_flag(CLOSE);
        }
        self.confirm(id);
    }

    /// Handles a datagram that arrived on the command port of a link, and sends the response there.
    pub(super) fn on_command_port(
        &mut self,
        id: LinkId,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if !link.is_from_its_machine(from) {
            tracing::debug!("datagram from {from} ignored: not the machine of {link}");
            return;
        }
        match LinkCommand::decode(datagram) {
            None => {
                let age = now.saturating_duration_since(link.last_command());
                if link.exchanges.has_exchanges() && age >= self.config.exchange_timeout {
                    tracing::info!("{link}: incomplete exchanges have timed out");
                    link.exchanges.clear_exchanges();
                }
            }
            Some(LinkCommand::Connect | LinkCommand::Connect2) => {}
            Some(command) => {
                tracing::debug!("{command:?} from {from} for {link}");
                self.links.touch(id, now);
                self.confirm(id);
            }
        }
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let mut groups = self.registry.view(link.identity(id));
        let mut reply = Vec::new();
        let event = link.exchanges.receive(from, datagram, &mut groups, &mut reply);
        if !reply.is_empty() {
            send(&link.command_socket, from, &reply);
        }
        match event {
            None => {}
            Some(LinkEvent::Created(name)) => {
                self.output.say("Group created!");
                tracing::debug!("{link} created {name:?}");
            }
            Some(LinkEvent::Deleted(name)) => {
                self.output.say("Group deleted!");
                tracing::debug!("{link} deleted {name:?}");
            }
            Some(LinkEvent::Closed) => {
                self.output.say("Connection closed");
                self.close_link(id, now, "disconnected");
            }
        }
    }

    fn confirm(&mut self, id: LinkId) {
        if self.links.confirm(id) {
            self.output.say("New Local Server Connected");
            if let Some(link) = self.links.get(id) {
                tracing::info!("{link} is connected");
            }
        }
    }

    /// Closes a link. Groups that it still owns are deleted, because no other link could delete
    /// them later.
    fn close_link(&mut self, id: LinkId, now: Instant, reason: &str) {
        let Some(link) = self.links.close(id, now) else {
            return;
        };
        tracing::info!("{link} removed: {reason}");
        let groups = self.registry.remove_link(id);
        if !groups.is_empty() {
            tracing::warn!("groups deleted together with {link}, their owner: {groups:?}");
        }
    }

    /// Removes the unconfirmed links and the inherited groups whose timeout has expired.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((id, since)) = self.links.oldest_unconfirmed()
            && now.saturating_duration_since(since) >= self.config.confirm_timeout
        {
            self.close_link(id, now, "it has not used its ports in time (--confirm-wait)");
        }
        while let Some((since, id)) = self.successors.front()
            && now.saturating_duration_since(*since) >= self.config.inherit_timeout
        {
            let groups = self.registry.remove_inherited(*id);
            if !groups.is_empty() {
                tracing::warn!(
                    "groups deleted, because no local server has registered them again: {groups:?}"
                );
            }
            self.successors.pop_front();
        }
    }

    /// When [`expire`](Self::expire) has something to do, if ever.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let unconfirmed =
            self.links.oldest_unconfirmed().map(|(_, since)| since + self.config.confirm_timeout);
        let inherited =
            self.successors.front().map(|(since, _)| *since + self.config.inherit_timeout);
        unconfirmed.into_iter().chain(inherited).min()
    }

    /// The groups.
    #[cfg(test)]
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }
}
