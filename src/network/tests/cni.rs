//! The CNI backend against real plugins and against bad ones, each test on a private node: a network and a mount namespace
//! of its own. Needs root, `unshare`, `ip`, `iptables` and Debian's `containernetworking-plugins`.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "cni/faulty_plugins.rs"]
mod faulty_plugins;
#[path = "cni/node.rs"]
mod node;
#[path = "cni/readiness.rs"]
mod readiness;
#[path = "cni/real_plugins.rs"]
mod real_plugins;
