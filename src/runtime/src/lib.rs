//! OCI runtimes and pod monitors, as the engine drives them.
//!
//! Three things live here. [`OciRuntime`] is one configured runtime binary (crun, runc, youki, runsc, kata): how its
//! command lines look, what it can do, and what it said when it failed. [`Monitor`] is the client of one
//! `pintle-monitor`, the small process that parents the containers of one pod: it makes the pod's namespaces, creates
//! containers and execs through an [`OciRuntime`]'s command line, and tells when they end. [`Attached`] is a client of one
//! container's live streams, which the monitor serves on a socket of their own.
//!
//! `create` and `exec` go through the monitor, because the created process must be the monitor's child; `start`,
//! `delete`, `update` and the rest are run by the server itself, for they leave no process behind.
//!
//! Every operation takes a deadline and holds to it; every failure carries the runtime's own words.

#![forbid(unsafe_code)]

mod attach;
mod command;
mod error;
mod features;
mod handler;
mod message;
mod monitor;
mod oci;
mod quirks;
mod request;
mod terminal;

pub use attach::{AttachEnd, AttachRequest, Attached};
pub use error::{Refusal, RuntimeError};
pub use features::{FeatureSupport, RuntimeFeatures};
pub use handler::{HandlerConfig, RuntimeKind};
pub use monitor::{Monitor, MonitorSpawn, RunningExec, SpawnedMonitor};
pub use oci::{OciRuntime, RuntimeState};
pub use request::{
    CgroupVersion, ContainerState, CreateRequest, Created, ExecCaptured, ExecExit, ExecRequest,
    ExecStdio, Exit, MonitorEvent, NamespaceRequest, OomLimit, UserNamespaceRequest,
};
pub use terminal::{Terminal, TerminalSize};
