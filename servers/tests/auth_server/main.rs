//! The authentication server as the network sees it: a running server and real datagrams.
//!
//! Every test has its own address in 127.0.0.0/8, so that ports mean the same in each test, and
//! "another machine" is another such address. A test shows that a datagram is *not* answered by
//! what is answered next: one socket receives its responses in the order of its requests.

#![allow(clippy::unwrap_used, reason = "all of this is test, the helpers included")]

mod connect;
mod crowd;
mod groups;
mod harness;
mod honest;
mod hostile;
mod links;
mod ports;
mod process;
mod program;
mod quit;
mod shares;
