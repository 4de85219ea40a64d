//! Callbacks: what a program registers, and the thread of the library that runs it.
//!
//! One thread per connection reads the callback channel and runs the callbacks, one after the
//! other. It has all signals blocked and cancellation disabled. No lock of the library is held
//! while a callback runs, so a callback may call every function,
//! [`close`](crate::Connection::close) included, and may block: the server queues further events,
//! and coalesces those of one key when many are pending.
//!
//! A C callback may end the thread (`pthread_exit`); a new thread then takes over. So C callbacks
//! are called by [`thread`], in a frame without destructors, and [`event_loop`] only says which
//! function is next. The remaining callbacks of the same change are part of the [`dispatcher`]'s
//! state, and so survive the thread.
//!
//! The callback to run is looked up at the last moment, so none starts after it was removed.

pub(crate) mod callback;
pub(crate) mod dispatcher;
pub(crate) mod event_loop;
pub(crate) mod event_reader;
#[allow(unsafe_code)]
pub(crate) mod thread;
pub(crate) mod watches;
