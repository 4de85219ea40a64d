//! The role of the authentication server.

use std::collections::VecDeque;
use std::mem;

use super::command::LinkCommand;
use super::datagram::{NO, YES, decode_int, decode_name, decode_secret, encode_int};
use super::directory::{LinkDirectory, LinkEvent};
use crate::text::Text;

/// The maximum number of incomplete exchanges on one [`CommandPort`]. A further one replaces the
/// oldest. A local server has one, and a few that it has abandoned.
pub const MAX_EXCHANGES: usize = 16;

/// The maximum number of retired sockets that a [`CommandPort`] remembers.
pub const MAX_RETIRED: usize = 128;

/// One command port, in the role of the authentication server: an exchange for each socket that has
/// started one.
///
/// Two rules protect the groups from late datagrams:
///
/// - When an exchange ends, all older exchanges end that can change a group: a local server makes
///   one request after the other, so it has abandoned them.
/// - A socket is *retired* when its exchange that can change a group ends. A retired socket cannot
///   start another such exchange after the port has received a command from another socket. So when
///   the network repeats a whole deletion, it does not delete a group that was created again
///   meanwhile. Only the *main* address, which has sent `Connect`, is never retired: the original
///   local server sends everything from there.
///
/// `A` is the address of a sender.
#[derive(Debug)]
pub struct CommandPort<A> {
    main: Option<A>,
    /// Incomplete exchanges, oldest first.
    exchanges: Vec<(A, ServerStep)>,
    /// Retired sockets, oldest first.
    retired: VecDeque<A>,
    /// The sender of the last command.
    last: Option<A>,
}

#[derive(Debug, Clone, Copy)]
enum ServerStep {
    Name(LinkCommand),
    NewSecret(Text),
    SecretRequested(Text),
}

impl ServerStep {
    /// Whether the exchange can change a group.
    fn is_change(self) -> bool {
        match self {
            Self::Name(command) => command.is_change(),
            Self::NewSecret(_) => true,
            Self::SecretRequested(_) => false,
        }
    }
}

impl<A> Default for CommandPort<A> {
    fn default() -> Self {
        Self { main: None, exchanges: Vec::new(), retired: VecDeque::new(), last: None }
    }
}

impl<A: Clone + PartialEq> CommandPort<A> {
    /// The port of a link with this main address.
    pub fn with_main_address(main: A) -> Self {
        Self { main: Some(main), ..Self::default() }
    }

    /// Receives one datagram from `from`. Bytes that are appended to `reply` are one datagram, to
    /// be sent to `from`.
    pub fn receive(
        &mut self,
        from: A,
        datagram: &[u8],
        groups: &mut impl LinkDirectory,
        reply: &mut Vec<u8>,
    ) -> Option<LinkEvent> {
        if let Some(command) = LinkCommand::decode(datagram) {
            return self.receive_command(from, command, reply);
        }
        let at = self.exchanges.iter().position(|(sender, _)| *sender == from)?;
        let step = self.exchanges[at].1;
        let (next, event) = advance(step, datagram, groups, reply);
        match next {
            Some(next) => self.exchanges[at].1 = next,
            None => self.finish(at),
        }
        event
    }

    /// Drops all incomplete exchanges.
    pub fn clear_exchanges(&mut self) {
        self.exchanges.clear();
    }

    /// Whether an exchange is incomplete.
    pub fn has_exchanges(&self) -> bool {
        !self.exchanges.is_empty()
    }

    /// The numbers of incomplete exchanges and of retired sockets.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.exchanges.len(), self.retired.len())
    }

    fn receive_command(
        &mut self,
        from: A,
        command: LinkCommand,
        reply: &mut Vec<u8>,
    ) -> Option<LinkEvent> {
        match command {
            LinkCommand::CloseConnection => {
                self.exchanges.clear();
                return Some(LinkEvent::Closed);
            }
            // These belong to the other two ports.
            LinkCommand::Connect | LinkCommand::Connect2 => return None,
            LinkCommand::FindGroup
            | LinkCommand::NewGroup
            | LinkCommand::GetSecret
            | LinkCommand::DeleteGroup => {}
        }
        if command.is_change() && self.last.as_ref() != Some(&from) && self.retired.contains(&from)
        {
            return None;
        }
        self.exchanges.retain(|(sender, _)| *sender != from);
        if self.exchanges.len() == MAX_EXCHANGES {
            let (sender, step) = self.exchanges.remove(0);
            self.retire(sender, step);
        }
        self.exchanges.push((from.clone(), ServerStep::Name(command)));
        self.last = Some(from);
        reply.extend(encode_int(YES));
        None
    }

    /// Ends the exchange at index `at`, and the older exchanges that can change a group. Older
    /// queries stay: they are harmless however late, and another process must not be able to end
    /// them.
    fn finish(&mut self, at: usize) {
        let later = self.exchanges.split_off(at + 1);
        let Some((sender, step)) = self.exchanges.pop() else { return };
        let (ended, queries): (Vec<_>, Vec<_>) =
            mem::take(&mut self.exchanges).into_iter().partition(|(_, step)| step.is_change());
        self.exchanges = queries;
        self.exchanges.extend(later);
        for (sender, step) in ended.into_iter().chain([(sender, step)]) {
            self.retire(sender, step);
        }
    }

    fn retire(&mut self, sender: A, step: ServerStep) {
        if !step.is_change()
            || self.main.as_ref() == Some(&sender)
            || self.retired.contains(&sender)
        {
            return;
        }
        if self.retired.len() == MAX_RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(sender);
    }
}

/// Advances an exchange by one datagram of its socket. Returns the next step (`None`: the exchange
/// has ended) and the change.
fn advance(
    step: ServerStep,
    datagram: &[u8],
    groups: &mut impl LinkDirectory,
    reply: &mut Vec<u8>,
) -> (Option<ServerStep>, Option<LinkEvent>) {
    let mut event = None;
    let mut respond = |yes: bool| reply.extend(encode_int(if yes { YES } else { NO }));
    let next = match (step, decode_name(datagram)) {
        (ServerStep::Name(command), Some(name)) => {
            let secret = groups.secret(&name);
            match command {
                LinkCommand::NewGroup => {
                    if secret.is_some() {
                        groups.name_taken(&name);
                    }
                    let accepted = secret.is_none() && groups.has_quota_for(&name);
                    respond(accepted);
                    accepted.then_some(ServerStep::NewSecret(name))
                }
                LinkCommand::GetSecret => {
                    respond(secret.is_some());
                    secret.map(ServerStep::SecretRequested)
                }
                LinkCommand::DeleteGroup => {
                    let deleted = groups.remove(&name);
                    respond(deleted);
                    if deleted {
                        event = Some(LinkEvent::Deleted(name));
                    }
                    None
                }
                _ => {
                    respond(secret.is_some());
                    None
                }
            }
        }
        (ServerStep::NewSecret(name), _) => match decode_secret(datagram) {
            Some(secret) => {
                let stored = groups.has_quota_for(&name) && groups.insert(name, secret);
                respond(stored);
                if stored {
                    event = Some(LinkEvent::Created(name));
                }
                None
            }
            // A repeated name, or an invalid secret: the secret is still to come.
            None => Some(step),
        },
        (ServerStep::SecretRequested(secret), _) if decode_int(datagram) == Some(YES) => {
            reply.extend(secret.as_bytes());
            None
        }
        _ => Some(step),
    };
    (next, event)
}
