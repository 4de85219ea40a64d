#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvs_fuzz::v2::run(data));
