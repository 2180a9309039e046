//! `registries.conf` as an operator, or a tool of his, might write it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::fuzz::registries_conf(bytes));
