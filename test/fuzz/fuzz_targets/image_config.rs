//! Configurations of images as their builders might write them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::fuzz::config(bytes));
