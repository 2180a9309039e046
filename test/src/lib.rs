//! The suite's harness: what a test needs to drive a whole Pintle against real runtimes, registries and plugins.
//!
//! Each test runs in a [`mod@world`] of its own: network, mount, PID, cgroup, IPC and UTS namespaces, so that nothing that
//! goes wrong can reach the machine or another test, and so that whatever is left over at the end can be told
//! ([`ledger`]). Inside stand a [`registry`] with [`images`] made here, CNI configuration ([`cni`]) and a [`node`]: one
//! `pintle serve`, its files and a client ([`cri`]), which also opens live sessions ([`session`]).
//!
//! A test is written as
//!
//! ```ignore
//! #[test]
//! fn a_pod_has_an_address() {
//!     world!(async |node| {
//!         let pod = node.run_pod("web").await?;
//!         ensure!(node.address(&pod).await?.is_ipv4());
//!         Ok(())
//!     });
//! }
//! ```
//!
//! `PINTLE_TEST_RUNTIME` names the OCI runtime under test (crun when unset), `PINTLE_TEST_CGROUP_DRIVER` the cgroup driver
//! ([`driver`]), `PINTLE_BIN_DIR` where the two programs are.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod cni;
pub mod cri;
pub mod driver;
pub mod fault_proxy;
pub mod faults;
pub mod images;
pub mod ledger;
pub mod node;
pub mod places;
pub mod processes;
pub mod registry;
pub mod session;
pub mod settle;
pub mod world;

/// Runs the body of a test, an `async |node: &Node| -> anyhow::Result<()>`, in a world of its own with a running node.
///
/// With a [`node::Setup`] in front, the node is made as that says.
#[macro_export]
macro_rules! world {
    ($body:expr) => {
        $crate::world!($crate::node::Setup::default(), $body)
    };
    ($setup:expr, $body:expr) => {{
        fn here() {}
        $crate::node::in_world(std::any::type_name_of_val(&here), $setup, $body);
    }};
}
