//! One exchange on the command port: tries, each from a new socket, until a response arrives or a
//! timeout expires.

use std::io;
use std::time::{Duration, Instant};

use kvs_proto::link::original::{
    COMMAND_LEN, ClientExchange, ExchangeProgress, GroupRequest, GroupResponse,
};
use mio::Interest;

use super::connection::{EXCHANGE, LinkConnection};
use super::pacing::Pacing;
use super::udp::{new_socket, receive, send};
use crate::local::metrics::link::LinkCounters;
use crate::startup::is_shortage;

/// An exchange without any datagram for so long gives up; then a new `Connect` is tried for the
/// same time. Together less than a second: an administrator is notified within one.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_millis(450);

/// The same after the last datagram of an exchange: the authentication server may have been
/// restarted in the middle of it.
const RECENT_SILENCE_TIMEOUT: Duration = Duration::from_millis(900);

/// How long one exchange may take when the network loses most, but not all, of its datagrams. Less
/// than an application waits for its login.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(4);

/// A complete exchange.
pub(super) struct Exchanged {
    pub(super) response: GroupResponse,
    /// The request was sent more than once, so an earlier copy may have taken effect.
    pub(super) is_repeated: bool,
}

/// Why an exchange was not completed.
pub(super) enum ExchangeError {
    /// No datagram arrived.
    Silence,
    /// Datagrams arrived, but too few.
    Loss,
    /// This machine cannot send.
    Shortage(io::Error),
}

/// Sends a request until its response arrives or a timeout expires.
pub(super) fn exchange(
    connection: &mut LinkConnection,
    counters: &LinkCounters,
    request: GroupRequest,
) -> Result<Exchanged, ExchangeError> {
    let begin = Instant::now();
    let mut last_datagram = None;
    let mut try_for = connection.pacing.first_try();
    for tries in 0u32.. {
        let deadline = match last_datagram {
            None => begin + SILENCE_TIMEOUT,
            Some(last) => (begin + EXCHANGE_TIMEOUT).min(last + RECENT_SILENCE_TIMEOUT),
        };
        if Instant::now() >= deadline {
            break;
        }
        if tries > 0 {
            counters.retry();
        }
        match try_exchange(connection, request, deadline, try_for, &mut last_datagram) {
            Ok(Some(response)) => {
                connection.repeat_connect_2();
                connection.pacing.exchange_completed();
                return Ok(Exchanged { response, is_repeated: tries > 0 });
            }
            Ok(None) => {
                connection.pacing.distrust();
                try_for = Pacing::next_try(try_for);
            }
            Err(error) if is_shortage(&error) => return Err(ExchangeError::Shortage(error)),
            // The port is closed: the authentication server has exited or removed this link.
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && last_datagram.is_none()
                    && tries > 0 =>
            {
                break;
            }
            Err(error) => {
                tracing::debug!("cannot exchange a datagram: {error}");
                // The next try may succeed after a moment. If the system does not let us wait, the
                // tries end the sooner.
                let _ = connection.wait(Some(try_for));
            }
        }
    }
    let is_recent = |last: Instant| last.elapsed() < RECENT_SILENCE_TIMEOUT;
    let is_answering = last_datagram.is_some_and(is_recent);
    Err(if is_answering { ExchangeError::Loss } else { ExchangeError::Silence })
}

/// One try from a new socket; `None` when a response is overdue.
fn try_exchange(
    connection: &mut LinkConnection,
    request: GroupRequest,
    deadline: Instant,
    try_for: Duration,
    last_datagram: &mut Option<Instant>,
) -> io::Result<Option<GroupResponse>> {
    let Some(command_port) = connection.command_port() else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let mut socket = new_socket(command_port, 0)?;
    connection.poll.registry().register(&mut socket, EXCHANGE, Interest::READABLE)?;
    let (mut exchange, datagram) = ClientExchange::start(request);
    send(&socket, &datagram)?;
    let mut sent = Instant::now();
    loop {
        let until = deadline.min(sent + try_for);
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        connection.wait(Some(left))?;
        let mut buffer = [0; COMMAND_LEN + 1];
        while let Some(received) = receive(&socket, &mut buffer)? {
            *last_datagram = Some(Instant::now());
            match exchange.receive(received) {
                ExchangeProgress::Ignored => connection.pacing.distrust(),
                ExchangeProgress::Send(datagram) => {
                    connection.pacing.measured(sent.elapsed());
                    // Discards copies of this response: they must not answer the next datagram.
                    let mut repeated = [0; COMMAND_LEN];
                    while receive(&socket, &mut repeated)?.is_some() {
                        connection.pacing.distrust();
                    }
                    send(&socket, &datagram)?;
                    sent = Instant::now();
                }
                ExchangeProgress::Done(response) => {
                    connection.pacing.measured(sent.elapsed());
                    return Ok(Some(response));
                }
            }
        }
    }
}
