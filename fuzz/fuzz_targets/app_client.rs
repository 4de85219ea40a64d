#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvs_fuzz::app_client::run(data));
