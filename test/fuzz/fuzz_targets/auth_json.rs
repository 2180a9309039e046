//! Authentication files as operators and their tools might write them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::fuzz::auth_json(bytes));
