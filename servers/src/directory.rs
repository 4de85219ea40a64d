//! `Directory`: the groups that exist, and their secrets.
//!
//! The local server uses its directory through this trait only. It has two implementations: the
//! link to the authentication server (`local::link`), and the table of an authentication server in
//! the same process (`auth::registry`).
//!
//! - No method blocks. The result arrives through a [`Completion`], on any thread.
//! - The directory calls every completion exactly once, also when it shuts down.
//! - A completion must not block and must not take a lock that a caller of the directory holds: an
//!   implementation may call it before the method returns.
//! - `true`, `Some` and "no such group" are responses of the directory. [`Unavailable`] means that
//!   no response arrived, and that the request may or may not have taken effect.

use std::sync::{Arc, mpsc};
use std::{fmt, io};

use kvs_proto::Text;

/// Receives the result of one request.
pub(crate) type Completion<T> = Box<dyn FnOnce(Result<T, Unavailable>) + Send>;

/// The groups that exist, and their secrets.
pub(crate) trait Directory: fmt::Debug + Send + Sync {
    /// Looks up the secret of a group; `None` when there is no such group.
    fn secret(&self, name: Text, done: Completion<Option<Text>>);

    /// Creates a group; `false` when the name is taken.
    fn create(&self, name: Text, secret: Text, done: Completion<bool>);

    /// Deletes a group. A group that does not exist, or that belongs to another server, is left as
    /// it is: that is not an error.
    fn delete(&self, name: Text, done: Completion<()>);
}

/// Sends a request and waits for its result. Only the administrators' threads may block like this.
///
/// # Errors
/// [`Unavailable`], as the directory reports it.
pub(crate) fn wait<T: Send + 'static>(
    request: impl FnOnce(Completion<T>),
) -> Result<T, Unavailable> {
    let (sender, result) = mpsc::sync_channel(1);
    request(Box::new(move |result| {
        // The receiver is alive: it waits below.
        let _ = sender.send(result);
    }));
    // The directory calls every completion. If it panicked instead, the sender was dropped.
    result.recv().unwrap_or(Err(Unavailable::Ended))
}

/// The reason why the directory gave no response.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unavailable {
    /// No datagram came back.
    #[error("the authentication server {0} does not answer")]
    Silent(Arc<str>),
    /// Datagrams came back, but no exchange was completed.
    #[error("the network to the authentication server {0} loses too many datagrams; try again")]
    TooLossy(Arc<str>),
    /// The name was refused as taken, but no such group is stored.
    #[error(
        "the authentication server {0} accepts no more groups from this machine, or another \
         server created the group at the same time; try again"
    )]
    Refused(Arc<str>),
    /// This machine cannot send.
    #[error("cannot send to the authentication server {server}: {error}")]
    Shortage {
        /// The address that the administrator configured.
        server: Arc<str>,
        /// The error of the system.
        error: Arc<io::Error>,
    },
    /// The directory is shut down.
    #[error("this server is quitting")]
    Ended,
}
