//! The callback channel after its connection flag.

use crate::integer::{INT_LEN, Int};
use crate::text::Text;
use crate::v1::flags::{CHANGED_KEY_LEN, CLOSE, YES};

/// A message on the callback channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackEvent {
    /// This key has changed. Run its callback before the next step.
    Changed(Text),
    /// The server closes the connection: send close on the main channel.
    Close,
}

/// The next step on the callback channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackStep {
    /// Receive exactly that many bytes, then report them with [`CallbackListener::received`].
    Receive(usize),
    /// Send these bytes, then report [`CallbackListener::sent`].
    Send([u8; INT_LEN]),
}

/// The callback channel after its connection flag.
#[derive(Debug, Default)]
pub struct CallbackListener {
    state: CallbackState,
}

#[derive(Debug, Clone, Copy, Default)]
enum CallbackState {
    #[default]
    Flag,
    SendReady,
    Key,
}

/// The server sent unexpected bytes on the callback channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server violated the protocol on the callback channel")]
pub struct CallbackError;

impl CallbackListener {
    /// The step to perform now.
    pub fn next(&self) -> CallbackStep {
        match self.state {
            CallbackState::Flag => CallbackStep::Receive(INT_LEN),
            CallbackState::SendReady => CallbackStep::Send(YES.to_ne_bytes()),
            CallbackState::Key => CallbackStep::Receive(CHANGED_KEY_LEN),
        }
    }

    /// Reports that [`CallbackStep::Send`] is done.
    pub fn sent(&mut self) {
        if let CallbackState::SendReady = self.state {
            self.state = CallbackState::Key;
        }
    }

    /// Reports the bytes that [`CallbackStep::Receive`] received: as many as it asked for.
    ///
    /// # Errors
    /// [`CallbackError`]: the channel is out of step and cannot be used any more.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Option<CallbackEvent>, CallbackError> {
        match self.state {
            CallbackState::Flag => {
                let bytes = <[u8; INT_LEN]>::try_from(bytes).map_err(|_| CallbackError)?;
                match Int::from_ne_bytes(bytes) {
                    YES => {
                        self.state = CallbackState::SendReady;
                        Ok(None)
                    }
                    CLOSE => Ok(Some(CallbackEvent::Close)),
                    _ => Err(CallbackError),
                }
            }
            CallbackState::Key => {
                self.state = CallbackState::Flag;
                Text::from_padded(bytes)
                    .map(|key| Some(CallbackEvent::Changed(key)))
                    .ok_or(CallbackError)
            }
            CallbackState::SendReady => Err(CallbackError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = &1i32.to_ne_bytes();
    const MINUS_ONE: &[u8] = &(-1i32).to_ne_bytes();

    #[test]
    fn listener_reports_changed_keys_and_close() {
        let mut listener = CallbackListener::default();
        assert_eq!(listener.next(), CallbackStep::Receive(4));
        assert_eq!(listener.received(ONE), Ok(None));
        assert_eq!(listener.next(), CallbackStep::Send(1i32.to_ne_bytes()));
        listener.sent();
        assert_eq!(listener.next(), CallbackStep::Receive(100));
        assert_eq!(
            listener.received(&Text::new(b"k").unwrap().padded::<100>()),
            Ok(Some(CallbackEvent::Changed(Text::new(b"k").unwrap())))
        );
        assert_eq!(listener.received(MINUS_ONE), Ok(Some(CallbackEvent::Close)));
        assert_eq!(listener.received(&[0; 4]), Err(CallbackError));
    }
}
