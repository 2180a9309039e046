//! Layers, unpacked as root below a directory of a tmpfs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(below) = tempfile::tempdir_in("/dev/shm") else {
        panic!("/dev/shm takes no directory");
    };
    storage::fuzz::layer(bytes, below.path());
});
