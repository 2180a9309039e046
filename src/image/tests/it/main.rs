//! Images end to end: pulled from a real registry and from one that misbehaves, imported, exported, removed. Needs root
//! (layers have owners and device nodes), Debian's `docker-registry`, `skopeo`, `gnupg` and `openssl`. Everything is on 127.0.0.1 and in
//! temporary folders.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

// The name that the rest of the workspace knows the crate by.
extern crate pintle_image as image;

mod additional;
mod archives;
mod artifacts;
mod authentication;
mod bad_documents;
mod bad_registry;
mod chunked;
mod debian;
mod disk_full;
mod fault_table;
mod faults;
mod faulty;
mod node;
mod node_credentials;
mod prune;
mod published;
mod pulls;
mod real_registry;
mod records;
mod resume;
mod secure;
mod signing;
mod sources;
mod tls;
mod token_server;
mod tokens;
mod trust;
mod trust_hostile;
mod trust_permit;
mod unavailable;
mod verify;
