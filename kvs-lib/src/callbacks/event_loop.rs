//! The loop of the callback thread: receives events, and runs the callbacks for them.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::callback::{CCall, DisconnectHandler, KeyChange, WatchCallback};
use super::dispatcher::ThreadState;
use super::event_reader::ReceivedEvent;
use super::thread::{self, CallbackSource};
use crate::disconnect::DisconnectReason;
use crate::panic_points::panic_point;
use crate::session::ClientSession;

/// Starts the callback thread of a session.
pub(crate) fn start(session: &Arc<ClientSession>) -> std::io::Result<()> {
    let dispatcher = session.dispatcher();
    dispatcher.set_thread_state(ThreadState::Receiving);
    let result = thread::spawn(Arc::clone(session));
    if result.is_err() {
        dispatcher.set_thread_state(ThreadState::Ended);
    }
    result
}

impl CallbackSource for ClientSession {
    fn next_call(&self) -> Option<CCall> {
        catch_unwind(AssertUnwindSafe(|| next_c_call(self))).unwrap_or_else(|_| {
            // A bug in the library. It is reported, because the program gets no more events.
            if !self.is_inherited() {
                self.dispatcher().set_thread_state(ThreadState::Calling);
                self.on_callback_channel_lost(DisconnectReason::Internal);
            }
            None
        })
    }

    fn thread_ended(self: Arc<Self>) {
        if self.is_inherited() {
            mem::forget(self);
            return;
        }
        self.dispatcher().set_thread_state(ThreadState::Ended);
    }

    fn thread_ended_by_callback(self: Arc<Self>) {
        if self.is_inherited() {
            mem::forget(self);
            return;
        }
        if start(&self).is_err() {
            // This is reported, because without a thread the program gets no more events.
            self.on_callback_channel_lost(DisconnectReason::Internal);
        }
    }
}

/// Receives events and runs closures until a C function is to be called. `None`: the connection has
/// ended, and all callbacks have run.
fn next_c_call(session: &ClientSession) -> Option<CCall> {
    let dispatcher = session.dispatcher();
    loop {
        // A callback forked and returned in the child, where other threads may hold the locks.
        if session.is_inherited() {
            return None;
        }
        dispatcher.end_callback();
        while let Some((callback, key, version)) = dispatcher.next_callback() {
            match callback {
                WatchCallback::CKey(function) => {
                    return Some(CCall::Key(function, dispatcher.lend_key(&key).cast()));
                }
                WatchCallback::CWatch(function, user) => {
                    let (len, key) = (key.len(), dispatcher.lend_key(&key).cast_const().cast());
                    return Some(CCall::Watch { function, key, len, version, user });
                }
                WatchCallback::Closure(closure) => {
                    let change = KeyChange { key: &key, version };
                    // The panic hook of the program reported a panic, which ends this callback
                    // only.
                    let _ = catch_unwind(AssertUnwindSafe(|| closure(&change)));
                    drop(closure);
                    if session.is_inherited() {
                        return None;
                    }
                    dispatcher.end_callback();
                }
            }
        }
        let Some(channel) = dispatcher.begin_receiving() else {
            dispatcher.set_thread_state(ThreadState::Calling);
            return run_disconnect_handler(session);
        };
        panic_point!("listening");
        let received = dispatcher.receive(&channel, session.timeout());
        // The channel is not used from here on: a thread that closes the connection need not wait.
        drop(channel);
        dispatcher.set_thread_state(ThreadState::Calling);
        panic_point!("event received");
        match received {
            Ok(ReceivedEvent::Changed { key, version, matched_by }) => {
                dispatcher.begin_change(key, version, matched_by);
            }
            Ok(ReceivedEvent::Close) => session.on_close_notice(),
            Err(error) => session.on_callback_channel_lost(DisconnectReason::from_io_error(&error)),
        }
    }
}

/// Runs the disconnect handler, or returns it if it is a C function.
fn run_disconnect_handler(session: &ClientSession) -> Option<CCall> {
    let dispatcher = session.dispatcher();
    let (handler, reason) =
        dispatcher.begin_disconnect_handler(|| session.is_closed_by_program())?;
    match handler {
        DisconnectHandler::C(function, user) => Some(CCall::Disconnect(function, user, reason)),
        DisconnectHandler::Closure(closure) => {
            let _ = catch_unwind(AssertUnwindSafe(|| closure(reason)));
            if !session.is_inherited() {
                dispatcher.end_callback();
            }
            None
        }
    }
}
