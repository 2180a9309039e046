//! The metrics: name, help, labels of its own, kind, and where its values come from.

use engine::stats::reading::{DeviceUse, Pressure, ProcessUse, Throttling};

use super::descriptor::Kind::{Counter, Gauge};
use super::descriptor::Source::{Cgroup, Container, Layer};
use super::descriptor::{Descriptor, counter, gauge, interface, labelled};
use super::encode::Told;
use super::{InContainer, Subject};

/// The labels that every metric begins with.
pub(super) const BASE_LABELS: &[&str] = &["id", "name", "image", "container", "pod", "namespace"];

fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

fn unix_seconds(ns: i64) -> Option<u64> {
    u64::try_from(ns)
        .ok()
        .map(seconds)
        .filter(|seconds| *seconds > 0)
}

/// Seconds in which some task waited.
fn waiting(pressure: Option<Pressure>) -> Option<u64> {
    pressure.map(|pressure| pressure.some.total_us / 1_000_000)
}

/// Seconds in which no task could go on.
fn stalled(pressure: Option<Pressure>) -> Option<u64> {
    let full = pressure.and_then(|pressure| pressure.full);
    full.map(|full| full.total_us / 1_000_000)
}

/// Without a quota nothing is throttled, and the kernel's counters are zeros.
fn throttling(of: Subject<'_>) -> Option<Throttling> {
    let quota_us = of.detail.cpu_limits.quota_us;
    of.detail
        .throttling
        .filter(|_| quota_us.is_some_and(|quota_us| quota_us > 0))
}

fn memory_pressure(of: Subject<'_>) -> Option<Pressure> {
    of.usage.memory.and_then(|memory| memory.pressure)
}

fn cpu_pressure(of: Subject<'_>) -> Option<Pressure> {
    of.usage.cpu.and_then(|cpu| cpu.pressure)
}

/// One kind of operation for each device; devices that did not count it are left out.
fn io(
    of: Subject<'_>,
    list: fn(&DeviceUse) -> &[(String, u64)],
    operation: &str,
    told: &mut Told<'_>,
) {
    for device in &of.detail.devices {
        let found = list(device).iter().find(|(name, _)| name == operation);
        if let Some((_, value)) = found {
            told.value(&[&device.device], *value);
        }
    }
}

fn bytes(device: &DeviceUse) -> &[(String, u64)] {
    &device.bytes
}

fn operations(device: &DeviceUse) -> &[(String, u64)] {
    &device.operations
}

fn device_usage(of: Subject<'_>, told: &mut Told<'_>) {
    for device in &of.detail.devices {
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        for (operation, value) in &device.bytes {
            told.value(&[&device.device, &major, &minor, operation], *value);
        }
    }
}

fn memory_failures(of: Subject<'_>, told: &mut Told<'_>) {
    let scopes = [
        ("container", of.detail.own_faults),
        ("hierarchy", of.detail.all_faults),
    ];
    for (scope, faults) in scopes {
        if let Some(faults) = faults {
            told.value(&["pgfault", scope], faults.all);
            told.value(&["pgmajfault", scope], faults.major);
        }
    }
}

fn processes(of: InContainer<'_>, value: fn(&ProcessUse) -> Option<u64>) -> Option<u64> {
    of.found.processes.as_ref().and_then(value)
}

