//! After any fault below the library, a C program gets the code of the table, and nothing leaks.
//!
//! [`v1`] and [`v2`]: the server misbehaves at every step of every call of the protocol.
//! [`system_calls`]: the kernel refuses a system call at every place where the library makes one.
//! [`panics`]: the library panics at every point of a build made for this test. All are tables with
//! a row for each fault. After each of them the same is checked ([`AppUnderTest`]): the connection
//! is open or closed as documented, the next one works, and no descriptor, thread, socket path or
//! byte of memory is left.

#![forbid(unsafe_code)]

mod app;
mod panics;
mod system_calls;
mod v1;
mod v2;

use app::AppUnderTest;

#[test]
fn every_error_code_is_in_a_table() {
    let codes: std::collections::BTreeSet<i32> =
        v1::codes().chain(v2::codes()).chain(system_calls::codes()).collect();
    assert_eq!(codes, (-19..=-1).collect());
}
