//! `hosts.toml` of a folder of `certs.d` as an operator might write it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::fuzz::hosts_toml(bytes));
