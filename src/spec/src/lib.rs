//! From what was asked for and what the node has, to an OCI runtime spec. Pure: values in, a spec out.
//!
//! `engine` gathers the values (it reads the image's `/etc/passwd`, stats devices, resolves volume paths, makes
//! namespaces) and calls [`container()`], [`pause()`] and [`exec_process`]; nothing here opens a file, reads a clock or asks
//! the kernel. Every part of a spec is decided in a module of its own and put together in `container.rs`.
//!
//! Invariants:
//! - Nothing is in a spec that this crate did not put there: `oci_spec`'s types have filled-in defaults, so every field
//!   that has one is set.
//! - What the node cannot give (a capability, an OOM score) is clamped with a sentence in `warnings` where the client
//!   asked in general, and is an error where the client named it.
//! - Errors name the CRI field, so that the server can answer with them as they are.

#![forbid(unsafe_code)]

mod annotations;
mod apparmor;
mod args;
mod capabilities;
pub mod capability;
pub mod cdi;
pub mod cgroup;
pub mod classes;
mod container;
mod defaults;
mod devices;
mod env;
mod error;
mod exec;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod input;
pub mod model;
mod mounts;
pub mod namespaces;
pub mod oom_score;
pub mod paths;
mod pause;
mod pod;
mod resources;
pub mod rlimit;
pub mod seccomp;
pub mod selinux;
pub mod signal;
pub mod sysctl;
pub mod unit_properties;
pub mod update;
pub mod user;

pub use capability::Capability;
pub use container::{ContainerSpec, container};
pub use defaults::SpecDefaults;
pub use error::{ErrorKind, MountProblem, SpecError};
pub use exec::exec_process;
pub use input::{
    Architecture, CgroupVersion, ContainerInput, DeviceKind, HostDevice, ImageProcess,
    NamespacePaths, NodeFacts, PauseInput, PodFiles, ResourceClasses, RuntimeFeatures,
};
pub use pause::pause;
pub use pod::check_pod;
pub use resources::linux_resources;
pub use user::ResolvedUser;
