//! What every server is asked for: a pod and a container as the kubelet asks for them by default.
//!
//! `floor::bundle` says the same in the words of the `spec` crate; both take the lists from here.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;
use api::cri::{self, NamespaceMode};
use pintle_test::{
    cri::{image_spec, words},
    node::{namespaces, runtime_default},
    places, registry,
    world::make_dirs,
};

/// Parent of all pods' cgroups.
pub(crate) const CGROUP_PARENT: &str = "/kubepods";
/// What a container runs.
pub(crate) const COMMAND: &[&str] = &["sleep", "3600"];
/// What is executed in it.
pub(crate) const PROBE: &[&str] = &["true"];
/// CPU weight of a pod without requests.
pub(crate) const CPU_SHARES: i64 = 2;
/// Its OOM score.
pub(crate) const OOM_SCORE_ADJ: i64 = 1000;
/// What the kubelet hides of /proc and /sys.
pub(crate) const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What it makes read-only.
pub(crate) const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The image that pods run.
pub(crate) fn image() -> String {
    registry::name("busybox:latest")
}

/// A name that no other pod of this run has.
pub(crate) fn pod_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("bench-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A pod on the CNI network with a PID namespace per container. Its log directory is there.
pub(crate) fn pod() -> Result<cri::PodSandboxConfig> {
    let name = pod_name();
    let log_directory = format!("{}/{name}", places::POD_LOGS);
    make_dirs(&log_directory)?;
    let label = |key: &str, value: &str| (format!("io.kubernetes.pod.{key}"), value.to_owned());
    Ok(cri::PodSandboxConfig {
        labels: BTreeMap::from([
            label("name", &name),
            label("namespace", "bench"),
            label("uid", &name),
        ]),
        annotations: BTreeMap::from([
            (
                "kubernetes.io/config.seen".to_owned(),
                "2026-01-01T00:00:00Z".to_owned(),
            ),
            ("kubernetes.io/config.source".to_owned(), "api".to_owned()),
        ]),
        metadata: Some(cri::PodSandboxMetadata {
            uid: name.clone(),
            name,
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        hostname: "bench".to_owned(),
        log_directory,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: CGROUP_PARENT.to_owned(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                seccomp: Some(runtime_default()),
                ..cri::LinuxSandboxSecurityContext::default()
            }),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    })
}

/// A container named `name` of that pod that sleeps.
pub(crate) fn container(name: &str) -> cri::ContainerConfig {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(image_spec(&image())),
        command: words(COMMAND),
        log_path: format!("{name}_0.log"),
        labels: BTreeMap::from([
            text("io.kubernetes.container.name", name),
            text("io.kubernetes.pod.name", "bench"),
            text("io.kubernetes.pod.namespace", "bench"),
            text(
                "io.kubernetes.pod.uid",
                "8e3f3a1e-5b0c-4a57-9d3c-6f7f1c7b2a10",
            ),
        ]),
        annotations: BTreeMap::from([
            text("io.kubernetes.container.hash", "a1b2c3d4"),
            text("io.kubernetes.container.restartCount", "0"),
            text(
                "io.kubernetes.container.terminationMessagePath",
                "/dev/termination-log",
            ),
            text("io.kubernetes.container.terminationMessagePolicy", "File"),
            text("io.kubernetes.pod.terminationGracePeriod", "30"),
        ]),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                cpu_shares: CPU_SHARES,
                oom_score_adj: OOM_SCORE_ADJ,
                ..cri::LinuxContainerResources::default()
            }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(NamespaceMode::Pod, NamespaceMode::Container)),
                seccomp: Some(runtime_default()),
                masked_paths: words(MASKED_PATHS),
                readonly_paths: words(READONLY_PATHS),
                ..cri::LinuxContainerSecurityContext::default()
            }),
        }),
        ..cri::ContainerConfig::default()
    }
}
