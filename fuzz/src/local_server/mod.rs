//! The whole local server on real sockets, single-stepped, with hostile applications and an honest
//! one.
//!
//! **The script** connects up to four applications, each any number of times. It sends arbitrary
//! bytes on either channel, whole or in pieces, reads or does not read, closes connections, lets
//! the authentication server respond in any order, lets deadlines expire, and deletes groups. In
//! between, each reactor runs when the script says so.
//!
//! **Invariants.** No panic. After each step the stored pairs are exactly those of the bytes that
//! the server has read ([`MainChannelModel`](crate::v1_model::MainChannelModel) decodes them).
//! Every byte on a main channel is the one that the model predicts. No application logs in without
//! the right secret, and no conforming application is disconnected. Callback channels carry only
//! changes of watched keys, each at most as often as it happened, and at the end at least once
//! after the last change. The memory of the server is bounded by the objects that it stores, and at
//! the end all of it is freed. The honest application is served at all times.
//!
//! **How the model knows what the server has read.** Linux tells a sender whether the peer has read
//! everything (`SIOCOUTQ`), and by `ECONNRESET` that the peer has closed without reading. At most
//! one main channel has unread bytes at any time, so the order in which the server reads is
//! certain.

mod checks;
mod clients;
mod harness;
mod listeners;
mod observation;
mod script;
mod server_steps;

use std::cell::RefCell;

use self::harness::Harness;
use self::listeners::Listeners;
use crate::Input;

/// Replays one script.
pub fn run(data: &[u8]) {
    thread_local! {
        static LISTENERS: RefCell<Listeners> = {
            let listeners = Listeners::new();
            harness::initialize_thread_locals(&listeners);
            RefCell::new(listeners)
        };
    }
    LISTENERS.with_borrow(|listeners| {
        let mut harness = Harness::new(listeners);
        harness.play(Input(data));
        harness.end();
    });
}
