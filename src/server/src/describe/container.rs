//! Containers in CRI's words.

use std::collections::BTreeMap;

use api::cri;
use bytes::Bytes;
use engine::{Container, ContainerState};
use serde_json::json;
use spec::model;

use super::{id_mappings, image_spec, info};
use crate::list::encoded;

/// The container as an encoded item of a list.
pub(crate) fn container_item(container: &Container) -> Bytes {
    let encode = || {
        encoded(&cri::Container {
            id: container.id.to_string(),
            pod_sandbox_id: container.pod.to_string(),
            metadata: Some(metadata(container)),
            image: Some(image_spec(&container.image)),
            image_ref: container.image_ref.clone(),
            state: state(container).into(),
            created_at: container.created_at_unix_ns,
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            image_id: container.image_id.to_string(),
        })
    };
    container.list_item.get_or_encode(encode).clone()
}

/// The container in full.
pub(crate) fn container_status(container: &Container) -> cri::ContainerStatus {
    let user = &container.user;
    cri::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(metadata(container)),
        state: state(container).into(),
        created_at: container.created_at_unix_ns,
        started_at: container.started_at_unix_ns,
        finished_at: container.finished_at_unix_ns,
        exit_code: container.exit_code,
        image: Some(image_spec(&container.image)),
        image_ref: container.image_ref.clone(),
        reason: container.reason.clone(),
        message: container.message.clone(),
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        mounts: container.mounts.iter().map(mount).collect(),
        log_path: container.log_path.clone(),
        resources: Some(cri::ContainerResources {
            linux: Some(resources(&container.resources)),
            windows: None,
        }),
        image_id: container.image_id.to_string(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.groups.iter().copied().map(Into::into).collect(),
            }),
        }),
        stop_signal: spec::signal::Signal::from_number(container.stop_signal)
            .and_then(spec::signal::Signal::to_cri)
            .unwrap_or_default(),
    }
}

/// What else an operator may want to know. Nothing of the environment: that is where secrets are.
pub(crate) fn container_info(container: &Container) -> BTreeMap<String, String> {
    info(&json!({
        "sandboxID": container.pod.as_str(),
        "pid": container.pid,
        "cgroup": container.cgroup,
        "selinux": super::selinux(container.selinux.as_ref()),
        "warnings": container.warnings,
    }))
}

pub(super) fn metadata(container: &Container) -> cri::ContainerMetadata {
    cri::ContainerMetadata {
        name: container.config.metadata.name.clone(),
        attempt: container.config.metadata.attempt,
    }
}

fn state(container: &Container) -> cri::ContainerState {
    match container.state {
        ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown,
    }
}

fn mount(mount: &model::Mount) -> cri::Mount {
    let propagation = match mount.propagation {
        model::Propagation::Private => cri::MountPropagation::PropagationPrivate,
        model::Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        model::Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: id_mappings(&mount.uid_mappings),
        gid_mappings: id_mappings(&mount.gid_mappings),
        recursive_read_only: mount.recursive_readonly,
        image: mount.image.as_ref().map(image_spec),
        image_sub_path: mount.image_sub_path.clone(),
        mount_options: mount.options.clone(),
    }
}

fn resources(resources: &model::Resources) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: resources.cpu_period_us,
        cpu_quota: resources.cpu_quota_us,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| cri::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: resources.unified.clone(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes,
    }
}
