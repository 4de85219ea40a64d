//! Whatever goes wrong under the library, a C program gets the code of the table and keeps nothing.
//!
//! [`peers`]: the server misbehaves, at every step of every call of an original session; [`framed`]: of a framed one. [`system_calls`]: the system refuses, at
//! every place where the library asks it for something. [`panics`]: the library itself has a bug, at every point
//! where a build for this test can panic. All are tables, a row for each fault. After each of them the same is
//! checked ([`AppUnderTest`]): the connection is alive or dead as promised, the next one works, and
//! no descriptor, thread, socket path or byte of memory is left.

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
