//! References to images as a user might write them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::fuzz::reference(bytes));
