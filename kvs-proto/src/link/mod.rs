//! Local server ↔ authentication server, over UDP. [`original`] is the protocol of the original
//! programs, in both roles.

pub mod original;
