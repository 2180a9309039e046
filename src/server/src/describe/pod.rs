//! Pods in CRI's words.

use std::collections::BTreeMap;

use api::cri;
use bytes::Bytes;
use engine::{Pod, PodState};
use serde_json::json;

use super::{info, namespace_options};
use crate::list::encoded;

/// The pod as an encoded item of a list.
pub(crate) fn pod_item(pod: &Pod) -> Bytes {
    let encode = || {
        encoded(&cri::PodSandbox {
            id: pod.id.to_string(),
            metadata: Some(metadata(pod)),
            state: state(pod).into(),
            created_at: pod.created_at_unix_ns,
            labels: pod.config.labels.clone(),
            annotations: pod.config.annotations.clone(),
            runtime_handler: pod.handler.clone(),
        })
    };
    pod.list_item.get_or_encode(encode).clone()
}

/// The pod in full.
pub(crate) fn pod_status(pod: &Pod) -> cri::PodSandboxStatus {
    let mut ips = pod.ips.iter().map(ToString::to_string);
    // With the node's network there is no address, but clients warn when the message itself is missing.
    let network = ips.next().map(|ip| cri::PodSandboxNetworkStatus {
        ip,
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    });
    cri::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(metadata(pod)),
        state: state(pod).into(),
        created_at: pod.created_at_unix_ns,
        network: Some(network.unwrap_or_default()),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace {
                options: Some(namespace_options(&pod.config.security.namespaces)),
            }),
        }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    }
}

/// What else an operator may want to know.
pub(crate) fn pod_info(pod: &Pod) -> BTreeMap<String, String> {
    info(&json!({
        "runtime": pod.runtime,
        "hostname": pod.hostname,
        "cgroupParent": pod.cgroup_parent,
        "pauseContainer": pod.has_pause,
        "overhead": pod.overhead,
        "resources": pod.resources,
        "selinux": super::selinux(pod.selinux.as_ref()),
        "warnings": pod.warnings,
    }))
}

pub(super) fn metadata(pod: &Pod) -> cri::PodSandboxMetadata {
    let metadata = &pod.config.metadata;
    cri::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

fn state(pod: &Pod) -> cri::PodSandboxState {
    match pod.state {
        PodState::Ready => cri::PodSandboxState::SandboxReady,
        PodState::NotReady => cri::PodSandboxState::SandboxNotready,
    }
}
