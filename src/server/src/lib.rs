//! The gRPC face: CRI v1 on a Unix socket.
//!
//! A call's way through this crate: a connection of `connections` passes its bytes through `authority`; `request` gives
//! the call its deadline and its line in the log; `face` has the table of calls, whose bodies stand in `pods`,
//! `containers`, `sessions`, `stats`, `metrics`, `events`, `node` and `images`. There the message is checked and turned into
//! `spec::model` values (`convert`), handed to `engine` or `image`, and the outcome turned back (`describe`, `list`) or
//! into a gRPC status (`errors`).
//!
//! Nothing of CRI goes further in than this crate, and nothing here decides how a pod is run. Reads answer from
//! immutable snapshots and never wait.

#![forbid(unsafe_code)]

mod admin;
mod authority;
mod connections;
mod containers;
mod convert;
mod describe;
mod errors;
mod events;
mod face;
mod filter;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod images;
mod list;
mod metrics;
mod node;
mod pods;
mod pulls;
mod request;
mod routes;
#[cfg(test)]
mod samples;
mod server;
mod sessions;
mod stats;
mod store;

pub use server::{Server, ServerOptions};
