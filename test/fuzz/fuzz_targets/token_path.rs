//! Paths of requests to the streaming server.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| streaming::fuzz::token_path(bytes));
