//! The callback channel: one notification at a time, each with its handshake, and the request to
//! close.

use crate::integer::{INT_LEN, Int};
use crate::text::Text;
use crate::v1::flags::{CHANGED_KEY_LEN, CLOSE, YES, put_int};

/// The callback channel of one session. It has no queue: the caller sends the next notification
/// when the channel [is idle](Self::is_idle).
#[derive(Debug)]
pub struct CallbackChannel {
    state: NotifyState,
}

#[derive(Debug, Clone, Copy)]
enum NotifyState {
    Idle,
    /// The flag 1 is sent. The key follows when the application's ready flag is complete, of which
    /// `have` bytes are received.
    FlagSent {
        key: Text,
        bytes: [u8; INT_LEN],
        have: usize,
    },
    /// The request to close is sent, or the application violated the protocol: nothing more is
    /// sent.
    Closed,
}

/// The application sent anything but one ready flag for each notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unexpected bytes on the callback channel")]
pub struct UnexpectedReply;

impl CallbackChannel {
    /// Begins on a callback connection that was just paired with its session, and appends the
    /// connection flag to `out`.
    pub fn accept(out: &mut Vec<u8>) -> Self {
        put_int(out, YES);
        Self { state: NotifyState::Idle }
    }

    /// Whether a notification, or the request to close, can be sent now.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, NotifyState::Idle)
    }

    /// Begins the notification that `key` has changed. The channel must be [idle](Self::is_idle).
    pub fn notify(&mut self, key: Text, out: &mut Vec<u8>) {
        debug_assert!(self.is_idle(), "{:?}", self.state);
        put_int(out, YES);
        self.state = NotifyState::FlagSent { key, bytes: [0; INT_LEN], have: 0 };
    }

    /// Requests the application to close. The channel must be [idle](Self::is_idle): in the middle
    /// of a notification the flag would be read as part of the key.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        debug_assert!(self.is_idle(), "{:?}", self.state);
        put_int(out, CLOSE);
        self.state = NotifyState::Closed;
    }

    /// Decodes the bytes of one `read`. Appends the key to `out` when the application is ready for
    /// it.
    ///
    /// # Errors
    /// [`UnexpectedReply`]: the channel is closed.
    pub fn receive(&mut self, read: &[u8], out: &mut Vec<u8>) -> Result<(), UnexpectedReply> {
        for &byte in read {
            match &mut self.state {
                NotifyState::FlagSent { key, bytes, have } => {
                    bytes[*have] = byte;
                    *have += 1;
                    if *have < INT_LEN {
                        continue;
                    }
                    if Int::from_ne_bytes(*bytes) != YES {
                        self.state = NotifyState::Closed;
                        return Err(UnexpectedReply);
                    }
                    out.extend_from_slice(&key.padded::<CHANGED_KEY_LEN>());
                    self.state = NotifyState::Idle;
                }
                NotifyState::Idle | NotifyState::Closed => {
                    self.state = NotifyState::Closed;
                    return Err(UnexpectedReply);
                }
            }
        }
        Ok(())
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn t(s: &[u8]) -> Text {
        Text::new(s).unwrap()
    }

    #[test]
    fn key_follows_the_ready_flag() {
        let mut out = Vec::new();
        let mut channel = CallbackChannel::accept(&mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        out.clear();
        channel.notify(t(b"k1"), &mut out);
        assert_eq!(out, 1i32.to_ne_bytes());
        assert!(!channel.is_idle());
        out.clear();
        // The ready flag may arrive in pieces.
        channel.receive(&1i32.to_ne_bytes()[..1], &mut out).unwrap();
        assert!(out.is_empty());
        channel.receive(&1i32.to_ne_bytes()[1..], &mut out).unwrap();
        assert_eq!(out, t(b"k1").padded::<100>());
        assert!(channel.is_idle());
        out.clear();
        channel.close(&mut out);
        assert_eq!(out, (-1i32).to_ne_bytes());
        assert_eq!(channel.receive(b"x", &mut out), Err(UnexpectedReply));
    }

    #[test]
    fn anything_but_one_ready_flag_is_an_error() {
        let mut out = Vec::new();
        assert!(CallbackChannel::accept(&mut out).receive(b"x", &mut out).is_err());
        let mut channel = CallbackChannel::accept(&mut out);
        channel.notify(t(b"k1"), &mut out);
        assert!(channel.receive(&2i32.to_ne_bytes(), &mut out).is_err());
        let mut channel = CallbackChannel::accept(&mut out);
        channel.notify(t(b"k1"), &mut out);
        let twice = [1i32.to_ne_bytes(); 2].concat();
        assert!(channel.receive(&twice, &mut out).is_err());
    }
}
