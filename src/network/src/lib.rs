//! Pod networking: puts a pod's network namespace on a network and takes it off again.
//!
//! [`Network`] is the only handle; `engine` holds one and knows nothing of what stands behind it. Today that is
//! `cni`: the plugins that a network provider installed, run as the CNI specification says (0.3.0 to 1.1.0). Another backend is
//! another arm of the private `Backend` enum.
//!
//! Invariants, whatever the backend:
//! - [`Network::status`] answers from a snapshot: it starts nothing, waits for nothing and reads no file.
//! - What an attach will leave on the node is recorded on disk before the first plugin runs, so [`Network::detach`] can take it
//!   back after a crash, a reboot, or a change of the configuration.
//! - Attaches of different pods run in parallel; operations of one pod run one after the other.
//! - No plugin outlives its deadline, nor the operation that started it.
//!
//! The interface inside a pod is always [`INTERFACE`]. `lo` is brought up by the monitor when it makes the namespace.
#![forbid(unsafe_code)]

mod cni;
mod error;
mod pod;

use std::path::PathBuf;
use std::time::Duration;

pub use cni::{ATTACHMENT_VARIABLE, ConfError, PluginError, PluginFailure, Verb};
pub use error::{NetworkError, NotReady};
pub use pod::{Attached, Attachment, Dns, HostPort, Interface, Protocol};

/// Name of a pod's interface: what kubelet's statistics and every CNI provider take for granted.
pub const INTERFACE: &str = "eth0";

/// Where a node's network configuration, plugins and records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Directory of CNI configuration files, usually `/etc/cni/net.d`. It may appear later: it is watched.
    pub conf_dir: PathBuf,
    /// Directories of CNI plugins, first match wins, usually `/opt/cni/bin` and `/usr/lib/cni`.
    pub bin_dirs: Vec<PathBuf>,
    /// Where results are recorded (below `results/`), usually `/var/lib/cni`; must survive a reboot.
    pub cache_dir: PathBuf,
    /// How long one plugin may run.
    pub plugin_timeout: Duration,
    /// Name of the network to attach pods to; `None`: that of the first valid file in name order.
    pub default_network: Option<String>,
}

/// The node's pod network. Clones share one state; the watcher ends with the last clone.
#[derive(Clone, Debug)]
pub struct Network {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Cni(cni::Cni),
}

impl Network {
    /// Reads configuration and records, and starts to watch the configuration. Must be called within a tokio runtime.
    ///
    /// A node without configuration is no error here: it is a network that is not ready yet.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let backend = Backend::Cni(cni::Cni::open(config)?);
        Ok(Self { backend })
    }

    /// Whether pods can be attached now, from the newest snapshot.
    pub fn status(&self) -> Result<(), NotReady> {
        let Backend::Cni(cni) = &self.backend;
        cni.status()
    }

    /// Puts the pod on the network. A failed attach is undone before the error is returned; where the undoing failed
    /// too, [`NetworkError::is_left_attached`] says so and [`Network::detach`] has to be tried again later.
    ///
    /// Leftovers of an earlier attach of the same pod are taken away first.
    pub async fn attach(&self, attachment: &Attachment) -> Result<Attached, NetworkError> {
        let Backend::Cni(cni) = &self.backend;
        cni.attach(attachment).await
    }

    /// Takes the pod off the network. Idempotent; only `pod_id` and `netns` matter when the attach was recorded, and
    /// the namespace may be gone. After an error the record is kept, so that it can be tried again.
    pub async fn detach(&self, attachment: &Attachment) -> Result<(), NetworkError> {
        let Backend::Cni(cni) = &self.backend;
        cni.detach(attachment).await
    }

    /// Asks the plugins whether the pod's attachment is still as they made it.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), NetworkError> {
        let Backend::Cni(cni) = &self.backend;
        cni.check(attachment).await
    }

    /// Tells the network the node's pod CIDRs (CRI `UpdateRuntimeConfig`), for plugins with the capability `ipRanges`.
    pub fn set_pod_cidrs(&self, cidrs: Vec<String>) {
        let Backend::Cni(cni) = &self.backend;
        cni.set_pod_cidrs(cidrs);
    }

    /// Every attachment on record that this server made: at start, those of pods that are no more have to be detached.
    /// Reads the record files: not for hot paths.
    pub fn attachments_left(&self) -> Vec<Attachment> {
        let Backend::Cni(cni) = &self.backend;
        cni.attachments_left()
    }
}
