//! Registers the groups of this server again after a reconnection: the authentication server may
//! have restarted with an empty table.

use kvs_proto::Text;
use kvs_proto::link::original::{GroupRequest, GroupResponse};

use super::connection::LinkConnection;
use super::exchange::{ExchangeError, Exchanged, exchange};
use crate::console::Output;
use crate::local::group::registry::Groups;
use crate::local::metrics::link::LinkCounters;

/// The maximum number of attempts to confirm a change while the network is distrusted.
pub(super) const MAX_CONFIRMATIONS: u32 = 10;

/// Registers all groups that are open. A group that the authentication server refuses is reported
/// on the console and stays as it is.
///
/// # Errors
/// When the authentication server stops answering: then not all groups are registered.
pub(super) fn register_all(
    connection: &mut LinkConnection,
    counters: &LinkCounters,
    groups: &Groups,
    output: &Output,
) -> Result<(), ExchangeError> {
    let groups = groups.all();
    for group in groups.iter().filter(|group| group.is_open()) {
        let (name, secret) = (group.name(), group.secret());
        match register(connection, counters, name, secret) {
            Ok(Registration::Stored) => tracing::info!(group = ?name, "group registered again"),
            Ok(Registration::Taken) => {
                output.say(format_args!(
                    "Group {name} now belongs to another local server: its applications here keep \
                     working, but logins to it fail."
                ));
                tracing::warn!(
                    group = ?name,
                    "group not registered again: another local server has taken its name"
                );
            }
            Ok(Registration::Refused) => output.say(format_args!(
                "Group {name} is no longer stored by the authentication server: its applications \
                 here keep working, but logins to it fail."
            )),
            Err(error) => {
                tracing::warn!(
                    group = ?name,
                    "group not registered again: the authentication server does not answer"
                );
                return Err(error);
            }
        }
    }
    Ok(())
}

enum Registration {
    /// The authentication server has the group with our secret.
    Stored,
    /// It has a group of this name with another secret.
    Taken,
    /// It does not store the group.
    Refused,
}

/// Registers one group, which the authentication server may have or not.
fn register(
    connection: &mut LinkConnection,
    counters: &LinkCounters,
    name: Text,
    secret: Text,
) -> Result<Registration, ExchangeError> {
    for _ in 0..MAX_CONFIRMATIONS {
        // Not the worker's `request`: that would reconnect, and so register again.
        match exchange(connection, counters, GroupRequest::New { name, secret })? {
            Exchanged { response: GroupResponse::Yes, .. } if connection.pacing.is_trusted() => {
                return Ok(Registration::Stored);
            }
            _ => {}
        }
        // Without a secret, the "yes" was a repeated copy, so the next round tries again; or the
        // group is refused, which no further round changes.
        let stored = exchange(connection, counters, GroupRequest::Secret(name))?;
        if let GroupResponse::Secret(stored) = stored.response {
            let is_ours = stored == secret;
            return Ok(if is_ours { Registration::Stored } else { Registration::Taken });
        }
    }
    Ok(Registration::Refused)
}
