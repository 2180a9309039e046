//! What the node runs, as immutable values.
//!
//! Readers take one [`World`] by an atomic load and never wait: nothing in it changes after it was published. Writers go
//! through `ledger`, which replaces the pod or container in question and publishes a new world that shares
//! everything else with the old one. State changes are the pure functions at the end of this file, so that what a late
//! exit or a doubled start does is decided in one place:
//!
//! ```text
//!            create            start               exit
//!   (none) ─────────▶ Created ───────▶ Running ──────────▶ Exited
//!                        │                                   ▲
//!                        └── killed before it was started ───┘
//! ```
//!
//! An exit is final. A start that is reported after the exit only fills in `started_at`.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use imbl::OrdMap;
use runtime::OomLimit;
use serde::{Deserialize, Serialize};
use spec::{
    model::{ContainerConfig, ImageSpec, Mount, PodConfig, PodMetadata, Resources},
    selinux::SelinuxContext,
};
use state::{ChainId, ContainerId, ImageId, PodId};

/// Everything the node runs at one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Pods that are complete: never half-made ones.
    pub pods: OrdMap<PodId, Arc<Pod>>,
    /// Containers of those pods.
    pub containers: OrdMap<ContainerId, Arc<Container>>,
}

impl World {
    /// The pod that a client knows by this metadata.
    pub fn pod_by_metadata(&self, metadata: &PodMetadata) -> Option<&Arc<Pod>> {
        self.pods
            .values()
            .find(|pod| pod.config.metadata == *metadata)
    }

    /// Containers of one pod, in id order.
    pub fn containers_of<'a>(&'a self, pod: &'a PodId) -> impl Iterator<Item = &'a Arc<Container>> {
        self.containers
            .values()
            .filter(move |container| container.pod == *pod)
    }
}

/// A slot in which `server` keeps the encoded form of an object. A changed object starts with an empty one.
#[derive(Debug, Default)]
pub struct Memo(OnceLock<Bytes>);

impl Memo {
    /// The kept bytes, made by `encode` the first time.
    pub fn get_or_encode(&self, encode: impl FnOnce() -> Bytes) -> &Bytes {
        self.0.get_or_init(encode)
    }
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Whether a pod can hold running containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "CRI's own words")]
pub enum PodState {
    Ready,
    NotReady,
}

/// A pod sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Its id.
    pub id: PodId,
    /// What the client asked for.
    pub config: Arc<PodConfig>,
    /// The handler as the client named it; empty for the default.
    pub handler: String,
    /// The configured runtime that this handler meant when the pod was made.
    pub runtime: String,
    /// Ready or not.
    pub state: PodState,
    /// Nanoseconds since 1970; never the same for two objects of one server.
    pub created_at_unix_ns: i64,
    /// Addresses, primary first. Empty with the node's network.
    pub ips: Vec<std::net::IpAddr>,
    /// Host name inside the pod.
    pub hostname: String,
    /// Cgroup below which the containers' cgroups stand, in cgroupfs form.
    pub cgroup_parent: String,
    /// Cgroups that were not there before this pod, innermost first: they go with it.
    pub own_cgroups: Vec<String>,
    /// Cgroup of its monitor alone, which goes with the pod.
    #[serde(default)]
    pub monitor_cgroup: Option<String>,
    /// Whether a pause container, named by the pod's id, holds the pod's PID namespace.
    pub has_pause: bool,
    /// Its processes, network and namespaces are gone; only its record and files are left.
    #[serde(default)]
    pub released: bool,
    /// What the runtime itself may use, as told last.
    #[serde(default)]
    pub overhead: Option<Resources>,
    /// The containers' resources together, as told last.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// Its SELinux labels; `None` where SELinux was not used when it was made.
    #[serde(default)]
    pub selinux: Option<SelinuxContext>,
    /// Things that were asked for and could not be given, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The encoded item of list replies.
    #[serde(skip)]
    pub list_item: Memo,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "CRI's own words")]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// Who a container's first process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "numeric ids")]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// What the client asked for.
    pub config: Arc<ContainerConfig>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Nanoseconds since 1970; never the same for two objects of one server.
    pub created_at_unix_ns: i64,
    /// 0 until started.
    pub started_at_unix_ns: i64,
    /// 0 until exited.
    pub finished_at_unix_ns: i64,
    /// 0–255, 128 + n for signal n.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`; empty before the exit.
    pub reason: String,
    /// One sentence for people; may be empty.
    pub message: String,
    /// The image as the client named it.
    pub image: ImageSpec,
    /// The image by digest (`name@sha256:…`), or its id when it has no digest.
    pub image_ref: String,
    /// The image's id, as ImageService lists it.
    pub image_id: ImageId,
    /// The image's layers, lowest first. The root filesystem stands on them even when the image is removed.
    #[serde(default)]
    pub layers: Vec<ChainId>,
    /// Layers of the images that are its volumes, which stay likewise.
    #[serde(default)]
    pub volume_layers: Vec<ChainId>,
    /// Absolute path of the log file; empty when there is none.
    pub log_path: String,
    /// Who it runs as.
    pub user: User,
    /// Limits in force.
    pub resources: Resources,
    /// Mounts to report: the client's, with the ids of the images that are volumes.
    pub mounts: Vec<Mount>,
    /// The stop signal in force: a Linux signal number.
    pub stop_signal: i32,
    /// Its cgroup, in cgroupfs form.
    pub cgroup: String,
    /// Process id of its init on the node; 0 once it has ended.
    pub pid: u32,
    /// Its SELinux labels; `None` where SELinux was not used when it was made.
    #[serde(default)]
    pub selinux: Option<SelinuxContext>,
    /// Things that were asked for and could not be given, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The encoded item of list replies.
    #[serde(skip)]
    pub list_item: Memo,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// 0–255, 128 + n for signal n.
    pub code: i32,
    /// The kernel killed a process of it for memory.
    pub oom_killed: bool,
    /// Whose limit that was.
    pub oom_limit: OomLimit,
    /// Nanoseconds since 1970.
    pub at_unix_ns: i64,
}

