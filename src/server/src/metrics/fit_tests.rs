#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use api::cri;
use engine::stats::reading::PodMetrics;
use prost::Message as _;

use super::super::pod_message;
use super::super::tests::whole_pod;
use super::*;

fn names(metrics: &[cri::Metric]) -> BTreeSet<&str> {
    metrics.iter().map(|metric| metric.name.as_str()).collect()
}

/// As many pods as a large node may run, with two containers each and the longest names that Kubernetes allows.
fn dense_node() -> PodMetrics {
    let (mut found, _) = whole_pod();
    let mut pod = engine::Pod::clone(&found.pod);
    let mut config = (*pod.config).clone();
    config.metadata.name = "p".repeat(253);
    config.metadata.namespace = "n".repeat(63);
    pod.config = Arc::new(config);
    pod.cgroup_parent = format!("/{}", "g".repeat(130));
    found.pod = Arc::new(pod);
    let mut one = found.containers.remove(0);
    let mut container = engine::Container::clone(&one.usage.container);
    let mut config = (*container.config).clone();
    config.metadata.name = "c".repeat(63);
    container.config = Arc::new(config);
    container.image.user_specified_image = "i".repeat(255);
    container.cgroup = format!("/{}", "g".repeat(220));
    one.usage.container = Arc::new(container);
    if let Some(processes) = &mut one.processes {
        let limits = (0..16).map(|number| (format!("max_{number}"), 1));
        processes.soft_limits = limits.collect();
    }
    found.containers = vec![one.clone(), one];
    found
}

#[test]
fn a_dense_node_has_its_metrics_in_one_reply() {
    const PODS: usize = 250;
    let (found, (_, disk)) = (dense_node(), whole_pod());
    let encode = |kept| vec![Bytes::from(pod_message(&found, Some(&disk), kept)); PODS];
    let all: usize = encode(Kept::ALL).iter().map(Bytes::len).sum();
    assert!(all > api::MAX_MESSAGE_BYTES, "{all} bytes fit anyway");
    let (items, kept) = fitting(api::MAX_MESSAGE_BYTES, &encode);
    assert_ne!(kept, Kept::ALL);
    assert_eq!(items.len(), PODS);
    let bytes: usize = items.iter().map(|item| framed_len(item.len())).sum();
    assert!(bytes <= api::MAX_MESSAGE_BYTES, "{bytes} bytes");
    let message = cri::PodSandboxMetrics::decode(items[0].clone()).unwrap();
    assert_eq!(message.container_metrics.len(), 2);
    let told = names(&message.container_metrics[0].metrics);
    for name in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_oom_events_total",
        "container_start_time_seconds",
    ] {
        assert!(told.contains(name), "no {name}");
    }
    assert!(!told.contains("container_ulimits_soft"));
    assert!(names(&message.metrics).contains("container_network_receive_bytes_total"));
}

#[test]
fn metrics_are_left_out_in_their_order_until_the_reply_fits() {
    let (found, disk) = whole_pod();
    let encode = |kept| vec![Bytes::from(pod_message(&found, Some(&disk), kept))];
    let mut last = usize::MAX;
    for steps in 0..=STEPS.len() {
        let wanted = Kept { steps };
        let bytes = framed_len(encode(wanted)[0].len());
        assert!(bytes < last, "step {steps} leaves nothing out");
        last = bytes;
        let (items, kept) = fitting(bytes, &encode);
        assert_eq!((items, kept), (encode(wanted), wanted));
    }
    // The least there is, which the caller refuses.
    assert_eq!(fitting(0, &encode).1.steps, STEPS.len());
}

#[test]
fn steps_leave_out_what_they_say() {
    for (steps, name, of_pods) in [
        (1, "container_ulimits_soft", true),
        (2, "container_memory_failures_total", true),
        (3, "container_blkio_device_usage_total", true),
        (4, "container_hugetlb_usage_bytes", true),
        (5, "container_hugetlb_max_usage_bytes", false),
    ] {
        let kept = Kept { steps };
        assert!(kept.table().all(|found| found.name != name), "{name}");
        assert_eq!(kept.has_cgroups_of_pods(), of_pods, "{steps}");
        let before = Kept { steps: steps - 1 };
        let had = before.table().any(|found| found.name == name);
        assert_eq!(had, of_pods, "{name}");
    }
    assert_eq!(Kept::ALL.table().count(), TABLE.len());
    for step in STEPS {
        let Step::Names(names) = step else { continue };
        for name in *names {
            let known = TABLE.iter().any(|found| found.name.starts_with(name));
            assert!(known, "no metric {name}");
        }
    }
}
