//! The suite: one module per area of the CRI, each test a promise of its own in a world of its own.
//!
//! One binary, since each would link the whole harness again.

mod additional_stores;
mod bad_input;
mod cdi;
mod cgroups;
mod cli;
mod container;
mod crictl;
mod events;
mod exec;
mod idempotence;
mod image_volumes;
mod images;
mod lists;
mod logs;
mod mounts;
mod namespaces;
mod network;
mod pulls;
mod resources;
mod restart;
mod sandbox;
mod security;
mod speed;
mod stats;
mod status;
mod streaming;
mod userns;
