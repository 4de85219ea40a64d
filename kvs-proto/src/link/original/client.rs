//! The role of the local server.

use super::datagram::{NO, YES, decode_int, decode_name, encode_int, encode_secret};
use super::group::{GroupRequest, GroupResponse};

/// The effect of one datagram on a [`ClientExchange`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExchangeProgress {
    /// Send this datagram, then wait for the next one.
    Send(Vec<u8>),
    /// The exchange has ended.
    Done(GroupResponse),
    /// The datagram is not a response at this point: continue to wait.
    Ignored,
}

/// One exchange on one socket, in the role of the local server.
#[derive(Debug)]
pub struct ClientExchange {
    request: GroupRequest,
    step: ClientStep,
}

#[derive(Debug, Clone, Copy)]
enum ClientStep {
    /// The command is sent. After 1 the name follows.
    Ready,
    /// The name is sent. 1 or -1: whether the group exists or, for `New`, can be stored.
    Verdict,
    /// `New`: the secret is sent. 1: the group is stored.
    Stored,
    /// `Secret`: 1 is sent. The secret follows.
    Secret,
    Done,
}

impl ClientExchange {
    /// Begins an exchange, and returns its first datagram.
    pub fn start(request: GroupRequest) -> (Self, Vec<u8>) {
        let datagram = request.command().encode().to_vec();
        (Self { request, step: ClientStep::Ready }, datagram)
    }

    /// Receives one datagram of the authentication server.
    pub fn receive(&mut self, datagram: &[u8]) -> ExchangeProgress {
        use ClientStep as S;
        let int = decode_int(datagram);
        let (step, progress) = match (self.step, self.request, int) {
            (S::Ready, request, Some(YES)) => {
                (S::Verdict, ExchangeProgress::Send(request.name().as_bytes().to_vec()))
            }
            (S::Verdict, GroupRequest::Find(_) | GroupRequest::Delete(_), Some(YES)) => {
                (S::Done, ExchangeProgress::Done(GroupResponse::Yes))
            }
            (S::Verdict, GroupRequest::New { secret, .. }, Some(YES)) => {
                (S::Stored, ExchangeProgress::Send(encode_secret(&secret).to_vec()))
            }
            (S::Verdict, GroupRequest::Secret(_), Some(YES)) => {
                (S::Secret, ExchangeProgress::Send(encode_int(YES).to_vec()))
            }
            (S::Verdict, _, Some(NO)) => (S::Done, ExchangeProgress::Done(GroupResponse::No)),
            (S::Stored, _, Some(YES)) => (S::Done, ExchangeProgress::Done(GroupResponse::Yes)),
            (S::Stored, _, Some(NO)) => (S::Done, ExchangeProgress::Done(GroupResponse::No)),
            // The network may have repeated the 1 after the command; then -1 is the verdict.
            (S::Secret, _, Some(NO)) => (S::Done, ExchangeProgress::Done(GroupResponse::No)),
            // A secret of four bytes could be an integer. A repeated flag has NULs, so it is not a
            // text.
            (S::Secret, ..) => match decode_name(datagram) {
                Some(secret) => (S::Done, ExchangeProgress::Done(GroupResponse::Secret(secret))),
                None => return ExchangeProgress::Ignored,
            },
            _ => return ExchangeProgress::Ignored,
        };
        self.step = step;
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    #[test]
    fn repeated_flags_are_not_taken_for_a_secret() {
        let (mut exchange, _) =
            ClientExchange::start(GroupRequest::Secret(Text::new(b"g").unwrap()));
        assert_eq!(exchange.receive(&encode_int(1)), ExchangeProgress::Send(b"g".to_vec()));
        assert_eq!(
            exchange.receive(&encode_int(1)),
            ExchangeProgress::Send(encode_int(1).to_vec())
        );
        assert_eq!(exchange.receive(&encode_int(1)), ExchangeProgress::Ignored);
        assert_eq!(
            exchange.receive(b"abcde"),
            ExchangeProgress::Done(GroupResponse::Secret(Text::new(b"abcde").unwrap()))
        );
        assert_eq!(exchange.receive(b"abcde"), ExchangeProgress::Ignored);
    }
}
