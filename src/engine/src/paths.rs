//! Where the engine keeps what belongs to a pod or a container. The only place that knows these names.

use std::path::{Path, PathBuf};

use state::{ContainerId, PodId};

/// The roots of all paths.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    run: PathBuf,
    netns: PathBuf,
}

impl Paths {
    /// `run` is a tmpfs directory of the server's own; `netns` is where the node's tools look for network namespaces.
    pub(crate) fn new(run: &Path, netns: &Path) -> Self {
        Self {
            run: run.to_owned(),
            netns: netns.to_owned(),
        }
    }

    /// Directory of all pods' directories.
    pub(crate) fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// A pod's directory: socket of its monitor, files, shm.
    pub(crate) fn pod(&self, id: &PodId) -> PathBuf {
        self.pods().join(id.as_str())
    }

    /// Kept short: a socket's path has 107 bytes.
    pub(crate) fn monitor_socket(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("monitor.sock")
    }

    /// The small tmpfs of the files that the pod's containers share, and may write to.
    pub(crate) fn pod_files(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("files")
    }

    pub(crate) fn resolv_conf(&self, id: &PodId) -> PathBuf {
        self.pod_files(id).join("resolv.conf")
    }

    pub(crate) fn hostname(&self, id: &PodId) -> PathBuf {
        self.pod_files(id).join("hostname")
    }

    pub(crate) fn shm(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("shm")
    }

    /// Bundle of the pod's pause container.
    pub(crate) fn pause_bundle(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("pause")
    }

    /// The read-only root filesystem that all pause containers share.
    pub(crate) fn pause_rootfs(&self) -> PathBuf {
        self.run.join("pause")
    }

    /// Where the pod's network namespace is pinned.
    pub(crate) fn netns(&self, id: &PodId) -> PathBuf {
        self.netns.join(id.as_str())
    }

    /// Directory in which the pod's other namespaces are pinned.
    pub(crate) fn namespaces(&self, id: &PodId) -> PathBuf {
        self.run.join("ns").join(id.as_str())
    }

    /// Where one of them is pinned: `ipc`, `uts`, `pid` or `user`.
    pub(crate) fn namespace(&self, id: &PodId, kind: &str) -> PathBuf {
        self.namespaces(id).join(kind)
    }

    /// Directory of all containers' bundles.
    pub(crate) fn containers(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// A container's bundle.
    pub(crate) fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    /// Where attaching clients find a container's streams.
    pub(crate) fn attach_socket(&self, id: &ContainerId) -> PathBuf {
        self.bundle(id).join("attach.sock")
    }

    /// Mount point of a container's root filesystem.
    pub(crate) fn rootfs(&self, id: &ContainerId) -> PathBuf {
        self.bundle(id).join("rootfs")
    }

    /// Directory of what the server mounts for a container besides: image volumes, volumes with mapped ids.
    pub(crate) fn volumes(&self, id: &ContainerId) -> PathBuf {
        self.bundle(id).join("volumes")
    }
}
