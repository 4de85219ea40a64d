//! The program `kvs`. Its code is in the library `kvs_cli`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    kvs_cli::main()
}
