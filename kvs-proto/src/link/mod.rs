//! Local server ↔ authentication server, over UDP: the protocol of the original programs is in
//! [`original`], with both roles.

pub mod original;
