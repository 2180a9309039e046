//! Policies as an operator might write them, each in a file below a directory of a tmpfs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        panic!("/dev/shm takes no directory");
    };
    image::fuzz::policy_json(bytes, folder.path());
});
