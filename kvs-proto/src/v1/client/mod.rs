//! The role of the application: [`LoginExchange`] and [`OperationExchange`] on the main channel,
//! [`CallbackListener`] on the callback channel.
//!
//! Each is a sequence of steps. The caller asks for the next step, performs it on its sockets,
//! reports the result, and repeats until the sequence is done. When a step fails, [`Incoming`] and
//! [`Outgoing`] identify it; the caller chooses the error code.
//!
//! **Between operations.** Nothing separates a value from the function code after it, and the
//! original server relies on receiving them apart. [`Operation::Put`] leaves its value in the
//! socket: the caller must ensure that the server has read it before it begins the next operation
//! ([`leaves_unread_value`](Operation::leaves_unread_value)).

mod callback;
mod login;
mod operation;
mod step;

pub use callback::{CallbackError, CallbackEvent, CallbackListener, CallbackStep};
pub use login::{LoginExchange, LoginResult, LoginStep};
pub use operation::{Operation, OperationExchange, OperationResult, OperationStep};
pub use step::{ChannelKind, Incoming, Outgoing, Violation};
