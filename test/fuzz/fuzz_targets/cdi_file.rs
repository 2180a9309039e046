//! CDI files as a vendor might write them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spec::fuzz::cdi_file(bytes));
