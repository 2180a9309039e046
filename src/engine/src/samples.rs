//! Pods and containers for this crate's tests.

use std::sync::Arc;

use spec::model::{ContainerConfig, ImageSpec, PodConfig, Resources};
use state::{ContainerId, PodId};

use crate::world::{Container, ContainerState, Memo, Pod, PodState, User};

/// A ready pod.
pub(crate) fn pod() -> Pod {
    Pod {
        id: PodId::random(),
        config: Arc::new(PodConfig::default()),
        handler: String::new(),
        runtime: "crun".to_owned(),
        state: PodState::Ready,
        created_at_unix_ns: 1,
        ips: Vec::new(),
        hostname: "h".to_owned(),
        cgroup_parent: "/p".to_owned(),
        own_cgroups: Vec::new(),
        has_pause: false,
        released: false,
        overhead: None,
        resources: None,
        selinux: None,
        warnings: Vec::new(),
        list_item: Memo::default(),
    }
}

/// A running container of a pod.
pub(crate) fn container(pod: &PodId) -> Container {
    Container {
        id: ContainerId::random(),
        pod: pod.clone(),
        config: Arc::new(ContainerConfig::default()),
        state: ContainerState::Running,
        created_at_unix_ns: 1,
        started_at_unix_ns: 2,
        finished_at_unix_ns: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: ImageSpec::default(),
        image_ref: String::new(),
        image_id: format!("sha256:{}", "1".repeat(64))
            .parse()
            .unwrap_or_else(|error| panic!("{error}")),
        layers: Vec::new(),
        volume_layers: Vec::new(),
        log_path: String::new(),
        user: User::default(),
        resources: Resources::default(),
        mounts: Vec::new(),
        stop_signal: 15,
        cgroup: "/p/c".to_owned(),
        pid: 99,
        selinux: None,
        warnings: Vec::new(),
        list_item: Memo::default(),
    }
}
