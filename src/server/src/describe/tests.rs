//! What clients read of pods and containers.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use prost::Message as _;
use spec::model::{ContainerConfig, NamespaceMode, PodConfig};

use super::*;
use crate::convert::{container_config, pod_config};
use crate::samples;

#[test]
fn a_pods_item_is_encoded_once_and_again_after_a_change() {
    let pod = samples::pod("a", &[("app", "web")]);
    let item = pod_item(&pod);
    let message = cri::PodSandbox::decode(item.clone()).unwrap();
    assert_eq!(message.id, pod.id.as_str());
    assert_eq!(message.metadata.as_ref().unwrap().attempt, 4);
    assert_eq!(message.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(message.annotations["note"], " ü\n");
    assert_eq!(pod_item(&pod).as_ptr(), item.as_ptr());

    let mut changed = pod.clone();
    changed.state = engine::PodState::NotReady;
    let message = cri::PodSandbox::decode(pod_item(&changed)).unwrap();
    assert_eq!(message.state(), cri::PodSandboxState::SandboxNotready);
}

#[test]
fn a_pods_status_has_its_addresses() {
    let mut pod = samples::pod("a", &[]);
    let network = pod_status(&pod).network.unwrap();
    assert_eq!(network.ip, "10.1.2.3");
    assert_eq!(network.additional_ips[0].ip, "fd00::3");
    pod.ips.clear();
    assert_eq!(
        pod_status(&pod).network,
        Some(cri::PodSandboxNetworkStatus::default())
    );
}

#[test]
fn a_containers_item_and_status_agree() {
    let container = samples::container("c", "a", &[("app", "web")]);
    let item = cri::Container::decode(container_item(&container)).unwrap();
    let status = container_status(&container);
    assert_eq!(item.pod_sandbox_id, container.pod.as_str());
    assert_eq!(item.id, status.id);
    assert_eq!(item.image_id, status.image_id);
    assert_eq!(item.image_ref, status.image_ref);
    assert_eq!(item.labels, status.labels);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(status.stop_signal(), cri::Signal::Sigterm);
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!(
        (user.uid, user.gid, user.supplemental_groups),
        (5, 6, vec![7])
    );
}

#[test]
fn verbose_answers_show_no_environment() {
    let info = container_info(&samples::container("c", "a", &[]));
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert_eq!(info["pid"], 99);
    assert!(!info.to_string().contains("hunter2"));
    let info = pod_info(&samples::pod("a", &[]));
    assert!(info["info"].contains("a warning"));
}

/// What a client asked for is what it is told, for the parts that a status repeats.
#[test]
fn conversion_and_description_are_each_others_inverse() {
    let options = cri::NamespaceOption {
        network: cri::NamespaceMode::Node.into(),
        pid: cri::NamespaceMode::Target.into(),
        ipc: cri::NamespaceMode::Node.into(),
        target_id: "abc".to_owned(),
        userns_options: None,
    };
    let mounts = vec![cri::Mount {
        container_path: "/a".to_owned(),
        host_path: "/b".to_owned(),
        readonly: true,
        selinux_relabel: true,
        propagation: cri::MountPropagation::PropagationHostToContainer.into(),
        uid_mappings: vec![cri::IdMapping {
            host_id: 1,
            container_id: 2,
            length: 3,
        }],
        mount_options: vec!["noexec".to_owned()],
        ..cri::Mount::default()
    }];
    let resources = cri::LinuxContainerResources {
        cpu_period: 1,
        cpu_quota: -2,
        cpu_shares: 3,
        memory_limit_in_bytes: 4,
        oom_score_adj: -5,
        cpuset_cpus: "0-3".to_owned(),
        cpuset_mems: "0".to_owned(),
        hugepage_limits: vec![cri::HugepageLimit {
            page_size: "2MB".to_owned(),
            limit: 6,
        }],
        unified: [("memory.high".to_owned(), "7".to_owned())].into(),
        memory_swap_limit_in_bytes: 8,
    };
    let config: ContainerConfig = container_config(Some(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "app".to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: "busybox".to_owned(),
            ..cri::ImageSpec::default()
        }),
        mounts: mounts.clone(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources.clone()),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(options.clone()),
                ..cri::LinuxContainerSecurityContext::default()
            }),
        }),
        ..cri::ContainerConfig::default()
    }))
    .unwrap();
    assert_eq!(namespace_options(&config.security.namespaces), options);
    let mut container = samples::container("c", "a", &[]);
    container.mounts.clone_from(&config.mounts);
    container.resources = config.resources.unwrap();
    let status = container_status(&container);
    assert_eq!(status.mounts, mounts);
    assert_eq!(status.resources.unwrap().linux, Some(resources));
}

#[test]
fn a_pods_namespaces_are_told_as_asked_for() {
    let config: PodConfig = pod_config(Some(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "a".to_owned(),
            uid: "b".to_owned(),
            namespace: "c".to_owned(),
            attempt: 0,
        }),
        ..cri::PodSandboxConfig::default()
    }))
    .unwrap();
    assert_eq!(config.security.namespaces.network, NamespaceMode::Pod);
    let options = namespace_options(&config.security.namespaces);
    assert_eq!(options, cri::NamespaceOption::default());
}
