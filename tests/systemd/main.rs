//! The servers as services: what they tell a supervisor (`notify`), sockets that it hands over to them (`handed_over`),
//! and the units that are installed (`units`), in a machine with a systemd of its own, too (`machine`).

#![forbid(unsafe_code)]

mod handed_over;
mod machine;
mod notify;
mod units;
