//! How the program is linked.

fn main() {
    // A position-independent program is relocated when it starts, and the list of what to relocate is touched whole:
    // 1.1 MB of entries, or 20 KB in the packed form that glibc knows since 2.36.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
