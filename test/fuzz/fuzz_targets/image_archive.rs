//! Archives of images. Their bytes stay in memory.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::fuzz::archive(bytes, std::path::Path::new("/dev/shm")));
