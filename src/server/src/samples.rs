//! Pods and containers for this crate's tests.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::world::{Memo, User};
use engine::{Container, ContainerState, Pod, PodState};
use spec::model::{ContainerConfig, ContainerMetadata, PodConfig, PodMetadata, Resources};

fn id(start: &str) -> String {
    format!("{start:0<64}")
}

fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// A ready pod whose id begins so.
pub(crate) fn pod(start: &str, labels: &[(&str, &str)]) -> Pod {
    Pod {
        id: id(start).parse().unwrap(),
        config: Arc::new(PodConfig {
            metadata: PodMetadata {
                name: "web".to_owned(),
                uid: "1-2".to_owned(),
                namespace: "default".to_owned(),
                attempt: 4,
            },
            labels: map(labels),
            annotations: map(&[("note", " ü\n")]),
            ..PodConfig::default()
        }),
        handler: "crun".to_owned(),
        runtime: "crun".to_owned(),
        state: PodState::Ready,
        created_at_unix_ns: 17,
        ips: vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()],
        hostname: "web".to_owned(),
        cgroup_parent: "/p".to_owned(),
        own_cgroups: Vec::new(),
        monitor_cgroup: None,
        has_pause: false,
        released: false,
        overhead: None,
        resources: None,
        selinux: None,
        warnings: vec!["a warning".to_owned()],
        list_item: Memo::default(),
    }
}

/// A running container whose id begins so, in the pod whose id begins so.
pub(crate) fn container(start: &str, pod: &str, labels: &[(&str, &str)]) -> Container {
    let image = format!("sha256:{}", id("1"));
    Container {
        id: id(start).parse().unwrap(),
        pod: id(pod).parse().unwrap(),
        config: Arc::new(ContainerConfig {
            metadata: ContainerMetadata {
                name: "app".to_owned(),
                attempt: 2,
            },
            labels: map(labels),
            envs: vec![("PASSWORD".to_owned(), b"hunter2".to_vec())],
            ..ContainerConfig::default()
        }),
        state: ContainerState::Running,
        created_at_unix_ns: 1,
        started_at_unix_ns: 2,
        finished_at_unix_ns: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: spec::model::ImageSpec {
            image: "busybox:1".to_owned(),
            ..spec::model::ImageSpec::default()
        },
        image_ref: format!("docker.io/library/busybox@{image}"),
        image_id: image.parse().unwrap(),
        layers: Vec::new(),
        volume_layers: Vec::new(),
        log_path: "/var/log/pods/app/2.log".to_owned(),
        user: User {
            uid: 5,
            gid: 6,
            groups: vec![7],
        },
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
