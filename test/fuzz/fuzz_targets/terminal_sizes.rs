//! What a client might send where sizes of its terminal are wanted.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| streaming::fuzz::sizes(bytes));
