//! Requests of CRI as a client might send them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzz::request(bytes));
