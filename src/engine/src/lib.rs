//! The lives of pods and containers: jobs, undo, restore, and the snapshot that readers see.
//!
//! `server` calls [`Engine`]'s methods, which carry the names of CRI's RPCs; `pintle` assembles it. Each operation has a
//! file of its own. What they share:
//!
//! * [`world`]: what exists, as immutable values; reads take no lock;
//! * `ledger`: the only way to change the world: database first in line, then the new snapshot;
//! * `jobs`: operations that outlive their callers and can be joined;
//! * `live`: monitors' connections and what else lasts only as long as this process;
//! * `teardown`: how a pod or container is taken apart, by removal, by undo and by restore alike;
//! * `undo`: what could not be taken apart yet;
//! * `events`: what monitors report;
//! * [`LifeEvent`]s: what clients are told as it happens (`feed`);
//! * [`stats`]: what pods and containers use, read when asked for;
//! * [`streams`]: live input and output, as the `streaming` server carries them;
//! * [`selinux`]: the labels of pods, containers and volumes;
//! * `restore`: what happens at start with what a former server left.

#![forbid(unsafe_code)]

mod attach;
mod attachment;
mod bundle;
mod cdi_devices;
mod cgroup_thread;
mod cgroups;
mod connect;
mod create_container;
mod devices;
pub mod error;
mod events;
mod exec;
mod exec_process;
mod exec_sync;
mod facts;
#[cfg(test)]
mod fake_monitor;
mod feed;
mod filesystem;
mod fingerprint;
mod host_files;
mod jobs;
mod ledger;
mod limits;
mod live;
mod monitor_cgroup;
mod node;
mod paths;
mod pause;
mod pauses;
mod pod_files;
mod remove_container;
mod remove_pod;
mod reopen_log;
mod resource_classes;
mod restore;
mod run_pod;
#[cfg(test)]
mod samples;
pub mod selinux;
mod start_container;
pub mod stats;
mod status;
mod stop;
mod stop_container;
mod stop_pod;
pub mod streams;
mod teardown;
mod undo;
mod units;
mod update_container;
mod update_pod;
mod user_namespace;
pub mod world;

pub use error::{EngineError, ImageVolumeFault, SharedError};
pub use exec_sync::ExecOutput;
pub use feed::{LifeEvent, LifeEventKind, LifeSubject, Lost, Subscription};
pub use jobs::JobView;
pub use monitor_cgroup::MonitorCgroup;
pub use node::{Engine, EngineConfig, Handler, Timeouts};
pub use status::{HandlerStatus, NodeStatus, NotReady};
pub use world::{Container, ContainerState, Pod, PodState, World};