/// The container after its runtime reported the start.
#[must_use]
pub fn started(container: &Container, at_unix_ns: i64) -> Container {
    let mut next = container.clone();
    let at_unix_ns = not_before_created(container, at_unix_ns);
    next.started_at_unix_ns = at_unix_ns;
    if container.state == ContainerState::Created {
        next.state = ContainerState::Running;
    } else if next.finished_at_unix_ns != 0 {
        // It ended before the runtime's `start` came back: keep started ≤ finished, as readers expect.
        next.started_at_unix_ns = at_unix_ns.min(next.finished_at_unix_ns);
    }
    next
}

/// The container after its first process ended. `None` if it had ended before: the first report holds.
#[must_use]
pub fn ended(container: &Container, ending: Ending) -> Option<Container> {
    if container.state == ContainerState::Exited {
        return None;
    }
    let mut next = container.clone();
    next.state = ContainerState::Exited;
    next.finished_at_unix_ns = ending
        .at_unix_ns
        .max(next.started_at_unix_ns)
        .max(next.created_at_unix_ns);
    next.exit_code = ending.code;
    next.pid = 0;
    reason(ending).clone_into(&mut next.reason);
    if let Some(message) = message(ending) {
        message.clone_into(&mut next.message);
    }
    Some(next)
}

/// The container after a start that the runtime refused.
#[must_use]
pub fn start_failed(container: &Container, why: &str, at_unix_ns: i64) -> Container {
    let mut next = container.clone();
    let at_unix_ns = not_before_created(container, at_unix_ns);
    next.state = ContainerState::Exited;
    next.finished_at_unix_ns = at_unix_ns;
    next.started_at_unix_ns = at_unix_ns;
    next.exit_code = 128;
    next.pid = 0;
    "StartError".clone_into(&mut next.reason);
    why.clone_into(&mut next.message);
    next
}

/// The container whose end nobody saw.
#[must_use]
pub fn lost(container: &Container, why: &str, at_unix_ns: i64) -> Option<Container> {
    let mut next = ended(
        container,
        Ending {
            code: 255,
            oom_killed: false,
            oom_limit: OomLimit::Unknown,
            at_unix_ns,
        },
    )?;
    "Unknown".clone_into(&mut next.reason);
    why.clone_into(&mut next.message);
    Some(next)
}

/// Times of one container go on, also after the node's clock was set back.
fn not_before_created(container: &Container, at_unix_ns: i64) -> i64 {
    at_unix_ns.max(container.created_at_unix_ns)
}

fn reason(ending: Ending) -> &'static str {
    match ending {
        Ending {
            oom_killed: true, ..
        } => "OOMKilled",
        Ending { code: 0, .. } => "Completed",
        Ending { .. } => "Error",
    }
}

/// What people want to know of an end beyond its reason.
fn message(ending: Ending) -> Option<&'static str> {
    match (ending.oom_killed, ending.oom_limit) {
        (false, _) | (true, OomLimit::Unknown) => None,
        (true, OomLimit::Own) => Some("the kernel killed it at its own limit of memory"),
        (true, OomLimit::Above) => Some(
            "the kernel killed it while it was below its own limit of memory: its pod, a cgroup above that, or the node had no more",
        ),
    }
}

#[cfg(test)]
mod tests {
    use state::PodId;

    use super::*;
    use crate::samples;

    #[test]
    fn times_of_a_container_go_on_after_the_clock_was_set_back() {
        let created = Container {
            state: ContainerState::Created,
            created_at_unix_ns: 100,
            started_at_unix_ns: 0,
            ..samples::container(&PodId::random())
        };
        for (now, wanted) in [(150, 150), (100, 100), (50, 100)] {
            let running = started(&created, now);
            assert_eq!(running.started_at_unix_ns, wanted, "started at {now}");
            let failed = start_failed(&created, "no", now);
            let times = (failed.started_at_unix_ns, failed.finished_at_unix_ns);
            assert_eq!(times, (wanted, wanted), "failed at {now}");
            let lost = lost(&running, "gone", now).map(|lost| lost.finished_at_unix_ns);
            assert_eq!(lost, Some(wanted), "lost at {now}");
        }
    }
}
