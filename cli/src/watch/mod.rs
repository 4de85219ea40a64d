//! `kvs watch`: changes of keys as they happen.
//!
//! - `filter`: the keys and prefixes to watch.
//! - `queue`: changed keys between the callbacks of the library and the thread that reports them.
//! - `event_stream`: reads the queue and turns each changed key into an event.
//! - `event`: an event as text and as JSON.
//! - `exec`: runs the command of `--exec` for an event.
//! - `command`: the command itself. The prompt has watches of its own, in `prompt`.

pub(crate) mod command;
pub(crate) mod event;
pub(crate) mod event_stream;
mod exec;
pub(crate) mod filter;
pub(crate) mod queue;
