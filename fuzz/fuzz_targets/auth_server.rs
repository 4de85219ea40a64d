#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvs_fuzz::auth_server::run(data));
