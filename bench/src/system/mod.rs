//! The measured systems, each through the client library that its users would choose.
//!
//! A scenario needs a [`Client`]: one connection (for LMDB, one handle), one operation at a time,
//! done when the call returns. A client checks each response, so that no failed operation is
//! measured: a get must find a value of the right length.

mod client;
pub(crate) mod floor;
mod kind;
pub(crate) mod kvs;
pub(crate) mod lmdb;
#[cfg(feature = "memcached")]
pub(crate) mod memcached;
#[cfg(feature = "redis")]
pub(crate) mod redis;

pub(crate) use client::{Client, Pipelined};
pub(crate) use kind::System;
