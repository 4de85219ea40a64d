//! The ports of the authentication server, and the events that `mio` reports for them.

use mio::Token;

/// The event of the waker.
pub(super) const WAKER: Token = Token(0);

const LISTEN: Token = Token(1);

/// Identifies a link. Ids are never reused, and a younger link has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LinkId(pub(super) usize);

/// A port of the server. Ready ports are read in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    /// Where `Connect` arrives.
    Listen,
    /// Where `Connect_2` arrives.
    Close(LinkId),
    /// Where all other commands arrive.
    Command(LinkId),
}

impl Port {
    /// The event of this port.
    pub(super) fn token(self) -> Token {
        match self {
            Self::Listen => LISTEN,
            Self::Close(LinkId(id)) => Token(2 + 2 * id),
            Self::Command(LinkId(id)) => Token(3 + 2 * id),
        }
    }

    /// The port of this event; `None` for that of the waker.
    pub(super) fn from_token(token: Token) -> Option<Self> {
        match token {
            WAKER => None,
            LISTEN => Some(Self::Listen),
            Token(n) if n % 2 == 0 => Some(Self::Close(LinkId(n / 2 - 1))),
            Token(n) => Some(Self::Command(LinkId(n / 2 - 1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_its_own_event() {
        let ports = [
            Port::Listen,
            Port::Close(LinkId(0)),
            Port::Command(LinkId(0)),
            Port::Close(LinkId(1)),
            Port::Command(LinkId(1)),
        ];
        for port in ports {
            assert_eq!(Port::from_token(port.token()), Some(port));
        }
        assert_eq!(Port::from_token(WAKER), None);
    }
}
