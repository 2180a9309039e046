//! Whole specs: as golden files, and run by real OCI runtimes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

// The name by which the other crates know it.
extern crate pintle_spec as spec;

mod golden;
mod real;
mod request;
