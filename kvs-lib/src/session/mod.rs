//! One membership in a group: a session of protocol v1 or v2.
//!
//! The calling thread carries out its request itself. The callback thread uses a session only to
//! report how it ends ([`ClientSession::on_close_notice`],
//! [`ClientSession::on_callback_channel_lost`]).
//!
//! A session ends once, however many threads notice or cause it. The order is always the same: new
//! operations are rejected, then the main channel is closed, then the callback channel.

pub(crate) mod results;
pub(crate) mod state;
pub(crate) mod v1;
mod v1_channel;
pub(crate) mod v2;

use std::time::Duration;

use kvs_proto::Protocol;
use kvs_proto::v2::Version;
use kvs_proto::v2::request::WatchTarget;

use crate::callbacks::callback::{DisconnectHandler, WatchCallback};
use crate::callbacks::dispatcher::CallbackDispatcher;
use crate::callbacks::event_reader::EventReader;
use crate::deadline::Deadline;
use crate::disconnect::DisconnectReason;
use crate::error::Error;
use crate::login::{AgreedProtocol, EstablishedSession};
use crate::panic_points::panic_point;
#[cfg(feature = "course")]
use crate::sys::ConnectionSockets;
use results::{Swap, Versioned};
use state::SessionState;
use v1::SessionV1;
use v2::SessionV2;

#[derive(Debug)]
pub(crate) enum ClientSession {
    V1(SessionV1),
    V2(SessionV2),
}

impl ClientSession {
    pub(crate) fn new(logged_in: EstablishedSession, timeout: Duration) -> Self {
        let EstablishedSession { main, callback, agreed } = logged_in;
        #[cfg(feature = "course")]
        let sockets = {
            let ([own, server], [own_callback, server_callback]) =
                (main.addresses(), callback.addresses());
            ConnectionSockets {
                main: main.descriptor(),
                callback: callback.descriptor(),
                addresses: [own, server, own_callback, server_callback],
            }
        };
        let state = |events| {
            SessionState::new(
                #[cfg(feature = "course")]
                sockets,
                callback,
                events,
                timeout,
            )
        };
        match agreed {
            AgreedProtocol::V1 => Self::V1(SessionV1::new(main, state(EventReader::v1()))),
            AgreedProtocol::V2 { max_value } => {
                Self::V2(SessionV2::new(main, max_value, state(EventReader::v2())))
            }
        }
    }

    pub(crate) fn state(&self) -> &SessionState {
        match self {
            Self::V1(session) => &session.state,
            Self::V2(session) => &session.state,
        }
    }

    pub(crate) fn dispatcher(&self) -> &CallbackDispatcher {
        &self.state().dispatcher
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.state().timeout
    }

    /// Whether this process inherited the session by `fork`. Then nothing else of it may be used.
    pub(crate) fn is_inherited(&self) -> bool {
        self.state().is_inherited()
    }

    pub(crate) fn is_closed_by_program(&self) -> bool {
        self.state().is_closed_by_program()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::V1(_) => Protocol::V1,
            Self::V2(_) => Protocol::V2,
        }
    }

    /// The session, for an operation that protocol v1 does not have.
    pub(crate) fn v2(&self) -> Result<&SessionV2, Error> {
        self.state().check_open()?;
        match self {
            Self::V1(session) => Err(session.state.invalid(Error::Unsupported)),
            Self::V2(session) => Ok(session),
        }
    }

    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<Version, Error> {
        self.state().check_open()?;
        match self {
            Self::V1(session) => session.put(key, value),
            Self::V2(session) => {
                // Without an expected version there is no conflict.
                let (Swap::Done(version) | Swap::Conflict(version)) =
                    session.put(key, value, None)?;
                Ok(version)
            }
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.state().check_open()?;
        match self {
            Self::V1(session) => session.get(key),
            Self::V2(session) => Ok(session.get(key)?.map(|Versioned { value, .. }| value)),
        }
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        self.state().check_open()?;
        match self {
            Self::V1(session) => session.delete(key),
            Self::V2(session) => Ok(matches!(session.delete(key, None)?, Some(Swap::Done(_)))),
        }
    }

    pub(crate) fn watch(
        &self,
        target: WatchTarget<'_>,
        callback: WatchCallback,
    ) -> Result<(), Error> {
        self.state().check_open()?;
        match self {
            Self::V1(session) => session.watch(target, callback),
            Self::V2(session) => session.watch(target, callback),
        }
    }

    /// Removes a watch, and waits until its callback does not run; `false` if there is no watch.
    pub(crate) fn unwatch(&self, target: WatchTarget<'_>) -> Result<bool, Error> {
        self.state().check_open()?;
        let deadline = self.state().deadline();
        let found = match self {
            Self::V1(session) => session.unwatch(target)?,
            Self::V2(session) => session.unwatch(target, deadline)?,
        };
        match self.dispatcher().wait_until_not_running(Some(target), deadline) {
            true => Ok(found),
            false => Err(Error::CallbackRuns),
        }
    }

    pub(crate) fn set_disconnect_handler(&self, handler: DisconnectHandler) -> Result<(), Error> {
        self.state().check_open()?;
        match self.dispatcher().set_disconnect_handler(handler) {
            true => Ok(()),
            false => Err(Error::NotConnected),
        }
    }

    /// Closes the session for the program.
    pub(crate) fn close(&self, deadline: Deadline) -> Result<(), Error> {
        if self.is_inherited() {
            return Err(Error::NotConnected);
        }
        self.state().mark_closed_by_program();
        self.disconnect(deadline)
    }

    /// The server has sent a close notice on the callback channel. Runs on the callback thread.
    pub(crate) fn on_close_notice(&self) {
        panic_point!("closed by server");
        self.dispatcher().set_closed_by_server();
        if let Err(Error::Busy) = self.disconnect(self.state().deadline()) {
            // The operation in progress has reached its deadline, too, and is about to fail.
            let _ = self.disconnect(self.state().deadline());
        }
        // The callback channel ends even if the main channel could not be closed.
        let _ = self.dispatcher().close();
    }

    /// The callback channel ended without a close notice: the server is gone, or violated the
    /// protocol. The main channel is only shut down, so that the next call reports that it could
    /// not send. Runs on the callback thread.
    pub(crate) fn on_callback_channel_lost(&self, reason: DisconnectReason) {
        self.state().set_disconnect_reason(reason);
        if self.state().is_closed() {
            // The thread that closes the session closes this channel, too, and reports the result.
            self.dispatcher().wait_until_closed();
            return;
        }
        self.state().mark_broken();
        match self {
            Self::V1(session) => session.shut_down(),
            Self::V2(session) => session.shut_down(),
        }
        // The channel may be closed already. An error of closing it has no caller to go to.
        let _ = self.dispatcher().close();
    }

    fn disconnect(&self, deadline: Deadline) -> Result<(), Error> {
        match self {
            Self::V1(session) => session.disconnect(deadline),
            Self::V2(session) => session.disconnect(deadline),
        }
    }
}