/// A fact of the file system of writable layers, by its device.
fn layer(
    of: InContainer<'_>,
    value: impl FnOnce(InContainer<'_>) -> Option<u64>,
    told: &mut Told<'_>,
) {
    // Without a writable layer, none of this file system is the container's.
    if of.found.usage.disk.is_none() {
        return;
    }
    if let (Some(disk), Some(value)) = (of.disk, value(of)) {
        told.value(&[&disk.device], value);
    }
}

/// All metrics, by their names.
pub(super) const TABLE: &[Descriptor] = &[
    labelled(
        "container_blkio_device_usage_total",
        "Bytes read from and written to block devices.",
        &["device", "major", "minor", "operation"],
        Counter,
        Cgroup(device_usage),
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods of the CPU quota that have elapsed.",
        Cgroup(|of, told| told.one(throttling(of).map(|found| found.periods))),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota was used up.",
        Cgroup(|of, told| told.one(throttling(of).map(|found| found.throttled_periods))),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time spent waiting for the next period of the CPU quota.",
        Cgroup(|of, told| told.one(throttling(of).map(|found| seconds(found.throttled_ns)))),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "CPU time used in the kernel.",
        Cgroup(|of, told| told.one(of.detail.cpu_system_ns.map(seconds))),
    ),
    labelled(
        "container_cpu_usage_seconds_total",
        "CPU time used.",
        &["cpu"],
        Counter,
        Cgroup(|of, told| {
            if let Some(cpu) = of.usage.cpu {
                told.value(&["total"], seconds(cpu.usage_ns));
            }
        }),
    ),
    counter(
        "container_cpu_user_seconds_total",
        "CPU time used outside of the kernel.",
        Cgroup(|of, told| told.one(of.detail.cpu_user_ns.map(seconds))),
    ),
    gauge(
        "container_file_descriptors",
        "Open file descriptors of all processes.",
        Container(|of, told| told.one(processes(of, |found| found.descriptors))),
    ),
    labelled(
        "container_fs_inodes_free",
        "Inodes that are left on the filesystem of the writable layer.",
        &["device"],
        Gauge,
        Layer(|of, told| layer(of, |of| of.disk.map(|disk| disk.free_inodes), told)),
    ),
    labelled(
        "container_fs_inodes_total",
        "Inodes of the filesystem of the writable layer.",
        &["device"],
        Gauge,
        Layer(|of, told| layer(of, |of| of.disk.map(|disk| disk.total_inodes), told)),
    ),
    labelled(
        "container_fs_limit_bytes",
        "Size of the filesystem of the writable layer.",
        &["device"],
        Gauge,
        Layer(|of, told| layer(of, |of| of.disk.map(|disk| disk.total_bytes), told)),
    ),
    labelled(
        "container_fs_reads_bytes_total",
        "Bytes read from block devices.",
        &["device"],
        Counter,
        Cgroup(|of, told| io(of, bytes, "Read", told)),
    ),
    labelled(
        "container_fs_reads_total",
        "Reads of block devices.",
        &["device"],
        Counter,
        Cgroup(|of, told| io(of, operations, "Read", told)),
    ),
    labelled(
        "container_fs_usage_bytes",
        "Bytes that the writable layer takes.",
        &["device"],
        Gauge,
        Layer(|of, told| layer(of, |of| of.found.usage.disk.map(|disk| disk.bytes), told)),
    ),
    labelled(
        "container_fs_writes_bytes_total",
        "Bytes written to block devices.",
        &["device"],
        Counter,
        Cgroup(|of, told| io(of, bytes, "Write", told)),
    ),
    labelled(
        "container_fs_writes_total",
        "Writes to block devices.",
        &["device"],
        Counter,
        Cgroup(|of, told| io(of, operations, "Write", told)),
    ),
    labelled(
        "container_hugetlb_max_usage_bytes",
        "The most huge pages that were in use at a time.",
        &["pagesize"],
        Gauge,
        Cgroup(|of, told| {
            for pages in &of.detail.huge_pages {
                if let Some(value) = pages.max_usage_bytes {
                    told.value(&[&pages.size], value);
                }
            }
        }),
    ),
    labelled(
        "container_hugetlb_usage_bytes",
        "Huge pages in use.",
        &["pagesize"],
        Gauge,
        Cgroup(|of, told| {
            for pages in &of.detail.huge_pages {
                told.value(&[&pages.size], pages.usage_bytes);
            }
        }),
    ),
    gauge(
        "container_last_seen",
        "When the container was last seen, in seconds since 1970.",
        Cgroup(|of, told| told.one(unix_seconds(of.usage.at_unix_ns))),
    ),
    gauge(
        "container_memory_cache",
        "Page cache.",
        Cgroup(|of, told| told.one(of.detail.cache_bytes)),
    ),
    counter(
        "container_memory_failcnt",
        "How often memory ran into its limit.",
        Cgroup(|of, told| told.one(of.detail.limit_hits)),
    ),
    labelled(
        "container_memory_failures_total",
        "Page faults.",
        &["failure_type", "scope"],
        Counter,
        Cgroup(memory_failures),
    ),
    gauge(
        "container_memory_kernel_usage",
        "Memory that the kernel uses for the container.",
        Cgroup(|of, told| told.one(of.detail.kernel_bytes)),
    ),
    gauge(
        "container_memory_mapped_file",
        "Files mapped into memory.",
        Cgroup(|of, told| told.one(of.detail.mapped_file_bytes)),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "The most memory that was in use at a time.",
        Cgroup(|of, told| told.one(of.detail.max_usage_bytes)),
    ),
    gauge(
        "container_memory_rss",
        "Anonymous memory.",
        Cgroup(|of, told| told.one(of.usage.memory.and_then(|memory| memory.rss_bytes))),
    ),
    gauge(
        "container_memory_swap",
        "Swap in use.",
        Cgroup(|of, told| told.one(of.usage.swap.map(|swap| swap.usage_bytes))),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Memory in use, the page cache included.",
        Cgroup(|of, told| told.one(of.usage.memory.map(|memory| memory.usage_bytes))),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory in use, without file pages that nobody used for a while.",
        Cgroup(|of, told| told.one(of.usage.memory.map(|memory| memory.working_set_bytes))),
    ),
    interface(
        "container_network_receive_bytes_total",
        "Bytes received.",
        |interface| interface.receive.bytes,
    ),
    interface(
        "container_network_receive_errors_total",
        "Errors while receiving.",
        |interface| interface.receive.errors,
    ),
    interface(
        "container_network_receive_packets_dropped_total",
        "Packets dropped while receiving.",
        |interface| interface.receive.dropped,
    ),
    interface(
        "container_network_receive_packets_total",
        "Packets received.",
        |interface| interface.receive.packets,
    ),
    interface(
        "container_network_transmit_bytes_total",
        "Bytes sent.",
        |interface| interface.transmit.bytes,
    ),
    interface(
        "container_network_transmit_errors_total",
        "Errors while sending.",
        |interface| interface.transmit.errors,
    ),
    interface(
        "container_network_transmit_packets_dropped_total",
        "Packets dropped while sending.",
        |interface| interface.transmit.dropped,
    ),
    interface(
        "container_network_transmit_packets_total",
        "Packets sent.",
        |interface| interface.transmit.packets,
    ),
    counter(
        "container_oom_events_total",
        "Processes that the kernel killed for want of memory.",
        Cgroup(|of, told| told.one(of.detail.oom_kills)),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which no task could go on for want of CPU.",
        Cgroup(|of, told| told.one(stalled(cpu_pressure(of)))),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which tasks waited for CPU.",
        Cgroup(|of, told| told.one(waiting(cpu_pressure(of)))),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which no task could go on for want of I/O.",
        Cgroup(|of, told| told.one(stalled(of.usage.io_pressure))),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which tasks waited for I/O.",
        Cgroup(|of, told| told.one(waiting(of.usage.io_pressure))),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which no task could go on for want of memory.",
        Cgroup(|of, told| told.one(stalled(memory_pressure(of)))),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which tasks waited for memory.",
        Cgroup(|of, told| told.one(waiting(memory_pressure(of)))),
    ),
    gauge(
        "container_processes",
        "Processes.",
        Container(|of, told| told.one(processes(of, |found| Some(found.processes)))),
    ),
    gauge(
        "container_sockets",
        "Open sockets of all processes.",
        Container(|of, told| told.one(processes(of, |found| found.sockets))),
    ),
    gauge(
        "container_spec_cpu_period",
        "Period of the CPU quota, in microseconds.",
        Cgroup(|of, told| told.one(of.detail.cpu_limits.period_us)),
    ),
    gauge(
        "container_spec_cpu_quota",
        "CPU quota, in microseconds per period. Absent without one.",
        Cgroup(|of, told| told.one(of.detail.cpu_limits.quota_us)),
    ),
    gauge(
        "container_spec_cpu_shares",
        "Relative weight for CPU time.",
        Cgroup(|of, told| told.one(of.detail.cpu_limits.shares)),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit; 0 is none.",
        Cgroup(|of, told| told.one(of.detail.memory_limits.limit_bytes)),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is left alone; 0 is none.",
        Cgroup(|of, told| told.one(of.detail.memory_limits.reservation_bytes)),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Swap limit, with memory on cgroup version 1; 0 is none.",
        Cgroup(|of, told| told.one(of.detail.memory_limits.swap_bytes)),
    ),
    gauge(
        "container_start_time_seconds",
        "When the container was started, in seconds since 1970.",
        Cgroup(|of, told| told.one(unix_seconds(of.started_at_unix_ns))),
    ),
    gauge(
        "container_threads",
        "Threads of all processes.",
        Cgroup(|of, told| told.one(of.usage.tasks)),
    ),
    gauge(
        "container_threads_max",
        "Most threads that there may be; 0 is no limit.",
        Cgroup(|of, told| told.one(of.detail.tasks_max)),
    ),
    labelled(
        "container_ulimits_soft",
        "Soft limits of the first process. Absent where it has none.",
        &["ulimit"],
        Gauge,
        Container(|of, told| {
            for (name, value) in of.found.processes.iter().flat_map(|of| &of.soft_limits) {
                told.value(&[name], *value);
            }
        }),
    ),
];
