//! What can go wrong with a pod's network, told apart as far as callers act differently.

use std::io;
use std::path::PathBuf;

use crate::cni::{ConfError, PluginFailure};

/// Why no pod can be attached at the moment. kubelet shows both parts to the user as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotReady {
    /// One CamelCase word, as in a Kubernetes condition.
    pub reason: &'static str,
    /// A sentence that names the file, network or plugin, and where possible what to do.
    pub message: String,
}

/// An operation on the network that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No pod can be attached at the moment.
    #[error("network is not ready: {0}")]
    NotReady(#[source] NotReady),
    /// A value that cannot be handed to a plugin.
    #[error("pod {pod_id}: {field} {value:?} cannot be passed to a CNI plugin: {problem}")]
    BadAttachment {
        /// The pod.
        pod_id: String,
        /// Which field of [`crate::Attachment`].
        field: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The path given as network namespace is not that of a pod.
    #[error("pod {pod_id}: {} is not a network namespace of a pod: {problem}", path.display())]
    BadNetns {
        /// The pod.
        pod_id: String,
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A plugin failed while attaching. What had been done was undone unless `undo_failures` says otherwise.
    #[error("attach pod {pod_id}: {failure}{}", also(undo_failures))]
    Attach {
        /// The pod.
        pod_id: String,
        /// The first failure.
        #[source]
        failure: Box<PluginFailure>,
        /// What failed while undoing: not empty means that something may be left on the node.
        undo_failures: Vec<PluginFailure>,
    },
    /// One or more plugins failed while detaching; all of them were asked.
    #[error("detach pod {pod_id}: {}", list(failures))]
    Detach {
        /// The pod.
        pod_id: String,
        /// Every failure, in the order in which the plugins ran.
        failures: Vec<PluginFailure>,
    },
    /// A plugin says that the attachment is not as it should be.
    #[error("check pod {pod_id}: {failure}")]
    Check {
        /// The pod.
        pod_id: String,
        /// The first failure.
        #[source]
        failure: Box<PluginFailure>,
    },
    /// A check was asked for a pod that was never attached.
    #[error("pod {pod_id} is not attached to a network")]
    NotAttached {
        /// The pod.
        pod_id: String,
    },
    /// The configuration that was recorded with an attachment cannot be used any more.
    #[error("record of pod {pod_id} holds an unusable configuration")]
    RecordedConf {
        /// The pod.
        pod_id: String,
        /// What is wrong with it.
        #[source]
        source: ConfError,
    },
    /// An attachment's record could not be read, written or removed.
    #[error("network record {}", path.display())]
    Record {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// [`crate::Network::open`] was called outside a tokio runtime.
    #[error("the network needs a tokio runtime")]
    NoRuntime(#[source] tokio::runtime::TryCurrentError),
}

impl NetworkError {
    /// Whether something may be left on the node after a failed attach, so that a detach has to be tried later.
    pub fn is_left_attached(&self) -> bool {
        matches!(self, Self::Attach { undo_failures, .. } if !undo_failures.is_empty())
    }

    /// Whether a plugin ran into its deadline.
    pub fn is_deadline(&self) -> bool {
        match self {
            Self::Attach { failure, .. } | Self::Check { failure, .. } => failure.is_deadline(),
            Self::Detach { failures, .. } => failures.iter().any(PluginFailure::is_deadline),
            _ => false,
        }
    }
}

fn list(failures: &[PluginFailure]) -> String {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn also(undo_failures: &[PluginFailure]) -> String {
    if undo_failures.is_empty() {
        String::new()
    } else {
        format!(" (and undoing it: {})", list(undo_failures))
    }
}
