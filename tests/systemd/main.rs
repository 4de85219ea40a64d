//! The servers as services: messages to the supervisor (`notify`), socket activation
//! (`socket_activation`), and the installed units (`units`), also in a container with a systemd of
//! its own (`machine`).

#![forbid(unsafe_code)]

mod machine;
mod notify;
mod socket_activation;
mod units;
