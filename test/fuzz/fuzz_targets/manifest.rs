//! Manifests and indexes, of images and of artifacts, as a registry might send them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::fuzz::manifest(bytes));
