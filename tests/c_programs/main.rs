//! C and C++ programs, compiled here, with real servers.
//!
//! The programs in `tests/c` check the results of their calls and exit with 0 only if all are
//! right; the comment at the top of each describes its checks. These tests build them in every way
//! in which the library can be used, start them, and observe them from outside: exit code, output,
//! threads of the server.
//!
//! - `load.rs`: the original client, several processes, a thousand applications.
//! - `header.rs`: the promises of the headers.
//! - `aborted.rs`: servers that close or fall silent.
//! - `examples.rs`: the programs of `c-examples`, and the demo.

#![forbid(unsafe_code)]

mod aborted;
mod examples;
mod header;
mod load;
mod programs;
