//! What belongs to a pod or container only while this server runs: its monitor's connection, its turn, its image's lease.
//!
//! Nothing here is read by status calls. After a restart `restore` makes the entries anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use image::ImageLease;
use oci_spec::runtime::Process;
use runtime::Monitor;
use state::{ContainerId, PodId};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{cgroup_thread::CgroupThread, update_container::LastUpdate, world::Ending};

/// A pod's companion.
#[derive(Debug)]
pub(crate) struct LivePod {
    /// The connection to the pod's monitor.
    pub(crate) monitor: Monitor,
    /// Shared by creations of containers, held alone by the pod's stop: a container is made before it, or not at all.
    pub(crate) creations: Arc<tokio::sync::RwLock<()>>,
}

/// A container's companion.
#[derive(Debug, Default)]
pub(crate) struct LiveContainer {
    /// Held by start, update and remove, which exclude each other. Stop takes no turn: it must reach a container whose start hangs.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Keeps the layers of its images while the container's root filesystem and volumes stand on them.
    pub(crate) lease: Mutex<Option<ImageLease>>,
    /// Threads that make its file system. They cannot be cut off as a job can: an undo waits for them.
    pub(crate) making: TaskTracker,
    /// The thread that reads and writes its limits.
    pub(crate) limits: CgroupThread,
    /// Tells which update of its limits a request is for.
    pub(crate) last_update: Mutex<LastUpdate>,
    /// When the running stop sends SIGKILL. A later stop may only bring it forward.
    pub(crate) kill_at: Mutex<Option<watch::Sender<Instant>>>,
    /// The process of its spec, which commands inside it take their user, limits and filters from. Read when first needed.
    pub(crate) process: OnceLock<Process>,
    /// The end, if it was reported before the container was published.
    pub(crate) early_end: Mutex<Option<Ending>>,
    /// The runtime's `start` is under way: an end that is reported now is the end of a container that was started.
    pub(crate) starting: AtomicBool,
}

impl LiveContainer {
    /// Waits until nothing makes its file system any more; false when that takes longer than `limit`.
    pub(crate) async fn is_settled(&self, limit: Duration) -> bool {
        self.making.close();
        tokio::time::timeout(limit, self.making.wait())
            .await
            .is_ok()
    }
}

/// The companions of all pods and containers.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pods: Mutex<HashMap<PodId, Arc<LivePod>>>,
    containers: Mutex<HashMap<ContainerId, Arc<LiveContainer>>>,
}

impl Live {
    pub(crate) fn add_pod(&self, id: PodId, monitor: Monitor) -> Arc<LivePod> {
        let pod = Arc::new(LivePod {
            monitor,
            creations: Arc::default(),
        });
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::clone(&pod));
        pod
    }

    /// Goes on with another connection to the monitor of a pod that is still there. Creations and stops that began on the
    /// former one exclude each other still.
    pub(crate) fn reconnect_pod(&self, id: &PodId, monitor: Monitor) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pod) = pods.get_mut(id) {
            let creations = Arc::clone(&pod.creations);
            *pod = Arc::new(LivePod { monitor, creations });
        }
    }

    /// `None` once the pod was stopped or its monitor was lost.
    pub(crate) fn pod(&self, id: &PodId) -> Option<Arc<LivePod>> {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    pub(crate) fn remove_pod(&self, id: &PodId) -> Option<Arc<LivePod>> {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id)
    }

    /// The container's companion, made when it is first asked for.
    pub(crate) fn container(&self, id: &ContainerId) -> Arc<LiveContainer> {
        let mut containers = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(containers.entry(id.clone()).or_default())
    }

    /// The container's companion, if anybody asked for it before.
    pub(crate) fn known_container(&self, id: &ContainerId) -> Option<Arc<LiveContainer>> {
        let containers = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        containers.get(id).cloned()
    }

    pub(crate) fn remove_container(&self, id: &ContainerId) {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_container_settles_when_its_file_system_is_not_made_any_more() {
        let container = LiveContainer::default();
        let (go_on, waits) = std::sync::mpsc::channel::<()>();
        container.making.spawn_blocking(move || waits.recv());
        assert!(!container.is_settled(Duration::from_millis(1)).await);
        drop(go_on);
        assert!(container.is_settled(Duration::from_mins(1)).await);
        assert!(LiveContainer::default().is_settled(Duration::ZERO).await);
    }
}
