#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::stats::reading::{
    ContainerUse, CpuLimits, CpuUse, DeviceUse, Direction, DiskUse, Faults, HugePages, Interface,
    MemoryLimits, MemoryUse, Pressure, PressureLine, ProcessUse, SwapUse, Throttling,
};

use prost::Message as _;

use super::*;
use crate::samples;

/// The names that Kubernetes' conformance suite asks for, as of 1.37.
const NAMES: &str = "blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total \
    cpu_cfs_throttled_seconds_total cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total \
    file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes fs_reads_bytes_total fs_reads_total \
    fs_usage_bytes fs_writes_bytes_total fs_writes_total hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen \
    memory_cache memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file \
    memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes memory_working_set_bytes \
    network_receive_bytes_total network_receive_errors_total network_receive_packets_dropped_total \
    network_receive_packets_total network_transmit_bytes_total network_transmit_errors_total \
    network_transmit_packets_dropped_total network_transmit_packets_total oom_events_total \
    pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total pressure_io_stalled_seconds_total \
    pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total \
    pressure_memory_waiting_seconds_total processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares \
    spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes \
    start_time_seconds threads threads_max ulimits_soft";

fn named(list: &[(&str, u64)]) -> Vec<(String, u64)> {
    list.iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

fn pressure(some_s: u64, full_s: u64) -> Pressure {
    let line = |seconds| PressureLine {
        total_us: seconds * 1_000_000,
        ..PressureLine::default()
    };
    Pressure {
        some: line(some_s),
        full: Some(line(full_s)),
    }
}

fn usage() -> CgroupUse {
    CgroupUse {
        at_unix_ns: 90_000_000_000,
        cpu: Some(CpuUse {
            usage_ns: 5_900_000_000,
            nano_cores: None,
            pressure: Some(pressure(1, 2)),
        }),
        memory: Some(MemoryUse {
            usage_bytes: 10,
            working_set_bytes: 11,
            available_bytes: None,
            rss_bytes: Some(12),
            page_faults: None,
            major_page_faults: None,
            pressure: Some(pressure(3, 4)),
        }),
        swap: Some(SwapUse {
            usage_bytes: 13,
            available_bytes: None,
        }),
        io_pressure: Some(pressure(5, 6)),
        tasks: Some(14),
    }
}

fn detail() -> CgroupDetail {
    CgroupDetail {
        cpu_user_ns: Some(4_000_000_000),
        cpu_system_ns: Some(1_000_000_000),
        throttling: Some(Throttling {
            periods: 20,
            throttled_periods: 21,
            throttled_ns: 22_000_000_000,
        }),
        cpu_limits: CpuLimits {
            period_us: Some(23),
            quota_us: Some(24),
            shares: Some(25),
        },
        cache_bytes: Some(26),
        kernel_bytes: Some(27),
        mapped_file_bytes: Some(28),
        max_usage_bytes: Some(29),
        limit_hits: Some(30),
        own_faults: Some(Faults { all: 31, major: 32 }),
        all_faults: Some(Faults { all: 33, major: 34 }),
        oom_kills: Some(35),
        memory_limits: MemoryLimits {
            limit_bytes: Some(36),
            reservation_bytes: Some(37),
            swap_bytes: Some(38),
        },
        tasks_max: Some(39),
        devices: vec![DeviceUse {
            major: 8,
            minor: 1,
            device: "/dev/sda1".to_owned(),
            bytes: named(&[("Read", 40), ("Write", 41)]),
            operations: named(&[("Read", 42), ("Write", 43)]),
        }],
        huge_pages: vec![HugePages {
            size: "2MB".to_owned(),
            usage_bytes: 44,
            max_usage_bytes: Some(45),
        }],
    }
}

pub(super) fn whole_pod() -> (PodMetrics, LayersDisk) {
    let interface = Interface {
        name: "eth0".to_owned(),
        receive: Direction {
            bytes: 50,
            packets: 51,
            errors: 52,
            dropped: 53,
        },
        transmit: Direction {
            bytes: 54,
            packets: 55,
            errors: 56,
            dropped: 57,
        },
    };
    let mut container = samples::container("c", "a", &[]);
    container.started_at_unix_ns = 80_000_000_000;
    let found = PodMetrics {
        pod: Arc::new(samples::pod("a", &[])),
        cgroup: Some((usage(), detail())),
        network: Some(NetworkUse {
            at_unix_ns: 91,
            default: Some(interface.clone()),
            others: vec![Interface {
                name: "net1".to_owned(),
                ..interface
            }],
        }),
        containers: vec![ContainerMetrics {
            usage: ContainerUse {
                container: Arc::new(container),
                cgroup: Some(usage()),
                disk: Some(DiskUse {
                    at_unix_ns: 70,
                    bytes: 60,
                    inodes: 61,
                }),
            },
            detail: detail(),
            processes: Some(ProcessUse {
                processes: 62,
                descriptors: Some(63),
                sockets: Some(64),
                soft_limits: named(&[("max_open_files", 65)]),
            }),
        }],
    };
    let disk = LayersDisk {
        device: "/dev/sdb".to_owned(),
        total_bytes: 66,
        total_inodes: 67,
        free_inodes: 68,
    };
    (found, disk)
}

/// What a client reads of all metrics.
fn told_of(found: &PodMetrics, disk: &LayersDisk) -> cri::PodSandboxMetrics {
    let message = pod_message(found, Some(disk), Kept::ALL);
    cri::PodSandboxMetrics::decode(&message[..]).unwrap()
}

#[test]
fn all_names_of_the_conformance_suite_are_described() {
    let described = Face::metric_descriptors().descriptors;
    let names: Vec<_> = described.iter().map(|found| found.name.as_str()).collect();
    let wanted: Vec<_> = NAMES
        .split_whitespace()
        .map(|name| format!("container_{name}"))
        .collect();
    assert_eq!(names, wanted);
    assert_eq!(names.len(), 56);
    for found in described {
        assert!(!found.help.is_empty(), "{}", found.name);
        let keys: BTreeSet<_> = found.label_keys.iter().collect();
        assert_eq!(keys.len(), found.label_keys.len(), "{}", found.name);
    }
}

#[test]
fn every_metric_has_values_with_as_many_labels_as_described() {
    let (found, disk) = whole_pod();
    let message = told_of(&found, &disk);
    let container = &message.container_metrics[0];
    let all: Vec<_> = message.metrics.iter().chain(&container.metrics).collect();
    for described in Face::metric_descriptors().descriptors {
        let values: Vec<_> = all
            .iter()
            .filter(|metric| metric.name == described.name)
            .collect();
        assert!(!values.is_empty(), "{}", described.name);
        for value in values {
            assert_eq!(
                value.label_values.len(),
                described.label_keys.len(),
                "{}",
                described.name
            );
            assert!(value.timestamp > 0, "{}", described.name);
        }
    }
    let series: BTreeSet<_> = all.iter().map(|m| (&m.name, &m.label_values)).collect();
    assert_eq!(series.len(), all.len(), "a series twice");
}

#[test]
fn labels_say_whose_a_value_is() {
    let (found, disk) = whole_pod();
    let message = told_of(&found, &disk);
    let find = |metrics: &[cri::Metric], name: &str| {
        let found = metrics.iter().find(|metric| metric.name == name);
        found.cloned().unwrap()
    };
    let container = &message.container_metrics[0];
    let cpu = find(&container.metrics, "container_cpu_usage_seconds_total");
    let (id, pod_id) = (&container.container_id, &message.pod_sandbox_id);
    assert_eq!(
        cpu.label_values,
        ["/p/c", id, "busybox:1", "app", "web", "default", "total"]
    );
    assert_eq!(cpu.metric_type(), cri::MetricType::Counter);
    assert_eq!(cpu.value.unwrap().value, 5);
    assert_eq!(cpu.timestamp, 90_000_000_000);
    let received = find(&message.metrics, "container_network_receive_bytes_total");
    assert_eq!(
        received.label_values,
        ["/p", pod_id, "", "", "web", "default", "eth0"]
    );
    assert_eq!(received.timestamp, 91);
    let layer = find(&container.metrics, "container_fs_usage_bytes");
    assert_eq!(layer.label_values.last().unwrap(), "/dev/sdb");
    assert_eq!(layer.value.unwrap().value, 60);
    // Not when it was measured: a scrape has one time, and a gauge that stands still would be stale.
    assert_eq!(layer.timestamp, 90_000_000_000);
    assert_eq!(layer.metric_type(), cri::MetricType::Gauge);
}

#[test]
fn each_value_comes_from_where_its_name_says() {
    let (found, disk) = whole_pod();
    let message = told_of(&found, &disk);
    let container = &message.container_metrics[0];
    let all: Vec<_> = message.metrics.iter().chain(&container.metrics).collect();
    for (name, last_label, value) in [
        ("cpu_cfs_periods_total", "default", 20),
        ("cpu_cfs_throttled_periods_total", "default", 21),
        ("cpu_cfs_throttled_seconds_total", "default", 22),
        ("cpu_system_seconds_total", "default", 1),
        ("cpu_user_seconds_total", "default", 4),
        ("spec_cpu_period", "default", 23),
        ("spec_cpu_quota", "default", 24),
        ("spec_cpu_shares", "default", 25),
        ("memory_cache", "default", 26),
        ("memory_kernel_usage", "default", 27),
        ("memory_mapped_file", "default", 28),
        ("memory_max_usage_bytes", "default", 29),
        ("memory_failcnt", "default", 30),
        ("memory_usage_bytes", "default", 10),
        ("memory_working_set_bytes", "default", 11),
        ("memory_rss", "default", 12),
        ("memory_swap", "default", 13),
        ("threads", "default", 14),
        ("threads_max", "default", 39),
        ("memory_failures_total", "container", 31),
        ("memory_failures_total", "hierarchy", 33),
        ("oom_events_total", "default", 35),
        ("spec_memory_limit_bytes", "default", 36),
        ("spec_memory_reservation_limit_bytes", "default", 37),
        ("spec_memory_swap_limit_bytes", "default", 38),
        ("blkio_device_usage_total", "Read", 40),
        ("blkio_device_usage_total", "Write", 41),
        ("fs_reads_bytes_total", "/dev/sda1", 40),
        ("fs_writes_bytes_total", "/dev/sda1", 41),
        ("fs_reads_total", "/dev/sda1", 42),
        ("fs_writes_total", "/dev/sda1", 43),
        ("hugetlb_usage_bytes", "2MB", 44),
        ("hugetlb_max_usage_bytes", "2MB", 45),
        ("fs_limit_bytes", "/dev/sdb", 66),
        ("fs_inodes_total", "/dev/sdb", 67),
        ("fs_inodes_free", "/dev/sdb", 68),
        ("network_receive_bytes_total", "eth0", 50),
        ("network_receive_packets_total", "eth0", 51),
        ("network_receive_errors_total", "eth0", 52),
        ("network_receive_packets_dropped_total", "eth0", 53),
        ("network_transmit_bytes_total", "net1", 54),
        ("network_transmit_packets_total", "eth0", 55),
        ("network_transmit_errors_total", "eth0", 56),
        ("network_transmit_packets_dropped_total", "eth0", 57),
        ("processes", "default", 62),
        ("file_descriptors", "default", 63),
        ("sockets", "default", 64),
        ("ulimits_soft", "max_open_files", 65),
        ("pressure_cpu_waiting_seconds_total", "default", 1),
        ("pressure_cpu_stalled_seconds_total", "default", 2),
        ("pressure_memory_waiting_seconds_total", "default", 3),
        ("pressure_memory_stalled_seconds_total", "default", 4),
        ("pressure_io_waiting_seconds_total", "default", 5),
        ("pressure_io_stalled_seconds_total", "default", 6),
        ("last_seen", "default", 90),
        ("start_time_seconds", "default", 80),
    ] {
        let found = all.iter().find(|metric| {
            metric.name == format!("container_{name}")
                && metric.label_values.last().unwrap() == last_label
        });
        let found = found.unwrap_or_else(|| panic!("no {name} with {last_label}"));
        assert_eq!(found.value.unwrap().value, value, "{name} {last_label}");
    }
}

#[test]
fn what_is_not_known_is_not_told() {
    let (mut found, disk) = whole_pod();
    found.cgroup = None;
    found.network = None;
    found.containers[0].detail = CgroupDetail::default();
    found.containers[0].processes = None;
    found.containers[0].usage.disk = None;
    found.containers[0].usage.cgroup = Some(CgroupUse {
        at_unix_ns: 90_000_000_000,
        ..CgroupUse::default()
    });
    let message = told_of(&found, &disk);
    assert!(message.metrics.is_empty());
    let names: Vec<_> = message.container_metrics[0]
        .metrics
        .iter()
        .map(|metric| metric.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["container_last_seen", "container_start_time_seconds"]
    );
    found.containers[0].usage.cgroup = None;
    let message = told_of(&found, &disk);
    assert!(message.container_metrics[0].metrics.is_empty());
}

#[test]
fn throttling_is_told_with_a_quota_only() {
    for (quota_us, told) in [(None, 0), (Some(0), 0), (Some(24), 3)] {
        let (mut found, disk) = whole_pod();
        found.containers[0].detail.cpu_limits.quota_us = quota_us;
        let message = told_of(&found, &disk);
        let metrics = message.container_metrics[0].metrics.iter();
        let cfs = metrics.filter(|metric| metric.name.starts_with("container_cpu_cfs_"));
        assert_eq!(cfs.count(), told, "{quota_us:?}");
    }
}
